"""Constants merge: two in a row become one, and differences and quotients sums and products.

A merged constant is rounded once, instead of the value between the two.
"""

from __future__ import annotations

import numpy as np

from migx import dim
from migx.ir import Instruction
from migx.match import constant, on, value, varying
from migx.op import Array
from migx.ops.linear import Convolution, Dot
from migx.ops.logic import BitwiseAnd, BitwiseOr, BitwiseXor, LogicalAnd, LogicalOr, LogicalXor
from migx.ops.pointwise import Add, Div, Max, Min, Mul, Neg, Recip, Sub
from migx.passes._common import broadcast_of
from migx.passes.simplify_algebra.terms import (
    is_kept_small,
    is_mild,
    is_movable,
    may_merge,
    rounds_well,
    seems_finite,
    seems_nonzero,
)
from migx.rewrite import Cursor, Declined, rule

x, y, a, b = varying("x"), varying("y"), constant("a"), constant("b")
FLEXIBLE = (Add, Mul)
ASSOCIATIVE = (
    *FLEXIBLE, Max, Min, LogicalAnd, LogicalOr, LogicalXor, BitwiseAnd, BitwiseOr, BitwiseXor
)  # fmt: skip
HEAVY = on((Dot, Convolution), x, constant("w"), name="f").once()
SCALED = on(Mul, x, constant("w"), name="f").once()


@rule(on(ASSOCIATIVE, on(ASSOCIATIVE, x, a, name="inner").once(), b, name="outer"))
def add_lit_broadcast(
    at: Cursor,
    x: Instruction,
    a: Instruction,
    b: Instruction,
    inner: Instruction,
    outer: Instruction,
) -> Instruction | None:
    """(x + a) + b is x + (a + b); so with *, max, min, and, or, xor."""
    exact = not isinstance(outer.op, FLEXIBLE)
    fits = inner.op == outer.op and (exact or rounds_well(x)) and may_merge(outer.op, a, b)
    return at(outer.op, x, at(outer.op, a, b)) if fits else None


@rule(
    on(FLEXIBLE, on(FLEXIBLE, x, a, name="f").once(), on(FLEXIBLE, y, b, name="g").once(), name="h")
)
def double_add_lit_broadcast(
    at: Cursor,
    x: Instruction,
    y: Instruction,
    a: Instruction,
    b: Instruction,
    f: Instruction,
    g: Instruction,
    h: Instruction,
) -> Instruction | Declined | None:
    """(x + a) + (y + b) is (x + y) + (a + b); so with *, where no factor keeps x * y in range."""
    if not f.op == g.op == h.op or not rounds_well(x) or not may_merge(h.op, a, b):
        return None
    if isinstance(h.op, Mul) and not (is_mild(a) and is_mild(b)):
        return Declined("x * y may leave the range where x * a and y * b do not")
    return at(h.op, at(h.op, x, y), at(h.op, a, b))


@rule(on(Mul, on(Add, HEAVY | SCALED, a).once(), b))
def mul_add(at: Cursor, f: Instruction, a: Instruction, b: Instruction) -> Instruction | None:
    """(f + a) * b is f * b + a * b, where f can take the factor into its own constant; not for a b
    that is infinite or 0, whose products may differ in sign.
    """
    signed = seems_finite(b) and seems_nonzero(b)
    if not (signed and rounds_well(f) and may_merge(Mul(), a, b, added=True)):
        return None
    return at(Add(), at(Mul(), f, b), at(Mul(), a, b))


@rule(on(Sub, x, a))
def sub_const(at: Cursor, x: Instruction, a: Instruction) -> Instruction | None:
    """Difference: x - a is x + -a."""
    return at(Add(), x, at(Neg(), a)) if is_kept_small(a) else None


@rule(on(Neg, on(Mul, x, a).once()) | on(Mul, on(Neg, x).once(), a))
def neg_mul(at: Cursor, x: Instruction, a: Instruction) -> Instruction | None:
    """-(x * a) and -x * a are x * -a."""
    return at(Mul(), x, at(Neg(), a)) if is_kept_small(a) else None


@rule(on(Neg, HEAVY))
def neg_product(at: Cursor, x: Instruction, w: Instruction, f: Instruction) -> Instruction | None:
    """-dot(x, w) is dot(x, -w), and so with convolutions, unless the sum may be empty."""
    some = dim.bounds(w.shape.elements)[0] > 0
    return at(f.op, x, at(Neg(), w)) if some and is_movable(w) else None


def powers_of_two(array: Array) -> bool:
    """Whether the reciprocals of all elements are exact, so that to divide is to multiply."""
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.kind != "V":
        return False
    with np.errstate(all="ignore"):
        inverse = (1 / array.astype(np.float64)).astype(array.dtype).astype(np.float64)
        mantissa, _ = np.frexp(inverse)
        exact = inverse * array.astype(np.float64) == 1
    return bool(np.all(exact & (np.abs(mantissa) == 0.5)))


@rule(on(Div, x, broadcast_of(value(powers_of_two)), name="root"))
def div_const(at: Cursor, x: Instruction, root: Instruction) -> Instruction:
    """Quotient: x / c is x * (1 / c) where c is a power of two, whose reciprocal is exact."""
    return at(Mul(), x, at(Recip(), root.inputs[1]))


@rule(on(Div, on(Mul, x, a).once(), b))
def div_mul(at: Cursor, x: Instruction, a: Instruction, b: Instruction) -> Instruction | None:
    """(x * a) / b is x * (a / b)."""
    fits = x.shape.dtype.is_float and rounds_well(x) and may_merge(Div(), a, b)
    return at(Mul(), x, at(Div(), a, b)) if fits else None


@rule(on(Mul, on(Div, x, a).once(), b))
def mul_div(at: Cursor, x: Instruction, a: Instruction, b: Instruction) -> Instruction | None:
    """(x / a) * b is x * (b / a)."""
    fits = x.shape.dtype.is_float and rounds_well(x) and may_merge(Div(), b, a)
    return at(Mul(), x, at(Div(), b, a)) if fits else None


@rule(on(Div, on(Div, x, a).once(), b))
def div_div(at: Cursor, x: Instruction, a: Instruction, b: Instruction) -> Instruction | None:
    """(x / a) / b is x / (a * b)."""
    fits = x.shape.dtype.is_float and rounds_well(x) and may_merge(Mul(), a, b)
    return at(Div(), x, at(Mul(), a, b)) if fits else None


merging = (
    add_lit_broadcast
    + double_add_lit_broadcast
    + mul_add
    + sub_const
    + neg_mul
    + neg_product
    + div_const
    + div_mul
    + mul_div
    + div_div
)
