"""Turns concatenations of very many values into concatenations of some that each join a few.

A kernel takes a limited number of operands, and has a text for each.
"""

from __future__ import annotations

from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on
from migx.ops.layout import Concat
from migx.rewrite import Cursor, Declined, RuleSet, rule

MOST = 64
"""The most values that are joined at once."""


@rule(on(Concat, name="root"))
def in_groups(at: Cursor, root: Instruction, most: int = MOST) -> Instruction | Declined:
    """concat(a, b, c, d) is concat(concat(a, b), concat(c, d))."""
    values = root.inputs
    if len(values) <= most:
        return Declined("it joins few values")
    size = -(-len(values) // -(-len(values) // most))  # of equal groups, none of a single value
    groups = [values[begin : begin + size] for begin in range(0, len(values), size)]
    return at(root.op, *(at(root.op, *group) if len(group) > 1 else group[0] for group in groups))


class RewriteConcat(Pass):
    """Turns each concatenation of more than ``most`` values, which is at least 2, into one of
    concatenations of at most so many.
    """

    rules = RuleSet(in_groups)
    most: int = MOST
    variants = ("most=2",)
