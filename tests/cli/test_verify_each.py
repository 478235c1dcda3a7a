"""``migx verify --each``: the layer in which two models differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

import migx as api
from migx.manager import Pipeline
from migx.meaning import run_with_kernels
from migx.op import Array
from migx.program import Program
from migx.target import NO_SLOTS, CompileOptions, Context, Target
from tests.cli.conftest import Migx


def two_products(path: Path, **changed: Array) -> Path:
    """A model of a product, an exponential and a product, some of its weights changed."""
    rng = np.random.default_rng(0)
    held = {name: rng.standard_normal((8, 8)).astype(np.float32) for name in ("v", "w")} | changed
    text = """<ir_version: 9, opset_import: ["" : 18]> g (float[n, 8] x) => (float[n, 8] y) {
      a = MatMul(x, v)
      b = Exp(a)
      y = MatMul(b, w)
    }"""
    model = onnx.parser.parse_model(text)
    for node, name in zip(model.graph.node, ("first", "grown", "second"), strict=True):
        node.name = name
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in held.items())
    onnx.save(model, path)
    return path


def test_the_layer_in_which_two_models_differ_is_found(migx: Migx, tmp_path: Path) -> None:
    good = two_products(tmp_path / "good.onnx")
    wrong = two_products(tmp_path / "wrong.onnx", w=np.eye(8, dtype=np.float32))
    found = migx("verify", wrong, "--against", good, "--each", "--json")
    assert (found.code, found.json["target"]) == (0, "ref")
    layers = {layer["layer"]: layer for layer in found.json["layers"]}
    assert [*layers] == ["first", "grown", "second"]
    assert layers["first"]["unequal"] == layers["grown"]["unequal"] == 0
    assert layers["second"]["relative"] == found.json["outputs"][0]["relative"] > 0.1
    assert (layers["second"]["product"], layers["grown"]["product"]) == (True, False)
    assert "from ONNX 'second'" in found.json["departure"]
    told = migx("verify", wrong, "--against", good, "--each").out
    assert "first           0             0" in told
    assert "grown" not in told.partition("products")[2]
    saved = tmp_path / "wrong.mxr"
    assert migx("compile", wrong, "--int8-weights", "-o", saved).code == 0
    of_file = migx("verify", saved, "--against", good, "--each", "--json").json
    assert (of_file["target"], of_file["held"], len(of_file["layers"])) == ("ref", False, 3)
    other = onnx.load(good)
    for node in other.graph.node:
        node.name = f"other {node.name}"
    onnx.save(other, good)
    refused = migx("verify", wrong, "--against", good, "--each")
    assert (refused.code, "the two models have none in common" in refused.err) == (2, True)


class OffByOne(Target):
    """Adds 1 to each exponential, and shows outputs alone."""

    def get_passes(self, context: Context, options: CompileOptions) -> Pipeline:
        return Pipeline.parse("")

    def make_executable(self, program: Program, context: Context) -> Any:
        def kernel(at: api.Instruction) -> Any:
            return (lambda x: np.exp(x) + np.float32(1)) if at.name == "exp" else None

        def run(arguments: Any, slots: Any = NO_SLOTS) -> list[api.Argument]:
            return run_with_kernels(program, kernel, context, arguments, slots)

        return SimpleNamespace(run=run)


def test_a_wrong_kernel_of_a_target_that_shows_outputs_alone_is_found(
    migx: Migx, tmp_path: Path, found_by_name: Callable[..., None]
) -> None:
    found_by_name(OffByOne)
    model = two_products(tmp_path / "model.onnx")
    found = migx("verify", model, "--target", "off_by_one", "--each", "--json")
    assert found.code == 1, found.err
    assert "from ONNX 'grown'" in found.json["departure"]
    assert found.json["compared"] == 3
    assert [output["name"] for output in found.json["outputs"]] == ["y"]
    (note,) = found.json["notes"]
    assert note.startswith("off_by_one shows outputs alone")
    beside = ("--against", model, "--target", "cpu", "--each", "--json")
    told = migx("verify", model, *beside).json
    assert [layer["layer"] for layer in told["layers"]] == ["first", "grown", "second"]


def test_what_makes_infinities_and_nan_is_found(migx: Migx, tmp_path: Path) -> None:
    wide = two_products(tmp_path / "wide.onnx", v=np.eye(8, dtype=np.float32))
    np.savez(tmp_path / "in.npz", x=np.array([[1, 1, 1, 1, 2, 3, 9, 12]], np.float32))
    narrow = ("--passes", "truncate_float{to=f16}", "--inputs", tmp_path / "in.npz", "--each")
    found = migx("verify", wide, *narrow, "--against", wide)
    assert found.code == 0
    assert "the first to make infinities: 1 element\n  exp(" in found.out
    assert "not finite\nfirst " in found.out
    alone = migx("verify", wide, *narrow)
    assert "--against MODEL compares layers of other types" in alone.out
    bad = np.eye(8, dtype=np.float32)
    bad[0, 0] = np.nan
    broken = two_products(tmp_path / "broken.onnx", w=bad)
    result = migx("verify", broken, "--each", "--dim-param", "n=2")
    assert (result.code, "PASS (2 not finite on either side)" in result.out) == (0, True)
    assert "the first to make NaN: 1 element\n  @literal()" in result.out
