"""Finds the best of long lines among the best of their parts."""

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
"""From here on two kernels more are worth their while."""
GAIN = 2
"""By how much fewer comparisons there have to be."""


@rule(on(Topk, var("x"), name="root"))
def of_parts(
    at: Cursor, x: Instruction, root: Instruction, at_least: int = LONG
) -> tuple[Instruction, ...] | Declined:
    """topk(x) is the topk of those of the parts of x."""
    op = root.op_as(Topk)
    axis, n, k = op.axis, x.shape.dims[op.axis], op.k
    if not isinstance(n, int) or not isinstance(k, int):
        return Declined("its length, or how many are wanted, is known only to a run")
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
    """How many equal parts, of k elements or more, have the fewest comparisons of each element with
    each of its part, and then of each of the best with each other; 1 where they save too few.
    """

    def compared(count: int) -> int:
        return n * (n // count) + (count * k) ** 2

    small = [count for count in range(1, isqrt(n) + 1) if n % count == 0]
    divisors = (*small, *(n // count for count in reversed(small)))
    found = min((d for d in divisors if 1 < d <= n // k), key=compared, default=1)
    return found if GAIN * compared(found) <= n * n else 1


class RewriteTopk(Pass):
    """Splits lines of ``at_least`` so many elements of which ``topk`` picks some: the best of all
    are among the best of the parts (MIGraphX pass of this name).

    It is for targets that compare each element of a line with each other one. Equal elements are
    found in the order they had. Left as they are: lines whose length only a run knows, and those
    that have no equal parts that save half of the comparisons.
    """

    rules = RuleSet((of_parts,))
    at_least: int = LONG
    variants = ("at_least=4",)
