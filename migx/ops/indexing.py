"""Operations that find elements, pick them by index, or put them there.

An index counts from the end where it is negative. One that is outside its axis is an
``EvaluationError`` that says which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from migx import dim
from migx.argument import Argument
from migx.dim import Extent
from migx.errors import EvaluationError, ShapeError
from migx.op import Arguments, Array, Modules, Op, Operation, Shapes
from migx.ops._rules import (
    expect,
    expect_axis,
    expect_same_dims,
    expect_same_type,
    expect_single,
    no_warnings,
    rounded,
    wide,
)
from migx.shape import BOOL, I64, U8, U64, Shape


class Gather(Op):
    """The slices of the data along ``axis`` at the indices, whose dims replace it; of packed
    elements only along the first axis, in whole bytes.

    ONNX Gather-13.
    """

    axis: int = 0

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2)
        packed, given = shapes[0].dtype.is_packed, shapes[0]
        of_bytes = Shape(U8, given.dims) if packed else given
        data, indices = data_and_indices(self, (of_bytes, shapes[1]))
        expect_axis(self, self.axis, data.rank)
        if packed and (self.axis != 0 or not _begins_with_bytes(given)):
            raise ShapeError(
                f"gather: slices of {given.text} along axis {self.axis} are not whole bytes; those "
                "along axis 0 are, where all dims behind are known and fill them"
            )
        dims = data.dims[: self.axis] + indices.dims + data.dims[self.axis + 1 :]
        return Shape(given.dtype, dims)

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        data, indices = arguments
        if not data.shape.dtype.is_packed:
            return Argument(shape, self.picked(data.array, indices.array))
        rows = data.array.reshape(int(data.shape.dims[0]), _row_bits(data.shape) // 8)
        return Argument(shape, self.picked(rows, indices.array).reshape(-1))

    def picked(self, x: Array, indices: Array) -> Array:
        """The meaning on arrays."""
        try:
            return np.asarray(np.take(x, indices.astype(np.int64, copy=False), self.axis), x.dtype)
        except IndexError:
            raise outside(self, indices, self.axis, x.shape[self.axis]) from None


def _row_bits(packed: Shape) -> int:
    """The bits of a slice along the first axis."""
    return math.prod(int(d) for d in packed.dims[1:]) * packed.dtype.bits


def _begins_with_bytes(packed: Shape) -> bool:
    """Whether each slice along the first axis is whole bytes."""
    return all(isinstance(d, int) for d in packed.dims[1:]) and _row_bits(packed) % 8 == 0


class Gathernd(Op):
    """The slices of the data at index tuples, along the last axis of the indices.

    The first ``batch_dims`` axes are shared by data and indices (ONNX GatherND-13).
    """

    batch_dims: int = 0

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        data, indices = data_and_indices(self, shapes)
        batch = self.batch_dims
        fits = 0 <= batch < min(data.rank, indices.rank)
        if not fits or not all(map(dim.may_equal, data.dims[:batch], indices.dims[:batch])):
            raise ShapeError(
                f"gathernd: {data.text} and {indices.text} need {batch} equal leading dims"
            )
        width = index_width(self, data.rank - batch, indices)
        return Shape(data.dtype, indices.dims[:-1] + data.dims[batch + width :])

    def compute(self, x: Array, indices: Array) -> Array:
        used = self.batch_dims + indices.shape[-1]
        rows = tuple_rows(self, indices, x.shape, self.batch_dims)
        return x.reshape(math.prod(x.shape[:used]), *x.shape[used:])[rows, ...]


class GatherElements(Op):
    """For each index, the element at its own place but along ``axis`` (ONNX GatherElements-13)."""

    axis: int = 0

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        data, indices = data_and_indices(self, shapes)
        expect_within(self, data, indices, self.axis)
        return Shape(data.dtype, indices.dims)

    def compute(self, x: Array, indices: Array) -> Array:
        return x.reshape(-1)[element_rows(self, indices, self.axis, x.shape)]


class Scatter(Op, abstract=True):
    """A copy of the data with updates put at indices, or combined with what is there."""

    combine: ClassVar[np.ufunc | None] = None

    def scattered(self, x: Array, rows: Array, updates: Array, inner: int) -> Array:
        """The data, seen as rows of ``inner`` elements, with each update put at its row."""
        if updates.size == 0:
            return x
        if self.combine is None:
            result = np.array(x, order="C")
            result.reshape(-1, inner)[rows.reshape(-1)] = updates.reshape(-1, inner)
            return result
        # ufunc.at is fast if data, indices and updates are flat and of one type.
        result = np.array(wide(x), order="C")
        places = (rows.reshape(-1, 1) * inner + np.arange(inner)).reshape(-1)
        with no_warnings():
            self.combine.at(result.reshape(-1), places, wide(updates).reshape(-1))
        return rounded(result, x)


class ScatterElements(Scatter, abstract=True):
    """Each update goes to its own place but along ``axis``.

    Inputs are data, indices and updates, all of one rank.
    Where indices repeat, what is not combined is overwritten in order (ONNX ScatterElements-18).
    """

    axis: int = 0

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        data, indices = data_and_indices(self, shapes, 3)
        expect_same_type(self, [data, shapes[2]])
        expect_same_dims(self, shapes[1:])
        expect_within(self, data, indices, self.axis)
        return data.as_standard()

    def compute(self, x: Array, indices: Array, updates: Array) -> Array:
        return self.scattered(x, element_rows(self, indices, self.axis, x.shape), updates, 1)


class ScatterNone(ScatterElements):
    """Updates replace what is there."""


class ScatterAdd(ScatterElements):
    """Updates are added to what is there."""

    combine = np.add


class ScatterMul(ScatterElements):
    """Updates multiply what is there."""

    combine = np.multiply


class ScatterMax(ScatterElements):
    """The greater of an update and what is there; NaN where either is."""

    combine = np.maximum


class ScatterMin(ScatterElements):
    """The lesser of an update and what is there; NaN where either is."""

    combine = np.minimum


class ScatterND(Scatter, abstract=True):
    """Each update goes to the slice of the data at an index tuple (ONNX ScatterND-18).

    Inputs are data, indices and updates. The tuples lie along the last axis of the indices.
    """

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        data, indices = data_and_indices(self, shapes, 3)
        expect_same_type(self, [data, shapes[2]])
        width = index_width(self, data.rank, indices)
        wanted = data.with_dims(indices.dims[:-1] + data.dims[width:])
        expect_same_dims(self, [shapes[2], wanted])
        return data.as_standard()

    def compute(self, x: Array, indices: Array, updates: Array) -> Array:
        inner = math.prod(x.shape[indices.shape[-1] :])
        return self.scattered(x, tuple_rows(self, indices, x.shape), updates, inner)


class ScatterndNone(ScatterND):
    """Updates replace what is there."""


class ScatterndAdd(ScatterND):
    """Updates are added to what is there."""

    combine = np.add


class ScatterndMul(ScatterND):
    """Updates multiply what is there."""

    combine = np.multiply


class ScatterndMax(ScatterND):
    """The greater of an update and what is there; NaN where either is."""

    combine = np.maximum


class ScatterndMin(ScatterND):
    """The lesser of an update and what is there; NaN where either is."""

    combine = np.minimum


class Onehot(Op):
    """One of two values along a new ``axis`` of ``depth`` elements: on at the index, off elsewhere.

    Inputs are the indices, the values [off, on] and, if the depth is known only at run time, the
    depth. An index outside [-depth, depth) sets nothing on; a fractional one is truncated (ONNX
    OneHot-11).
    """

    axis: int
    depth: Extent

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2, 3)
        indices, values = shapes[0], shapes[1]
        expect_same_type(self, [indices])
        expect_in_i64(self, indices)
        expect_same_dims(self, [values, Shape(expect_same_type(self, [values]), (2,))])
        expect_axis(self, self.axis, indices.rank + 1)
        expect_single(self, "a depth", shapes[2:])
        dims = (*indices.dims[: self.axis], self.depth, *indices.dims[self.axis :])
        return Shape(values.dtype, dims)

    def compute(self, indices: Array, values: Array, depth: Array | None = None) -> Array:
        count = int(self.depth) if depth is None else int(depth.item())
        if count < 0:
            raise EvaluationError(f"onehot: a depth of {count}")
        index = indices.astype(np.int64)
        index = np.expand_dims(index + count * (index < 0), self.axis)
        inside = (index >= 0) & (index < count)
        dims = (*index.shape[: self.axis], count, *index.shape[self.axis + 1 :])
        result = np.full(dims, values[0], values.dtype)
        if result.size:
            marks = np.where(inside, values[1:], values[:1])
            np.put_along_axis(result, np.where(inside, index, 0), marks, self.axis)
        return result


class Nonzero(Op):
    """The indices of the elements that are not zero, in row-major order: i64[rank, count].

    ``count`` is a symbol for their number (ONNX NonZero-13).
    """

    count: Extent

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        expect_same_type(self, shapes)
        return Shape(I64, (shapes[0].rank, self.count))

    def compute(self, x: Array) -> Array:
        found = np.nonzero(np.atleast_1d(x != 0))
        return np.stack(found)[: x.ndim]


class Compress(Op):
    """The slices along ``axis`` for which the condition holds, which may be shorter than the axis.

    ``count`` is a symbol for their number (ONNX Compress-11).
    """

    axis: int
    count: Extent

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2)
        expect_same_type(self, shapes[:1])
        data, condition = shapes
        axis = expect_axis(self, self.axis, data.rank)
        fits = condition.rank == 1 and dim.bounds(data.dims[axis] - condition.dims[0])[1] >= 0
        if condition.dtype is not BOOL or not fits:
            raise ShapeError(
                f"compress needs a condition bool[n], n <= {data.dims[axis]}, got {condition.text}"
            )
        return data.with_dims((*data.dims[:axis], self.count, *data.dims[axis + 1 :]))

    def compute(self, x: Array, condition: Array) -> Array:
        if len(condition) > x.shape[self.axis]:
            raise EvaluationError(
                f"compress: a condition of {len(condition)} for axis {self.axis}, which has "
                f"{x.shape[self.axis]} elements"
            )
        return np.compress(condition, x, self.axis)


class ReverseSequence(Op):
    """The members of a batch, each with its first elements reversed in time.

    The second input, integers, says how many of each (ONNX ReverseSequence-10).
    """

    batch_axis: int = 1
    time_axis: int = 0

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        data, lens = data_and_indices(self, shapes)
        batch = data.dims[expect_axis(self, self.batch_axis, data.rank)]
        expect_axis(self, self.time_axis, data.rank)
        if self.batch_axis == self.time_axis:
            raise ShapeError(f"reverse_sequence: axis {self.time_axis} is both batch and time")
        expect_same_dims(self, [lens, Shape(lens.dtype, (batch,))])
        return data.as_standard()

    def compute(self, x: Array, lens: Array) -> Array:
        axes = (self.batch_axis, self.time_axis)
        rows = np.moveaxis(x, axes, (0, 1))
        if ((lens < 0) | (lens > rows.shape[1])).any():
            raise EvaluationError(
                f"reverse_sequence: lengths {lens.tolist()} of an axis of {rows.shape[1]} elements"
            )
        time, ends = np.arange(rows.shape[1]), lens.astype(np.int64)[:, None]
        order = np.where(time < ends, ends - 1 - time, time)
        return np.moveaxis(rows[np.arange(len(rows))[:, None], order], (0, 1), axes)


class Trilu(Op):
    """The upper or lower triangle of the last two axes, zero elsewhere (ONNX Trilu-14).

    A second input of one element says how far the diagonal is above the main one.
    """

    upper: bool = True

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1, 2)
        expect_same_type(self, shapes[:1])
        if shapes[0].rank < 2:
            raise ShapeError(f"trilu needs two axes or more, got {shapes[0].text}")
        expect_single(self, "a diagonal", shapes[1:])
        for k in shapes[1:]:
            expect_in_i64(self, k)
        return shapes[0].as_standard()

    def compute(self, x: Array, k: Array | None = None) -> Array:
        rows, columns = x.shape[-2:]
        diagonal = 0 if k is None else min(max(int(k.item()), -rows), columns)
        return np.triu(x, diagonal) if self.upper else np.tril(x, diagonal)


class Unique(Op):
    """The distinct slices along ``axis``, as a tuple: the slices, the first index of each, the
    number of the slice at each index, and the counts (i64).

    They are sorted by their elements, or with ``sorted`` False in order of appearance. ``count`` is
    a symbol for their number. ONNX Unique-11.
    """

    axis: int
    count: Extent
    sorted: bool = True

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        expect_same_type(self, shapes)
        axis = expect_axis(self, self.axis, shapes[0].rank)
        dims = list(shapes[0].dims)
        places = Shape(I64, (dims[axis],))
        dims[axis] = self.count
        one_each = Shape(I64, (self.count,))
        return Shape.tuple(Shape(shapes[0].dtype, dims), one_each, places, one_each)

    def compute(self, arguments: Arguments) -> Argument:
        x = arguments[0].array
        rows = np.moveaxis(x, self.axis, 0)
        rows = rows.reshape(len(rows), math.prod(rows.shape[1:]))
        order = np.arange(len(rows))
        for column in range(rows.shape[1] - 1, -1, -1):
            order = order[np.argsort(rows[order, column], kind="stable")]
        ordered = rows[order]
        new = np.ones(len(rows), np.bool_)
        new[1:] = (ordered[1:] != ordered[:-1]).any(1)
        starts = np.flatnonzero(new)
        first, counts = order[starts], np.diff(starts, append=len(rows))
        inverse = np.empty(len(rows), np.int64)
        inverse[order] = np.cumsum(new) - 1
        if not self.sorted:
            found = np.argsort(first)
            rank = np.empty_like(found)
            rank[found] = np.arange(len(found))
            first, counts, inverse = first[found], counts[found], rank[inverse]
        values = np.take(x, first, self.axis)
        return Argument.tuple([Argument.of(v) for v in (values, first, inverse, counts)])


def data_and_indices(op: Operation, shapes: Shapes, count: int = 2) -> tuple[Shape, Shape]:
    """The first two of ``count`` shapes: any tensor, and integers."""
    expect(op, shapes, count)
    expect_same_type(op, shapes[:1])
    if not expect_same_type(op, shapes[1:2]).is_integer:
        raise ShapeError(f"{op.name} needs integer indices, got {shapes[1].text}")
    return shapes[0], shapes[1]


def expect_in_i64(op: Operation, indices: Shape) -> None:
    """Raises ``ShapeError`` for an index type with values beyond i64, which would turn negative."""
    if indices.dtype is U64:
        raise ShapeError(f"{op.name} needs indices that i64 holds, got {indices.text}")


def index_width(op: Operation, rank: int, indices: Shape) -> int:
    """The number of indices in each tuple, which must be in [1, rank]."""
    width = indices.dims[-1] if indices.rank else 0
    if not isinstance(width, int) or not 1 <= width <= rank:
        raise ShapeError(f"{op.name}: indices end in a number from 1 to {rank}, got {indices.text}")
    return width


def expect_within(op: Operation, data: Shape, indices: Shape, axis: int) -> None:
    """Raises ``ShapeError`` if a dim of the indices other than ``axis`` exceeds the data's."""
    expect_axis(op, axis, data.rank)
    if indices.rank != data.rank or any(
        i != axis and dim.bounds(d - n)[1] < 0
        for i, (d, n) in enumerate(zip(data.dims, indices.dims, strict=True))
    ):
        raise ShapeError(
            f"{op.name}: indices {indices.text} must have the rank of {data.text} "
            f"and no larger dim but for axis {axis}"
        )


