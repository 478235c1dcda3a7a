"""Products that each choose one of many matrices, sorted into blocks of rows with one choice.

Products with matrices chosen row by row, such as experts chosen by tokens, so read each matrix once
for a block, not once for a row, and copy none.
"""

from __future__ import annotations

from dataclasses import dataclass

from migx import dim, ops
from migx.builders import Builder, arange, at_index, broadcast_to, folded, number
from migx.ir import Instruction
from migx.shape import I64

ROWS = 64
"""The most rows of a block: multiplying that many takes about as long as reading the weights."""


@dataclass(frozen=True)
class Blocks:
    """Rows sorted into blocks that share a matrix: the matrix of each block, [blocks]; the source
    row of each row, [blocks, rows]; the number of blocks in use; and the row, counted over all
    blocks, of each choice, [choices].
    """

    owner: Instruction
    sources: Instruction
    count: Instruction
    place: Instruction


def in_blocks(at: Builder, chosen: Instruction, sources: Instruction, matrices: int) -> Blocks:
    """Sorts choices, i64[choices] and not negative, into blocks of twice as many rows as a matrix
    gets on average; ``sources`` has the source row of each choice, i64[choices].

    There is room for the largest possible number of blocks. Unused rows have source 0.
    """
    (choices,) = chosen.shape.dims
    rows = dim.maximum(1, dim.minimum(ROWS, 2 * choices // matrices))
    room = (choices + matrices * (rows - 1)) // rows
    column = at(ops.Unsqueeze((1,)), chosen)
    both = column, arange(at, matrices)
    own = at(ops.Equal(), *(broadcast_to(at, v, (choices, matrices)) for v in both))
    own = at(ops.Convert(I64), own)
    earlier = at(ops.PrefixScanSum(0, exclusive=True), own)
    earlier = at(ops.Squeeze((1,)), at(ops.GatherElements(1), earlier, column))
    each = folded(at, ops.ReduceSum((0,)), own)
    length, rest = (number(at, extent) for extent in (rows, rows - 1))
    filled = at(ops.Add(), each, broadcast_to(at, rest, (matrices,)))
    filled = at(ops.Div(), filled, broadcast_to(at, length, (matrices,)))
    ends = at(ops.PrefixScanSum(0), filled)
    begins = at(ops.Gather(0), at(ops.Sub(), ends, filled), chosen)
    place = at(ops.Mul(), begins, broadcast_to(at, length, (choices,)))
    place = at(ops.Add(), place, earlier)
    none = broadcast_to(at, number(at, 0), (room * rows,))
    table = at(ops.Reshape((room, rows)), at(ops.ScatterNone(0), none, place, sources))
    both = ends, at(ops.Unsqueeze((1,)), arange(at, room))
    passed = at(ops.LessOrEqual(), *(broadcast_to(at, v, (room, matrices)) for v in both))
    owner = folded(at, ops.ReduceSum((1,)), at(ops.Convert(I64), passed))
    return Blocks(owner, table, at_index(at, ends, 0, matrices - 1), place)
