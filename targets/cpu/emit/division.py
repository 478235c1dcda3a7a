"""Quotients and remainders of elements, by divisions of vectors of floats.

CPUs divide vectors of floats alone: integers they divide a lane at a time, and for remainders of
floats there is a function of the C library. A quotient of floats, rounded and cut to a whole number
q, is the one that is meant, or one more: it suffices for integers that the float has twice the bits
of, and x - q y, which is exact as long as q is, tells which of the two it is.
"""

from __future__ import annotations

import math

from migx.shape import DType
from migx.targets.cpu.emit import F32, F64, Function, Value
from migx.targets.cpu.emit.vector_math import absolute, copysign


def quotient(f: Function, x: Value, y: Value, dtype: DType) -> Value:
    """Of integers truncated, and 0 where y is 0; the least over -1 wraps."""
    if dtype.is_float:
        return x / y
    zero = f.compare("eq", y, 0)
    if dtype.kind == "uint":
        return f.select(zero, 0 * x, _divided(f, x, y, zero, dtype))
    back = f.compare("eq", y, -1)
    whole = _divided(f, x, y, zero | back, dtype)
    return f.select(zero, 0 * x, f.select(back, -x, whole))


def remainder(f: Function, x: Value, y: Value, dtype: DType) -> Value:
    """With the sign of x; 0 of integers where y is 0."""
    if dtype.is_float:
        return _rest(f, x, y)
    none = f.compare("eq", y, 0)
    if dtype.kind == "int":
        none = none | f.compare("eq", y, -1)
    return f.select(none, 0 * x, x - _divided(f, x, y, none, dtype) * y)


def modulo(f: Function, x: Value, y: Value, dtype: DType) -> Value:
    """With the sign of y; 0 of integers where y is 0."""
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
    """The quotient of integers, truncated; x where there is none."""
    safe = f.select(none, 1, y)
    signed = dtype.kind == "int"
    if not x.type.lanes or dtype.bits > 32 or y.number is not None:
        return f.op("sdiv" if signed else "udiv", x, safe)
    wide = F64 if dtype.bits == 32 else F32
    ratio = f.cast(x, wide, signed=signed) / f.cast(safe, wide, signed=signed)
    return f.toward_zero(ratio, x.type.one, signed=signed)


def _rest(f: Function, x: Value, y: Value) -> Value:
    """Of floats, in f64: it is exact, so nothing is rounded on the way back."""
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
