"""Elementary functions on vectors of f32 and f64, as sequences of plain vector instructions.

Each takes the function being written and a value of any number of lanes, and returns one of the
same type. In f32 all are within 2 units in the last place (ULP) over the whole range, ``sigmoid``
within 2.5, with IEEE's answers for NaN, infinities, signed zeros and denormals. The functions that
models use most (``exp``, ``log``, ``tanh``, ``erf``, ``sigmoid``) have no branches and no calls, so
a loop keeps the pipelines full. The rarer ones are computed in f64, where the plain formula is good
enough to be rounded to f32. In f64 ``exp`` and ``log`` are written out; the rest call the C library
lane by lane.

The coefficients are minimax fits of our own (Lawson's iteration) over the interval that each range
reduction leaves, rounded to f32 from the constant term on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

from migx.targets.cpu.emit import F32, F64, I32, I64, PTR, Function, Operand, Type, Value

Emitter = TypeVar("Emitter", bound=Callable[..., Value])

_LOG2E = 1.4426950408889634
# ln 2 in two parts, the first with so few bits that its products with exponents are exact.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440054690583e-4
_LN2_HIGH64, _LN2_LOW64 = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_ROUND32, _ROUND64 = 1.5 * 2.0**23, 1.5 * 2.0**52
"""Floats whose spacing is 1: adding one rounds to a whole number, which is then in the low bits."""

_EXPM1 = (0.49999997, 0.166665465, 0.0416674353, 0.00836626161, 0.00138706563)
"""(exp(r) - 1 - r) / r² where \\|r\\| is up to ln(2) / 2."""
_LOG1P = (
    *(0.333333313, -0.250008196, 0.200012431, -0.166234106),
    *(0.142015412, -0.131595537, 0.127624676, -0.0763690025),
)
"""(log(1 + f) - f + f²/2) / f³ where 1 + f is between the root of 1/2 and that of 2."""
_ERF = (
    *(0.128379166, -0.636619568, 0.102776304, 0.0191478208, -0.000169511797),
    *(-0.00167568761, -0.000637371151, -0.000118863805, -9.38825906e-06),
)
"""log(1 - erf(-t)) / t - 1 where t is from -3.95 to 0."""
_TANH = (-0.333333224, 0.133324057, -0.0537296459, 0.019448176)
"""(tanh(x) - x) / x³ by x², where \\|x\\| is up to 0.35."""
_SIN = (-0.166666552, 0.00833218824, -0.000195180997)
"""(sin(r) - r) / r³ by r², where \\|r\\| is up to pi / 4."""
_COS = (0.0416666456, -0.00138873106, 2.44325529e-05)
"""(cos(r) - 1 + r²/2) / r⁴ by r², where \\|r\\| is up to pi / 4."""
_ATAN = (
    *(0.99999999994155453, -0.33333331574182057, 0.19999912130509445, -0.14283981719920857),
    *(0.11093247704631801, -0.089802654276877059, 0.072457872068297208, -0.054280287210259626),
    *(0.034210923847669383, -0.016112600897343017, 0.0048513004737370151, -0.00068485600587941649),
)
"""atan(x) / x by x², where x is up to 1; good to 34 bits, for results in f32."""
_EXPM1_64 = tuple(1 / math.factorial(k) for k in range(2, 14))
_LOG_64 = tuple(2 / (2 * k + 1) for k in range(1, 11))
_TWO_OVER_PI = 0xA2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE5163ABDEBBC561
"""The first 256 bits of 2 / pi after the point."""


def _as_written(function: Emitter) -> Emitter:
    """The function without the fast-math flags that its caller set: its roundings are meant."""

    @wraps(function)
    def careful(f: Function, *operands: Any) -> Value:
        flags, f.flags = f.flags, ""
        made = function(f, *operands)
        f.flags = flags
        return made

    return cast(Emitter, careful)


def polynomial(f: Function, coefficients: Sequence[float], x: Value) -> Value:
    """The sum of c x^k, lowest power first."""
    value: Operand = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        value = f.fma(value, x, coefficient)
    assert isinstance(value, Value)
    return value


def copysign(f: Function, size: Value, sign: Value) -> Value:
    """The magnitude of one with the sign of another."""
    return f.intrinsic("copysign", size, sign)


def absolute(f: Function, x: Value) -> Value:
    """The magnitude."""
    return f.intrinsic("fabs", x)


def libm(f: Function, name: str, *operands: Value) -> Value:
    """A function of the C library on f64, a lane at a time."""
    first = operands[0]
    if not first.type.lanes:
        return f.call(name, F64, *operands)
    result = f.poison(first.type)
    for lane in range(first.type.lanes):
        result = f.insert(result, f.call(name, F64, *(f.extract(v, lane) for v in operands)), lane)
    return result


def _in_double(name: str) -> Callable[[Emitter], Emitter]:
    """Decorates a function of f64: applied to f32 it computes in f64 and rounds; f64 calls C's
    own.
    """

    def decorate(function: Emitter) -> Emitter:
        @wraps(function)
        def of_both(f: Function, *operands: Value) -> Value:
            if operands[0].type.one == F64:
                return libm(f, name, *operands)
            return f.cast(function(f, *(f.cast(v, F64) for v in operands)), F32)

        return _as_written(cast(Emitter, of_both))

    return decorate


# Exponentials and logarithms.


def _reduced(f: Function, x: Value, bias: int) -> tuple[Value, Value]:
    """(t, r) where x = n ln 2 + r, and n + bias is in the low bits of t."""
    double = x.type.one == F64
    magic = (_ROUND64 if double else _ROUND32) + bias
    high, low = (_LN2_HIGH64, _LN2_LOW64) if double else (_LN2_HIGH, _LN2_LOW)
    t = f.fma(x, _LOG2E, magic)
    n = t - magic
    return t, f.fma(n, -low, f.fma(n, -high, x))


def _expm1_reduced(f: Function, r: Value) -> Value:
    """exp(r) - 1 for small r."""
    coefficients = _EXPM1_64 if r.type.one == F64 else _EXPM1
    return f.fma(polynomial(f, coefficients, r), r * r, r)


def _bits(f: Function, x: Value) -> tuple[Value, Type, int, int]:
    """The bits of a float, their type, the width of its significand, and the exponent's bias."""
    wide = x.type.one == F64
    to = (I64 if wide else I32).times(x.type.lanes)
    return f.bitcast(x, to), to, 52 if wide else 23, 1023 if wide else 127


