"""Keeps squares in f16 from overflowing where they are divided again."""

from __future__ import annotations

from collections.abc import Mapping

from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on, value, var
from migx.ops.builtin import Literal
from migx.ops.pointwise import Div, Mul, Pow, Sqrt
from migx.passes._common import broadcast_of
from migx.passes.propagate_precision import Overflow
from migx.passes.simplify_algebra.terms import throughout
from migx.rewrite import Cursor, RuleSet, rule
from migx.shape import F16

x, n = var("x"), value(name="n")
squares = on(Mul, x, x).once() | on(Pow, x, throughout(2)).once()


@rule(on(Div, squares, broadcast_of(n), name="root"))
def square_of_quotient(
    at: Cursor, x: Instruction, n: Instruction, root: Instruction
) -> Instruction | None:
    """x * x / n is the square of x / sqrt(n): of f16, for numbers n that are 1 or more."""
    numbers = n.op_as(Literal).value.array
    if root.shape.dtype is not F16 or not bool((numbers >= 1).all()):
        return None
    quotient = at(Div(), x, at(Sqrt(), root.inputs[1]))
    return at(Mul(), quotient, quotient)


class RewriteLowPrecision(Pass):
    """Divides before it squares, in f16: the square of a number beyond 256 overflows, but its
    quotient may not (MIGraphX pass of this name).

    Left as they are: quotients by numbers known only at run time. Finite results stay finite, off
    by a rounding or two more.
    """

    rules = RuleSet(square_of_quotient)

    @property
    def approximations(self) -> Mapping[str, Overflow]:
        """Results that overflow may be finite."""
        return {name: Overflow() for name in ("mul", "pow")}
