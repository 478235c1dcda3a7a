"""Removes identities."""

from __future__ import annotations

from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on, var
from migx.ops.pointwise import Identity
from migx.rewrite import RuleSet, rule


@rule(on(Identity, var("x")))
def identity(x: Instruction) -> Instruction:
    """The identity of x is x."""
    return x


class EliminateIdentity(Pass):
    """Removes the instructions that pass their input on (MIGraphX pass of this name)."""

    rules = RuleSet(identity)