@_as_written
def exp(f: Function, x: Value) -> Value:
    """The exponential, e to the power x, in f32 or f64.

    Without an instruction that scales by 2^n there are two factors, each a normal number: only the
    last product may be denormal or infinite, and it is rounded once.
    """
    low, high = (-746.0, 710.0) if x.type.one == F64 else (-104.5, 88.8)
    t, r = _reduced(f, f.minimum(f.maximum(x, low), high), 0)
    y = _expm1_reduced(f, r) + 1.0
    bits, whole, shift, bias = _bits(f, t)
    n = bits - _bits_of(t.type, _ROUND64 if t.type.one == F64 else _ROUND32)
    if whole.one == I32 and "avx512f" in f.module.features:
        return f.call(f"llvm.ldexp.{x.type.suffix}.{whole.suffix}", x.type, y, n)
    half = f.op("ashr", n, 1)
    one, two = (f.bitcast((k + bias) << shift, x.type) for k in (half, n - half))
    return y * one * two


@_as_written
def exp_to_zero(f: Function, x: Value) -> Value:
    """The exponential of x up to 88, in f32, flushing what is less than 2^-127 to 0: for sums whose
    largest term is 1.
    """
    t, r = _reduced(f, f.maximum(x, -88.0296919), 127)
    scale = f.bitcast(f.bitcast(t, I32.times(x.type.lanes)) << 23, x.type)
    return f.fma(_expm1_reduced(f, r), scale, scale)


@_as_written
def _expm1(f: Function, x: Value) -> Value:
    """exp(x) - 1, in f32, from -80 to 80, as 2^n (exp(r) - 1) + (2^n - 1): exact near 0."""
    t, r = _reduced(f, x, 127)
    scale = f.bitcast(f.bitcast(t, I32.times(x.type.lanes)) << 23, x.type)
    return f.fma(_expm1_reduced(f, r), scale, scale - 1.0)


