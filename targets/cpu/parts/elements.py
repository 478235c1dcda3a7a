"""The instructions for each operation on elements.

``apply(function, op, operands, result)`` computes an operation on values in *computing types*:
floats under 32 bits are computed in f32 and bools in i1, all others in their type in memory.
``loaded`` and ``stored`` convert between memory and computing types.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from migx.fusion.narrow_floats import is_narrow
from migx.fusion.tables import Lookup
from migx.op import Operation
from migx.ops.quantization import limits
from migx.shape import BF16, BOOL, F8E8M0, F16, U32, U64, DType
from migx.targets.cpu import emit
from migx.targets.cpu.emit import (
    F32,
    F64,
    I1,
    I16,
    I32,
    I64,
    Function,
    Type,
    Value,
    division,
    narrow_floats,
    reductions,
    vector_math,
)
from migx.targets.cpu.emit.lookup import looked_up
from migx.targets.cpu.kernel import memory_of, type_of
from migx.targets.cpu.machine import Machine

FLOAT_ONLY = frozenset(
    {
        *("acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh"),
        *("erf", "exp", "log", "sigmoid", "sin", "sinh", "tan", "tanh"),
    }
)
"""Operations that are functions of ``vector_math`` of the same names, for floats only."""
FOLDS: dict[np.ufunc, str] = {
    np.add: "add",
    np.multiply: "mul",
    np.maximum: "max",
    np.minimum: "min",
    np.logical_and: "and",
    np.logical_or: "or",
}
"""The names in ``emit/reductions.py`` of reductions of floats, or of bools, by a ufunc."""

Emit = Callable[[Function, Any, Sequence[Value], Sequence[DType], DType], Value]
"""An operation on operands of some element types, for a result of one."""


def computing(dtype: DType) -> Type:
    """The scalar an element is computed in; its type must have one in memory."""
    if dtype.is_float and dtype.bits < 32:
        return F32
    return I1 if dtype is BOOL else memory_of(dtype)


def is_computed_as_stored(dtype: DType) -> bool:
    """Whether elements of a type are computed in their type in memory."""
    return type_of(dtype) is not None and computing(dtype) == type_of(dtype)


def computable(dtype: DType, machine: Machine) -> bool:
    """Whether a machine computes with elements of a type; of ``f8e8m0`` it only reads them."""
    return (
        type_of(dtype) is not None and dtype is not F8E8M0 and (dtype is not F16 or machine.halves)
    )


def has(op: Operation, operands: Sequence[DType], result: DType) -> bool:
    """Whether ``apply`` knows an operation on these element types."""
    if result is F8E8M0 or any(type_of(t) is None for t in (*operands, result)):
        return False
    if op.name in FLOAT_ONLY:
        return result.is_float
    if op.name == "pow":
        return result.is_float and all(t.is_float for t in operands)
    if op.name == "convert":
        return operands[0].kind != "string"
    return isinstance(op, Lookup) or op.name in TABLE


def apply(
    f: Function, op: Operation, values: Sequence[Value], types: Sequence[DType], result: DType
) -> Value:
    """An operation on operands of these element types, for which ``has`` holds."""
    lanes = max(v.type.lanes for v in values)
    spread = [f.splat(v, lanes) for v in values]
    if op.name in FLOAT_ONLY:
        made: Value = getattr(vector_math, op.name)(f, spread[0])
        return made
    if isinstance(op, Lookup):
        return looked_up(f, op.table.array, spread[0])
    return TABLE[op.name](f, op, spread, types, result)


def loaded(f: Function, value: Value, dtype: DType) -> Value:
    """A value read from memory, in its computing type."""
    if dtype is BF16:
        bits = f.cast(f.bitcast(value, I16.times(value.type.lanes)), I32, signed=False) << 16
        return f.bitcast(bits, F32.times(value.type.lanes))
    if dtype is F16:
        return f.cast(value, F32)
    if is_narrow(dtype):
        return narrow_floats.decoded(f, value, dtype)
    return f.compare("ne", value, 0) if dtype is BOOL else value


def stored(f: Function, value: Value, dtype: DType) -> Value:
    """A value in its computing type, converted to its type in memory; floats round to nearest."""
    if dtype is BF16:
        return rounded_to_bf16(f, value)
    if dtype is F16:
        return f.cast(value, emit.F16)
    if is_narrow(dtype):
        return narrow_floats.encoded(f, value, dtype)
    return f.cast(value, emit.I8, signed=False) if dtype is BOOL else value


def rounded_to_bf16(f: Function, x: Value) -> Value:
    """f32 as bf16, ties to even, by integers: CPUs' own instructions flush subnormals."""
    lanes = x.type.lanes
    bits = f.bitcast(x, I32.times(lanes))
    up = ((bits >> 16) & 1) + 0x7FFF
    kept = f.select(f.compare("ne", x, x), (bits >> 16) | 0x40, (bits + up) >> 16)
    return f.bitcast(f.cast(kept, I16), emit.BF16.times(lanes))


