"""Quotients and remainders of elements, by vector divisions of floats.

CPUs have vector division only for floats: integers are divided lane by lane, and remainders of
floats are a call of the C library. The quotient of two floats, rounded and then truncated to q, is
the true one or one more. With a float of at least twice the bits it is always the true one, which
is how integers are divided; for floats, x - q y, exact while q is, tells which it is.
"""

from __future__ import annotations

import math

from migx.shape import DType
from migx.targets.cpu.emit import F32, F64, Function, Value
from migx.targets.cpu.emit.vector_math import absolute, copysign


def quotient(f: Function, x: Value, y: Value, dtype: DType) -> Value:
    """The quotient; of integers it is truncated, is 0 if y is 0, and wraps for the least over
    -1.
    """
    if dtype.is_float:
        return x / y
    zero = f.compare("eq", y, 0)
    if dtype.kind == "uint":
        return f.select(zero, 0 * x, _divided(f, x, y, zero, dtype))
    back = f.compare("eq", y, -1)
    whole = _divided(f, x, y, zero | back, dtype)
    return f.select(zero, 0 * x, f.select(back, -x, whole))


def remainder(f: Function, x: Value, y: Value, dtype: DType) -> Value:
    """The remainder with the sign of x; for integers, 0 if y is 0."""
    if dtype.is_float:
        return _rest(f, x, y)
    none = f.compare("eq", y, 0)
    if dtype.kind == "int":
        none = none | f.compare("eq", y, -1)
    return f.select(none, 0 * x, x - _divided(f, x, y, none, dtype) * y)


def modulo(f: Function, x: Value, y: Value, dtype: DType) -> Value:
    """The remainder with the sign of y; for integers, 0 if y is 0."""
    rest = remainder(f, x, y, dtype)
    if dtype.kind == "uint":
        return rest
    other = (rest < 0) ^ (y < 0)
    if not dtype.is_float:
        return f.select(f.compare("ne", rest, 0) & other, rest + y, rest)
    moved = f.select(other, rest + y, rest)
    none = copysign(f, f.const(rest.type, 0.0), y)
    exact = f.select(f.compare("eq", rest, 0), none, moved)
    return f.select(f.compare("ne", rest, rest), rest, exact)


def _divided(f: Function, x: Value, y: Value, none: Value, dtype: DType) -> Value:
    """The truncated quotient of integers; x in the lanes of ``none``, which have no quotient."""
    safe = f.select(none, 1, y)
    signed = dtype.kind == "int"
    if not x.type.lanes or dtype.bits > 32 or y.number is not None:
        return f.op("sdiv" if signed else "udiv", x, safe)
    wide = F64 if dtype.bits == 32 else F32
    ratio = f.cast(x, wide, signed=signed) / f.cast(safe, wide, signed=signed)
    return f.toward_zero(ratio, x.type.one, signed=signed)


def _rest(f: Function, x: Value, y: Value) -> Value:
    """The remainder of floats in f64, where it is exact, so narrowing it rounds nothing."""
    given, by = f.cast(x, F64), f.cast(y, F64)
    size, unit = absolute(f, given), absolute(f, by)
    whole = f.intrinsic("trunc", size / unit)
    rest = f.fma(-whole, unit, size)
    rest = f.select(rest < 0.0, rest + unit, rest)
    rest = copysign(f, f.select(size < unit, size, rest), given)
    large = (whole >= 2.0**53) & (size < math.inf) & (unit > 0.0)
    with f.when(f.any_of(large), [rest]) as rare:
        rare.carry(f.select(large, f.op("frem", given, by), rest))
    return f.cast(rare.carried[0], x.type.one)