def expm1_below_0(f: Function, x: Value) -> Value:
    """exp(x) - 1 for x up to 0."""
    if x.type.one == F64:
        return libm(f, "expm1", x)
    return _expm1(f, f.maximum(x, -20.0))


@_as_written
def log(f: Function, x: Value) -> Value:
    """The natural logarithm, in f32 or f64."""
    wide = x.type.one == F64
    tiny = x < (2.0**-1022 if wide else 2.0**-126)
    up = 54 if wide else 23
    scaled = f.select(tiny, x * 2.0**up, x)
    bits, to, shift, _ = _bits(f, scaled)
    above = bits - _bits_of(x.type, math.sqrt(0.5))
    exponent = f.op("ashr", above, shift)
    m = f.bitcast(bits - (exponent << shift), x.type)
    e = f.cast(exponent - f.select(tiny, f.const(to, up), 0), x.type.one)
    result = _log_near_1(f, m - 1.0, e)
    result = f.select(x < math.inf, result, x)
    result = f.select(x < 0.0, math.nan, result)
    return f.select(f.compare("eq", x, 0.0), -math.inf, result)


def _log_near_1(f: Function, m: Value, e: Value) -> Value:
    """The logarithm of (1 + m) 2^e."""
    square = m * m
    if m.type.one == F32:
        y = f.fma(e, _LN2_LOW, polynomial(f, _LOG1P, m) * m * square)
        return f.fma(e, _LN2_HIGH, f.fma(square, -0.5, y) + m)
    # With s = m / (2 + m): log(1 + m) = m - m²/2 + s (m²/2 + s² Q(s²)).
    half = square * 0.5
    s = m / (m + 2.0)
    z = s * s
    y = f.fma(s, f.fma(polynomial(f, _LOG_64, z), z, half), e * _LN2_LOW64)
    return f.fma(e, _LN2_HIGH64, m - (half - y))


def _bits_of(type_: Type, number: float) -> int:
    """The bits of a float as an integer."""
    if type_.one == F64:
        return int(np.float64(number).view(np.int64))
    return int(np.float32(number).view(np.int32))


# Sigmoids.


@_as_written
def sigmoid(f: Function, x: Value) -> Value:
    """1 / (1 + exp(-x)), in f32 or f64; below 0 as exp(x) / (1 + exp(x)), which cannot overflow."""
    e = exp(f, -absolute(f, x))
    return f.select(x < 0.0, e, 1.0) / (e + 1.0)


@_as_written
def tanh(f: Function, x: Value) -> Value:
    """The hyperbolic tangent: m / (m + 2) where m is exp(2 |x|) - 1; near 0 a polynomial."""
    if x.type.one == F64:
        return libm(f, "tanh", x)
    m = _expm1(f, f.minimum(absolute(f, x) * 2.0, 20.0))
    square = x * x
    near = f.fma(polynomial(f, _TANH, square), square * x, x)
    return copysign(f, f.select(absolute(f, x) < 0.35, near, m / (m + 2.0)), x)


@_as_written
def erf(f: Function, x: Value) -> Value:
    """The error function.

    1 - erf(t) falls like exp(-t²), so its logarithm u is nearly a parabola; and as exp(u) - 1 is
    exact near 0, one polynomial serves the whole range.
    """
    if x.type.one == F64:
        return libm(f, "erf", x)
    t = f.maximum(-absolute(f, x), -3.95)
    u = f.fma(polynomial(f, _ERF, t), t, t)
    return copysign(f, _expm1(f, u), x)


# Trigonometry.


