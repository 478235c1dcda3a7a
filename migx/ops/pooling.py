"""Pooling over windows of the spatial axes, and normalisation over neighbouring channels."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np

from migx.dim import Extent, bounds, minimum
from migx.errors import ShapeError
from migx.op import Array, Modules, Op, Shapes
from migx.ops._numeric import FLOAT, NUMBER, expect_kind, lowest
from migx.ops._rules import expect, no_warnings, rounded, wide
from migx.ops._windows import expect_spatial, padded, reach, room, split
from migx.shape import I64, Shape


class Pooling(Op):
    """The greatest, the average or the p-norm of each window of x [N, C, ...].

    ``mode`` is ``max``, ``average`` or ``lpnorm`` (of order ``lp_order``). ``padding`` is all
    begins, then all ends; it is never the greatest, and counts in averages only with
    ``count_include_pad``. ``ceil_mode`` adds a last window that starts before the end and extends
    beyond it. With the dims of x as lengths, and no padding, this is global pooling. ONNX MaxPool,
    AveragePool, LpPool.
    """

    mode: str
    lengths: tuple[Extent, ...]
    padding: tuple[Extent, ...] = (0, 0, 0, 0)
    stride: tuple[int, ...] = (1, 1)
    dilation: tuple[int, ...] = (1, 1)
    ceil_mode: bool = False
    count_include_pad: bool = False
    lp_order: int = 2

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        (x,) = shapes
        if self.mode not in ("max", "average", "lpnorm"):
            raise ShapeError(f"pooling modes are max, average and lpnorm, not {self.mode!r}")
        expect_kind(self, x.dtype, NUMBER if self.mode == "max" else FLOAT)
        spatial = expect_spatial(self, x, self.padding, self.stride, self.dilation)
        if len(self.lengths) != spatial:
            raise ShapeError(f"pooling: lengths needs {spatial} numbers, got {self.lengths}")
        if any(bounds(length)[1] < 1 for length in self.lengths):
            raise ShapeError(f"pooling: lengths are 1 or more, got {self.lengths}")
        if self.lp_order < 1:
            raise ShapeError(f"pooling: lp_order is 1 or more, got {self.lp_order}")
        return Shape(x.dtype, (*x.dims[:2], *map(self.windows, range(spatial), x.dims[2:])))

    def windows(self, i: int, extent: Extent) -> Extent:
        """The number of windows along spatial axis ``i``; for windows of one element, that of the
        elements, even 0.
        """
        begin, end = (half[i] for half in split(self.padding))
        length, dilation, stride = self.lengths[i], self.dilation[i], self.stride[i]
        over = stride - 1 if self.ceil_mode else 0
        free: Extent = extent + begin + end + over - 1
        if reach(length, dilation) != 1:
            free = room(self, extent + begin + end, length, dilation, over)
        if not self.ceil_mode:
            return free // stride + 1
        return minimum(free // stride + 1, (extent + begin - 1) // stride + 1)

    def compute(self, x: Array) -> Array:
        axes = _axes(self, x)
        with no_warnings():
            match self.mode:
                case "max":
                    result = _combined(np.maximum, wide(x), lowest(x.dtype), axes)
                case "average":
                    result = _combined(np.add, wide(x), 0, axes)
                    result /= _seen(axes, self.count_include_pad).astype(result.dtype)
                case _:
                    powers = np.abs(wide(x)) ** self.lp_order
                    result = _combined(np.add, powers, 0, axes) ** (1 / self.lp_order)
            return rounded(result, x)


class MaxPoolIndices(Pooling):
    """The index of the greatest element of each max pooling window, as i64; the first of equals.

    Indices are into the whole of x, with spatial axes row-major, or ``column_major``, the first one
    fastest. ONNX MaxPool, its second output.
    """

    column_major: bool = False

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return super().compute_shape(shapes).with_type(I64)

    def compute(self, x: Array) -> Array:
        data, axes, plane = wide(x), _axes(self, x), math.prod(x.shape[2:])
        order: Literal["F", "C"] = "F" if self.column_major else "C"
        place = np.arange(plane).reshape(x.shape[2:], order=order)
        around = [*(a.begin for a in axes), *(a.overhang for a in axes)]
        value = padded(data, around, lowest(data.dtype))
        place = np.broadcast_to(padded(place, around, -1), value.shape)
        for number, axis in reversed(list(enumerate(axes, 2))):  # so that rows break ties
            value, place = _greatest(value, place, number, axis)
        rows = np.arange(x.shape[0] * x.shape[1]) * plane
        return np.asarray(place + rows.reshape(*x.shape[:2], *[1] * len(axes)), np.int64)


class Lrn(Op):
    """x / (bias + alpha / size * s) ** beta, s the sum of x² over ``size`` channels. ONNX LRN."""

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        expect_kind(self, shapes[0].dtype, FLOAT)
        if shapes[0].rank < 2 or self.size < 1:
            raise ShapeError(f"lrn of {self.size} channels needs [N, C, ...], got {shapes[0].text}")
        return shapes[0].as_standard()

    def compute(self, x: Array) -> Array:
        data, channels = wide(x), x.shape[1]
        rest = [0] * (x.ndim - 2)
        around = (0, (self.size - 1) // 2, *rest, 0, self.size // 2, *rest)
        with no_warnings():
            squares = padded(np.square(data), around, 0)
            total = _fold(np.add, squares, 1, _Axis(channels, channels, self.size))
            return rounded(data / (self.bias + self.alpha / self.size * total) ** self.beta, x)


class _Axis(NamedTuple):
    """The windows along one axis."""

    extent: int
    windows: int
    length: int
    begin: int = 0
    end: int = 0
    stride: int = 1
    dilation: int = 1

    @property
    def overhang(self) -> int:
        """The number of elements that the windows read past the axis."""
        last = (self.windows - 1) * self.stride + int(reach(self.length, self.dilation))
        return max(self.end, last - self.begin - self.extent)


def _axes(op: Pooling, x: Array) -> list[_Axis]:
    counts = [op.windows(i, extent) for i, extent in enumerate(x.shape[2:])]
    begins, ends = split(op.padding)
    sizes = (x.shape[2:], counts, op.lengths, begins, ends, op.stride, op.dilation)
    return [_Axis(*map(int, of_axis)) for of_axis in zip(*sizes, strict=True)]


def _combined(combine: np.ufunc, x: Array, neutral: Any, axes: list[_Axis]) -> Array:
    """Each window reduced to one element, axis by axis: n * k steps instead of k ** n."""
    x = padded(x, [*(a.begin for a in axes), *(a.overhang for a in axes)], neutral)
    for number, axis in enumerate(axes, 2):
        x = _fold(combine, x, number, axis)
    return x


def _fold(combine: np.ufunc, x: Array, number: int, axis: _Axis) -> Array:
    lead = (slice(None),) * number
    if axis.windows == 1 and axis.dilation == 1:
        whole: Array = combine.reduce(
            x[(*lead, slice(axis.length))], number, x.dtype, keepdims=True
        )
        return whole
    starts = range(0, axis.length * axis.dilation, axis.dilation)
    span = (axis.windows - 1) * axis.stride + 1
    first, *others = (x[(*lead, slice(at, at + span, axis.stride))] for at in starts)
    result = first.copy()
    for tap in others:
        combine(result, tap, out=result)
    return result


def _greatest(value: Array, place: Array, number: int, axis: _Axis) -> tuple[Array, Array]:
    """The maximum of each window along an axis and its index, which is negative in the padding."""
    lead, span = (slice(None),) * number, (axis.windows - 1) * axis.stride + 1
    starts = range(0, axis.length * axis.dilation, axis.dilation)
    taps = [(*lead, slice(at, at + span, axis.stride)) for at in starts]
    best, where = value[taps[0]], place[taps[0]]
    for tap in taps[1:]:
        better = (value[tap] > best) | (where < 0)
        best, where = np.where(better, value[tap], best), np.where(better, place[tap], where)
    return best, where


def _seen(axes: list[_Axis], count_include_pad: bool) -> Array:
    """The number of elements that each window counts, with the dims of the windows."""
    result = np.ones(())
    for axis in axes:
        at = np.arange(axis.windows)[:, None] * axis.stride - axis.begin
        at = at + np.arange(axis.length) * axis.dilation
        low, high = (-axis.begin, axis.end) if count_include_pad else (0, 0)
        inside = (at >= low) & (at < axis.extent + high)
        result = result[..., None] * inside.sum(1)
    return result
