"""Turns triangles and one-hot encodings into comparisons of indices."""

from __future__ import annotations

import numpy as np

from migx.builders import arange, broadcast_to, from_front
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on, var
from migx.ops.indexing import Onehot, Trilu
from migx.ops.layout import Reshape, Slice, Unsqueeze
from migx.ops.logic import Equal, GreaterOrEqual, LessOrEqual
from migx.ops.pointwise import Convert, Sub, Where
from migx.rewrite import Cursor, Declined, rule
from migx.shape import I64


@rule(on(Trilu, name="root"))
def triangle(at: Cursor, root: Instruction) -> Instruction | Declined:
    """A triangle is x in the columns from the diagonal on, or up to it, and zero elsewhere."""
    op, x = root.op_as(Trilu), root.inputs[0]
    if x.shape.dtype.is_packed or x.shape.dtype.kind == "string":
        return Declined("its elements are not numbers of whole bytes")
    dims = x.shape.dims[-2:]
    diagonal = broadcast_to(at, at(Unsqueeze((1,)), arange(at, dims[0])), dims)
    column = broadcast_to(at, arange(at, dims[1]), dims)
    if len(root.inputs) == 2:  # compared, not added to an index: it cannot overflow
        column = at(Sub(), column, diagonal)
        moved = at(Reshape((1, 1)), at(Convert(I64), root.inputs[1]))
        diagonal = broadcast_to(at, moved, dims)
    inside = at(LessOrEqual() if op.upper else GreaterOrEqual(), diagonal, column)
    nothing = at.literal(np.zeros((), x.shape.dtype.numpy))
    dims = root.shape.dims
    return at(Where(), broadcast_to(at, inside, dims), x, broadcast_to(at, nothing, dims))


@rule(on(Onehot, var("x"), var("values"), name="root"))
def hot(at: Cursor, x: Instruction, values: Instruction, root: Instruction) -> Instruction:
    """One of two values is selected by whether the position equals the index, counted from the
    front.
    """
    op, dims = root.op_as(Onehot), root.shape.dims
    index = from_front(at, at(Convert(I64), x), op.depth)
    behind = tuple(range(1, len(dims) - op.axis))
    place = arange(at, op.depth)
    place = at(Unsqueeze(behind), place) if behind else place
    index = broadcast_to(at, at(Unsqueeze((op.axis,)), index), dims)
    is_on = at(Equal(), index, broadcast_to(at, place, dims))
    off, chosen = (broadcast_to(at, at(Slice((0,), (i,), (i + 1,)), values), dims) for i in (0, 1))
    return at(Where(), is_on, chosen, off)


class RewriteIndexing(Pass):
    """Turns triangles and one-hot encodings into comparisons of indices, which fuse with the
    arithmetic around them.
    """

    rules = triangle + hot
