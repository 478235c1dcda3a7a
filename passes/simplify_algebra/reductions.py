"""Reductions of reductions, and a subtraction that softmax makes redundant."""

from __future__ import annotations

from dataclasses import replace

from migx.ir import Instruction
from migx.match import attr, on, var
from migx.ops.pointwise import Sub
from migx.ops.reduce import REDUCTIONS, Reduce, ReduceMax, Softmax
from migx.passes._common import broadcast_of
from migx.rewrite import Cursor, RuleSet, rule

x = var("x")


@rule(on(REDUCTIONS, on(REDUCTIONS, x, name="inner").once(), name="outer"))
def reduce_reduce(
    at: Cursor, x: Instruction, inner: Instruction, outer: Instruction
) -> Instruction | None:
    """A sum of sums is one sum over all their axes; so with the others, but for means of integers,
    which truncate, and products of floats, which may overflow in another order.
    """
    first, second = inner.op_as(Reduce), outer.op_as(Reduce)
    apart = ("reduce_mean", "reduce_prod")[x.shape.dtype.is_float]
    if first.name != second.name or first.name == apart:
        return None
    axes = tuple(sorted({*first.axes, *second.axes}))
    return at(replace(second, axes=axes), x)


shifted = on(Sub, x, broadcast_of(on(ReduceMax, x, axes=attr("axes"))))


@rule(on(Softmax, shifted, axis=attr("axis")))
def softmax_shifted(
    at: Cursor, x: Instruction, axes: tuple[int, ...], axis: int
) -> Instruction | None:
    """softmax(x - max(x)) is softmax(x), which subtracts the greatest itself."""
    return at(Softmax(axis), x) if axes == (axis,) else None


reductions = RuleSet(reduce_reduce, softmax_shifted)