def _quadrant(f: Function, x: Value) -> tuple[Value, Value]:
    """(r, q) for f32: x = q pi/2 + r, with r in f64, and q modulo 4 as i32."""
    wide = f.cast(x, F64)
    whole = f.fma(wide, 2 / math.pi, _ROUND64)
    n = whole - _ROUND64
    r = f.fma(n, -6.123233995736766e-17, f.fma(n, -math.pi / 2, wide))
    q = f.cast(f.bitcast(whole, I64.times(x.type.lanes)), I32)
    size = absolute(f, x)
    large = (size >= 2.0**27) & (size < math.inf)
    # A loop of one iteration or none, so large angles cost nothing if there are none.
    with f.loop(0, f.cast(f.any_of(large), I64, signed=False), carry=(r, q)) as rare:
        far, turns = _quadrant_of_large(f, x)
        rare.carry(f.select(large, far, r), f.select(large, turns, q))
    return rare.carried[0], rare.carried[1]


def _quadrant_of_large(f: Function, x: Value) -> tuple[Value, Value]:
    """``_quadrant`` from 2^27 on (M. Payne and R. Hanek, "Radian reduction for trigonometric
    functions", SIGNUM 18, 1983): x is an integer m times 2^e, and 2^e 2/pi matters only modulo 4.
    The table has its first 29 bits, whose product with m is exact, and the next 53.
    """
    bits = f.bitcast(x, I32.times(x.type.lanes))
    field = (bits >> 23) & 255
    index = f.intrinsic("smin", f.intrinsic("smax", field - 150, 0), 104)
    whole = f.cast((bits & 0x7FFFFF) | 0x800000, F64)
    m = copysign(f, whole, f.cast(x, F64))
    high, low = (_looked_up(f, [part[k] for part in _WINDOWS], index) for k in (0, 1))
    product = m * high
    near = product + _ROUND64
    rest = f.fma(m, low, product - (near - _ROUND64))
    nearer = rest + _ROUND64
    turns = [f.cast(f.bitcast(v, I64.times(x.type.lanes)), I32) for v in (near, nearer)]
    return (rest - (nearer - _ROUND64)) * (math.pi / 2), turns[0] + turns[1]


def _window(exponent: int) -> tuple[float, float]:
    """2^exponent 2/pi modulo 4, in two parts."""
    left = (_TWO_OVER_PI << exponent) % (4 << 256)
    high = left >> (256 - 27)
    low = left - (high << (256 - 27))
    return high * 2.0**-27, math.ldexp(low >> (256 - 27 - 64), -27 - 64)


_WINDOWS = [_window(e) for e in range(105)]


def _looked_up(f: Function, numbers: Sequence[float], index: Value) -> Value:
    """A table of f64 indexed by i32."""
    name = f.module.constant(F64, numbers)
    table = Value(name, PTR, f)
    wide = f.cast(index, I64)
    if not index.type.lanes:
        return f.load(f.element(table, wide, F64), F64)
    return f.gather(table, wide, F64)


def _sine_and_cosine(f: Function, r: Value) -> tuple[Value, Value]:
    """The sine and cosine of an angle up to pi / 4, accurate enough for f32."""
    square = r * r
    sine = copysign(f, f.fma(r * square, polynomial(f, _SIN, square), r), r)
    near = f.fma(square, -0.5, 1.0)
    return sine, f.fma(square * square, polynomial(f, _COS, square), near)


def _wave(f: Function, x: Value, ahead: int) -> Value:
    """The sine of an angle plus ``ahead`` quadrants."""
    r, q = _quadrant(f, x)
    q = q + ahead
    sine, cosine = _sine_and_cosine(f, f.cast(r, F32))
    chosen = f.select(f.compare("ne", q & 1, 0), cosine, sine)
    bits = f.bitcast(chosen, q.type) ^ ((q & 2) << 30)
    return f.bitcast(bits, x.type)


@_as_written
def sin(f: Function, x: Value) -> Value:
    """The sine of an angle in radians."""
    return libm(f, "sin", x) if x.type.one == F64 else _wave(f, x, 0)


@_as_written
def cos(f: Function, x: Value) -> Value:
    """The cosine of an angle in radians."""
    return libm(f, "cos", x) if x.type.one == F64 else _wave(f, x, 1)


@_as_written
def tan(f: Function, x: Value) -> Value:
    """The tangent of an angle in radians."""
    if x.type.one == F64:
        return libm(f, "tan", x)
    r, q = _quadrant(f, x)
    sine, cosine = _sine_and_cosine(f, r)
    odd = f.compare("ne", q & 1, 0)
    return f.cast(f.select(odd, -cosine, sine) / f.select(odd, sine, cosine), F32)


