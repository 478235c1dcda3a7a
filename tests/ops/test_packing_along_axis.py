"""Packing along an axis, into bytes, against arithmetic on whole numbers."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from migx.dim import Dim
from migx.errors import ShapeError
from migx.ops.packing import PackFp4, PackInt2, PackInt4, UnpackFp4, UnpackInt2, UnpackInt4
from migx.shape import F16, F32, I4, I8, U8, Shape
from tests.ops.peers import run

Array = NDArray[Any]
PAIRS: dict[int, tuple[Any, Any]] = {4: (PackInt4, UnpackInt4), 2: (PackInt2, UnpackInt2)}


def bytes_along(codes: Array, axis: int, bits: int) -> Array:
    """What packing must give: element k in bits (k mod n) * bits of byte k // n."""
    per = 8 // bits
    dims = list(codes.shape)
    dims[axis] = -(-dims[axis] // per)
    packed = np.zeros(dims, np.int64)
    for place in np.ndindex(codes.shape):
        at, lane = list(place), place[axis] % per
        at[axis] //= per
        packed[tuple(at)] += codes[place] << lane * bits
    return packed.astype(np.uint8)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dims", [(4, 4, 8), (3, 5, 7), (1, 2, 1)], ids=str)
@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_there_and_back(kind: Any, bits: int, dims: tuple[int, ...], axis: int) -> None:
    """Every byte there is is clipped to what fits, and comes back so."""
    pack, unpack = PAIRS[bits]
    x = np.random.default_rng(axis).integers(0, 256, dims).astype(np.uint8).view(kind)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if kind is np.int8 else (0, 2**bits - 1)
    clipped = np.clip(x, low, high)
    packed = run(pack(axis=axis), x)
    wanted = bytes_along(clipped.astype(np.int64) & 2**bits - 1, axis, bits)
    np.testing.assert_array_equal(packed, wanted.view(kind))
    np.testing.assert_array_equal(run(unpack(axis=axis, length=dims[axis]), packed), clipped)


@pytest.mark.parametrize("axis", [0, 1])
def test_floats_there_and_back(axis: int) -> None:
    x = np.random.default_rng(1).normal(0, 4, (3, 5)).astype(np.float32)
    rounded = x.astype(ml_dtypes.float4_e2m1fn)
    packed = run(PackFp4(axis=axis), x)
    np.testing.assert_array_equal(packed, bytes_along(rounded.view(np.uint8).astype(int), axis, 4))
    back = run(UnpackFp4(F16, axis=axis, length=x.shape[axis]), packed)
    np.testing.assert_array_equal(back, rounded.astype(np.float16))


def test_the_sign_is_that_of_the_bytes_and_full_bytes_need_no_length() -> None:
    packed = np.array([[0x8F]], np.uint8)
    assert run(UnpackInt4(axis=1), packed).tolist() == [[15, 8]]
    assert run(UnpackInt4(axis=1), packed.view(np.int8)).tolist() == [[-1, -8]]


def test_symbolic_dims_are_kept() -> None:
    n = Dim("n")
    assert PackInt4(axis=0).compute_shape([Shape(I8, (2 * n, 3))]) == Shape(I8, (n, 3))
    assert UnpackInt2(axis=0).compute_shape([Shape(U8, (n, 3))]) == Shape(U8, (4 * n, 3))


@pytest.mark.parametrize(
    ("op", "shape", "message"),
    [
        (PackInt4(axis=2), Shape(I8, (2, 2)), r"axis 2 is not one of the 2 axes"),
        (UnpackInt4(axis=2), Shape(I8, (2, 2)), r"axis 2 is not one of the 2 axes"),
        (UnpackInt4(axis=0), Shape(I4, (2, 2)), "unpack_int4 takes i8 or u8, not i4"),
        (UnpackFp4(axis=0), Shape(I8, (2, 2)), "unpack_fp4 takes u8, not i8"),
        (
            UnpackInt4(axis=1, length=5),
            Shape(U8, (2, 2)),
            r"5 elements do not fill 2 bytes, the length of axis 1 of u8\[2, 2\]",
        ),
        (UnpackInt4(axis=1, length=-1), Shape(U8, (2, 2)), "-1 elements do not fill 2 bytes"),
        (PackFp4(axis=0), Shape(U8, (2,)), "pack_fp4 takes f32 or f16 or bf16, not u8"),
        (UnpackInt4(), Shape(F32, (2,)), "unpack_int4 takes i4 or u4, not f32"),
    ],
)
def test_errors_say_what_would_be_right(op: Any, shape: Shape, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        op.compute_shape([shape])
