"""Neutral, absorbing and negative units.

x + 0.0 stays: it makes 0.0 of -0.0. x + -0.0 and x - 0.0 are x.
"""

from __future__ import annotations

from migx.ir import Instruction
from migx.match import on, var, varying
from migx.ops.logic import BitwiseAnd, BitwiseOr, BitwiseXor
from migx.ops.pointwise import Add, Div, Mul, Neg, Pow, Sub
from migx.passes.simplify_algebra.terms import throughout
from migx.rewrite import Cursor, rule

x = varying("x")
integer = varying("x", lambda v: v.shape.dtype.is_integer)


@rule(on(Mul, x, throughout(1)) | on((Div, Pow), x, throughout(1)))
def unit_ops(x: Instruction) -> Instruction:
    """Of one: x * 1, x / 1 and pow(x, 1) are x."""
    return x


@rule(on(Add, x, throughout(-0.0)) | on(Sub, x, throughout(0.0)))
def zero_unit_ops(x: Instruction) -> Instruction | None:
    """Of zero: x + -0.0 and x - 0.0 are x."""
    return x


@rule(on((Add, BitwiseOr, BitwiseXor), integer, throughout(0)))
def integer_unit_ops(x: Instruction) -> Instruction:
    """Of zero: x + 0, x | 0 and x ^ 0 are x, of integers."""
    return x


@rule(on(Mul, x, throughout(-1)) | on(Div, x, throughout(-1)) | on(Sub, throughout(-0.0), x))
def neg_unit_ops(at: Cursor, x: Instruction) -> Instruction:
    """Of minus one: x * -1, x / -1 and -0.0 - x are -x."""
    return at(Neg(), x)


@rule(on((Mul, BitwiseAnd), integer, throughout(0), name="root"))
def zero_ops(x: Instruction, root: Instruction) -> Instruction:
    """Zero stays: x * 0 and x & 0 are 0, of integers; a float product may be NaN or -0.0."""
    first, second = root.inputs
    return first if second is x else second


@rule(on(Neg, on(Neg, x)))
def neg_neg(x: Instruction) -> Instruction:
    """-(-x) is x."""
    return x


@rule(on(Add, x, on(Neg, varying("y")).once()))
def add_neg(at: Cursor, x: Instruction, y: Instruction) -> Instruction:
    """Sum: x + -y is x - y."""
    return at(Sub(), x, y)


@rule(on(Sub, x, on(Neg, varying("y")).once()))
def sub_neg(at: Cursor, x: Instruction, y: Instruction) -> Instruction:
    """Difference: x - -y is x + y."""
    return at(Add(), x, y)


@rule(on((Mul, Div), on(Neg, x).once(), on(Neg, var("y")).once(), name="root"))
def neg_times_neg(
    at: Cursor, x: Instruction, y: Instruction, root: Instruction
) -> Instruction | None:
    """-x * -y is x * y, and -x / -y is x / y, of floats: the least integer is its own negative."""
    exact = isinstance(root.op, Mul) or x.shape.dtype.is_float
    return at(root.op, x, y) if exact else None


units = (
    unit_ops
    + zero_unit_ops
    + integer_unit_ops
    + neg_unit_ops
    + zero_ops
    + neg_neg
    + add_neg
    + sub_neg
    + neg_times_neg
)