def _arc(f: Function, x: Value) -> Value:
    """The angle whose tangent is x, of f64, to 34 bits."""
    size = absolute(f, x)
    steep = size > 1.0
    inner = f.select(steep, 1.0 / size, size)
    angle = inner * polynomial(f, _ATAN, inner * inner)
    return copysign(f, f.select(steep, math.pi / 2 - angle, angle), x)


@_in_double("atan")
def atan(f: Function, x: Value) -> Value:
    """The angle between -pi/2 and pi/2 whose tangent is x."""
    return _arc(f, x)


@_in_double("asin")
def asin(f: Function, x: Value) -> Value:
    """The angle between -pi/2 and pi/2 whose sine is x; NaN beyond -1 and 1."""
    return _arc(f, x / f.intrinsic("sqrt", (1.0 - x) * (x + 1.0)))


@_in_double("acos")
def acos(f: Function, x: Value) -> Value:
    """The angle between 0 and pi whose cosine is x; NaN beyond -1 and 1."""
    return _arc(f, f.intrinsic("sqrt", (1.0 - x) / (x + 1.0))) * 2.0


# Hyperbolic functions. Near 0, where the formula would cancel, two terms of the series suffice.


def _near_0(f: Function, x: Value, third: float, elsewhere: Value) -> Value:
    near = absolute(f, x) < 2.0**-10
    return copysign(f, f.select(near, f.fma(x * x * x, third, x), elsewhere), x)


@_in_double("sinh")
def sinh(f: Function, x: Value) -> Value:
    """The hyperbolic sine."""
    e = exp(f, x)
    return _near_0(f, x, 1 / 6, (e - 1.0 / e) * 0.5)


@_in_double("cosh")
def cosh(f: Function, x: Value) -> Value:
    """The hyperbolic cosine."""
    e = exp(f, x)
    return (e + 1.0 / e) * 0.5


@_in_double("asinh")
def asinh(f: Function, x: Value) -> Value:
    """The number whose hyperbolic sine is x."""
    size = absolute(f, x)
    root = f.intrinsic("sqrt", f.fma(size, size, 1.0))
    return _near_0(f, x, -1 / 6, log(f, size + root))


@_in_double("acosh")
def acosh(f: Function, x: Value) -> Value:
    """The number of at least 0 whose hyperbolic cosine is x; NaN below 1."""
    root = f.intrinsic("sqrt", f.fma(x, x, -1.0))
    return f.select(x < 1.0, math.nan, log(f, x + root))


@_in_double("atanh")
def atanh(f: Function, x: Value) -> Value:
    """The number whose hyperbolic tangent is x; NaN beyond -1 and 1."""
    return _near_0(f, x, 1 / 3, log(f, (x + 1.0) / (1.0 - x)) * 0.5)


# Powers.


def power(f: Function, x: Value, y: Value) -> Value:
    """The power x^y, with C's answers in special cases.

    The constant exponents 2, 3, 1/2, 0, 1 and -1 need no logarithm.
    """
    match y.number:
        case 0:
            return f.const(x.type, 1)
        case 1:
            return x
        case -1:
            return 1.0 / x
        case 2:
            return x * x
        case 3:
            return x * x * x
        case 0.5:
            root = f.intrinsic("sqrt", x + 0.0)
            return f.select(f.compare("eq", x, -math.inf), math.inf, root)
    return _power(f, x, y)


@_in_double("pow")
def _power(f: Function, x: Value, y: Value) -> Value:
    size = absolute(f, x)
    exponent = y * log(f, size)
    is_one = f.compare("eq", y, 0.0) | f.compare("eq", size, 1.0)
    result = exp(f, f.select(is_one, 0.0, exponent))
    whole = f.compare("eq", f.intrinsic("trunc", y), y)
    half = y * 0.5
    odd = whole & f.compare("ne", f.intrinsic("trunc", half), half)
    result = f.select(odd, copysign(f, result, x), result)
    unreal = (x < 0.0) & (x > -math.inf) & ~whole
    return f.select(unreal, math.nan, result)
