"""A small model, and the command line run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from migx.cli import main


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Migx = Callable[..., Result]


@pytest.fixture
def migx(capsys: pytest.CaptureFixture[str]) -> Migx:
    """Runs ``migx`` with some words."""

    def run(*words: object) -> Result:
        capsys.readouterr()
        try:
            code = main(list(map(str, words)))
        except SystemExit as error:
            code = int(error.code or 0)
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """softmax(relu(x w + b)) of ``x: f32[batch, 8]``, and where each row is greatest."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(dims, np.float32), name)
        for name, dims in (("w", (8, 16)), ("b", (16,)))
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="dense"),
        helper.make_node("Relu", ["h"], ["a"], name="active"),
        helper.make_node("Softmax", ["a"], ["y"], name="soft", axis=-1),
        helper.make_node("ArgMax", ["a"], ["best"], name="pick", axis=1, keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16]),
        helper.make_tensor_value_info("best", TensorProto.INT64, ["batch"]),
    ]
    graph = helper.make_graph(nodes, "small", inputs, outputs, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(made, path)
    return path


@pytest.fixture(scope="session")
def odd_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A function of two inputs whose symbols must be of one size, which no rule can know."""
    nodes = [helper.make_node("Add", ["x", "y"], ["z"], name="both")]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [f"n{n}"]) for n in "xyz"]
    graph = helper.make_graph(nodes, "odd", values[:2], values[2:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path_factory.mktemp("odd") / "odd.onnx"
    onnx.save(made, path)
    return path
