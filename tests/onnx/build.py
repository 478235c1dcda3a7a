"""What tests of the reader share: models from text, and onnxruntime's word on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from numpy.typing import NDArray

import migx
from migx.program import Program
from migx.verify import verify

Array = NDArray[Any]
HEAD = '<ir_version: 9, opset_import: ["" : 18]>\n'
TYPES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16, 11: np.float64}


def model_of(graph: str, head: str = HEAD) -> onnx.ModelProto:
    """The model of a graph in onnx's own text form."""
    return onnx.parser.parse_model(head + graph)


def saved(model: onnx.ModelProto | bytes, folder: Path) -> Path:
    """The path of a model, written as it is."""
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def read(graph: str | onnx.ModelProto, folder: Path) -> Program:
    """The program of a graph: verified, and equal to what its text parses to."""
    model = model_of(graph) if isinstance(graph, str) else graph
    program = migx.parse_onnx(saved(model, folder))
    verify(program)
    assert migx.parse(str(program)) == program
    return program


def peer(model: onnx.ModelProto | Path, inputs: Mapping[str, Array]) -> list[Array]:
    """What onnxruntime gives."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    given = model if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(given, options)
    results: list[Array] = session.run(None, dict(inputs))
    return results


def drawn(model: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Inputs of a model at some sizes; integers are 1 to 3."""
    rng = np.random.default_rng(list(sizes.values()))
    initialized = {tensor.name for tensor in model.graph.initializer}
    made: dict[str, Array] = {}
    for value in model.graph.input:
        if value.name in initialized:
            continue
        tensor = value.type.tensor_type
        dims = [sizes.get(d.dim_param, d.dim_value) for d in tensor.shape.dim]
        dtype = np.dtype(TYPES[tensor.elem_type])
        values = rng.integers(1, 4, dims) if dtype.kind == "i" else rng.normal(0, 2, dims)
        made[value.name] = np.asarray(values).astype(dtype)
    return made


def assert_agrees(program: Program, model: onnx.ModelProto, inputs: Mapping[str, Array]) -> None:
    """Fails unless a compiled program gives what onnxruntime gives: types, dims, values."""
    for got, wanted in zip(program.eval(inputs), peer(model, inputs), strict=True):
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
