"""Floats of eight and of four bits as Triton text: they are stored as bytes or in them, and
computed in f32, on any device, with integer operations alone.

Shifted to the position of f32's, the bits of such a float are those of an f32 that is smaller by a
power of two: so one product decodes and encodes, subnormals included. To round to so few digits, a
number whose last digit is of that weight is added, and subtracted again.
"""

from __future__ import annotations

from migx.fusion.narrow_floats import FORMATS, NarrowFloat
from migx.ops.quantization import limits
from migx.shape import F4, F8E8M0, DType

MANTISSA, BIAS = 23, 127
"""The mantissa bits and the exponent bias of f32."""
FOUR = NarrowFloat(1, 1, 16)
"""The format of f4, which is unpacked and never computed as it is. It has no code for NaN."""
BITS = "{x}.to(tl.int32, bitcast=True)"


def _shift(this: NarrowFloat) -> int:
    """The distance of a format's bits from those of f32."""
    return MANTISSA - this.mantissa


def _scale(this: NarrowFloat) -> float:
    """The factor from the f32 of a format's shifted bits to its value."""
    return 2.0 ** (BIAS - this.bias)


def decoded(code: str, dtype: DType) -> str:
    """The f32 value of a float in a byte, or in the low half of one."""
    if dtype is F8E8M0:  # a power of two
        bits = f"tl.where({code} == 0, 1 << {MANTISSA - 1}, {code}.to(tl.int32) << {MANTISSA})"
        return f"tl.where({code} == 255, float('nan'), {bits}.to(tl.float32, bitcast=True))"
    this = FOUR if dtype is F4 else FORMATS[dtype]
    most = (1 << (dtype.bits - 1)) - 1
    bits = f"(({code} & {most}).to(tl.int32) << {_shift(this)})"
    size = f"({bits}.to(tl.float32, bitcast=True) * {_scale(this)})"
    value = f"tl.where({code} > {most}, {size} * -1.0, {size})"
    if this is FOUR:
        return value
    if this.unsigned:
        return f"tl.where({code} == {this.nan}, float('nan'), {value})"
    if this.infinity is None:
        return f"tl.where(({code} & 127) == {this.nan}, float('nan'), {value})"
    infinite = f"tl.where({code} > 127, -float('inf'), float('inf'))"
    value = f"tl.where(({code} & 127) == {this.infinity}, {infinite}, {value})"
    return f"tl.where(({code} & 127) > {this.infinity}, float('nan'), {value})"


def encoded(x: str, dtype: DType) -> str:
    """The byte of an f32 that is exact in the format, infinite or NaN."""
    this = FORMATS[dtype]
    bits = BITS.format(x=f"(tl.abs({x}) * {1 / _scale(this)})")
    code = f"({bits} >> {_shift(this)})"
    if this.infinity is not None:
        code = f"tl.where(tl.abs({x}) == float('inf'), {this.infinity}, {code})"
    below = f"({BITS.format(x=x)} < 0)"
    if this.unsigned:
        below = f"({below} & ({code} != 0))"
    code = f"tl.where({below}, {code} | 128, {code})"
    return f"tl.where({x} != {x}, {this.nan}, {code}).to(tl.uint8)"


def rounded(x: str, dtype: DType, *, saturate: bool) -> str:
    """The nearest number of the format to an f32, ties to even. One that is too large becomes the
    largest with ``saturate``; without, infinite or NaN.
    """
    this, (_, largest) = FORMATS[dtype], limits(dtype)
    size = f"tl.minimum(tl.abs({x}), {largest if saturate else 4 * largest})"
    exponent = f"tl.maximum({BITS.format(x=size)} >> {MANTISSA}, {BIAS + 1 - this.bias})"
    digits = f"(({exponent} + {_shift(this)}) << {MANTISSA}).to(tl.float32, bitcast=True)"
    near = f"(({size} + {digits}) - {digits})"
    if not saturate:
        beyond = "float('nan')" if this.infinity is None else "float('inf')"
        near = f"tl.where({near} > {largest}, {beyond}, {near})"
    signed = f"tl.where({BITS.format(x=x)} < 0, {near} * -1.0, {near})"
    return f"tl.where({x} != {x}, {x}, {signed})"
