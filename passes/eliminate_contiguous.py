"""Removes copies to standard layout that are not needed."""

from __future__ import annotations

from migx import op as operations
from migx.errors import ShapeError
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on, var
from migx.ops.layout import Contiguous
from migx.rewrite import Declined, rule
from migx.shape import Shape


@rule(on(Contiguous, var("x")))
def standard_already(x: Instruction) -> Instruction | None:
    """contiguous(x) is x where x has standard layout."""
    return x if x.shape.standard else None


@rule(on(Contiguous, var("x"), name="copy"))
def strides_accepted(x: Instruction, copy: Instruction) -> Instruction | Declined:
    """contiguous(x) is x for users that accept any strides."""
    refused = next((u for u in copy.users if not takes_strides(u, copy, x.shape)), None)
    return x if refused is None else Declined(f"{refused.op.name} reads it")


class EliminateContiguous(Pass):
    """Drops ``contiguous`` where its input has standard layout, or all its users accept strides
    (MIGraphX pass of this name). What a module returns keeps its layout.
    """

    rules = standard_already + strides_accepted


def takes_strides(user: Instruction, value: Instruction, shape: Shape) -> bool:
    """Whether an instruction may read a value in another layout; for a view, whether users may."""
    declared = operations.traits(user.op)
    if user.modules or user.op.name == "@return" or declared is operations.UNDECLARED:
        return False
    if declared.standard_inputs:
        return False
    try:
        made = user.op.compute_shape([shape if v is value else v.shape for v in user.inputs], ())
    except ShapeError:
        return False
    return made == user.shape or all(takes_strides(u, user, made) for u in user.users)
