"""Products of matrices, and convolutions.

Floats under 32 bits are multiplied and summed in f32 and rounded once; integers are exact, modulo
the width of the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from migx.dim import Extent, bounds, may_equal
from migx.errors import ShapeError
from migx.op import Array, Modules, Op, Shapes
from migx.ops._numeric import FLOAT, NUMBER, exactly, expect_kind
from migx.ops._rules import expect, expect_same_dims, expect_same_type, no_warnings, rounded, wide
from migx.ops._windows import expect_spatial, padded, reach, room, split, taps
from migx.shape import I8, I32, U8, DType, Shape


class Dot(Op):
    """The matrix product [..., m, k] x [..., k, n] -> [..., m, n]; leading dims are equal."""

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2)
        x, y = shapes
        if x.rank < 2 or x.rank != y.rank or not may_equal(x.dims[-1], y.dims[-2]):
            raise ShapeError(
                f"{self.name} needs [..., m, k] and [..., k, n], got {x.text} and {y.text}"
            )
        lead = expect_same_dims(self, [s.with_dims(s.dims[:-2]) for s in shapes])
        return Shape(self.result_type(shapes), (*lead, x.dims[-2], y.dims[-1]))

    def result_type(self, shapes: Shapes) -> DType:
        """The element type of the result."""
        return expect_kind(self, expect_same_type(self, shapes), NUMBER)

    def compute(self, x: Array, y: Array) -> Array:
        return self.product(*_merged(x, y)).reshape(*x.shape[:-1], y.shape[-1])

    def product(self, x: Array, y: Array) -> Array:
        """The meaning, rounded to the type of the result."""
        if x.dtype.kind in "iu":
            return exactly(np.matmul, x, y, x.shape[-1]).astype(x.dtype, copy=False)
        with no_warnings():
            return rounded(np.matmul(wide(x), wide(y)), x)


class QuantDot(Dot):
    """The matrix product of i8 and u8 as i32. ONNX MatMulInteger without zero points."""

    def result_type(self, shapes: Shapes) -> DType:
        return _quantised(self, shapes)

    def product(self, x: Array, y: Array) -> Array:
        return exactly(np.matmul, x, y, x.shape[-1]).astype(np.int32)


def _merged(x: Array, y: Array) -> tuple[Array, Array]:
    """Two plain matrices if all products share the right one, as with broadcast weights."""
    lead = zip(y.shape[:-2], y.strides[:-2], strict=True)
    if y.ndim == 2 or not x.size or not y.size or any(s for d, s in lead if d > 1):
        return x, y
    return x.reshape(-1, x.shape[-1]), y[(0,) * (y.ndim - 2)]


def _quantised(op: Op, shapes: Shapes) -> DType:
    for shape in shapes:
        if shape.dtype not in (I8, U8):
            raise ShapeError(f"{op.name} multiplies i8 and u8, not {shape.dtype}")
    return I32


class Convolution(Op):
    """x [N, C, ...] correlated with w [O, C / group, ...]. ONNX Conv without bias.

    One, two or more spatial axes. ``padding`` is all begins, then all ends. Output channels lie
    group after group, each group reading its own share of the input channels.
    """

    padding: tuple[Extent, ...] = (0, 0, 0, 0)
    stride: tuple[int, ...] = (1, 1)
    dilation: tuple[int, ...] = (1, 1)
    group: int = 1

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2)
        x, w = shapes
        expect_spatial(self, x, self.padding, self.stride, self.dilation)
        _expect_weights(self, x, w, 1, self.group)
        if not _divides(self.group, w.dims[0]):
            raise ShapeError(f"{self.name}: {self.group} groups do not divide {w.dims[0]} channels")
        begins, ends = split(self.padding)
        extents = [d + b + e for d, b, e in zip(x.dims[2:], begins, ends, strict=True)]
        rooms = [
            room(self, extent, length, dilation)
            for extent, length, dilation in zip(extents, w.dims[2:], self.dilation, strict=True)
        ]
        dims = [free // stride + 1 for free, stride in zip(rooms, self.stride, strict=True)]
        return Shape(self.result_type(shapes), (x.dims[0], w.dims[0], *dims))

    def result_type(self, shapes: Shapes) -> DType:
        """The element type of the result."""
        return expect_kind(self, expect_same_type(self, shapes), NUMBER)

    def compute(self, x: Array, w: Array) -> Array:
        if x.dtype.kind in "iu":
            return rounded(exactly(self.convolve, x, w, math.prod(w.shape[1:])), x)
        with no_warnings():
            return rounded(self.convolve(wide(x), wide(w)), x)

    def convolve(self, x: Array, w: Array) -> Array:
        """The meaning, in the element type of both arrays."""
        x = padded(x, self.padding, 0)  # type: ignore[arg-type]
        depthwise = w.shape[1] == 1 and self.group > 1
        method = _depthwise if depthwise else _correlate
        return method(x, w, self.stride, self.dilation, self.group)


class QuantConvolution(Convolution):
    """The convolution of i8 and u8 as i32. ONNX ConvInteger without zero points."""

    def result_type(self, shapes: Shapes) -> DType:
        return _quantised(self, shapes)

    def compute(self, x: Array, w: Array) -> Array:
        return exactly(self.convolve, x, w, math.prod(w.shape[1:])).astype(np.int32)


class ConvolutionBackwards(Op):
    """The transpose of a convolution: x [N, C, ...], w [C, O / group, ...].

    Each element of x adds its multiple of a kernel to the result, ``stride`` from the next;
    ``output_padding`` adds to the end, and ``padding`` is then cut off. ONNX ConvTranspose without
    bias.
    """

    padding: tuple[Extent, ...] = (0, 0, 0, 0)
    stride: tuple[int, ...] = (1, 1)
    dilation: tuple[int, ...] = (1, 1)
    group: int = 1
    output_padding: tuple[Extent, ...] = (0, 0)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2)
        x, w = shapes
        spatial = expect_spatial(self, x, self.padding, self.stride, self.dilation)
        _expect_weights(self, x, w, 0)
        if len(self.output_padding) != spatial or not _divides(self.group, x.dims[1]):
            raise ShapeError(
                f"{self.name} needs {spatial} output_padding, got {self.output_padding}, and "
                f"groups that divide {x.dims[1]} channels, got {self.group}"
            )
        begins, ends = split(self.padding)
        whole = self._whole(x.dims[2:], w.dims[2:])
        dims = [d - b - e for d, b, e in zip(whole, begins, ends, strict=True)]
        if any(bounds(d)[1] < 0 for d in dims):
            raise ShapeError(
                f"{self.name}: padding {self.padding} cuts off more than {tuple(whole)}"
            )
        dtype = expect_kind(self, expect_same_type(self, shapes), FLOAT)
        return Shape(dtype, (x.dims[0], w.dims[1] * self.group, *dims))

    def _whole(self, dims: Sequence[Extent], lengths: Sequence[Extent]) -> list[Extent]:
        """The spatial dims before padding is cut off."""
        attributes = zip(self.stride, self.dilation, self.output_padding, strict=True)
        return [
            (extent - 1) * stride + reach(length, dilation) + more
            for extent, length, (stride, dilation, more) in zip(
                dims, lengths, attributes, strict=True
            )
        ]

    def compute(self, x: Array, w: Array) -> Array:
        like, x, w = x, wide(x), wide(w)
        counts, lengths, group = x.shape[2:], w.shape[2:], self.group
        whole = [int(d) for d in self._whole(counts, lengths)]
        result = np.zeros((len(x), w.shape[1] * group, *whole), x.dtype)
        rows = x.reshape(len(x), group, w.shape[0] // group, math.prod(counts))
        kernels = w.reshape(group, w.shape[0] // group, w.shape[1], -1).transpose(3, 0, 2, 1)
        with no_warnings():
            for kernel, at in zip(kernels, product(*map(range, lengths)), strict=True):
                starts = [i * d for i, d in zip(at, self.dilation, strict=True)]
                added = (kernel @ rows).reshape(*result.shape[:2], *counts)
                result[taps(starts, counts, self.stride)] += added
        begins, ends = split(self.padding)
        kept: list[Any] = [slice(b, d - e) for b, d, e in zip(begins, whole, ends, strict=True)]
        return rounded(np.ascontiguousarray(result[(..., *kept)]), like)


def _expect_weights(op: Op, x: Shape, w: Shape, axis: int, groups: int = 1) -> None:
    """Raises ``ShapeError`` if an axis of weights lacks the channels of a group of x."""
    if w.rank != x.rank:
        raise ShapeError(f"{op.name} needs weights of {x.rank} axes, got {w.text} for {x.text}")
    given, wanted = x.dims[1], w.dims[axis] * groups
    if not may_equal(given, wanted):
        raise ShapeError(
            f"{op.name}: weights {w.text} are for {wanted} input channels, but {x.text} has {given}"
        )


def _divides(group: int, channels: Extent) -> bool:
    return group > 0 and may_equal(channels % group, 0)


_BUFFER = 1 << 21
"""Bytes of windows copied at a time: they stay in the cache until they are multiplied."""


def _correlate(
    x: Array, w: Array, stride: Sequence[int], dilation: Sequence[int], group: int
) -> Array:
    """One matrix product for each group: kernels as rows, windows as columns.

    Some images, or some lines of one, are copied at a time. Windows of one element with stride 1
    are x itself, and nothing is copied.
    """
    spatial = w.ndim - 2
    last = range(2, 2 + spatial)
    spans = [int(reach(k, d)) for k, d in zip(w.shape[2:], dilation, strict=True)]
    steps: list[Any] = [slice(None, None, step) for step in (*stride, *dilation)]
    windows = sliding_window_view(x, spans, tuple(last))[(..., *steps)]
    windows = windows.transpose(0, 1, *(axis + spatial for axis in last), *last)
    counts, depth, each = windows.shape[2 + spatial :], math.prod(w.shape[1:]), len(w) // group
    line = math.prod(counts[1:])
    lines = max(1, _BUFFER // max(1, group * depth * line * x.itemsize))
    images, lines = max(1, lines // counts[0]), min(lines, counts[0])
    kernels = w.reshape(group, each, depth)
    every = [slice(None)] * (1 + spatial)
    result = np.empty((len(x), group, each, counts[0] * line), x.dtype)
    for n, top in product(range(0, len(x), images), range(0, counts[0], lines)):
        part = windows[(slice(n, n + images), *every, slice(top, top + lines))]
        columns = part.reshape(len(part), group, depth, part.shape[2 + spatial] * line)
        place = result[n : n + images, ..., top * line : top * line + columns.shape[-1]]
        np.matmul(kernels, columns, out=place)
    return result.reshape(len(x), len(w), *counts)


def _depthwise(
    x: Array, w: Array, stride: Sequence[int], dilation: Sequence[int], group: int
) -> Array:
    """A sum over the taps of the kernels: BLAS gains nothing where channels do not mix."""
    x = np.repeat(x, len(w) // group, axis=1) if len(w) > group else x
    geometry = zip(x.shape[2:], w.shape[2:], stride, dilation, strict=True)
    counts = [(extent - int(reach(k, d))) // s + 1 for extent, k, s, d in geometry]
    result = np.zeros((*x.shape[:2], *counts), x.dtype)
    scaled = np.empty_like(result)
    weights = w.reshape(len(w), -1).T.reshape(-1, len(w), *[1] * len(counts))
    for weight, at in zip(weights, product(*map(range, w.shape[2:])), strict=True):
        starts = [i * d for i, d in zip(at, dilation, strict=True)]
        np.multiply(x[taps(starts, counts, stride)], weight, out=scaled)
        result += scaled
    return result


class Determinant(Op):
    """The determinants of square matrices [..., n, n]. ONNX Det."""

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        (x,) = shapes
        expect_kind(self, x.dtype, FLOAT)
        if x.rank < 2 or not may_equal(x.dims[-1], x.dims[-2]):
            raise ShapeError(f"{self.name} needs square matrices [..., n, n], got {x.text}")
        return Shape(x.dtype, x.dims[:-2])

    def compute(self, x: Array) -> Array:
        with no_warnings():
            return rounded(np.linalg.det(wide(x)), x)
