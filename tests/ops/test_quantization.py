"""quantizelinear and dequantizelinear against onnx.reference and onnxruntime."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from migx.dim import Dim
from migx.errors import ShapeError
from migx.op import Op
from migx.ops.quantization import DequantizeLinear, QuantizeLinear
from migx.shape import F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F32, I4, I8, I16, U8, U16, Shape
from tests.ops.peers import run

Array = NDArray[Any]
N = Dim("n")
RNG = np.random.default_rng(7)
X = np.round(RNG.normal(size=(2, 6, 5)) * 40).astype(np.float32) / 4
GRANULARITIES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "tensor": ({}, ()),
    "one element": ({"axis": 0}, (1,)),
    "axis": ({"axis": 1}, (6,)),
    "last axis": ({"axis": 2}, (5,)),
    "blocks": ({"axis": 1, "block": 3}, (2, 2, 5)),
    "a partial block": ({"axis": 1, "block": 4}, (2, 2, 5)),
    "blocks of one": ({"axis": 2, "block": 1}, (2, 6, 5)),
}


def model(kind: str, arrays: tuple[Array, ...], **attributes: Any) -> Any:
    names = ["x", "scale", "zero"][: len(arrays)]
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, arrays, strict=True)
    ]
    node = helper.make_node(kind, names, ["y"], **attributes)
    graph = helper.make_graph([node], "g", values, [helper.make_empty_tensor_value_info("y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def onnx(kind: str, *arrays: Array, axis: int = 1, block: int = 0) -> Array:
    made = model(kind, arrays, axis=axis, block_size=block)
    feeds = dict(zip(["x", "scale", "zero"], arrays, strict=False))
    (y,) = ReferenceEvaluator(made).run(None, feeds)
    return np.asarray(y)


def ort(kind: str, *arrays: Array) -> Array:
    session = onnxruntime.InferenceSession(
        model(kind, arrays).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, dict(zip(["x", "scale", "zero"], arrays, strict=False)))
    return np.asarray(y)


def parameters(dims: tuple[int, ...], dtype: Any) -> tuple[Array, Array]:
    """A scale that makes ties of some quotients, and a zero point."""
    scale = RNG.choice([0.125, 0.5, 0.75, 2.0], size=dims).astype(np.float32)
    return scale, RNG.integers(0, 9, size=dims).astype(dtype)


@pytest.mark.parametrize("dtype", [I8, U8, I16, U16], ids=str)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_integers_agree_with_onnx(granularity: str, dtype: Any) -> None:
    attributes, dims = GRANULARITIES[granularity]
    if granularity == "one element":  # onnx.reference takes it for an axis of one
        attributes, dims = {}, ()
    scale, zero = parameters(dims, dtype.numpy)
    q = run(QuantizeLinear(to=dtype, **attributes), X, scale, zero)
    np.testing.assert_array_equal(q, onnx("QuantizeLinear", X, scale, zero, **attributes))
    y = run(DequantizeLinear(**attributes), q, scale, zero)
    np.testing.assert_array_equal(y, onnx("DequantizeLinear", q, scale, zero, **attributes))


def test_rounds_half_to_even_then_shifts_then_saturates() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 1e9, -1e9, np.inf, -np.inf, np.nan], np.float32)
    one, zero = np.float32(1), np.int8(1)
    q = run(QuantizeLinear(to=I8), x, np.asarray(one), np.asarray(zero))
    assert q.tolist() == [1, 3, 3, 1, -1, 127, 127, -128, 127, -128, 0]


def test_default_target_and_missing_zero_point() -> None:
    q = run(QuantizeLinear(), np.array([-3, 2.6, 300], np.float32), np.array([1], np.float32))
    assert q.dtype == np.uint8
    assert q.tolist() == [0, 3, 255]


@pytest.mark.parametrize("dtype", [F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ], ids=str)
def test_float8_saturates_unless_told_not_to(dtype: Any) -> None:
    x = np.array([0.3, -7, 1e6, -1e6, np.inf, np.nan], np.float32)
    scale = np.array(0.5, np.float32)
    limit = float(ml_dtypes.finfo(dtype.numpy).max)  # type: ignore[no-untyped-call]
    q = run(QuantizeLinear(to=dtype), x, scale).astype(np.float32)
    near = np.array([0.6, -14], np.float32).astype(dtype.numpy).astype(np.float32)
    np.testing.assert_array_equal(q, [*near, limit, -limit, limit, np.nan])
    wrapped = run(QuantizeLinear(to=dtype, saturate=False), x, scale)
    unbounded = x[2:].astype(dtype.numpy)
    np.testing.assert_array_equal(wrapped[2:].view(np.uint8), unbounded.view(np.uint8))
    y = run(DequantizeLinear(), run(QuantizeLinear(to=dtype), x, scale), scale)
    np.testing.assert_array_equal(y, q * np.float32(0.5))


def test_halves_are_divided_in_f32_as_onnxruntime_does() -> None:
    x = (np.random.default_rng(0).normal(size=4096) * 10).astype(np.float16)
    scale, zero = np.array(0.0371, np.float16), np.array(2, np.int8)
    ours = run(QuantizeLinear(to=I8), x, scale, zero)
    np.testing.assert_array_equal(ours, ort("QuantizeLinear", x, scale, zero))
    in_halves = np.clip(np.rint(x / scale) + np.float16(2), -128, 127)
    assert (ours != in_halves).any()


def test_dequantised_halves_round_once() -> None:
    x, scale = np.arange(-128, 128).astype(np.int8), np.array(0.1, np.float16)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        y = run(DequantizeLinear(), x, scale.astype(dtype))
        expected = (x.astype(np.float64) * np.float64(scale.astype(dtype))).astype(dtype)
        np.testing.assert_array_equal(y.astype(np.float32), expected.astype(np.float32))


def test_integer_differences_are_exact() -> None:
    x = np.array([2**31 - 1, -(2**31), 2**30 + 1], np.int32)
    zero = np.array(-(2**31) + 1, np.int32)
    y = run(DequantizeLinear(), x, np.array(1, np.float32), zero)
    exact = x.astype(np.int64) - np.int64(zero)
    np.testing.assert_array_equal(y, exact.astype(np.float32))
    y = run(DequantizeLinear(), x, np.array(0.5, np.float64), zero)
    np.testing.assert_array_equal(y, exact * 0.5)


def test_scalars_and_empty_tensors() -> None:
    half = np.array(0.5, np.float32)
    assert run(QuantizeLinear(to=I8), np.array(3, np.float32), half).tolist() == 6
    assert run(DequantizeLinear(), np.array(3, np.int8), half, np.array(1, np.int8)).tolist() == 1
    empty = np.empty((0, 3), np.float32)
    assert run(QuantizeLinear(axis=1), empty, np.ones(3, np.float32)).shape == (0, 3)
    assert run(QuantizeLinear(), np.array([7], np.int32), half).tolist() == [14]


def test_scales_of_any_number_follow_the_formula() -> None:
    """As in onnxruntime: with an infinite scale all that is finite has the level of zero, which is
    NaN again.
    """
    x, zero = np.array([0, 1, -3e38, 3e38], np.float32), np.array(5, np.uint8)
    for scale, levels in ((np.inf, [5, 5, 5, 5]), (0, [0, 255, 0, 255]), (-1, [5, 4, 255, 0])):
        made = np.array(scale, np.float32)
        q = run(QuantizeLinear(), x, made, zero)
        assert q[1:].tolist() == ort("QuantizeLinear", x, made, zero)[1:].tolist() == levels[1:]
        assert np.array_equal(
            run(DequantizeLinear(), q, made, zero),
            ort("DequantizeLinear", q, made, zero),
            equal_nan=True,
        )
        assert q[0] == levels[0]


def test_inputs_are_left_alone() -> None:
    x, scale = np.array([[1.0, 2.0]], np.float32), np.array(2, np.float32)
    run(QuantizeLinear(to=I8), x, scale, np.array(3, np.int8))
    assert x.tolist() == [[1, 2]]
    assert scale == 2
    wide = np.array([7], np.int32)
    run(DequantizeLinear(), wide, np.array(2, np.float64), np.array(3, np.int32))
    assert wide.tolist() == [7]


def f32(*dims: Any) -> Shape:
    return Shape(F32, dims)


@pytest.mark.parametrize(
    ("op", "x", "scale"),
    [
        (QuantizeLinear(), f32(N, 4), f32()),
        (QuantizeLinear(), f32(N, 4), f32(Dim("m"))),
        (QuantizeLinear(axis=0), f32(N, 4), f32(N)),
        (QuantizeLinear(axis=0, block=8), f32(N, 4), f32((N + 7) // 8, 4)),
        (QuantizeLinear(axis=0, block=8), f32(N, 4), f32(Dim("blocks"), 4)),
    ],
)
def test_undecided_dims_are_accepted(op: QuantizeLinear, x: Shape, scale: Shape) -> None:
    zero = scale.with_type(U8)
    assert op.compute_shape([x, scale, zero]) == x.with_type(U8)
    back = DequantizeLinear(op.axis, op.block).compute_shape([x.with_type(U8), scale, zero])
    assert back == x


@pytest.mark.parametrize(
    ("op", "shapes", "message"),
    [
        (QuantizeLinear(), [f32(2, 3)], "takes 2 or 3 inputs, got 1"),
        (QuantizeLinear(), [f32(2, 3), f32(2)], r"f32\[2\] does not fit f32\[2, 3\]: .*\(3,\)"),
        (QuantizeLinear(block=2), [f32(2, 3), f32(2, 3)], r"one element or dims \(2, 2\)"),
        (QuantizeLinear(axis=2, block=2), [f32(2, 3), f32(2, 3)], "axis 2 is not one of the 2"),
        (QuantizeLinear(), [f32(2), f32(), Shape(I8)], "needs a u8 zero point, got i8"),
        (QuantizeLinear(), [f32(2, 3), f32(), Shape(U8, (2,))], r"u8\[2\] does not fit"),
        (QuantizeLinear(to=I4), [f32(2), f32()], "makes i8 or u8 .* not i4"),
        (QuantizeLinear(), [Shape(I8, (2,)), f32()], "quantises i32, f16 and wider floats"),
        (QuantizeLinear(), [f32(2), Shape(F8E5M2)], "scale of f16 or wider, got f8e5m2"),
        (DequantizeLinear(), [f32(2), f32()], "takes i8 or u8 .* or i32, not f32"),
        (DequantizeLinear(), [Shape(I8, (2,)), f32(), Shape(U8)], "needs a i8 zero point"),
    ],
)
def test_errors_say_what_would_be_right(op: Op, shapes: list[Shape], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        op.compute_shape(shapes)
