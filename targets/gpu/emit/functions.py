"""Triton functions that a kernel's text includes if it calls them: formulas that name
subexpressions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

LOG2_E = math.log2(math.e)


def polynomial(x: str, terms: Sequence[float]) -> str:
    """A polynomial, lowest power first, by Horner's rule."""
    text = repr(terms[-1])
    for term in reversed(terms[:-1]):
        text = f"({term!r} + {x} * {text})"
    return text


WITHIN = 128.0
"""Beyond this and its negative, powers of e are infinite or 0 in f32, but their square roots are
not.
"""


def _rounding(kind: str, apart: float) -> dict[str, str]:
    """Rounding to the nearest whole number, and quantising to integers: q + zero, within limits,
    and 0 for NaN. Adding ``apart``, a number whose spacing is 1, rounds ties to even.
    """
    return {
        f"nearest_{kind}": f"""

@triton.jit
def nearest_{kind}(x):
    size = tl.abs(x)
    near = (size + {apart!r}) - {apart!r}
    return tl.where(size < {apart!r}, tl.where(x < 0, near * -1.0, near), x)""",
        f"quantized_{kind}": f"""

@triton.jit
def quantized_{kind}(q, zero, low, high):
    within = tl.minimum(tl.maximum(q, low - zero), high - zero)
    near = (within + {apart * 1.5!r}) - {apart * 1.5!r}
    return tl.where(q == q, near + zero, 0.0).to(tl.int32)""",
    }


