"""Floats of eight bits, read as f32 and written from it by integer instructions.

A normal number's bits are those of an f32, shifted and with another exponent bias, so rounding them
is an integer addition. A subnormal number is a multiple of the smallest one: that many. No step has
a subnormal f32 as operand or result, which would take CPUs a hundred cycles. Where an instruction
reads f16, most formats are read by that, as f16 with fewer digits.
"""

from __future__ import annotations

import math

from migx.fusion.narrow_floats import FORMATS, NarrowFloat
from migx.shape import F8E5M2FNUZ, F8E8M0, DType
from migx.targets.cpu.emit import F16, F32, I8, I16, I32, Function, Value

MANTISSA, BIAS = 23, 127
"""The mantissa bits and the exponent bias of f32."""
HALF_MANTISSA, HALF_BIAS = 10, 15
"""The same of f16."""
NAN, LARGEST = 0x7FC00000, 0x7FFFFFFF
"""The bits of a NaN in f32, and of the greatest size."""
SIZE, SIGN = 0x7F, 0x80
"""The bits of a code without its sign, and the sign."""


def decoded(f: Function, code: Value, dtype: DType) -> Value:
    """The f32 value of the bytes of a type."""
    lanes, bits = code.type.lanes, f.cast(code, I32, signed=False)
    if dtype is F8E8M0:
        power = f.select(f.compare("eq", bits, 0), 1 << (MANTISSA - 1), bits << MANTISSA)
        return f.bitcast(f.select(f.compare("eq", bits, 255), NAN, power), F32.times(lanes))
    if dtype is not F8E5M2FNUZ and f.module.features & {"f16c", "neon"}:
        return _through_half(f, code, FORMATS[dtype])
    this, size = FORMATS[dtype], bits & SIZE
    shifted = size << (MANTISSA - this.mantissa)
    number = shifted + ((BIAS - this.bias) << MANTISSA)
    small = f.bitcast(f.cast(size, F32) * (1 / _per_unit(this)), I32.times(lanes))
    number = f.select(f.compare("lt", size, 1 << this.mantissa), small, number)
    if this.infinity is not None:
        beyond = shifted | 255 << MANTISSA  # as in f32, the mantissa of infinity is 0
        number = f.select(f.compare("ge", size, this.infinity), beyond, number)
    else:
        given = bits if this.unsigned else size
        number = f.select(f.compare("eq", given, this.nan), NAN, number)
    number = number | (bits & SIGN) << 24
    return f.bitcast(number, F32.times(lanes))


def _through_half(f: Function, code: Value, this: NarrowFloat) -> Value:
    """The same by way of f16. A byte shifted with its sign may leave a copy of that among the bits
    of the exponent.
    """
    bits = f.cast(code, I16) << (HALF_MANTISSA - this.mantissa)
    if this.infinity is not None:
        return f.cast(f.bitcast(bits, F16.times(code.type.lanes)), F32)
    top = 1 << (HALF_MANTISSA + 4)
    bits = bits & ~top
    if not this.unsigned:  # the code of NaN carries into the top of the exponent
        bits = bits | (bits + (1 << (HALF_MANTISSA - this.mantissa)) & top)
    value = f.cast(f.bitcast(bits, F16.times(code.type.lanes)), F32)
    value = value * 2.0 ** (HALF_BIAS - this.bias)
    return f.select(f.compare("eq", code, -SIGN), math.nan, value) if this.unsigned else value


def encoded(f: Function, x: Value, dtype: DType) -> Value:
    """The bytes of f32 values, rounded to nearest, ties to even; what is too large becomes
    infinite, or NaN. Of ``f8e8m0`` only values that are numbers of that type can be encoded.
    """
    bits = f.bitcast(x, I32.times(x.type.lanes))
    if dtype is F8E8M0:
        return f.cast(bits >> MANTISSA & 255, I8)
    this, size = FORMATS[dtype], bits & LARGEST
    shift = MANTISSA - this.mantissa
    up = (size >> shift & 1) + ((1 << (shift - 1)) - 1)
    code = (size + up >> shift) - ((BIAS - this.bias) << this.mantissa)
    is_small = f.compare("lt", size, (BIAS + 1 - this.bias) << MANTISSA)
    code = f.select(is_small, _units(f, size, this), code)
    sign = bits >> 24 & SIGN
    if this.unsigned:
        code = f.select(f.compare("gt", code, SIZE), SIGN, code)
        sign = f.select(f.compare("eq", code, 0), 0, sign)
    else:
        code = f.minimum(code, SIZE if this.infinity is None else this.infinity)
    code = f.select(f.compare("ne", x, x), this.nan, code | sign)
    return f.cast(code, I8)


def _units(f: Function, size: Value, this: NarrowFloat) -> Value:
    """How many of the smallest numbers of a format a small one is, rounded: the last digits of a
    sum with a number whose last digit counts them.
    """
    total = f.bitcast(size, F32.times(size.type.lanes)) * _per_unit(this) + 2.0**MANTISSA
    return f.bitcast(total, size.type) - ((BIAS + MANTISSA) << MANTISSA)


def _per_unit(this: NarrowFloat) -> float:
    """How many of the smallest numbers of a format make 1."""
    return 2.0 ** (this.bias - 1 + this.mantissa)
