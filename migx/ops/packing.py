"""Packing elements of 2 and 4 bits into bytes, and unpacking them.

A packed tensor keeps its dims: ``i4[3, 5]`` is 15 elements in 8 bytes. Elements lie row-major over
the whole tensor, low bits first, the last byte filled up with zeros: the layout of ONNX's
tensors of these types. MIGraphX has no such types and halves one axis of a byte tensor instead,
so its ``axis`` attribute would have nothing to say here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from migx.argument import Argument
from migx.errors import ShapeError
from migx.op import Array, Modules, Op, Runnable, Shapes
from migx.ops._rules import expect, no_warnings
from migx.shape import BF16, F4, F16, F32, I2, I4, I8, U2, U4, U8, DType, Shape


class Pack(Op, abstract=True):
    """One input, whose elements become ``packed[its type]``, of the same dims."""

    packed: ClassVar[Mapping[DType, DType]]

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        return shapes[0].with_type(_partner(self, self.packed, shapes[0].dtype))

    def compute(
        self,
        context: Any,
        shape: Shape,
        arguments: Sequence[Argument],
        modules: Sequence[Runnable],
    ) -> Argument:
        codes = self.codes(arguments[0].array, shape.dtype).reshape(-1)
        lanes = np.zeros((int(shape.nbytes), 8 // shape.dtype.bits), np.uint8)
        lanes.reshape(-1)[: codes.size] = codes
        packed = lanes[:, 0].copy()
        for lane in range(1, lanes.shape[1]):
            packed |= lanes[:, lane] << lane * shape.dtype.bits
        return Argument(shape, packed)

    def codes(self, x: Array, to: DType) -> Array:
        """The low bits of each element, as u8."""
        low, high = _integers(to)
        return np.clip(x, low, high).view(np.uint8) & np.uint8(2**to.bits - 1)


class PackInt4(Pack):
    """i8 clipped to [-8, 7] as i4, or u8 clipped to [0, 15] as u4; MIGraphX pack_int4."""

    packed: ClassVar = {I8: I4, U8: U4}


class PackInt2(Pack):
    """i8 clipped to [-2, 1] as i2, or u8 clipped to [0, 3] as u2."""

    packed: ClassVar = {I8: I2, U8: U2}


class PackFp4(Pack):
    """A float rounded to nearest even in f4 (e2m1) and saturated at 6; MIGraphX pack_fp4.

    The format has no NaN: a NaN becomes -0.
    """

    packed: ClassVar = {F32: F4, F16: F4, BF16: F4}

    def codes(self, x: Array, to: DType) -> Array:
        with no_warnings():
            return x.astype(ml_dtypes.float4_e2m1fn).view(np.uint8)


class Unpack(Op, abstract=True):
    """One packed input, whose elements become bytes or floats of the same dims."""

    def unpacked(self, dtype: DType) -> DType:
        """The element type of the result."""
        raise NotImplementedError(self.name)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        return shapes[0].with_type(self.unpacked(shapes[0].dtype))

    def compute(
        self,
        context: Any,
        shape: Shape,
        arguments: Sequence[Argument],
        modules: Sequence[Runnable],
    ) -> Argument:
        values, data = _values(arguments[0].shape.dtype, shape.dtype), arguments[0].array
        rows = np.empty((data.size, values.shape[1]), values.dtype)
        for start in range(0, data.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            np.take(values, data[block], axis=0, out=rows[block], mode="clip")
        dims = [int(d) for d in shape.dims]
        return Argument(shape, rows.reshape(-1)[: int(shape.elements)].reshape(dims))


class UnpackInt4(Unpack):
    """i4 as i8, or u4 as u8; MIGraphX unpack_int4."""

    def unpacked(self, dtype: DType) -> DType:
        return _partner(self, {I4: I8, U4: U8}, dtype)


class UnpackInt2(Unpack):
    """i2 as i8, or u2 as u8."""

    def unpacked(self, dtype: DType) -> DType:
        return _partner(self, {I2: I8, U2: U8}, dtype)


class UnpackFp4(Unpack):
    """f4 (e2m1) as the float type ``to``, exactly."""

    to: DType = F32

    def unpacked(self, dtype: DType) -> DType:
        if not self.to.is_float or self.to.is_packed:
            raise ShapeError(f"{self.name} makes floats of 8 bits or more, not {self.to}")
        return _partner(self, {F4: self.to}, dtype)


_BLOCK = 1 << 14
"""Bytes unpacked at a time: numpy widens indices to 64 bits, and these stay in the cache."""


def _partner(op: Op, table: Mapping[DType, DType], dtype: DType) -> DType:
    if dtype not in table:
        raise ShapeError(f"{op.name} takes {' or '.join(map(str, table))}, not {dtype}")
    return table[dtype]


def _integers(dtype: DType) -> tuple[int, int]:
    """The least and greatest value of a packed integer type."""
    half = 1 << (dtype.bits - 1)
    return (-half, half - 1) if dtype.kind == "int" else (0, 2 * half - 1)


@cache
def _values(packed: DType, to: DType) -> Array:
    """The elements in each of the 256 bytes, in order: one lookup unpacks a byte."""
    lanes = np.arange(256)[:, None] >> np.arange(0, 8, packed.bits) & (1 << packed.bits) - 1
    values: Array
    if packed.is_float:
        values = lanes.astype(np.uint8).view(ml_dtypes.float4_e2m1fn)
    else:
        low, _ = _integers(packed)
        values = (lanes - low) % (1 << packed.bits) + low
    return values.astype(to.numpy)
