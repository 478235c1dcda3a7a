"""The Triton text of each operation on elements.

``apply(op, values, types, result)`` is the text of an operation on values in their computing types:
floats under 32 bits are computed in f32, bools are single bits, others are as in memory.

A kernel is memory-bound only with no more than about 15 instructions per element of f16 that it
reads and writes, and 30 per element of f32. So functions are built from those that a GPU has as
instructions, a power of two or the reciprocal of a square root, as far as the error bounds that
``migx.testing`` derives allow; quotients and square roots are correctly rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from migx.argument import Argument
from migx.fusion.narrow_floats import FORMATS, is_narrow
from migx.op import Operation
from migx.ops.quantization import limits
from migx.shape import BF16, BOOL, F16, F32, F64, U32, U64, DType
from migx.targets.gpu.emit.functions import LOG2_E, polynomial
from migx.targets.gpu.emit.narrow import rounded
from migx.targets.gpu.emit.types import COMPUTING, STORED, storable

Emit = Callable[[Any, Sequence[str], Sequence[DType], DType], str]
"""An operation on operands of some element types, for a result of one."""
ALL = "tl.PropagateNan.ALL"


def has(op: Operation, operands: Sequence[DType], result: DType) -> bool:
    """Whether ``apply`` knows an operation on these element types, which its shape rule allows."""
    if op.name not in TABLE:
        return False
    if is_narrow(result) or any(map(is_narrow, operands)):
        return _has_narrow(op, operands, result)
    if not all(map(storable, (*operands, result))):
        return False
    if op.name in ("fmod", "mod"):
        return result is not F64
    if op.name == "pow":
        return result.is_float and all(t.is_float for t in operands)
    return op.name != "quantizelinear" or not operands[0].is_integer


def _has_narrow(op: Operation, operands: Sequence[DType], result: DType) -> bool:
    """Whether ``apply`` knows a conversion from or to floats of eight bits, computed in f32."""
    exact = [t for t in (*operands, result) if not is_narrow(t)]
    if op.name not in ("convert", "dequantizelinear", "identity", "quantizelinear"):
        return False
    if not all(storable(t) and (t is F32 or t.bits <= 16) for t in exact):
        return False
    return result.is_float and (not is_narrow(result) or result in FORMATS)


def apply(op: Operation, values: Sequence[str], types: Sequence[DType], result: DType) -> str:
    """An operation on operands of these element types, for which ``has`` holds."""
    return TABLE[op.name](op, values, types, result)


def constant(value: Argument) -> str:
    """A constant of one element, in its computing type."""
    number, dtype = value.array.reshape(-1)[0], value.shape.dtype
    return number_of(float(number) if dtype.is_float else int(number), dtype)


def number_of(number: float, dtype: DType) -> str:
    """A number of an element type, in its computing type."""
    return f"tl.full([], {literal(number)}, {COMPUTING[dtype.name]})"


def literal(number: float) -> str:
    """A number as text, of the type that its context wants."""
    return repr(+number) if math.isfinite(number) else f'float("{number}")'  # +True is 1


def quotient(x: str, y: str, dtype: DType) -> str:
    """The quotient: of integers truncated, and 0 if y is 0; of floats correctly rounded, so that a
    whole number stays one.
    """
    if dtype.is_float:
        return f"tl.div_rn({x}, {y})" if dtype.bits <= 32 else f"({x} / {y})"
    if dtype.kind == "uint":
        return f"tl.where({y} == 0, 0, {x} // tl.where({y} == 0, 1, {y})).to({x}.dtype)"
    safe = f"tl.where(({y} == 0) | ({y} == -1), 1, {y})"  # the least number over -1 overflows
    found = f"tl.where({y} == -1, -{x}, {x} // {safe})"
    return f"tl.where({y} == 0, 0, {found}).to({x}.dtype)"


def square_root(x: str, dtype: DType) -> str:
    """The square root, correctly rounded."""
    return f"tl.sqrt_rn({x})" if dtype.bits <= 32 else f"tl.sqrt({x})"


def reciprocal_square_root(x: str, dtype: DType) -> str:
    """The reciprocal of the square root, to an ulp or two."""
    if dtype.bits > 32:
        return f"(1.0 / tl.sqrt({x}))"
    if dtype is F16:
        return f"tl.rsqrt({x})"
    small = f"{x} < 1e-30"  # for subnormals it would be infinite
    root = f"tl.rsqrt({x} * tl.where({small}, {2.0**64}, 1.0))"
    return f"({root} * tl.where({small}, {2.0**32}, 1.0))"


def exponential(x: str, dtype: DType) -> str:
    """The exponential, by a power of two, which GPUs have, but without subnormals of f32: where the
    result may be one, it is the square of its root.
    """
    if dtype.bits > 32:
        return f"tl.exp({x})"
    if dtype.bits == 32:
        return f"exp_f32({x})"
    if dtype is F16:
        return f"tl.exp2({x} * {LOG2_E!r})"
    root = f"tl.exp2({x} * {LOG2_E / 2!r})"
    return f"({root} * {root})"


def logistic(x: str, dtype: DType, slope: int = 1) -> str:
    """1 / (1 + exp(-slope * x)); for 16-bit types the square of a reciprocal square root, which is
    one instruction, while a quotient is five.
    """
    if dtype.bits > 32:
        return f"(1.0 / (1.0 + tl.exp({-slope} * {x})))"
    below = f"(1.0 + tl.exp2({x} * {-slope * LOG2_E!r}))"
    if dtype.bits == 32:
        return f"(1.0 / {below})"
    return f"(tl.rsqrt{below} * tl.rsqrt{below})"


FOLDS: dict[np.ufunc, str] = {
    np.add: "+",
    np.multiply: "*",
    np.maximum: "maximum",
    np.minimum: "minimum",
    np.logical_and: "minimum",
    np.logical_or: "maximum",
}
"""Triton's operator or function for each ufunc that can reduce."""