def _truncated(f: Function, x: Value, to: DType) -> Value:
    """As ``convert`` defines it: through i32 or i64, whose least number stands for what does not
    fit.
    """
    if to is U64:
        high = f.compare("ge", x, 2.0**63)
        whole = _whole(f, f.select(high, x - 2.0**63, x), I64)
        return f.select(high, whole ^ -(2**63), whole)
    return f.cast(_whole(f, x, I64 if to.bits == 64 or to is U32 else I32), computing(to))


def _whole(f: Function, x: Value, scalar: Type) -> Value:
    """A float truncated; the least integer if it does not fit or is NaN."""
    whole, least = f.toward_zero(x, scalar), -(2 ** (scalar.bits - 1))
    return f.select(f.intrinsic("fabs", x) < -float(least), whole, least)


def _signed(dtype: DType) -> bool:
    return dtype.kind == "int"


def _binary(name: str) -> Emit:
    return lambda f, op, v, t, r: f.arithmetic(name, v[0], v[1])


def _bits(name: str) -> Emit:
    return lambda f, op, v, t, r: f.op(name, v[0], v[1])


def _compared(relation: str) -> Emit:
    def emitted(f: Function, op: Any, v: Sequence[Value], t: Sequence[DType], r: DType) -> Value:
        return f.compare(relation, v[0], v[1], signed=_signed(t[0]))

    return emitted


def folding(ufunc: np.ufunc, dtype: DType) -> str:
    """The name in ``emit/reductions.py`` of a reduction of elements of a type by a binary ufunc."""
    name = FOLDS[ufunc]
    if name not in ("max", "min"):
        return name
    if dtype is BOOL:
        return "or" if name == "max" else "and"
    return f"u{name}" if dtype.kind == "uint" else name


def combined(f: Function, ufunc: np.ufunc, x: Value, y: Value, dtype: DType) -> Value:
    """Two elements of a type combined by a ufunc that can reduce."""
    return reductions.combined(f, folding(ufunc, dtype), x, y)


def _extreme(ufunc: np.ufunc) -> Emit:
    return lambda f, op, v, t, r: combined(f, ufunc, v[0], v[1], r)


def _sign(f: Function, op: Any, v: Sequence[Value], t: Sequence[DType], r: DType) -> Value:
    (x,) = v
    zero = f.const(x.type, 0)
    if r.kind == "uint":
        return f.cast(f.compare("ne", x, 0), x.type.one, signed=False)
    rest = x + zero if r.is_float else x  # NaN, or 0 without its sign
    return f.select(x > zero, f.const(x.type, 1), f.select(x < zero, f.const(x.type, -1), rest))


def _abs(f: Function, op: Any, v: Sequence[Value], t: Sequence[DType], r: DType) -> Value:
    (x,) = v
    if r.is_float:
        return f.intrinsic("fabs", x)
    return x if r.kind == "uint" else f.select(x < 0, -x, x)


def _shift(left: bool) -> Emit:
    """A shift that gives 0, or the sign, for counts of at least the width; negative counts are
    such.
    """

    def emitted(f: Function, op: Any, v: Sequence[Value], t: Sequence[DType], r: DType) -> Value:
        x, by = v
        fits = f.compare("lt", by, r.bits, signed=False)
        if not left and _signed(r):
            return f.op("ashr", x, f.select(fits, by, r.bits - 1))
        moved = f.op("shl" if left else "lshr", x, f.select(fits, by, 0))
        return f.select(fits, moved, 0 * x)

    return emitted


def _isinf(f: Function, op: Any, v: Sequence[Value], t: Sequence[DType], r: DType) -> Value:
    below = f.compare("eq", v[0], -math.inf)
    above = f.compare("eq", v[0], math.inf)
    if op.detect_negative and op.detect_positive:
        return below | above
    none = f.const(below.type, 0)
    return below if op.detect_negative else above if op.detect_positive else none


def _clip(f: Function, op: Any, v: Sequence[Value], t: Sequence[DType], r: DType) -> Value:
    return combined(f, np.minimum, combined(f, np.maximum, v[0], v[1], r), v[2], r)


