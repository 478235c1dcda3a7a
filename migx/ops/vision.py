"""Operations on images [N, C, ...] that sample them between elements, or in regions.

Weights and sums are made in f32, or in f64 for images of it, and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from migx.dim import Extent, may_equal
from migx.dim import product as product_of
from migx.errors import EvaluationError, ShapeError
from migx.op import Array, Modules, Op, Operation, Shapes
from migx.ops._numeric import FLOAT, NUMBER, expect_kind
from migx.ops._rules import expect, expect_same_type, no_warnings, rounded, wide
from migx.ops._windows import expect_spatial, split, taps
from migx.ops.indexing import ramp
from migx.ops.linear import Convolution
from migx.shape import Shape

MODES = ("linear", "nearest", "cubic")
PADDINGS = ("zeros", "border", "reflection")
Tap = tuple[Array, Array]
"""The index of an element along one axis, and its weight."""


class GridSample(Op):
    """Images sampled at a grid [N, ..., d] of points; each axis of the image goes from -1 to 1.

    A point gives its coordinates from the last axis on. With ``align_corners`` -1 and 1 are the
    centres of the outermost elements, else their outer edges. ``padding_mode`` says what is
    outside: zeros, the border, or its reflection. ONNX GridSample-20.
    """

    mode: str = "linear"
    padding_mode: str = "zeros"
    align_corners: bool = False

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2)
        x, grid = shapes
        expect_kind(self, x.dtype, NUMBER)
        expect_kind(self, grid.dtype, FLOAT)
        if self.mode not in MODES or self.padding_mode not in PADDINGS:
            raise ShapeError(
                f"{self.name} knows the modes {', '.join(MODES)} and the paddings "
                f"{', '.join(PADDINGS)}, not {self.mode!r} and {self.padding_mode!r}"
            )
        fits = x.rank > 2 and grid.rank == x.rank and may_equal(grid.dims[-1], x.rank - 2)
        if not fits or not may_equal(x.dims[0], grid.dims[0]):
            raise ShapeError(
                f"{self.name} needs [N, C, ...] and a grid [N, ..., axes], "
                f"got {x.text} and {grid.text}"
            )
        return Shape(x.dtype, (*x.dims[:2], *grid.dims[1:-1]))

    def compute(self, x: Array, grid: Array) -> Array:
        data, axes = wide(x), []
        data = data.astype(np.float32) if data.dtype.kind in "iu" else data
        for i, extent in enumerate(x.shape[2:]):
            at = wide(grid)[..., -1 - i].reshape(len(x), math.prod(grid.shape[1:-1]))
            shift = extent - 1 if self.align_corners else extent
            place = (at + 1) / 2 * shift - (0 if self.align_corners else 0.5)
            axes.append(self._taps(place.astype(data.dtype, copy=False), extent))
        with no_warnings():
            result = sampled(data, axes)
        return rounded(result.reshape(*x.shape[:2], *grid.shape[1:-1]), x)

    def _taps(self, place: Array, extent: int) -> list[Tap]:
        place = np.rint(place) if self.mode == "nearest" else place
        edge = 0.0 if self.align_corners else -0.5
        if self.padding_mode == "reflection":
            place = _reflected(place, edge, extent - 1 - edge)
        found = _interpolation(self.mode, place)
        if self.padding_mode == "zeros":
            return _inside(found, extent)
        made = []
        for index, weight in found:
            if self.padding_mode == "reflection":
                turned = np.trunc(_reflected(index, edge, extent - 1 - edge))
                index = np.where((index >= 0) & (index < extent), index, turned)
            made.append((np.clip(index, 0, extent - 1).astype(np.int64), weight))
        return made


def _inside(found: Iterable[Tap], extent: int) -> list[Tap]:
    """Taps that are elements of the image; those outside it have weight 0."""
    made = []
    for index, weight in found:
        inside = (index >= 0) & (index < extent)
        made.append((np.clip(index, 0, extent - 1).astype(np.int64), np.where(inside, weight, 0)))
    return made


def _interpolation(mode: str, place: Array) -> Iterator[Tap]:
    """The elements around a coordinate, inside the image or not, and their weights."""
    if mode == "nearest":
        yield np.where(np.isfinite(place), place, -1), np.ones_like(place)
        return
    place = np.where(np.isfinite(place), place, -10)
    first = np.floor(place)
    part = place - first
    if mode == "linear":
        yield first, 1 - part
        yield first + 1, part
        return
    for step in range(-1, 3):
        yield first + step, _cubic(np.abs(part - step))


def _cubic(distance: Array, a: float = -0.75) -> Array:
    """The weight of an element at a distance below 2, by Keys' convolution."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, far)