def combined(ufunc: np.ufunc, x: str, y: str, dtype: DType) -> str:
    """Two elements of a type combined by a ufunc that can reduce; also of bools, as integers."""
    name = FOLDS[ufunc]
    if name in ("+", "*"):
        return f"{x} {name} {y}"
    nan = f", propagate_nan={ALL}" if dtype.is_float else ""
    return f"tl.{name}({x}, {y}{nan})"


def nearest(x: str, dtype: DType) -> str:
    """The nearest integer as a float, ties to even; a zero result may have either sign."""
    return f"nearest_f{max(32, dtype.bits)}({x})"


def _convert(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
    if is_narrow(r):
        return rounded(f"{v[0]}.to(tl.float32)", r, saturate=op.saturate)
    return converted(v[0], t[0], r)


def _bit_cast(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
    if t[0] is BOOL:
        return f"{v[0]}.to({COMPUTING[r.name]})"
    text = f"{v[0]}.to({STORED[t[0].name]}).to({STORED[r.name]}, bitcast=True)"
    return f"({text} != 0)" if r is BOOL else f"{text}.to({COMPUTING[r.name]})"


def converted(x: str, given: DType, to: DType) -> str:
    """As ``convert`` defines it: to bool by != 0, floats truncated, integers wrapped."""
    if to is BOOL:
        return x if given is BOOL else f"({x} != 0)"
    computing = COMPUTING[to.name]
    if to in (F16, BF16) and given.is_float:
        return f"{x}.to({STORED[to.name]}).to({computing})"
    if given.is_float and to.is_integer:
        through = "u64" if to is U64 else "i64" if to is U32 or to.bits == 64 else "i32"
        return f"whole_{through}({x}).to({computing})"
    return f"{x}.to({computing})"


def _binary(sign: str) -> Emit:
    return lambda op, v, t, r: f"({v[0]} {sign} {v[1]})"


def _call(name: str) -> Emit:
    return lambda op, v, t, r: f"tl.{name}({v[0]})"


def _through_double(text: str) -> Emit:
    """A formula that loses digits, computed in 64 bits."""

    def emitted(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
        return text.format(x=f"{v[0]}.to(tl.float64)") + f".to({COMPUTING[r.name]})"

    return emitted


TANH = (
    *(1, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075),
    *(-929569 / 638512875, 6404582 / 10854718875, -443861162 / 1856156927625),
)
"""The first terms of tanh(x) / x, in powers of the square of x."""


def _tanh(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
    (x,) = v
    terms, most = {16: (TANH[:4], 0.35), 32: (TANH[:6], 0.35)}.get(r.bits, (TANH, 0.15))
    near = f"{x} * {polynomial(f'({x} * {x})', terms)}"
    return f"tl.where(tl.abs({x}) < {most}, {near}, 1.0 - 2.0 * {logistic(x, r, -2)})"


def _sigmoid(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
    return logistic(v[0], r)


ERFC = (0.30166057, 0.3903354, -0.0401085, 0.7580165, -0.5169537, 0.1070497)
"""erfc(x) * exp(x * x) / t for x >= 0, in powers of t = 1 / (1 + 0.55 * x): fitted, to 2e-8. The
coefficients sum to 1, so that erf(0) is 0.
"""


def _erf(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
    """For 16-bit types with half the instructions of Triton's, which is exact for small x."""
    (x,) = v
    if r.bits > 16:
        return f"tl.erf({x})"
    root = f"tl.rsqrt(1.0 + 0.55 * tl.abs({x}))"
    near = f"({root} * {root})"
    rest = f"{near} * {polynomial(near, ERFC)} * tl.exp2({x} * {x} * {-LOG2_E!r})"
    return f"tl.where({x} < 0, {rest} - 1.0, 1.0 - {rest})"


def _elu(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
    (x,) = v
    terms = [1 / math.factorial(k) for k in range(1, 8 if r.bits < 64 else 13)]
    near = f"{x} * {polynomial(x, terms)}"
    below = f"tl.where({x} > -0.1, {near}, tl.exp({x}) - 1)"
    return f"tl.where({x} > 0, {x}, ({below}) * {op.alpha!r})"


def _pow(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
    x, y = (f"{each}.to(tl.float64)" for each in v)
    return f"power({x}, {y}).to({COMPUTING[r.name]})"


def _nearbyint(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
    """The nearest integer; a zero has the sign of the operand."""
    near = nearest(v[0], r)
    return f"tl.where({near} == 0, {v[0]} * 0.0, {near})"


def _sign(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
    (x,) = v
    if r.kind == "uint":
        return f"({x} != 0).to({x}.dtype)"
    found = f"tl.where({x} > 0, 1, tl.where({x} < 0, -1, 0)).to({x}.dtype)"
    return f"tl.where({x} != {x}, {x}, {found})" if r.is_float else found


def _shift(left: bool) -> Emit:
    def emitted(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
        x, by = v
        fits = f"(({by} >= 0) & ({by} < {r.bits}))" if r.kind == "int" else f"({by} < {r.bits})"
        safe = f"tl.where({fits}, {by}, 0)"
        if not left and r.kind == "int":
            return f"({x} >> tl.where({fits}, {by}, {r.bits - 1})).to({x}.dtype)"
        return f"tl.where({fits}, {x} {'<<' if left else '>>'} {safe}, 0).to({x}.dtype)"

    return emitted


def _remainder(floor: bool) -> Emit:
    def emitted(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
        x, y = v
        if r.is_float:
            name = "floormod_f64" if floor else "fmod_f64"
            return f"{name}({x}.to(tl.float64), {y}.to(tl.float64)).to({x}.dtype)"
        rest = f"({x} - ({quotient(x, y, r)}) * {y})"
        rest = f"tl.where({y} == 0, 0, {rest}).to({x}.dtype)"
        if not floor or r.kind == "uint":
            return rest
        return f"tl.where(({rest} != 0) & (({rest} < 0) != ({y} < 0)), {rest} + {y}, {rest})"

    return emitted


def _isinf(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
    below = f"({v[0]} == -float('inf'))" if op.detect_negative else f"({v[0]} != {v[0]}) & False"
    above = f"({v[0]} == float('inf'))" if op.detect_positive else f"({v[0]} != {v[0]}) & False"
    return f"(({below}) | ({above}))"


def _quantize(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
    """Rounds, adds the zero point, and clips; NaN becomes 0."""
    wide = F64 if t[1] is F64 else F32
    kind, scale = COMPUTING[wide.name], v[1]
    x, zero = f"{v[0]}.to({kind})", f"{v[2]}.to({kind})" if len(v) > 2 else "0.0"
    if is_narrow(r):
        q = quotient(x, scale, wide) + (f" + {v[2]}" if len(v) > 2 else "")
        return rounded(f"({q})", r, saturate=op.saturate)
    low, high = map(float, limits(r))
    q = f"steps_f32({x}, {scale})" if wide is F32 else f"({x} / {scale})"
    return f"quantized_{wide.name}({q}, {zero}, {low}, {high}).to({COMPUTING[r.name]})"


def _dequantize(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
    if is_narrow(t[0]):
        return f"(({v[0]} - {v[2]}) * {v[1]})" if len(v) > 2 else f"({v[0]} * {v[1]})"
    if r is F16 and t[0].bits == 8:
        level = f"({_byte(v[0], t[0])} - {_byte(v[2], t[2])})" if len(v) > 2 else _byte(v[0], t[0])
        return f"({level} * {v[1]}.to(tl.float16)).to(tl.float32)"
    exact = "tl.int64" if t[0].bits == 32 and len(v) > 2 else "tl.int32"
    difference = f"{v[0]}.to({exact})"
    if len(v) > 2:
        difference = f"({difference} - {v[2]}.to({exact}))"
    return f"({difference}.to({COMPUTING[r.name]}) * {v[1]})"


def _byte(x: str, dtype: DType) -> str:
    """A byte as an f16: that whose lowest bits it becomes, less what it is without them. This takes
    a GPU one operation, and a conversion as long as four or more. The product with a scale of f16
    then is in f16, too; that of exact factors is rounded once, wherever it is computed.
    """
    if dtype.kind == "uint":
        return f"(({x}.to(tl.uint16) | {0x6400}).to(tl.float16, bitcast=True) - 1024.0)"
    return f"(({x}.to(tl.int16) + {0x6600}).to(tl.float16, bitcast=True) - 1536.0)"


def _where(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
    if r is BOOL:
        return f"(({v[0]} & {v[1]}) | (({v[0]} == 0) & {v[2]}))"
    return f"tl.where({v[0]}, {v[1]}, {v[2]})"


def _opposite(op: Any, v: Sequence[str], t: Sequence[DType], r: DType) -> str:
    if r is BOOL:
        return f"({v[0]} == 0)"
    if r.kind == "uint":  # Triton 3.6 interprets ~ by way of -1
        return f"({(1 << r.bits) - 1} - {v[0]})"
    return f"(~{v[0]})"


TABLE: dict[str, Emit] = {
    "abs": lambda op, v, t, r: v[0] if r.kind == "uint" else f"tl.abs({v[0]})",
    "acos": _through_double("arc_cosine({x})"),
    "acosh": _through_double("area_cosine({x})"),
    "add": _binary("+"),
    "asin": _through_double("arc_sine({x})"),
    "asinh": _through_double("area_sine({x})"),
    "atan": _through_double("arc_tangent({x})"),
    "atanh": _through_double("area_tangent({x})"),
    "bit_cast": _bit_cast,
    "bitwise_and": _binary("&"),
    "bitwise_not": _opposite,
    "bitwise_or": _binary("|"),
    "bitwise_xor": _binary("^"),
    "ceil": _call("ceil"),
    "clip": lambda op, v, t, r: combined(np.minimum, combined(np.maximum, v[0], v[1], r), v[2], r),
    "convert": _convert,
    "cos": _call("cos"),
    "cosh": _through_double("hyperbolic_cosine({x})"),
    "dequantizelinear": _dequantize,
    "div": lambda op, v, t, r: quotient(v[0], v[1], r),
    "elu": _elu,
    "equal": _binary("=="),
    "erf": _erf,
    "exp": lambda op, v, t, r: exponential(v[0], r),
    "floor": _call("floor"),
    "fmod": _remainder(False),
    "greater": _binary(">"),
    "greater_or_equal": _binary(">="),
    "identity": lambda op, v, t, r: v[0],
    "isinf": _isinf,
    "isnan": lambda op, v, t, r: f"({v[0]} != {v[0]})",
    "leaky_relu": lambda op, v, t, r: f"tl.where({v[0]} < 0, {v[0]} * {op.alpha!r}, {v[0]})",
    "less": _binary("<"),
    "less_or_equal": _binary("<="),
    "log": _call("log"),
    "logical_and": _binary("&"),
    "logical_or": _binary("|"),
    "logical_xor": _binary("^"),
    "max": lambda op, v, t, r: combined(np.maximum, v[0], v[1], r),
    "min": lambda op, v, t, r: combined(np.minimum, v[0], v[1], r),
    "mod": _remainder(True),
    "mul": _binary("*"),
    "nearbyint": _nearbyint,
    # Triton up to 3.6 computes -x as 0 - x for floats, too, which gives 0.0 for 0.0.
    "neg": lambda op, v, t, r: f"({v[0]} * -1.0)" if r.is_float else f"(0 - {v[0]})",
    "not": _opposite,
    "pow": _pow,
    "prelu": lambda op, v, t, r: f"tl.where({v[0]} < 0, {v[0]} * {v[1]}, {v[0]})",
    "quantizelinear": _quantize,
    "recip": lambda op, v, t, r: f"(1.0 / {v[0]})",
    "relu": lambda op, v, t, r: (
        v[0] if r.kind == "uint" else combined(np.maximum, v[0], number_of(0, r), r)
    ),
    "rsqrt": lambda op, v, t, r: reciprocal_square_root(v[0], r),
    "shift_left": _shift(True),
    "shift_right": _shift(False),
    "sigmoid": _sigmoid,
    "sign": _sign,
    "sin": _call("sin"),
    "sinh": _through_double("hyperbolic_sine({x})"),
    "sqdiff": lambda op, v, t, r: f"(({v[0]} - {v[1]}) * ({v[0]} - {v[1]}))",
    "sqrt": lambda op, v, t, r: square_root(v[0], r),
    "sub": _binary("-"),
    "tan": lambda op, v, t, r: f"(tl.sin({v[0]}) / tl.cos({v[0]}))",
    "tanh": _tanh,
    "where": _where,
}
