"""Importers given to the reader, and exporters to the writer, rather than found in packages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import migx
import migx.onnx
from migx import ops
from migx.errors import OnnxError
from migx.ir import Instruction
from migx.onnx.exporters import exporter
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.site import Site

GRAPH = "g (float[n] x) => (float[n] y) { z = own.Twice(x) y = Relu(z) }"


def model() -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 3)]
    return helper.make_model(onnx.parser.parse_graph(GRAPH), opset_imports=opsets)


@importer("Twice", since=4, domain="own")
def later(node: Node) -> Instruction:
    raise node.fail("not this one")


@importer("Twice", since=2, domain="own")
def twice(node: Node) -> Instruction:
    return node.add(ops.Mul(), node.input(0), 2)


@importer("Relu")
def other_relu(node: Node) -> Instruction:
    return node.add(ops.Neg(), node.input(0))


def test_given_importers_serve_by_version_and_before_ours() -> None:
    x = {"x": np.array([1, -3], np.float32)}
    for given, wanted in (([twice], [2, 0]), ([later, twice, other_relu], [-2, 6])):
        program = migx.parse_onnx(model(), importers=given).compile("ref")
        assert program.eval(x)[0].tolist() == wanted
    with pytest.raises(OnnxError, match=r"own\.Twice version 3: 1 node"):
        migx.parse_onnx(model(), importers=[later])
    with pytest.raises(OnnxError, match=r"own\.Twice version 3: 1 node"):
        migx.parse_onnx(model())


def test_what_is_not_marked_is_refused() -> None:
    with pytest.raises(OnnxError, match=r"is no importer: it needs the decorator @importer\(NAME"):
        migx.parse_onnx(model(), importers=[lambda node: node.input(0)])


@exporter("mul")
def doubled(site: Site) -> str:
    return site.node("own::Twice", site.input(0))


def test_given_exporters_serve_before_ours(tmp_path: Path) -> None:
    program = migx.parse_onnx(model(), importers=[twice])
    path = tmp_path / "out.onnx"
    migx.onnx.write(program, path, exporters=[doubled])
    written = onnx.load(path)
    assert [(n.domain, n.op_type) for n in written.graph.node] == [("own", "Twice"), ("", "Relu")]
    migx.onnx.write(program, path)
    assert [n.op_type for n in onnx.load(path).graph.node] == ["Mul", "Relu"]
    with pytest.raises(OnnxError, match=r"is no exporter: it needs the decorator @exporter\(NAME"):
        migx.onnx.write(program, path, exporters=[lambda site: site.input(0)])
