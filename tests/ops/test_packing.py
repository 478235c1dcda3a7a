"""Packing against ONNX's own tensors of 2-bit and 4-bit types."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from migx.argument import Argument
from migx.dim import Dim
from migx.errors import ShapeError
from migx.op import Op, result_of
from migx.ops.packing import PackFp4, PackInt2, PackInt4, UnpackFp4, UnpackInt2, UnpackInt4
from migx.shape import BF16, F4, F8E4M3FN, F16, F32, F64, I2, I4, I8, U2, U4, U8, DType, Shape

Array = NDArray[Any]
DIMS = [(), (1,), (3, 5), (2, 2, 4), (0, 3)]


def run(op: Any, argument: Argument) -> Argument:
    """The meaning of an operation, its type and dims checked against the shape rule."""
    shape = op.compute_shape([argument.shape])
    result = result_of(op, shape, [argument])
    assert result.shape == shape
    if shape.dtype.is_packed:
        assert result.array.dtype == np.uint8
        assert result.array.shape == (shape.nbytes,)
    else:
        assert result.array.dtype == shape.dtype.numpy
        assert result.array.shape == shape.dims
    return result


INTEGERS: list[tuple[Op, Op, DType, DType, Any, int]] = [
    (PackInt4(), UnpackInt4(), I8, I4, ml_dtypes.int4, TensorProto.INT4),
    (PackInt4(), UnpackInt4(), U8, U4, ml_dtypes.uint4, TensorProto.UINT4),
    (PackInt2(), UnpackInt2(), I8, I2, ml_dtypes.int2, TensorProto.INT2),
    (PackInt2(), UnpackInt2(), U8, U2, ml_dtypes.uint2, TensorProto.UINT2),
]


@pytest.mark.parametrize(("pack", "unpack", "wide", "narrow", "peer", "code"), INTEGERS)
@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_integers_lie_as_in_onnx(
    pack: Op, unpack: Op, wide: DType, narrow: DType, peer: Any, code: int, dims: tuple[int, ...]
) -> None:
    x = np.random.default_rng(3).integers(0, 256, dims).astype(np.uint8).view(wide.numpy)
    limits = ml_dtypes.iinfo(peer)  # type: ignore[no-untyped-call]
    clipped = np.clip(x, int(limits.min), int(limits.max))
    packed = run(pack, Argument.of(x))
    assert packed.shape == Shape(narrow, dims)
    tensor = numpy_helper.from_array(clipped.astype(peer))
    assert (tensor.data_type, tensor.raw_data) == (code, packed.tobytes())
    np.testing.assert_array_equal(run(unpack, packed).array, clipped)


@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_fp4_lies_as_in_onnx(dtype: DType, dims: tuple[int, ...]) -> None:
    x = (np.random.default_rng(3).normal(size=dims) * 4).astype(dtype.numpy)
    packed = run(PackFp4(), Argument.of(x))
    tensor = numpy_helper.from_array(x.astype(ml_dtypes.float4_e2m1fn))
    assert (tensor.data_type, tensor.raw_data) == (TensorProto.FLOAT4E2M1, packed.tobytes())


def test_fp4_rounds_half_to_even_and_saturates() -> None:
    x = np.array(
        [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 0.2500001, 6.1, -1e9, np.inf, -0.0, np.nan],
        np.float32,
    )
    y = run(UnpackFp4(), run(PackFp4(), Argument.of(x))).array
    expected = np.array([0, 1, 1, 2, 2, 4, 4, 0.5, 6, -6, 6, -0.0, -0.0], np.float32)
    assert y.tobytes() == expected.tobytes()


@pytest.mark.parametrize("to", [F8E4M3FN, F16, BF16, F32, F64], ids=str)
def test_fp4_unpacks_exactly_into_any_float(to: DType) -> None:
    packed = Argument.packed(Shape(F4, (16,)), bytes.fromhex("1032547698badcfe"))
    magnitudes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    y = run(UnpackFp4(to), packed).array.astype(np.float64)
    np.testing.assert_array_equal(y, magnitudes + [-m for m in magnitudes])
    assert np.signbit(y).tolist() == [False] * 8 + [True] * 8


def test_views_are_packed_in_the_order_of_their_indices() -> None:
    x = np.arange(6, dtype=np.uint8).reshape(2, 3).T
    packed = run(PackInt4(), Argument.of(x))
    assert packed.array.tolist() == [0x30, 0x41, 0x52]


def test_symbolic_dims_are_kept() -> None:
    dims = (Dim("n"), 3)
    assert PackInt4().compute_shape([Shape(I8, dims)]) == Shape(I4, dims)
    assert UnpackFp4(F16).compute_shape([Shape(F4, dims)]) == Shape(F16, dims)


@pytest.mark.parametrize(
    ("op", "shape", "message"),
    [
        (PackInt4(), Shape(F32, (2,)), "pack_int4 takes i8 or u8, not f32"),
        (PackInt2(), Shape(I4, (2,)), "pack_int2 takes i8 or u8, not i4"),
        (PackFp4(), Shape(F64, (2,)), "pack_fp4 takes f32 or f16 or bf16, not f64"),
        (UnpackInt4(), Shape(I8, (2,)), "unpack_int4 takes i4 or u4, not i8"),
        (UnpackInt2(), Shape(U4, (2,)), "unpack_int2 takes i2 or u2, not u4"),
        (UnpackFp4(), Shape(I4, (2,)), "unpack_fp4 takes f4, not i4"),
        (UnpackFp4(I8), Shape(F4, (2,)), "unpack_fp4 makes floats of 8 bits or more, not i8"),
    ],
)
def test_errors_say_what_would_be_right(op: Op, shape: Shape, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        op.compute_shape([shape])
    with pytest.raises(ShapeError, match="takes 1 input, got 2"):
        op.compute_shape([shape, shape])