def _reflected(place: Array, low: float, high: float) -> Array:
    """Coordinates reflected at two bounds until they lie between them."""
    span = high - low
    if span <= 0:
        return np.zeros_like(place)
    folded = np.fmod(np.abs(place - low), 2 * span)
    folded = np.where(folded > span, 2 * span - folded, folded) + low
    return np.where((place >= low) & (place <= high), place, folded)


def sampled(x: Array, axes: Sequence[Sequence[Tap]]) -> Array:
    """The images sampled at places: [N, C, places], by the taps of each axis, all [N, places]."""
    rows = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
    total = np.zeros((*x.shape[:2], axes[0][0][0].shape[1]), x.dtype)
    for chosen in product(*axes):
        at, weight = np.zeros((), np.int64), np.ones((), x.dtype)
        for extent, (index, factor) in zip(x.shape[2:], chosen, strict=True):
            at, weight = at * extent + index, weight * factor
        total += np.take_along_axis(rows, at[:, None], 2) * weight[:, None]
    return total


class DeformableConvolution(Op):
    """A convolution that reads each tap at an offset of its own: x, w, offsets, and an optional
    mask. ONNX DeformConv-22 without bias.

    Offsets are [N, offset_group * taps * axes, windows...], the mask [N, offset_group * taps,
    windows...]. The other attributes are those of ``convolution``.
    """

    padding: tuple[int, ...] = (0, 0, 0, 0)
    stride: tuple[int, ...] = (1, 1)
    dilation: tuple[int, ...] = (1, 1)
    group: int = 1
    offset_group: int = 1

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 3, 4)
        expect_kind(self, expect_same_type(self, shapes), FLOAT)
        plain = Convolution(self.padding, self.stride, self.dilation, self.group)
        result = plain.compute_shape(shapes[:2])
        x, w = shapes[:2]
        count = product_of(w.dims[2:]) * self.offset_group
        for shape, each in zip(shapes[2:], (x.rank - 2, 1), strict=False):
            wanted = Shape(x.dtype, (x.dims[0], count * each, *result.dims[2:]))
            if not shape.may_match(wanted):
                raise ShapeError(f"{self.name} needs offsets or a mask {wanted}, got {shape.text}")
        return result

    def compute(self, x: Array, w: Array, offset: Array, mask: Array | None = None) -> Array:
        data, kernels, images = wide(x), wide(w), len(x) * self.offset_group
        lengths, counts = w.shape[2:], offset.shape[2:]
        apart = wide(offset).reshape(images, *lengths, len(lengths), *counts)
        begins, _ = split(self.padding)
        axes = []
        for i, extent in enumerate(x.shape[2:]):
            tap = ramp(lengths[i], i, 2 * len(lengths)) * self.dilation[i]
            window = ramp(counts[i], len(lengths) + i, 2 * len(lengths)) * self.stride[i]
            place = apart.take(i, 1 + len(lengths)) + (tap + window - begins[i])
            axes.append(_inside(_interpolation("linear", place.reshape(images, -1)), extent))
        with no_warnings():
            grouped = data.reshape(images, x.shape[1] // self.offset_group, *x.shape[2:])
            columns = sampled(grouped, axes)
            if mask is not None:
                columns = columns * wide(mask).reshape(images, 1, -1)
            depth = math.prod(w.shape[1:])
            columns = columns.reshape(len(x), self.group, depth, math.prod(counts))
            result = kernels.reshape(self.group, len(w) // self.group, depth) @ columns
        return rounded(result.reshape(len(x), len(w), *counts), x)


class RoiAlign(Op):
    """Regions of images as [regions, C, ...dims]: the mean, or greatest, of samples in each bin.

    Inputs are x [N, C, H, W], regions [n, 4] of x, y, x, y, times ``spatial_scale``, and the image
    of each. ``sampling_ratio`` samples are taken along each side of a bin; 0 is as many as it has
    elements. With ``half_pixel`` places are shifted by half an element, and regions may be smaller
    than one. ONNX RoiAlign-22.
    """

    dims: tuple[int, int] = (1, 1)
    mode: str = "avg"
    sampling_ratio: int = 0
    spatial_scale: float = 1.0
    half_pixel: bool = True

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 3)
        expect_kind(self, expect_same_type(self, shapes[:2]), FLOAT)
        if self.mode not in ("avg", "max"):
            raise ShapeError(f"{self.name} modes are avg and max, not {self.mode!r}")
        x, regions, images = shapes
        _expect_regions(self, x, regions, 4)
        if images.rank != 1 or not may_equal(images.dims[0], regions.dims[0]):
            raise ShapeError(f"{self.name} needs an image for each region, got {images.text}")
        return Shape(x.dtype, (regions.dims[0], x.dims[1], *self.dims))

    def compute(self, x: Array, regions: Array, images: Array) -> Array:
        data = wide(x)
        scaled = wide(regions) * self.spatial_scale - (0.5 if self.half_pixel else 0.0)
        if not np.isfinite(scaled).all():
            raise EvaluationError(f"{self.name}: a corner of a region is not finite")
        result = np.empty((len(regions), x.shape[1], *self.dims), data.dtype)
        for i, (region, image) in enumerate(zip(scaled, images.tolist(), strict=True)):
            if not 0 <= image < len(x):
                raise EvaluationError(f"{self.name}: region {i} is of image {image} of {len(x)}")
            sides = [
                self._samples(
                    float(region[1 - axis]), float(region[3 - axis]), axis, x.shape[2 + axis]
                )
                for axis in (0, 1)
            ]
            result[i] = self._combined(data[image], sides)
        return rounded(result, x)

    def _samples(self, low: float, high: float, axis: int, extent: int) -> tuple[Array, Array]:
        """Neighbours [2, bins, samples] along an axis, and their weights."""
        size = high - low if self.half_pixel else max(high - low, 1.0)
        step, bins = size / self.dims[axis], np.arange(self.dims[axis])[:, None]
        count = self.sampling_ratio or max(math.ceil(step), 1)
        place = low + bins * step + (np.arange(count) + 0.5) * step / count
        seen = (place >= -1) & (place <= extent)
        place = np.clip(place, 0, extent - 1)
        first = np.minimum(np.floor(place).astype(np.int64), max(extent - 2, 0))
        part = place - first
        index = np.stack([first, np.minimum(first + 1, extent - 1)])
        return index, np.stack([(1 - part) * seen, part * seen])

    def _combined(self, image: Array, sides: Sequence[tuple[Array, Array]]) -> Array:
        (rows, of_rows), (columns, of_columns) = sides
        # The samples of a bin stand before the bins of a row, where numpy reduces them fast.
        corners = [
            (image[:, rows[i]] * of_rows[i][:, :, None]).take(columns[j].T, -1) * of_columns[j].T
            for i, j in product(range(2), range(2))
        ]
        if self.mode == "avg":
            return np.asarray(sum(corners).mean((2, 3)))
        return np.asarray(np.max([corner.max((2, 3)) for corner in corners], 0))


class MaxRoiPool(Op):
    """The greatest of each bin of regions [n, 5] of image, x, y, x, y: [n, C, ...dims].

    Corners, times ``spatial_scale``, are rounded and belong to the region. An empty bin is 0. ONNX
    MaxRoiPool-22.
    """

    dims: tuple[int, int] = (1, 1)
    spatial_scale: float = 1.0

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2)
        x, regions = shapes
        expect_kind(self, expect_same_type(self, shapes), FLOAT)
        _expect_regions(self, x, regions, 5)
        return Shape(x.dtype, (regions.dims[0], x.dims[1], *self.dims))

    def compute(self, x: Array, regions: Array) -> Array:
        result = np.zeros((len(regions), x.shape[1], *self.dims), x.dtype)
        for i, region in enumerate(wide(regions)):
            image = int(region[0])
            if not 0 <= image < len(x):
                raise EvaluationError(f"{self.name}: region {i} is of image {image} of {len(x)}")
            left, top, right, bottom = (
                math.floor(float(v) * self.spatial_scale + 0.5) for v in region[1:]
            )
            rows = _bins(top, bottom, self.dims[0], x.shape[2])
            columns = _bins(left, right, self.dims[1], x.shape[3])
            for (r, row), (c, column) in product(enumerate(rows), enumerate(columns)):
                part = x[image, :, row, column]
                if part[0].size:
                    result[i, :, r, c] = part.max((1, 2))
        return result