def _relu(f: Function, op: Any, v: Sequence[Value], t: Sequence[DType], r: DType) -> Value:
    return v[0] if r.kind == "uint" else f.maximum(v[0], 0)


def _prelu(f: Function, op: Any, v: Sequence[Value], t: Sequence[DType], r: DType) -> Value:
    return v[0] if r.kind == "uint" else f.select(v[0] < 0, v[0] * v[1], v[0])


def _leaky(f: Function, op: Any, v: Sequence[Value], t: Sequence[DType], r: DType) -> Value:
    return f.select(v[0] < 0, v[0] * op.alpha, v[0])


def _elu(f: Function, op: Any, v: Sequence[Value], t: Sequence[DType], r: DType) -> Value:
    return f.select(v[0] > 0, v[0], vector_math.expm1_below_0(f, f.minimum(v[0], 0)) * op.alpha)


def _pow(f: Function, op: Any, v: Sequence[Value], t: Sequence[DType], r: DType) -> Value:
    return vector_math.power(f, v[0], f.cast(v[1], v[0].type.one))


def _convert(f: Function, op: Any, v: Sequence[Value], t: Sequence[DType], r: DType) -> Value:
    """As numpy does: to bool by != 0, floats truncated, integers wrapped. A conversion to a float
    under 32 bits rounds to it, though arithmetic continues in f32: rounding is what was asked for.
    """
    (x,), (given,) = v, t
    if r is BOOL:
        return x if given is BOOL else f.compare("ne", x, 0)
    if given.is_float and r.is_integer:
        return _truncated(f, x, r)
    made = f.cast(x, computing(r), signed=given.is_float or _signed(given))
    if is_narrow(r):
        return _narrowed(f, made, r, saturate=op.saturate)
    if r not in (F16, BF16) or given.bits <= 8:
        return made
    once = x if r is F16 and x.type.one == F64 else made
    return loaded(f, stored(f, once, r), r)


def _narrowed(f: Function, x: Value, r: DType, *, saturate: bool) -> Value:
    """The nearest number of eight bits; with ``saturate`` the largest stands for what is beyond."""
    if saturate:
        x = _within(f, x, *(f.const(x.type, limit) for limit in limits(r)))
    return loaded(f, stored(f, f.cast(x, computing(r)), r), r)


def _bit_cast(f: Function, op: Any, v: Sequence[Value], t: Sequence[DType], r: DType) -> Value:
    bits = stored(f, v[0], t[0])
    return loaded(f, f.bitcast(bits, memory_of(r).times(bits.type.lanes)), r)


def _quantize(f: Function, op: Any, v: Sequence[Value], t: Sequence[DType], r: DType) -> Value:
    """Rounds, adds the zero point, and clips; NaN becomes 0. A float target of 16 bits or more is
    not rounded here.
    """
    scale = v[1]
    x = f.cast(v[0], scale.type.one)
    if is_narrow(r):
        return _narrowed(f, _sum(f, x / scale, v), r, saturate=op.saturate)
    if r.is_float:
        return _scaled(f, op, [x, *v[1:]], r)
    low, high = (int(limit) for limit in limits(r))
    wide = I32.times(x.type.lanes)
    zero = f.cast(v[2], I32, signed=_signed(r)) if len(v) > 2 else f.const(wide, 0)
    if _is_usual(scale) and zero.number is not None and r.bits == 8:
        nothing = int(zero.number)
        steps = _steps(f, x, scale.number or 0, low - nothing, high - nothing)
    else:
        offset = f.cast(zero, x.type.one)
        steps = _within(f, x / scale, low - offset, high - offset)
    whole = f.call(f"llvm.lrint.{wide.suffix}.{steps.type.suffix}", wide, steps) + zero
    return f.cast(f.select(f.compare("ne", steps, steps), 0, whole), computing(r))


def _within(f: Function, x: Value, low: Value, high: Value) -> Value:
    """A number clamped to limits, by two instructions; NaN stays."""
    above = f.select(f.compare("gt", low, x), low, x)
    return f.select(f.compare("lt", high, above), high, above)


def _is_usual(scale: Value) -> bool:
    """Whether a scale is a known f32 whose reciprocal and multiples are normal numbers."""
    return scale.type.one == F32 and scale.number is not None and 2**-60 < scale.number < 2**60


