"""Choices of one of many matrices, sorted into blocks of rows that one matrix multiplies.

Products with matrices that are picked row by row, as those of experts that tokens choose, read each
matrix once for a block so, not once for a row, and copy none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from migx import dim, ops
from migx.argument import Argument
from migx.dim import Extent
from migx.ir import Instruction
from migx.op import Operation
from migx.ops.builtin import Literal
from migx.shape import I64

ROWS = 64
"""The most rows of a block: about as many take as long to multiply as weights take to be read."""

Add = Callable[..., Instruction]
"""Adds an operation on some inputs."""


@dataclass(frozen=True)
class Blocks:
    """Choices in blocks of rows that one matrix takes: whose each block is [blocks], where its rows
    come from [blocks, rows], how many blocks have any, and in which row, of all blocks one after
    the other, each choice is [choices].
    """

    owner: Instruction
    sources: Instruction
    count: Instruction
    place: Instruction


def in_blocks(add: Add, chosen: Instruction, sources: Instruction, matrices: int) -> Blocks:
    """Choices i64[choices], counted from the front, in blocks of twice as many rows as a matrix
    gets on average; where the row of each comes from is i64[choices] as well.

    There is room for as many blocks as there may be. Rows that no choice fills come from 0.
    """
    (choices,) = chosen.shape.dims
    rows = dim.maximum(1, dim.minimum(ROWS, 2 * choices // matrices))
    room = (choices + matrices * (rows - 1)) // rows
    column = add(ops.Unsqueeze((1,)), chosen)
    own = add(ops.Equal(), *_broadcast(add, (choices, matrices), column, steps(add, matrices)))
    own = add(ops.Convert(I64), own)
    earlier = add(ops.PrefixScanSum(0, exclusive=True), own)
    earlier = add(ops.Squeeze((1,)), add(ops.GatherElements(1), earlier, column))
    each = add(ops.Squeeze((0,)), add(ops.ReduceSum((0,)), own))
    length, rest = (number(add, extent) for extent in (rows, rows - 1))
    filled = add(ops.Add(), *_broadcast(add, (matrices,), each, rest))
    filled = add(ops.Div(), *_broadcast(add, (matrices,), filled, length))
    ends = add(ops.PrefixScanSum(0), filled)
    begins = add(ops.Gather(0), add(ops.Sub(), ends, filled), chosen)
    place = add(ops.Mul(), *_broadcast(add, (choices,), begins, length))
    place = add(ops.Add(), place, earlier)
    (none,) = _broadcast(add, (room * rows,), number(add, 0))
    table = add(ops.Reshape((room, rows)), add(ops.ScatterNone(0), none, place, sources))
    block = add(ops.Unsqueeze((1,)), steps(add, room))
    passed = add(ops.LessOrEqual(), *_broadcast(add, (room, matrices), ends, block))
    passed = add(ops.ReduceSum((1,)), add(ops.Convert(I64), passed))
    last = add(ops.Slice((0,), (matrices - 1,), (matrices,)), ends)
    owner, count = add(ops.Squeeze((1,)), passed), add(ops.Squeeze((0,)), last)
    return Blocks(owner, table, count, place)


def steps(add: Add, count: Extent) -> Instruction:
    """0, 1, ..., count - 1 as i64."""
    if isinstance(count, int):
        return add(Literal(Argument.of(np.arange(count))))
    return add(ops.DynamicRange(count), *(number(add, n) for n in (0, count, 1)))


def number(add: Add, extent: Extent) -> Instruction:
    """An extent as i64[]."""
    known = isinstance(extent, int)
    op: Operation = (
        Literal(Argument.of(np.array(extent, np.int64)))
        if known
        else (ops.DimLiteral((extent,), ()))
    )
    return add(op)


def _broadcast(add: Add, dims: tuple[Extent, ...], *values: Instruction) -> list[Instruction]:
    return [v if v.shape.dims == dims else add(ops.Multibroadcast(dims), v) for v in values]
