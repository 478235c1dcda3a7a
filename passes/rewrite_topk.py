"""Splits topk along long axes into topk of parts."""

from __future__ import annotations

from dataclasses import replace
from math import isqrt

import numpy as np

from migx import ops
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on, var
from migx.ops.reduce import Topk
from migx.rewrite import Cursor, Declined, RuleSet, rule

LONG = 8192
"""The length from which two more kernels pay off."""
GAIN = 2
"""The factor by which there have to be fewer comparisons."""


@rule(on(Topk, var("x"), name="root"))
def of_parts(
    at: Cursor, x: Instruction, root: Instruction, at_least: int = LONG
) -> tuple[Instruction, ...] | Declined:
    """topk(x) is the topk of the topk of each part of x."""
    op = root.op_as(Topk)
    axis, n, k = op.axis, x.shape.dims[op.axis], op.k
    if not isinstance(n, int) or not isinstance(k, int):
        return Declined("its length, or k, is known only at run time")
    count = parts(n, k) if n >= at_least and k > 0 else 1
    if count == 1:
        return Declined(f"{n} elements are few, or have no parts that save comparisons")
    before, after = x.shape.dims[:axis], x.shape.dims[axis + 1 :]
    apart = at(ops.Reshape((*before, count, n // count, *after)), x)
    best = at(replace(op, axis=axis + 1), apart)
    values, places = (at(ops.GetTupleElem(i), best) for i in range(2))
    starts = at.literal(np.arange(count) * (n // count), places.shape.dtype)
    spread = at(ops.Broadcast(axis, places.shape.dims), starts)
    joined = ops.Reshape((*before, count * k, *after))
    values, places = (at(joined, v) for v in (values, at(ops.Add(), places, spread)))
    last = at(op, values)
    chosen = at(ops.GatherElements(axis), places, at(ops.GetTupleElem(1), last))
    return at(ops.GetTupleElem(0), last), chosen


def parts(n: int, k: int) -> int:
    """How many equal parts, of k elements or more, take the fewest comparisons: of all pairs within
    each part, and then of all pairs of the best; 1 if they save too few.
    """

    def compared(count: int) -> int:
        return n * (n // count) + (count * k) ** 2

    small = [count for count in range(1, isqrt(n) + 1) if n % count == 0]
    divisors = (*small, *(n // count for count in reversed(small)))
    found = min((d for d in divisors if 1 < d <= n // k), key=compared, default=1)
    return found if GAIN * compared(found) <= n * n else 1


class RewriteTopk(Pass):
    """Splits ``topk`` along axes of at least ``at_least`` elements into parts: the best of all are
    among the best of the parts (MIGraphX pass of this name).

    For targets that compare each element with every other. Equal elements keep their order. Left as
    they are: axes whose length is known only at run time, and those without equal parts that save
    half of the comparisons.
    """

    rules = RuleSet(of_parts)
    at_least: int = LONG
    variants = ("at_least=4",)
