"""The terms that zero points add to a product of bytes, and their subtraction.

The sum of (x - zx) (w - zw) over k of them is the sum of x w, less zx times the sum of w, and less
zw times the sum of x - zx, which is that of x less k zx. The first is one number for each column or
output channel, the second one for each row or window. All of it is exact modulo 2³².
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from migx.dim import Extent, product
from migx.ir import Instruction
from migx.ops.layout import Broadcast, Multibroadcast, Reshape, Squeeze, Transpose, Unsqueeze
from migx.ops.linear import Convolution, QuantConvolution, QuantDot
from migx.ops.pointwise import Convert, Mul, Sub
from migx.ops.reduce import ReduceSum
from migx.passes.insert_pad import explicit
from migx.rewrite import Cursor
from migx.shape import I8, I32, U8, Dims

LARGEST = {I8: 128, U8: 255}
"""The greatest magnitude of a byte."""
SPAN = 255
"""The greatest magnitude of a difference of two bytes."""


@dataclass(frozen=True)
class Factor:
    """One side of a product: the bytes, the views of them that are multiplied, their scale and zero
    point, and the axis of the source along which these lie, None where each is one element. Without
    a scale they are integers.
    """

    source: Instruction
    views: tuple[Instruction, ...]
    scale: Instruction | None
    zero: Instruction | None
    axis: int | None

    @property
    def largest(self) -> int:
        """The greatest magnitude of the numbers multiplied."""
        return LARGEST[self.source.shape.dtype] if self.zero is None else SPAN

    def moved(self, at: Cursor) -> Instruction:
        """The quantised values as they are multiplied."""
        value = self.source
        for view in self.views:
            value = at(view.op, value)
        return value

    def place(self, axis: int) -> int | None:
        """The position of a source axis after the views; None if one of them is a reshape."""
        for view in self.views:
            match view.op:
                case Reshape() | Squeeze() | Unsqueeze():
                    return None
                case Transpose(permutation=permutation):
                    axis = permutation.index(axis)
                case Broadcast(axis=first):
                    axis += first
                case _:
                    axis += view.shape.rank - view.inputs[0].shape.rank
        return axis


def columns_of(w: Factor, rank: int) -> int | None:
    """The axis of a right factor's source that holds the columns."""
    return next((i for i in range(w.source.shape.rank) if w.place(i) == rank - 1), None)


def is_matrix(w: Factor, columns: int | None, dims: Dims) -> bool:
    """Whether weights are one matrix of these dims, or the transpose of one."""
    kept = w.source.shape.dims
    return len(kept) == 2 and columns is not None and (kept[1 - columns], kept[columns]) == dims


def beyond(x: Factor, w: Factor, channels: int | None, depth: Extent) -> str:
    """Why the terms of zero points cannot be subtracted from a product; empty if they can.
    ``channels`` is the axis of the weights that the result keeps.
    """
    if x.zero is not None and (x.zero.shape.elements != 1 or not w.source.constant):
        return "the sums of the weights are not constant"
    if w.zero is None:
        return ""
    along = () if channels is None else w.source.shape.dims[channels : channels + 1]
    if w.zero.shape.elements != 1 and w.zero.shape.dims != along:
        return "the zero points of the weights are not one for each channel"
    return "" if isinstance(depth, int) else "the number of terms of the sums is not known"


def multiplied(at: Cursor, x: Factor, w: Factor, columns: int | None) -> Instruction:
    """The product of matrices less the terms of zero points, in i32."""
    left, right = x.moved(at), w.moved(at)
    total = at(QuantDot(), left, right)
    rank = total.shape.rank
    if x.zero is not None and columns is not None:
        total = _less_columns(at, total, w, columns, x.zero, rank - 1)
    if w.zero is None:
        return total
    rows = at(ReduceSum((rank - 1,)), at(Convert(I32), left))
    return _less_rows(at, total, rows, (x, w), right.shape.dims[-2], rank - 1)


def convolved(at: Cursor, x: Factor, w: Factor, op: Convolution) -> Instruction:
    """The convolution less the terms of zero points, in i32. Padding is the image's zero point."""
    image, padding = x.moved(at), op.padding
    if x.zero is not None and any(p != 0 for p in padding):
        image, padding = at(explicit(padding), image, x.zero), (0,) * len(padding)
    made = QuantConvolution(padding, op.stride, op.dilation, op.group)
    total = at(made, image, w.source)
    if x.zero is not None:
        total = _less_columns(at, total, w, 0, x.zero, 1)
    if w.zero is None:
        return total
    dims = (1, *w.source.shape.dims[1:])
    ones = at.literal(np.ones([int(d) for d in dims], np.int8))
    depth = product(dims)
    return _less_rows(at, total, at(made, image, ones), (x, w), depth, 1)


def _less_columns(
    at: Cursor, total: Instruction, w: Factor, kept: int, zero: Instruction, axis: int
) -> Instruction:
    """The total less a zero point times the sums of weights over all axes but one."""
    others = tuple(i for i in range(w.source.shape.rank) if i != kept)
    each = at(ReduceSum(others), at(Convert(I32), w.source))
    flat = at(Reshape((w.source.shape.dims[kept],)), each)
    taken = at(Mul(), flat, _spread(at, zero, flat.shape.dims, 0))
    return at(Sub(), total, at(Broadcast(axis, total.shape.dims), taken))


def _less_rows(
    at: Cursor,
    total: Instruction,
    sums: Instruction,
    factors: tuple[Factor, Factor],
    depth: Extent,
    axis: int,
) -> Instruction:
    """The total less the weights' zero points times ``sums``, each of ``depth`` factors."""
    x, w = factors
    assert w.zero is not None
    if x.zero is not None:
        assert isinstance(depth, int)
        count = at(Multibroadcast(sums.shape.dims), at.literal(np.array(depth, np.int32)))
        sums = at(Sub(), sums, at(Mul(), count, _spread(at, x.zero, sums.shape.dims, axis)))
    dims = total.shape.dims
    taken = at(Mul(), at(Multibroadcast(dims), sums), _spread(at, w.zero, dims, axis))
    return at(Sub(), total, taken)


def _spread(at: Cursor, zero: Instruction, dims: Dims, axis: int) -> Instruction:
    """A zero point, or one for each index of an axis, broadcast to dims as i32."""
    wide = at(Convert(I32), zero)
    if wide.shape.elements != 1:
        return at(Broadcast(axis, dims), wide)
    return at(Multibroadcast(dims), at(Reshape(()), wide) if wide.shape.rank else wide)