def wrapped(op: Operation, indices: Array, axis: int, extent: int) -> Array:
    """The indices as i64 in [0, extent), negative ones counted from the end."""
    index = indices.astype(np.int64, copy=False)
    if index.size and (index.min() < -extent or index.max() >= extent):
        raise outside(op, indices, axis, extent)
    return index + extent * (index < 0)


def ramp(count: int, axis: int, rank: int) -> Array:
    """0, 1, ... along one axis of ``rank``; the others have extent 1."""
    return np.arange(count).reshape(-1, *[1] * (rank - 1 - axis))


def element_rows(op: Operation, indices: Array, axis: int, dims: Sequence[int]) -> Array:
    """The row-major offset of each index in a tensor of ``dims``: its own but along ``axis``."""
    rows = np.zeros((), np.int64)
    for i, extent in enumerate(dims):
        own = i == axis
        at = wrapped(op, indices, i, extent) if own else ramp(indices.shape[i], i, len(dims))
        rows = rows * extent + at
    return rows


def tuple_rows(op: Operation, indices: Array, dims: Sequence[int], batch: int = 0) -> Array:
    """The row-major offset of each index tuple in the leading axes of a tensor of ``dims``."""
    rows = np.zeros((), np.int64)
    for i in range(batch):
        rows = rows * dims[i] + ramp(dims[i], i, indices.ndim - 1)
    for i, extent in enumerate(dims[batch : batch + indices.shape[-1]]):
        rows = rows * extent + wrapped(op, indices[..., i], batch + i, extent)
    return rows


def outside(op: Operation, indices: Array, axis: int, extent: int) -> EvaluationError:
    """The error of the first index that is not in [-extent, extent)."""
    wrong = indices[(indices < -extent) | (indices >= extent)]
    return EvaluationError(
        f"{op.name}: index {wrong[0]} is outside axis {axis}, which has {extent} elements"
    )
