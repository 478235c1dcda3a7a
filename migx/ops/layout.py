"""Operations that move, repeat, drop or join elements and compute none.

A view reads its input's memory through other strides, which its shape carries, and copies nothing.
The results of all others are standard. Packed storage (i4, u4, f4) has no views and must be
unpacked first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from migx import dim
from migx.dim import Extent
from migx.errors import EvaluationError, ShapeError
from migx.op import Array, Modules, Op, Operation, Shapes, Traits
from migx.ops._row_major import row_major
from migx.ops._rules import expect, expect_axis, expect_same_type, expect_single
from migx.shape import Shape

VIEW = Traits(view=0)
PAD_MODES = ("constant", "reflect", "edge", "wrap")


class View(Op, abstract=True):
    """One input, whose memory the result reads through other strides."""

    traits = VIEW

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        expect_same_type(self, shapes)
        return self.of(shapes[0])

    def of(self, shape: Shape) -> Shape:
        """The shape of the view of a tensor of this shape."""
        raise NotImplementedError(self.name)


class Transpose(View):
    """The axes in another order: axis i of the result is axis ``permutation[i]`` of the input."""

    permutation: tuple[int, ...]

    def of(self, shape: Shape) -> Shape:
        return shape.permuted(self.permutation)

    def compute(self, x: Array) -> Array:
        return x.transpose(self.permutation)


class Reshape(Op):
    """The elements in row-major order under other dims; aliases its input when that is standard.

    A second input, integers, gives the dims at run time, and ``dims`` then has symbols for them: -1
    stands for the rest, and 0 for the input's dim at that position unless ``allowzero`` (ONNX
    Reshape-14).
    """

    traits = VIEW
    dims: tuple[Extent, ...]
    allowzero: bool = False

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1, 2)
        dtype = expect_same_type(self, shapes[:1])
        expect_vectors(self, shapes[1:], len(self.dims))
        made = Shape(dtype, self.dims)
        if not dim.may_equal(made.elements, shapes[0].elements):
            raise ShapeError(
                f"reshape cannot make {made}, which has {made.elements} elements, "
                f"of {shapes[0].text}, which has {shapes[0].elements}"
            )
        return made

    def compute(self, x: Array, target: Array | None = None) -> Array:
        dims: Any = self.dims if target is None else self._resolved(x.shape, target.tolist())
        try:
            return row_major(x).reshape(dims)
        except ValueError:
            raise EvaluationError(
                f"reshape cannot make {list(dims)} of {list(x.shape)}, which has {x.size} elements"
            ) from None

    def _resolved(self, dims: tuple[int, ...], target: list[int]) -> list[int]:
        if min(target, default=0) < -1:
            raise EvaluationError(f"reshape to {target}: -1 alone stands for what is left")
        if self.allowzero:
            return target
        if 0 in target[len(dims) :]:
            raise EvaluationError(f"reshape to {target}: {list(dims)} has no dim at the place of 0")
        return [dims[i] if extent == 0 else extent for i, extent in enumerate(target)]


class Squeeze(View):
    """The tensor without some axes, each of one element."""

    axes: tuple[int, ...]

    def of(self, shape: Shape) -> Shape:
        expect_axes(self, self.axes, shape.rank)
        for axis in self.axes:
            if not dim.may_equal(shape.dims[axis], 1):
                raise ShapeError(
                    f"squeeze: axis {axis} of {shape.text} has {shape.dims[axis]} elements, not 1"
                )
        kept = [i for i in range(shape.rank) if i not in self.axes]
        strides = None if shape.strides is None else [shape.strides[i] for i in kept]
        return shape.with_dims([shape.dims[i] for i in kept], strides)

    def compute(self, x: Array) -> Array:
        return x.squeeze(self.axes)


class Unsqueeze(View):
    """The tensor with new axes of one element, at the places ``axes`` names in the result."""

    axes: tuple[int, ...]

    def of(self, shape: Shape) -> Shape:
        rank = shape.rank + len(self.axes)
        expect_axes(self, self.axes, rank)
        dims: list[Extent] = list(shape.dims)
        strides: list[Extent] = list(shape.true_strides)
        for axis in sorted(self.axes):
            strides.insert(axis, dims[axis] * strides[axis] if axis < len(dims) else 1)
            dims.insert(axis, 1)
        return shape.with_dims(dims, strides)

    def compute(self, x: Array) -> Array:
        return np.expand_dims(x, self.axes)


class Broadcast(View):
    """The tensor repeated along new axes: its own are those from ``axis`` on among ``out_lens``."""

    axis: int
    out_lens: tuple[Extent, ...]

    def of(self, shape: Shape) -> Shape:
        after = len(self.out_lens) - self.axis - shape.rank
        own = self.out_lens[self.axis : self.axis + shape.rank]
        if self.axis < 0 or after < 0 or not all(map(dim.may_equal, own, shape.dims)):
            raise ShapeError(
                f"broadcast: {list(self.out_lens)} does not hold the dims of {shape.text} "
                f"from axis {self.axis} on"
            )
        strides = (0,) * self.axis + shape.true_strides + (0,) * after
        return shape.with_dims(self.out_lens, strides)

    def compute(self, x: Array) -> Array:
        dims: Any = self.out_lens
        return np.broadcast_to(x.reshape(x.shape + (1,) * (len(dims) - self.axis - x.ndim)), dims)


class Multibroadcast(Op):
    """The tensor repeated along axes of one element, and new leading ones, to dims ``out_lens``.

    An axis of more elements keeps its stride, one of a single element gets 0; where the dim is a
    symbol that may be 1, the stride is the expression ``min(dim // 2, 1) * stride``, which is the
    one or the other, and 0 for no elements. So the result is always a view. A second input,
    integers, gives dims at run time to broadcast with, and ``out_lens`` then has symbols for the
    result (ONNX Expand-13).
    """

    traits = VIEW
    out_lens: tuple[Extent, ...]

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1, 2)
        expect_same_type(self, shapes[:1])
        expect_vectors(self, shapes[1:])
        shape, new = shapes[0], len(self.out_lens) - shapes[0].rank
        outs = self.out_lens[max(new, 0) :]
        if new < 0 or not all(
            d == 1 or dim.may_equal(d, o) or dim.may_equal(d, 1)
            for d, o in zip(shape.dims, outs, strict=True)
        ):
            raise ShapeError(
                f"{shape.text} does not broadcast to {list(self.out_lens)}: equal dims, or 1"
            )
        strides = [
            s if d == o else s * dim.minimum(d // 2, 1)
            for d, o, s in zip(shape.dims, outs, shape.true_strides, strict=True)
        ]
        return shape.with_dims(self.out_lens, [0] * new + strides)

    def compute(self, x: Array, target: Array | None = None) -> Array:
        dims: Any = self.out_lens
        try:
            if target is not None:
                dims = np.broadcast_shapes(x.shape, tuple(target.tolist()))
            return np.broadcast_to(x, dims)
        except ValueError:
            wanted = list(dims) if target is None else target.tolist()
            pairs = zip(reversed(x.shape), reversed(wanted), strict=False)
            fits = min(wanted, default=0) >= 0 and all(d == w or 1 in (d, w) for d, w in pairs)
            why = "is too large when broadcast to" if fits else "does not broadcast to"
            raise EvaluationError(f"multibroadcast: {list(x.shape)} {why} {wanted}") from None


class Contiguous(Op):
    """The same value in standard layout."""

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        expect_same_type(self, shapes)
        return shapes[0].as_standard()

    def compute(self, x: Array) -> Array:
        return row_major(x)


class Slice(View):
    """The elements from ``starts`` up to ``ends``, not included, along ``axes``.

    0 <= start <= end <= dim: nothing is clamped here, and nothing counts from the end.
    """

    axes: tuple[int, ...]
    starts: tuple[Extent, ...]
    ends: tuple[Extent, ...]

    def of(self, shape: Shape) -> Shape:
        expect_axes(self, self.axes, shape.rank, self.starts, self.ends)
        dims = list(shape.dims)
        for axis, start, end in zip(self.axes, self.starts, self.ends, strict=True):
            if any(dim.bounds(gap)[1] < 0 for gap in (start, end - start, dims[axis] - end)):
                raise ShapeError(
                    f"slice: {start} to {end} is not within axis {axis} of {shape.text}: "
                    f"0 <= start <= end <= {dims[axis]}"
                )
            dims[axis] = end - start
        return shape.with_dims(dims, shape.true_strides)

    def compute(self, x: Array) -> Array:
        return x[along(x.ndim, self.axes, map(slice, self.starts, self.ends))]


class Step(View):
    """The first element and every ``steps``-th after it, along ``axes``."""

    axes: tuple[int, ...]
    steps: tuple[int, ...]

    def of(self, shape: Shape) -> Shape:
        expect_axes(self, self.axes, shape.rank, self.steps)
        dims, strides = list(shape.dims), list(shape.true_strides)
        for axis, step in zip(self.axes, self.steps, strict=True):
            if step < 1:
                raise ShapeError(f"step: steps are 1 or more, got {step} for axis {axis}")
            dims[axis] = (dims[axis] + step - 1) // step
            strides[axis] = strides[axis] * step
        return shape.with_dims(dims, strides)

    def compute(self, x: Array) -> Array:
        return x[along(x.ndim, self.axes, (slice(None, None, step) for step in self.steps))]


class DynamicSlice(Op):
    """A slice whose starts, ends and steps are inputs, with one value for each of ``axes``.

    Negative bounds count from the end, then both are clamped; a negative step walks backwards (ONNX
    Slice-13). ``out_lens`` are symbols for the dims along ``axes``.
    """

    axes: tuple[int, ...]
    out_lens: tuple[Extent, ...]

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 4)
        expect_same_type(self, shapes[:1])
        expect_vectors(self, shapes[1:], len(self.axes))
        dims = list(shapes[0].dims)
        expect_axes(self, self.axes, len(dims), self.out_lens)
        for axis, extent in zip(self.axes, self.out_lens, strict=True):
            if dim.bounds(dims[axis] - extent)[1] < 0:
                raise ShapeError(
                    f"dynamic_slice: {extent} elements of axis {axis} of {shapes[0].text}"
                )
            dims[axis] = extent
        return Shape(shapes[0].dtype, dims)

    def compute(self, x: Array, starts: Array, ends: Array, steps: Array) -> Array:
        extents = [x.shape[axis] for axis in self.axes]
        spans = map(span, starts.tolist(), ends.tolist(), steps.tolist(), extents)
        return x[along(x.ndim, self.axes, spans)]


class Reverse(Op):
    """The elements in reverse order along ``axes``."""

    axes: tuple[int, ...]

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        expect_same_type(self, shapes)
        expect_axes(self, self.axes, shapes[0].rank)
        return shapes[0].as_standard()

    def compute(self, x: Array) -> Array:
        return np.flip(x, self.axes)


class Concat(Op):
    """The inputs one after another along ``axis``."""

    axis: int

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        if not shapes:
            raise ShapeError("concat takes one input or more, got none")
        dtype = expect_same_type(self, shapes)
        expect_axis(self, self.axis, shapes[0].rank)
        rank = shapes[0].rank
        columns = list(zip(*(s.dims for s in shapes if s.rank == rank), strict=True))
        rest = [c for i, c in enumerate(columns) if i != self.axis]
        if any(s.rank != rank for s in shapes) or not all(map(_may_agree, rest)):
            raise ShapeError(
                f"concat needs dims that are equal but for axis {self.axis}, "
                f"got {' and '.join(s.text for s in shapes)}"
            )
        return Shape(
            dtype, [sum(c, 0) if i == self.axis else _known(c) for i, c in enumerate(columns)]
        )

    def compute(self, *arrays: Array) -> Array:
        return np.concatenate(arrays, self.axis)


class Pad(Op):
    """The tensor with elements added before and after it along each axis (ONNX Pad-19).

    ``pads`` are the numbers of elements before, for each axis, then after; a negative one drops
    elements, which happens first. ``mode`` is ``constant`` (a second input of one element, else
    zero), ``reflect`` (about the outermost element), ``edge`` (the outermost element) or ``wrap``
    (from the other end).
    """

    pads: tuple[Extent, ...]
    mode: str = "constant"

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1, 2)
        dtype, rank = expect_same_type(self, shapes), shapes[0].rank
        if self.mode not in PAD_MODES:
            raise ShapeError(f"pad knows {', '.join(PAD_MODES)}, not {self.mode!r}")
        if len(self.pads) != 2 * rank:
            raise ShapeError(f"pad: {len(self.pads)} pads for {shapes[0].text}, not {2 * rank}")
        expect_single(self, "a value to pad with", shapes[1:])
        axes = list(zip(shapes[0].dims, self.pads[:rank], self.pads[rank:], strict=True))
        if any(dim.bounds(d + dim.minimum(b, 0) + dim.minimum(e, 0))[1] < 0 for d, b, e in axes):
            raise ShapeError(f"pads {list(self.pads)} drop more of {shapes[0].text} than there is")
        return Shape(dtype, [d + b + e for d, b, e in axes])

    def compute(self, x: Array, value: Array | None = None) -> Array:
        pads: Any = self.pads
        axes = list(zip(x.shape, pads[: x.ndim], pads[x.ndim :], strict=True))
        x = x[tuple(slice(max(-b, 0), n + min(e, 0)) for n, b, e in axes)]
        added = [(max(b, 0), max(e, 0)) for _, b, e in axes]
        result = _surrounded(x, added, value)
        if self.mode != "constant":
            for axis, (before, after) in enumerate(added):
                _fill_ends(result.swapaxes(0, axis), self.mode, before, after)
        return result


def expect_axes(
    op: Operation, axes: Sequence[int], rank: int, *attributes: Sequence[object]
) -> None:
    """Raises ``ShapeError`` unless axes are distinct, in [0, rank), and attributes fit them."""
    for axis in axes:
        expect_axis(op, axis, rank)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"{op.name}: an axis is named twice in {tuple(axes)}")
    for values in attributes:
        if len(values) != len(axes):
            raise ShapeError(
                f"{op.name}: {len(values)} values {tuple(values)} for the axes {tuple(axes)}"
            )


def expect_vectors(op: Operation, shapes: Shapes, count: int | None = None) -> None:
    """Raises ``ShapeError`` unless each shape is a vector of integers, ``count`` if given."""
    for shape in shapes:
        fits = shape.rank == 1 and (count is None or dim.may_equal(shape.dims[0], count))
        if not (fits and shape.dtype.is_integer):
            wanted = "integers" if count is None else f"{count} integers"
            raise ShapeError(f"{op.name} takes a list of {wanted}, got {shape.text}")


def along(rank: int, axes: Sequence[int], spans: Iterable[slice]) -> tuple[slice, ...]:
    """The numpy index that selects the spans along the axes, and all of the others."""
    index = [slice(None)] * rank
    for axis, taken in zip(axes, spans, strict=True):
        index[axis] = taken
    return tuple(index)


def span(start: int, end: int, step: int, extent: int) -> slice:
    """The Python slice for ONNX Slice on an axis of ``extent`` elements. They differ for a negative
    step from before the first element: ONNX begins at the first, Python selects none.
    """
    if step == 0:
        raise EvaluationError("dynamic_slice: a step is 0")
    first = max(start + extent * (start < 0), 0)
    stop = max(end + extent * (end < 0), -1 if step < 0 else 0)
    return slice(first, None if stop < 0 else stop, step)


def _may_agree(extents: Sequence[Extent]) -> bool:
    return all(dim.may_equal(e, extents[0]) for e in extents)


def _known(extents: Sequence[Extent]) -> Extent:
    """The known one of extents that must be equal; else the first."""
    return next((e for e in extents if isinstance(e, int)), extents[0])


def _surrounded(x: Array, added: Sequence[tuple[int, int]], value: Array | None) -> Array:
    """The array surrounded by ``value``, or zeros (empty strings)."""
    fill = ("" if x.dtype == object else 0) if value is None else value.reshape(())
    dims = [n + before + after for n, (before, after) in zip(x.shape, added, strict=True)]
    result = np.full(dims, fill, x.dtype)
    result[tuple(slice(b, b + n) for n, (b, _) in zip(x.shape, added, strict=True))] = x
    return result


def _fill_ends(x: Array, mode: str, before: int, after: int) -> None:
    """Fills the first and the last rows from those between, by the mode."""
    extent = len(x) - before - after
    if extent == 0 and len(x):
        raise EvaluationError(f"pad: an axis of no elements has none to {mode}")
    for start, stop in ((-before, 0), (extent, extent + after)):
        if start < stop:
            places = np.arange(start, stop)
            x[start + before : stop + before] = x[before + _source(mode, places, extent)]


def _source(mode: str, places: Array, extent: int) -> Array:
    """The index, of ``extent``, of the element at each place before, among or after them."""
    last = extent - 1
    if mode == "edge":
        return places.clip(0, last)
    if mode == "wrap":
        return places % extent
    return last - abs(places % (2 * last) - last) if last else places * 0
