"""Powers, roots and reciprocals.

pow(x, 0.5) stays, for it is not sqrt(x) of -inf and -0.0, and pow(x, -0.5) likewise.
"""

from __future__ import annotations

from migx.ir import Instruction
from migx.match import on, var, varying
from migx.ops.pointwise import Div, Mul, Pow, Recip, Rsqrt, Sqrt
from migx.passes.simplify_algebra.terms import throughout
from migx.rewrite import Cursor, rule

x = varying("x")
real = varying("x", lambda v: v.shape.dtype.is_float)
precise = varying("x", lambda v: v.shape.dtype.bits >= 32 and v.shape.dtype.is_float)


@rule(on(Pow, x, throughout(2)))
def pow2(at: Cursor, x: Instruction) -> Instruction:
    """pow(x, 2) is x * x."""
    return at(Mul(), x, x)


@rule(on(Pow, precise, throughout(3)))
def pow3(at: Cursor, x: Instruction) -> Instruction:
    """pow(x, 3) is x * x * x, where one more rounding does no harm: from f32 up."""
    return at(Mul(), at(Mul(), x, x), x)


@rule(on(Div, throughout(1), real) | on(Pow, real, throughout(-1)))
def one_over(at: Cursor, x: Instruction) -> Instruction:
    """1 / x and pow(x, -1) are recip(x)."""
    return at(Recip(), x)


@rule(on(Recip, on(Sqrt, x).once()))
def rsqrt(at: Cursor, x: Instruction) -> Instruction:
    """1 / sqrt(x) is one operation, rsqrt."""
    return at(Rsqrt(), x)


@rule(on(Mul, var("x"), on(Recip, varying("y")).once()))
def mul_recip(at: Cursor, x: Instruction, y: Instruction) -> Instruction:
    """Quotient: x * (1 / y) is x / y, rounded once."""
    return at(Div(), x, y)


powers = pow2 + pow3 + one_over + rsqrt + mul_recip
