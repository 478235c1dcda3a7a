"""Packing elements of 2 and 4 bits into bytes, and unpacking them.

There are two forms. Without an ``axis`` a packed tensor keeps its dims: ``i4[3, 5]`` is 15 elements
in 8 bytes, row-major over the whole tensor, low bits first, the last byte filled up with zeros: the
layout of ONNX's tensors of these types, and the form that passes bring programs into. Along an
``axis`` the elements go into bytes of a tensor whose axis is shorter, ``i8[3, 5]`` into
``i8[3, 3]`` for 4 bits along axis 1: MIGraphX's form, and that of layouts made for kernels. There
the container's type tells the sign, and ``length`` how long the axis is where bytes are not full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import cache
from typing import ClassVar

import ml_dtypes
import numpy as np

from migx import dim
from migx.argument import Argument, packed_codes
from migx.errors import ShapeError
from migx.op import Arguments, Array, Modules, Op, Shapes
from migx.ops._rules import expect, expect_axis, no_warnings
from migx.shape import BF16, F4, F16, F32, I2, I4, I8, U2, U4, U8, DType, Shape, integers

FLAT = -1
"""The ``axis`` of storage that lies row-major over the whole tensor, in a type of its own."""


class Pack(Op, abstract=True):
    """One input, whose elements become ``packed[its type]``, of the same dims; along an ``axis``
    they become bytes.
    """

    packed: ClassVar[Mapping[DType, DType]]
    axis: int = FLAT

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        x = shapes[0]
        packed = _partner(self, self.packed, x.dtype)
        if self.axis == FLAT:
            return x.with_type(packed)
        axis, per = expect_axis(self, self.axis, x.rank), 8 // packed.bits
        dims = (*x.dims[:axis], (x.dims[axis] + per - 1) // per, *x.dims[axis + 1 :])
        return Shape(container(packed), dims)

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        packed = self.packed[arguments[0].shape.dtype]
        codes = self.codes(arguments[0].array, packed)
        if self.axis == FLAT:
            return Argument(shape, packed_codes(codes.reshape(-1), packed.bits))
        lines = packed_codes(np.moveaxis(codes, self.axis, -1), packed.bits)
        held = np.ascontiguousarray(np.moveaxis(lines, -1, self.axis))
        return Argument(shape, held.view(shape.dtype.numpy))

    def codes(self, x: Array, to: DType) -> Array:
        """The low bits of each element, as u8."""
        low, high = integers(to)
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
    """One packed input, whose elements become bytes or floats of the same dims; bytes give way to
    the elements that lie in them along ``axis``, ``length`` of these, or all where that is 0.
    """

    packed: ClassVar[tuple[DType, ...]]
    axis: int = field(default=FLAT, kw_only=True)
    length: int = field(default=0, kw_only=True)

    def unpacked(self, dtype: DType) -> DType:
        """The element type that a packed type unpacks to."""
        return container(dtype)

    def stored(self, dtype: DType) -> DType:
        """The packed type of the elements in an input of this type."""
        held = {d if self.axis == FLAT else container(d): d for d in self.packed}
        return _partner(self, held, dtype)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        x, stored = shapes[0], self.stored(shapes[0].dtype)
        to = self.unpacked(stored)
        if self.axis == FLAT:
            return x.with_type(to)
        axis, per = expect_axis(self, self.axis, x.rank), 8 // stored.bits
        length = self.length or x.dims[axis] * per
        if not dim.may_equal((length + per - 1) // per, x.dims[axis]):
            raise ShapeError(
                f"{self.name}: {self.length} elements do not fill {x.dims[axis]} bytes, the length "
                f"of axis {axis} of {x}"
            )
        return Shape(to, (*x.dims[:axis], length, *x.dims[axis + 1 :]))

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        data = arguments[0].array
        values = _values(self.stored(arguments[0].shape.dtype), shape.dtype)
        dims = [int(d) for d in shape.dims]
        if self.axis == FLAT:
            return Argument(shape, _unpacked(data, values)[: int(shape.elements)].reshape(dims))
        lines = np.ascontiguousarray(np.moveaxis(data.view(np.uint8), self.axis, -1))
        whole = _unpacked(lines.reshape(-1), values)
        whole = whole.reshape(*lines.shape[:-1], lines.shape[-1] * values.shape[1])
        cut = np.moveaxis(whole[..., : dims[self.axis]], -1, self.axis)
        return Argument(shape, np.ascontiguousarray(cut))


class UnpackInt4(Unpack):
    """i4 as i8, or u4 as u8; MIGraphX unpack_int4."""

    packed: ClassVar = (I4, U4)


class UnpackInt2(Unpack):
    """i2 as i8, or u2 as u8."""

    packed: ClassVar = (I2, U2)


class UnpackFp4(Unpack):
    """f4 (e2m1) as the float type ``to``, exactly."""

    packed: ClassVar = (F4,)
    to: DType = F32

    def unpacked(self, dtype: DType) -> DType:
        if not self.to.is_float or self.to.is_packed:
            raise ShapeError(f"{self.name} makes floats of 8 bits or more, not {self.to}")
        return self.to


_BLOCK = 1 << 14
"""Bytes unpacked at a time: numpy widens indices to 64 bits, and these stay in the cache."""


def container(dtype: DType) -> DType:
    """The byte type that holds elements of a packed type along an axis: signed as they are."""
    return I8 if dtype in (I4, I2) else U8


def _unpacked(data: Array, values: Array) -> Array:
    """The elements in a vector of bytes, by a table of their values."""
    rows = np.empty((data.size, values.shape[1]), values.dtype)
    for start in range(0, data.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        np.take(values, data[block], axis=0, out=rows[block], mode="clip")
    return rows.reshape(-1)


def _partner(op: Op, table: Mapping[DType, DType], dtype: DType) -> DType:
    if dtype not in table:
        raise ShapeError(f"{op.name} takes {' or '.join(map(str, table))}, not {dtype}")
    return table[dtype]


@cache
def _values(packed: DType, to: DType) -> Array:
    """The elements in each of the 256 bytes, in order: one lookup unpacks a byte."""
    lanes = np.arange(256)[:, None] >> np.arange(0, 8, packed.bits) & (1 << packed.bits) - 1
    values: Array
    if packed.is_float:
        values = lanes.astype(np.uint8).view(ml_dtypes.float4_e2m1fn)
    else:
        low, _ = integers(packed)
        values = (lanes - low) % (1 << packed.bits) + low
    return values.astype(to.numpy)
