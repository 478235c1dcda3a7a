"""Conditions, and repeated operations without further effect."""

from __future__ import annotations

from migx.ir import Instruction
from migx.match import on, var
from migx.ops.logic import BitwiseAnd, BitwiseNot, BitwiseOr, LogicalAnd, LogicalOr, LogicalXor, Not
from migx.ops.pointwise import (
    Abs,
    Ceil,
    Exp,
    Floor,
    Max,
    Min,
    Nearbyint,
    Neg,
    Relu,
    Sigmoid,
    Sign,
    Where,
)
from migx.passes.simplify_algebra.terms import throughout
from migx.rewrite import Cursor, rule

x, y = var("x"), var("y")
WHOLE = (Ceil, Floor, Nearbyint)
NOT_NEGATIVE = (Abs, Exp, Relu, Sigmoid)


@rule(on((Max, Min, LogicalAnd, LogicalOr, BitwiseAnd, BitwiseOr), x, x))
def same_twice(x: Instruction) -> Instruction:
    """max(x, x), min(x, x), x and x, x or x are x."""
    return x


@rule(on(Not, on(Not, x)) | on(BitwiseNot, on(BitwiseNot, x)))
def not_not(x: Instruction) -> Instruction:
    """not(not(x)) is x."""
    return x


@rule(on(LogicalAnd, x, throughout(1)) | on((LogicalOr, LogicalXor), x, throughout(0)))
def logical_units(x: Instruction) -> Instruction:
    """Of units: x and True, x or False, x xor False are x."""
    return x


@rule(on(Where, throughout(1), x, y) | on(Where, throughout(0), y, x) | on(Where, y, x, x))
def where_known(x: Instruction) -> Instruction:
    """where(True, x, y), where(False, y, x) and where(c, x, x) are x."""
    return x


@rule(on(Where, on(Not, var("c")), x, y))
def where_not(at: Cursor, c: Instruction, x: Instruction, y: Instruction) -> Instruction:
    """where(not(c), x, y) is where(c, y, x)."""
    return at(Where(), c, y, x)


@rule(on(WHOLE, on(WHOLE, name="whole")) | on(Sign, on(Sign, name="whole")))
def whole_already(whole: Instruction) -> Instruction:
    """Rounding a whole number, or the sign of a sign, changes nothing."""
    return whole


@rule(on((Abs, Relu), on(NOT_NEGATIVE, name="inner")))
def not_negative_already(inner: Instruction) -> Instruction:
    """abs(f(x)) and relu(f(x)) are f(x) where f is never negative."""
    return inner


@rule(on(Abs, on(Neg, x)))
def abs_neg(at: Cursor, x: Instruction) -> Instruction | None:
    """abs(-x) is abs(x); but -x of an unsigned x wraps around to another magnitude."""
    return None if x.shape.dtype.kind == "uint" else at(Abs(), x)


logic = (
    same_twice
    + not_not
    + logical_units
    + where_known
    + where_not
    + whole_already
    + not_negative_already
    + abs_neg
)
