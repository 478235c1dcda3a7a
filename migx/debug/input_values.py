"""What integer inputs of a program may hold, as far as their users tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from migx import op as operations
from migx.dim import Extent
from migx.ir import Instruction
from migx.ops.builtin import Literal
from migx.ops.indexing import Gather
from migx.ops.logic import Equal
from migx.ops.pointwise import Convert
from migx.program import Program

ANY = (0, 1)
"""Valid as indices of anything, and as masks."""


def held(program: Program) -> Mapping[str, Sequence[int]]:
    """The integers to draw from, by input: indices of the smallest table that it indexes, or the
    constants that it is compared with; ``ANY`` if something else reads it.
    """
    parameters = program.main.parameters.items()
    return {name: _held(at) for name, at in parameters if at.shape.dtype.is_integer}


def _held(parameter: Instruction) -> Sequence[int]:
    tables: list[range] = []
    compared: set[int] = set()
    moved = [parameter]
    for value in moved:
        for at in value.users:
            if at in moved:
                continue
            if _moves(at, value):
                moved.append(at)
            elif type(at.op) is Gather and isinstance(rows := _rows(at.op, at), int):
                tables.append(range(rows))
            elif type(at.op) is Equal and (found := _constants(at, value)):
                compared |= found
            else:
                return ANY
    return min(tables, key=len, default=sorted(compared)) or ANY


def _moves(at: Instruction, value: Instruction) -> bool:
    """Whether an instruction's result consists of a value's elements."""
    moves = type(at.op) in (Convert, Gather) or operations.traits(at.op).view == 0
    return moves and at.inputs[0] is value


def _rows(op: Gather, at: Instruction) -> Extent:
    return at.inputs[0].shape.dims[op.axis]


def _constants(at: Instruction, value: Instruction) -> set[int]:
    """The constants that a value is compared with; empty if it is compared with others."""
    (other,) = [other for other in at.inputs if other is not value] or [value]
    while operations.traits(other.op).view is not None:
        other = other.inputs[operations.traits(other.op).view or 0]
    held = other.op.value if type(other.op) is Literal else None
    return set() if held is None else {*held.array.reshape(-1).tolist()}
