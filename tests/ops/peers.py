"""What tests of operations share: evaluating one by its own rules, and by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ValueInfoProto, helper

from migx import dim
from migx.argument import Argument
from migx.op import result_of
from migx.shape import Shape

Array = NDArray[Any]


def evaluate(op: Any, *values: Argument | Array, modules: Sequence[Any] = ()) -> Argument:
    """The meaning of an operation without modules, its type and dims checked against the rule."""
    arguments = [Argument.of(value) for value in values]
    shape = op.compute_shape([a.shape for a in arguments])
    result = result_of(op, shape, arguments, modules=modules)
    assert result.array.dtype == shape.dtype.numpy
    assert len(result.array.shape) == shape.rank
    assert all(map(dim.may_equal, result.array.shape, shape.dims))
    return result


def run(op: Any, *values: Argument | Array) -> Array:
    """The array ``evaluate`` gives."""
    return evaluate(op, *values).array


def shape_of(op: Any, *shapes: Shape) -> Shape:
    """What the shape rule of an operation without modules says."""
    result: Shape = op.compute_shape(shapes)
    return result


def onnx_node(
    kind: str, inputs: Sequence[Array | None], opset: int = 19, outputs: int = 1, **attributes: Any
) -> Callable[..., list[Array]]:
    """One node as onnxruntime evaluates it: a function of arrays of these types and ranks."""
    names = ["" if value is None else f"x{i}" for i, value in enumerate(inputs)]
    results = [f"y{i}" for i in range(outputs)]
    declared = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim
        )
        for name, value in zip(names, inputs, strict=True)
        if value is not None
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, names, results, **attributes)],
        "node",
        declared,
        [ValueInfoProto(name=name) for name in results],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)

    def call(*values: Array | None) -> list[Array]:
        feeds = {n: v for n, v in zip(names, values, strict=True) if v is not None}
        found: list[Array] = session.run(None, feeds)
        return found

    return call


def peer(kind: str, inputs: Sequence[Array | None], opset: int = 19, **attributes: Any) -> Array:
    """The first result of one node for these inputs by onnxruntime."""
    return onnx_node(kind, inputs, opset, **attributes)(*inputs)[0]


def assert_same(found: Array, wanted: Array) -> None:
    """Fails unless type, dims and every element agree exactly; NaN equals NaN."""
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
