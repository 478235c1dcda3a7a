"""Sparse initializers and constants, against the tensors they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from migx.errors import DataError, EvaluationError
from tests.onnx.build import Array, model_of, peer, read

W = np.zeros((4, 5), np.float32)
W[[0, 2, 3], [4, 1, 3]] = 1.5, -2.0, 3.0


def sparse(array: Array, name: str, *, linear: bool) -> onnx.SparseTensorProto:
    """An array as a sparse tensor whose places are numbers of elements, or rows of indices."""
    places = np.flatnonzero(array) if linear else np.argwhere(array)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(array[np.nonzero(array)], name),
        numpy_helper.from_array(places.astype(np.int64), "places"),
        array.shape,
    )


def with_weight(linear: bool) -> onnx.ModelProto:
    model = model_of("g (float[n, 4] x) => (float[n, 5] y) { y = MatMul(x, w) }")
    model.graph.sparse_initializer.append(sparse(W, "w", linear=linear))
    return model


@pytest.mark.parametrize("linear", [True, False])
def test_an_initializer(linear: bool, tmp_path: Path) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    model = with_weight(linear)
    (found,) = read(model, tmp_path).compile("ref").eval({"x": x})
    np.testing.assert_array_equal(found, x @ W)
    np.testing.assert_array_equal(found, peer(model, {"x": x})[0])


def test_a_constant(tmp_path: Path) -> None:
    model = model_of(
        "g (float[4, 5] x) => (float[4, 5] y) { w = Constant<value_int = 1>() y = Add(x, w) }"
    )
    attribute = helper.make_attribute("sparse_value", sparse(W, "", linear=True))
    model.graph.node[0].attribute[0].CopyFrom(attribute)
    (found,) = read(model, tmp_path).compile("ref").eval({"x": np.ones_like(W)})
    np.testing.assert_array_equal(found, W + 1)


def test_dims_may_be_sparse(tmp_path: Path) -> None:
    model = model_of("g (float[n, 4] x) => (float[a, b, c] y) { y = Reshape(x, d) }")
    dims = sparse(np.array([2, 0, 2]), "d", linear=True)
    model.graph.sparse_initializer.append(dims)
    program = read(model, tmp_path)
    assert str(program.main.outputs[0].shape) == "f32[2, 4, 2]"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dims": [4, 5], "places": [4, 11, 20]}, "must be ascending and within .4, 5."),
        ({"dims": [4, 5], "places": [4, 18, 11]}, "must be ascending and within .4, 5."),
        ({"dims": [4, 5], "places": [4, 11]}, "has 3 values and indices int64.2.; they are i64.3."),
        ({"dims": [4, 0], "places": [0, 1, 2]}, "dims are at least 1, and values a list"),
        ({"dims": [], "places": [0, 1, 2]}, "dims are at least 1, and values a list"),
    ],
)
def test_what_does_not_fit_is_an_error(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    model = with_weight(linear=True)
    (tensor,) = model.graph.sparse_initializer
    del tensor.dims[:]
    tensor.dims.extend(change["dims"])
    tensor.indices.CopyFrom(numpy_helper.from_array(np.array(change["places"]), "places"))
    with pytest.raises(DataError, match=said):
        read(model, tmp_path)


def test_dims_too_large_for_any_machine_take_nothing_until_the_run(tmp_path: Path) -> None:
    model = with_weight(linear=True)
    model.graph.node[0].op_type = "Mul"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    (tensor,) = model.graph.sparse_initializer
    tensor.dims[:] = [1 << 50, 4]
    program = read(model, tmp_path).compile("ref")
    with pytest.raises(EvaluationError, match="takes 18014398509481984 bytes, the machine has"):
        program.eval({"x": np.ones((1, 4), np.float32)})