def _steps(f: Function, x: Value, scale: float, low: float, high: float) -> Value:
    """The quotient of a number, clamped to limits, and a constant scale, before rounding.

    It is exactly that of a division: a product with the reciprocal, corrected by the remainder
    (Markstein), which is much faster.
    """
    by = np.float32(scale)
    within = f.minimum(f.maximum(x, float(low * by)), float(high * by))
    inverse = float(np.float32(1) / by)
    near = within * inverse
    rest = f.fma(-near, float(by), within)
    return f.fma(rest, inverse, near)


def _scaled(f: Function, op: Any, v: Sequence[Value], r: DType) -> Value:
    """The quotient x / scale plus the zero point, as a float, clamped to the finite range if asked;
    NaN stays.
    """
    q = _sum(f, v[0] / v[1], v)
    if op.saturate:
        low, high = limits(r)
        q = f.minimum(f.maximum(q, low), high)
    return f.cast(q, computing(r))


def _sum(f: Function, q: Value, v: Sequence[Value]) -> Value:
    """A quotient plus the zero point, the third operand, if there is one."""
    return q + f.cast(v[2], q.type.one) if len(v) > 2 else q


def _dequantize(f: Function, op: Any, v: Sequence[Value], t: Sequence[DType], r: DType) -> Value:
    """The difference of integers is exact, as f64 holds that of two i32."""
    wide = v[1].type.one
    exact = wide if t[0].is_float else I32
    if t[0].bits == 32 and len(v) > 2:
        exact = F64
    difference = f.cast(v[0], exact, signed=_signed(t[0]))
    if len(v) > 2:
        difference = difference - f.cast(v[2], exact, signed=_signed(t[0]))
    return f.cast(difference, wide) * v[1]


def _unary(name: str) -> Emit:
    return lambda f, op, v, t, r: f.intrinsic(name, v[0])


TABLE: dict[str, Emit] = {
    "abs": _abs,
    "add": _binary("add"),
    "bit_cast": _bit_cast,
    "bitwise_and": _bits("and"),
    "bitwise_not": lambda f, op, v, t, r: ~v[0],
    "bitwise_or": _bits("or"),
    "bitwise_xor": _bits("xor"),
    "ceil": _unary("ceil"),
    "clip": _clip,
    "convert": _convert,
    "dequantizelinear": _dequantize,
    "div": lambda f, op, v, t, r: division.quotient(f, v[0], v[1], r),
    "elu": _elu,
    "equal": _compared("eq"),
    "floor": _unary("floor"),
    "fmod": lambda f, op, v, t, r: division.remainder(f, v[0], v[1], r),
    "greater": _compared("gt"),
    "greater_or_equal": _compared("ge"),
    "identity": lambda f, op, v, t, r: v[0],
    "isinf": _isinf,
    "isnan": lambda f, op, v, t, r: f.compare("ne", v[0], v[0]),
    "leaky_relu": _leaky,
    "less": _compared("lt"),
    "less_or_equal": _compared("le"),
    "logical_and": _bits("and"),
    "logical_or": _bits("or"),
    "logical_xor": _bits("xor"),
    "max": _extreme(np.maximum),
    "min": _extreme(np.minimum),
    "mod": lambda f, op, v, t, r: division.modulo(f, v[0], v[1], r),
    "mul": _binary("mul"),
    "nearbyint": _unary("rint"),
    "neg": lambda f, op, v, t, r: -v[0],
    "not": lambda f, op, v, t, r: ~v[0],
    "pow": _pow,
    "prelu": _prelu,
    "quantizelinear": _quantize,
    "recip": lambda f, op, v, t, r: 1.0 / v[0],
    "relu": _relu,
    "rsqrt": lambda f, op, v, t, r: 1.0 / f.intrinsic("sqrt", v[0]),
    "shift_left": _shift(True),
    "shift_right": _shift(False),
    "sign": _sign,
    "sqdiff": lambda f, op, v, t, r: (v[0] - v[1]) * (v[0] - v[1]),
    "sqrt": _unary("sqrt"),
    "sub": _binary("sub"),
    "where": lambda f, op, v, t, r: f.select(v[0], v[1], v[2]),
}


def in_memory(f: Function, number: float, dtype: DType, lanes: int) -> Value:
    """A constant in the type it has in memory."""
    if is_narrow(dtype):
        number = int(np.asarray(number, dtype.numpy).view(np.int8))
    return f.const(memory_of(dtype).times(lanes), number)


def splat_constant(f: Function, number: Any, dtype: DType) -> Value:
    """A constant of one element in its computing type."""
    return f.const(computing(dtype), number if dtype.kind != "float" else float(number))