ODD = "tl.where(x < 0, found * -1.0, tl.where(x > 0, found, x))"
"""The value found for the magnitude of x, with the sign of x; x itself if it is 0 or NaN."""
FURTHEST = 700.0
"""Beyond this hyperbolic functions are half a power of e, which may overflow where its half does
not: so half the square of its root is taken.
"""
LARGEST, DIGITS = 128 + 149, 28
"""A quotient of two numbers of f32 has at most so many bits; so many of them at a time, times an
f32, are exact in f64.
"""
ARCTANGENT = [(-1) ** k / (2 * k + 1) for k in range(17)]
"""The first terms of atan(x) / x, in powers of the square of x; enough for f64 up to 1/3."""
FUNCTIONS = {
    # The logarithm of 1 + x: if u is 1 + x rounded, log(u) / (u - 1) hardly differs from the same
    # quotient of the exact sum (W. Kahan, in the manual of the HP-15C, 1982).
    "logarithm": """

@triton.jit
def logarithm(x):
    near = 1.0 + x
    lost = (near == 1.0) | (x == float("inf"))
    return tl.where(lost, x, tl.log(near) * (x / tl.where(lost, 1.0, near - 1.0)))""",
    "area_cosine": f"""

@triton.jit
def area_cosine(x):
    above = x - 1.0
    near = logarithm(above + tl.sqrt(above) * tl.sqrt(above + 2.0))
    return tl.where(x > 1e8, tl.log(x) + {math.log(2)!r}, near)""",
    "area_sine": f"""

@triton.jit
def area_sine(x):
    size = tl.abs(x)
    near = logarithm(size + size * (size / (1.0 + tl.sqrt(size * size + 1.0))))
    found = tl.where(size > 1e8, tl.log(size) + {math.log(2)!r}, near)
    return {ODD}""",
    "area_tangent": f"""

@triton.jit
def area_tangent(x):
    size = tl.abs(x)
    found = logarithm(2.0 * size / (1.0 - size)) * 0.5
    return {ODD}""",
    # Of the reciprocal if x is large, and as a difference from atan(1/2) unless x is small.
    "arc_tangent": f"""

@triton.jit
def arc_tangent(x):
    size = tl.abs(x)
    large = size > 1.0
    part = tl.where(large, 1.0 / size, size)
    far = part > 0.3
    near = tl.where(far, (2.0 * part - 1.0) / (part + 2.0), part)
    square = near * near
    found = near * {polynomial("square", ARCTANGENT)}
    found = tl.where(far, found + {math.atan(0.5)!r}, found)
    found = tl.where(large, {math.pi / 2!r} - found, found)
    return {ODD}""",
    "arc_sine": """

@triton.jit
def arc_sine(x):
    return arc_tangent(x / tl.sqrt((1.0 - x) * (1.0 + x)))""",
    "arc_cosine": """

@triton.jit
def arc_cosine(x):
    return 2.0 * arc_tangent(tl.sqrt((1.0 - x) / (1.0 + x)))""",
    "hyperbolic_cosine": f"""

@triton.jit
def hyperbolic_cosine(x):
    size = tl.abs(x)
    root = tl.exp(size * 0.5)
    usual = (tl.exp(size) + tl.exp(size * -1.0)) * 0.5
    return tl.where(size > {FURTHEST}, root * 0.5 * root, usual)""",
    "hyperbolic_sine": f"""

@triton.jit
def hyperbolic_sine(x):
    size = tl.abs(x)
    power, root = tl.exp(size), tl.exp(size * 0.5)
    lost = power == 1.0
    less = tl.where(lost, size, (power - 1.0) * (size / tl.log(tl.where(lost, 2.0, power))))
    usual = tl.where(size > 1.0, power - tl.exp(size * -1.0), less + less / power) * 0.5
    found = tl.where(size > {FURTHEST}, root * 0.5 * root, usual)
    return {ODD}""",
    # x log2(e) is rounded, and an error in the last digit of a large exponent is many units in the
    # last place of the power. A fused multiply-add finds the rounding error, by which the power is
    # corrected.
    "exp_f32": f"""

@triton.jit
def exp_f32(x):
    half = x * {LOG2_E / 2!r}
    root = tl.exp2(half)
    rest = tl.fma(half, {-2 / LOG2_E!r}, x)
    return root * tl.where(tl.abs(x) < {WITHIN}, tl.fma(root, rest, root), root)""",
    # Products of f32 by matrix units that multiply bf16 (G. Henry et al., "Leveraging the bfloat16
    # Artificial Intelligence Datatype For Higher-Precision Computations", ARITH 2019). An element
    # is the sum of three of bf16; the first is truncated, as rounding could overflow. Of the nine
    # products the three smallest are left out. All others but the first are summed apart: where an
    # element is not finite they are NaN; then the sum of the first is not finite, and is the total.
    # Matrix units truncate what they add to: so the first product is added to its sum outside of
    # them, by a multiply-add, as Triton would give a plain sum to them.
    "bf16_in_f32": """

@triton.jit
def bf16_in_f32(x, more):
    return ((x.to(tl.int32, bitcast=True) + more) & -65536).to(tl.float32, bitcast=True)""",
    "bf16_of_f32": """

@triton.jit
def bf16_of_f32(x):
    return (x.to(tl.int32, bitcast=True) >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)""",
    "bf16x3": """

@triton.jit
def bf16x3(x):
    first = bf16_in_f32(x, 0)
    rest = x - first
    second = bf16_in_f32(rest, 32768)
    return bf16_of_f32(first), bf16_of_f32(second), bf16_of_f32(rest - second)""",
    "bf16x6": """

@triton.jit
def bf16x6(x, y, low):
    x0, x1, x2 = bf16x3(x)
    y0, y1, y2 = bf16x3(y)
    low = tl.dot(x2, y0, low)
    low = tl.dot(x0, y2, low)
    low = tl.dot(x1, y1, low)
    low = tl.dot(x1, y0, low)
    low = tl.dot(x0, y1, low)
    return tl.dot(x0, y0), low""",
    "bf16x6_sums": """

@triton.jit
def bf16x6_sums(x, y, high, low):
    first, low = bf16x6(x, y, low)
    return tl.fma(first, 1.0, high), low""",
    "bf16x6_total": """

@triton.jit
def bf16x6_total(high, low):
    return tl.where(tl.abs(high) < float("inf"), high + low, high)""",
    # One sum, short enough for matrix units: the first product is added to the others, and takes no
    # registers of its own.
    "bf16x6_dot": """

@triton.jit
def bf16x6_dot(x, y):
    high, low = bf16x6(x, y, tl.zeros([x.shape[0], y.shape[1]], tl.float32))
    return high + tl.where(tl.abs(low) < float("inf"), low, 0.0)""",
    # A correctly rounded quotient, if it is small: the product with the reciprocal is corrected
    # twice by its remainder (Markstein, Computation of elementary functions on the IBM RISC
    # System/6000 processor, 1990). Steps near the ends of f32's range are scaled first.
    "steps_f32": f"""

@triton.jit
def steps_f32(x, step):
    size = tl.abs(step)
    large = tl.where(size > {2.0**64!r}, {2.0**-64!r}, 1.0)
    scale = tl.where(size < {2.0**-64!r}, {2.0**64!r}, large)
    by = step * scale
    inverse = tl.div_rn(1.0, by)
    of = x * scale
    near = of * inverse
    closer = tl.fma(tl.fma(near * -1.0, by, of), inverse, near)
    exact = tl.fma(tl.fma(closer * -1.0, by, of), inverse, closer)
    return tl.where((tl.abs(near) < {2.0**22!r}) & (size < float("inf")), exact, near)""",
    "power": """

@triton.jit
def power(x, y):
    whole = tl.floor(y) == y
    odd = whole & (tl.floor(y * 0.5) * 2 != y)
    size = tl.exp2(y * tl.log2(tl.abs(x)))
    signed = tl.where(odd & (x.to(tl.int64, bitcast=True) < 0), size * -1.0, size)
    none = (x < 0) & (x != -float("inf")) & (whole == 0)
    one = (y == 0) | (x == 1) | ((x == -1) & (tl.abs(y) == float("inf")))
    return tl.where(one, 1.0, tl.where(none, float("nan"), signed))""",
    # What does not fit becomes the least integer, as convert defines; hardware differs in that.
    "whole_i32": """

@triton.jit
def whole_i32(x):
    return tl.where(tl.abs(x) < 2147483648.0, x.to(tl.int32), -2147483648)""",
    "whole_i64": """

@triton.jit
def whole_i64(x):
    return tl.where(tl.abs(x) < 9223372036854775808.0, x.to(tl.int64), -9223372036854775808)""",
    "whole_u64": """

@triton.jit
def whole_u64(x):
    rest = tl.where(x < 9223372036854775808.0, x, x - 9223372036854775808.0)
    high = (x >= 9223372036854775808.0).to(tl.uint64) << 63
    fits = tl.abs(rest) < 9223372036854775808.0
    low = tl.where(fits, rest.to(tl.int64), -9223372036854775808)
    return low.to(tl.uint64) ^ high""",
    # The remainder of f32 in f64, exact: multiples of y are taken off by quotients of so few bits
    # that their products with y are exact, the largest first. What a quotient that was rounded up
    # takes off too much is added again.
    "fmod_f64": f"""

@triton.jit
def fmod_f64(x, y):
    size = tl.abs(x)
    by = tl.abs(y)
    rest = size
    step = by * {2.0 ** (DIGITS * (LARGEST // DIGITS + 1))!r}
    for _ in range({LARGEST // DIGITS + 1}):
        step *= {2.0**-DIGITS!r}
        rest -= tl.floor(rest / step) * step
        rest = tl.where(rest < 0, rest + step, rest)
    return tl.where(size < by, x, tl.where(x < 0, rest * -1.0, rest))""",
    "floormod_f64": """

@triton.jit
def floormod_f64(x, y):
    rest = fmod_f64(x, y)
    size = tl.abs(rest)
    none = tl.where(y < 0, size * -1.0, size)
    return tl.where(rest == 0, none, tl.where((rest < 0) != (y < 0), rest + y, rest))""",
    **_rounding("f32", 2.0**23),
    **_rounding("f64", 2.0**52),
}
"""The text of each function by name; one that others call comes before them."""


def called(text: str) -> list[str]:
    """The functions that a text calls, and those that these call."""
    found = []
    for name, function in reversed(FUNCTIONS.items()):
        if f"{name}(" in text:
            found.append(function)
            text += function
    return found[::-1]
