"""Importers that are given to the reader, rather than found in packages."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import migx
from migx import ops
from migx.errors import OnnxError
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node

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
