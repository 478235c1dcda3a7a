"""A part of a program as a program of its own, for targets that run some of it each, and for tests.

first = part(program, {"hidden": at})
rest = part(program, {"y": program.main.outputs[0]}, {"hidden": at})
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from migx.errors import IRError
from migx.ir import Instruction
from migx.program import Program
from migx.weights.hoisting import drop_unread

NONE: Mapping[str, Instruction] = MappingProxyType({})


def part(
    program: Program,
    results: Mapping[str, Instruction],
    given: Mapping[str, Instruction] = NONE,
) -> Program:
    """A program that computes some values of the main module from others that are ``given``, both
    by the names they have as its outputs and inputs.

    It has all inputs of the program, because they tell the sizes of symbols, and the weights that
    it reads, with their names. Data is shared, the program unchanged. ``IRError`` if a value is not
    of the main module, or two inputs have one name.
    """
    for at in (*results.values(), *given.values()):
        if at.module is not program.main:
            raise IRError(f"{at!r} is not in the main module of the program")
    made = program.copy()
    same = dict(zip(program.instructions(), made.instructions(), strict=True))
    for name, at in given.items():
        parameter = made.main.add_parameter(name, at.shape.as_standard())
        made.main.replace_instruction(same[at], parameter)
        same[at] = parameter
    made.main.add_return(*(same[at] for at in results.values()), names=list(results))
    drop_unread(made)
    return made
