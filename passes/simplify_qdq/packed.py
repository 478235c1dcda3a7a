"""Packed weights in one form: unpacked whole, dequantised, and then multiplied."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from migx.ir import Instruction
from migx.match import attr, constant, on, skip, value, var
from migx.op import Array
from migx.ops.layout import Broadcast, Multibroadcast, Reshape, Transpose, Unsqueeze
from migx.ops.packing import (
    FLAT,
    Pack,
    PackFp4,
    PackInt2,
    PackInt4,
    Unpack,
    UnpackFp4,
    UnpackInt2,
    UnpackInt4,
)
from migx.ops.pointwise import Clip, Mul
from migx.ops.quantization import DequantizeLinear, QuantizeLinear
from migx.passes._common import broadcast_of
from migx.passes.simplify_qdq.cleaning import is_sound, linear
from migx.rewrite import Cursor, Declined, rule
from migx.shape import F32, I2, I4, I8, U2, U4, U8, integers
from migx.weights import value_of
from migx.weights.constants import is_unpacked

PAIRS: dict[type[Unpack], type[Pack]] = {
    UnpackInt4: PackInt4,
    UnpackInt2: PackInt2,
    UnpackFp4: PackFp4,
}
NARROW = {I8: {UnpackInt2: I2, UnpackInt4: I4}, U8: {UnpackInt2: U2, UnpackInt4: U4}}
"""The types of a few bits that each kind of bytes may be packed to, the narrowest first."""


@rule(
    on(
        Clip,
        constant("x", lambda v: v.shape.dtype in NARROW and v.shape.rank > 0),
        broadcast_of(value(name="low")),
        broadcast_of(value(name="high")),
        name="clip",
    )
)
def clip(
    at: Cursor, x: Instruction, low: Instruction, high: Instruction, clip: Instruction
) -> Instruction | Declined:
    """A constant clipped to the range of a few bits is packed into these, and unpacked; packing
    clips.
    """
    if is_unpacked(x) or all(isinstance(u.op, Pack) for u in clip.users):
        return Declined("it is packed already")
    held = [value_of(v) for v in (low, high)]
    bounds = [int(v.array.item()) for v in held if v is not None and v.shape.elements == 1]
    for unpack, dtype in NARROW[x.shape.dtype].items():
        least, most = integers(dtype)
        if len(bounds) == 2 and least <= bounds[0] <= bounds[1] <= most:
            clipped = x if bounds == [least, most] else at(Clip(), *clip.inputs)
            return at(unpack(), at(PAIRS[unpack](), clipped))
    return Declined("the bounds are not those of 4 bits or fewer")


@rule(on((UnpackInt4, UnpackInt2, UnpackFp4), constant("x"), name="unpack", axis=attr("axis")))
def along_axis(
    at: Cursor, x: Instruction, unpack: Instruction, axis: int
) -> Instruction | Declined:
    """A constant packed along an axis is packed whole."""
    op = unpack.op_as(Unpack)
    if axis == FLAT or all(isinstance(u.op, Pack) for u in unpack.users):
        return Declined("it is packed whole, or about to be")
    inner: Unpack = replace(op, to=F32) if isinstance(op, UnpackFp4) else op
    whole = at(PAIRS[type(op)](), at(inner, x))
    return at(replace(op, axis=FLAT, length=0), whole)


unpacked = linear(DequantizeLinear, var("x", is_unpacked), var(), name="dq", once=True)


@rule(on(Transpose, unpacked, permutation=attr("order")))
def transpose(at: Cursor, dq: Instruction, order: tuple[int, ...]) -> Instruction:
    """A transpose of dequantizelinear(x) is dequantizelinear(transpose(x)), where x is packed."""
    op, rank = dq.op_as(DequantizeLinear), len(order)
    given = (v if v.shape.rank < rank else at(Transpose(order), v) for v in dq.inputs)
    axis = order.index(op.axis) if op.axis in order else op.axis  # any will do for a single scale
    return at(replace(op, axis=axis), *given)


@rule(
    on(
        (QuantizeLinear, DequantizeLinear),
        var("x"),
        var("scale"),
        skip(Broadcast, Multibroadcast, Transpose, Reshape, Unsqueeze)(
            on((UnpackInt4, UnpackInt2), var("zero", lambda v: v.shape.dtype.is_packed))
        ),
        name="q",
    )
)
def packed_zero_point(
    at: Cursor, x: Instruction, scale: Instruction, zero: Instruction, q: Instruction
) -> Instruction | Declined:
    """A packed zero point of zero may be left out."""
    held = value_of(zero)
    if held is None or held.array.any():
        return Declined("the zero points are not known to be zero")
    return at(q.op, x, scale)


def is_power_of_two(factor: Array) -> bool:
    """Whether multiplying by a number, between 2⁻²⁰ and 2²⁰, changes nothing but an exponent."""
    mantissa, exponent = np.frexp(factor.astype(np.float64))
    return bool(np.all(mantissa == 0.5) and np.all(np.abs(exponent) <= 20))


sound = value(is_sound, "scale")
scaled = linear(DequantizeLinear, var("x", is_unpacked), sound, name="dq", once=True)


@rule(on(Mul, scaled, broadcast_of(value(is_power_of_two, "factor"))))
def scale(
    at: Cursor, dq: Instruction, scale: Instruction, factor: Instruction
) -> Instruction | Declined:
    """Where x is packed, dequantizelinear(x, s, z) * 2ⁿ is dequantizelinear(x, s * 2ⁿ, z)."""
    if factor.shape.elements != 1:
        return Declined("the factors differ")
    number = at(Reshape(()), factor) if factor.shape.rank else factor
    x, _, *zero = dq.inputs
    return at(dq.op, x, at(Mul(), scale, at(Multibroadcast(scale.shape.dims), number)), *zero)


packed = clip + along_axis + transpose + packed_zero_point + scale
