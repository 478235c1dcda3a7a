"""Reductions of reductions."""

from __future__ import annotations

from dataclasses import replace

from migx.ir import Instruction
from migx.match import on, var
from migx.ops.reduce import Reduce
from migx.passes._common import REDUCTIONS
from migx.rewrite import Cursor, RuleSet, rule

x = var("x")


@rule(on(REDUCTIONS, on(REDUCTIONS, x, name="inner").once(), name="outer"))
def reduce_reduce(
    at: Cursor, x: Instruction, inner: Instruction, outer: Instruction
) -> Instruction | None:
    """A sum of sums is one sum over all their axes; so with the others, but for means of integers,
    which truncate.
    """
    first, second = inner.op_as(Reduce), outer.op_as(Reduce)
    if first.name != second.name or (first.name == "reduce_mean" and x.shape.dtype.is_integer):
        return None
    axes = tuple(sorted({*first.axes, *second.axes}))
    return at(replace(second, axes=axes), x)


reductions = RuleSet((reduce_reduce,))