def _bins(low: int, high: int, count: int, extent: int) -> list[slice]:
    """The elements of an axis in each bin of a region."""
    size = max(high - low + 1, 1) / count
    edges = [(math.floor(i * size) + low, math.ceil((i + 1) * size) + low) for i in range(count)]
    return [slice(min(max(a, 0), extent), min(max(b, 0), extent)) for a, b in edges]


def _expect_regions(op: Operation, x: Shape, regions: Shape, width: int) -> None:
    if x.rank != 4 or regions.rank != 2 or not may_equal(regions.dims[1], width):
        raise ShapeError(
            f"{op.name} needs [N, C, H, W] and regions [n, {width}], got {x.text}, {regions.text}"
        )


class Col2im(Op):
    """Columns [N, C * taps, windows] summed where windows overlap: [N, C, ...dims]. ONNX Col2Im-18.

    The second and third input are the dims of the image and of the windows; ``dims`` are those of
    the result from C on.
    """

    dims: tuple[Extent, ...]
    padding: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 3)
        x = shapes[0]
        expect_kind(self, x.dtype, NUMBER)
        if x.rank != 3:
            raise ShapeError(f"{self.name} needs [N, C * window, windows], got {x.text}")
        result = Shape(x.dtype, (x.dims[0], *self.dims))
        spatial = expect_spatial(self, result, self.padding, self.stride, self.dilation)
        if any(s.rank != 1 or not may_equal(s.dims[0], spatial) for s in shapes[1:]):
            raise ShapeError(
                f"{self.name} takes {spatial} sizes of the image and of a window, got "
                f"{shapes[1].text} and {shapes[2].text}"
            )
        return result

    def compute(self, x: Array, image: Array, block: Array) -> Array:
        (begins, ends), lengths = split(self.padding), block.tolist()
        whole = [b + d + e for b, d, e in zip(begins, image.tolist(), ends, strict=True)]
        axes = zip(whole, lengths, self.dilation, self.stride, strict=True)
        counts = [(d - (k - 1) * dilation - 1) // stride + 1 for d, k, dilation, stride in axes]
        size = math.prod(lengths)
        fits = min(lengths) > 0 and min(counts) >= 0 and x.shape[1] % size == 0
        if not fits or x.shape[2] != math.prod(counts):
            raise EvaluationError(
                f"{self.name}: columns {list(x.shape)} do not come from windows {lengths} of "
                f"{image.tolist()}, of which there are {counts}"
            )
        columns = wide(x).reshape(len(x), -1, size, *counts)
        result = np.zeros((*columns.shape[:2], *whole), columns.dtype)
        for number, at in enumerate(product(*map(range, lengths))):
            starts = [i * d for i, d in zip(at, self.dilation, strict=True)]
            result[taps(starts, counts, self.stride)] += columns[:, :, number]
        kept: list[Any] = [slice(b, d - e) for b, d, e in zip(begins, whole, ends, strict=True)]
        return rounded(np.ascontiguousarray(result[(..., *kept)]), x)
