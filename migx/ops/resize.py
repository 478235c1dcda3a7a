"""Resampling of an array along its axes, one after another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from migx.dim import Extent, bounds
from migx.errors import ShapeError
from migx.op import Array, Modules, Op, Shapes
from migx.ops._numeric import ANY, NUMBER, expect_kind, highest, lowest
from migx.ops._rules import expect, no_warnings, rounded, wide
from migx.shape import Shape

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)
ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


class Resize(Op):
    """x resampled to the dims ``sizes``, one for each axis. ONNX Resize-10 to 19.

    ``mode`` is ``nearest``, ``linear`` or ``cubic``. ``scales``, one for each axis, are output
    over input where they are given, else ``sizes`` over the dims of x. ``antialias`` widens the
    kernel of a linear or cubic axis that shrinks. ``roi``, the begins and then the ends as parts of
    each axis, and ``extrapolation_value`` are for ``tf_crop_and_resize``. Integers are truncated.
    """

    sizes: tuple[Extent, ...]
    scales: tuple[float, ...] = ()
    mode: str = "nearest"
    coordinate_transformation_mode: str = "half_pixel"
    nearest_mode: str = "round_prefer_floor"
    cubic_coeff_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation_value: float = 0.0
    roi: tuple[float, ...] = ()

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        (x,) = shapes
        expect_kind(self, x.dtype, ANY if self.mode == "nearest" else NUMBER)
        self._expect_one_of("mode", ("nearest", "linear", "cubic"))
        self._expect_one_of("coordinate_transformation_mode", COORDINATES)
        self._expect_one_of("nearest_mode", tuple(ROUNDINGS))
        crops = self.coordinate_transformation_mode == "tf_crop_and_resize"
        for name, wanted in (
            ("sizes", (x.rank,)),
            ("scales", (0, x.rank)),
            ("roi", (2 * x.rank,) if crops else (0, 2 * x.rank)),
        ):
            given = getattr(self, name)
            if len(given) not in wanted:
                counts = " or ".join(map(str, wanted))
                raise ShapeError(f"resize of {x.text}: {name} needs {counts} numbers, got {given}")
        for axis, (length, size) in enumerate(zip(x.dims, self.sizes, strict=True)):
            if length == 0 and bounds(size)[0] > 0:
                raise ShapeError(
                    f"resize: axis {axis} of {x.text} has no elements to make {size} of"
                )
        return Shape(x.dtype, self.sizes)

    def changes(self, axis: int, length: Extent) -> bool:
        """Whether an axis of this length may change."""
        if self.coordinate_transformation_mode in ("tf_half_pixel_for_nn", "tf_crop_and_resize"):
            return True
        return length != self.sizes[axis] or (bool(self.scales) and self.scales[axis] != 1)

    def _expect_one_of(self, attribute: str, known: tuple[str, ...]) -> None:
        given = getattr(self, attribute)
        if given not in known:
            raise ShapeError(f"resize: {attribute} is one of {', '.join(known)}, not {given!r}")

    def compute(self, x: Array) -> Array:
        result = x if self.mode == "nearest" else _as_float(x)
        with no_warnings():
            for axis in reversed(range(x.ndim)):
                result = _resampled(self, axis, result)
            return _truncated(result, x)


def _resampled(op: Resize, axis: int, x: Array) -> Array:
    """The array with one axis resampled."""
    length, size = x.shape[axis], int(op.sizes[axis])
    if length == 0:
        return x
    scale = op.scales[axis] if op.scales else size / length
    at = _coordinates(op, axis, length, size, scale)
    if size == length and np.array_equal(at, np.arange(size)):
        return x
    if op.mode == "nearest":
        result: Array = np.take(x, _nearest(op, axis, at, length), axis)
    else:
        result = _interpolated(op, axis, x, at, min(1.0, scale) if op.antialias else 1.0)
    if op.coordinate_transformation_mode == "tf_crop_and_resize":
        outside = _along(axis, (at < 0) | (at > length - 1), x)
        result = np.where(outside, x.dtype.type(op.extrapolation_value), result)
    return result


def nearest_places(op: Resize, axis: int, length: int) -> Array:
    """The index, of ``length``, that each element of a nearest result reads."""
    size = op.sizes[axis]
    assert isinstance(size, int)
    scale = op.scales[axis] if op.scales else size / length
    return _nearest(op, axis, _coordinates(op, axis, length, size, scale), length)


def is_rounded(op: Resize, axis: int) -> bool:
    """Whether the scale or the region of an axis is rounded, so that coordinates are accurate to
    f32 only: 6 / 1.2 is 5 then, though the f32 nearest 1.2 is slightly more.
    """
    if op.coordinate_transformation_mode == "tf_crop_and_resize":
        return True
    return bool(op.scales) and float(op.scales[axis]).as_integer_ratio()[1] > 1 << 16


def _nearest(op: Resize, axis: int, at: Array, length: int) -> Array:
    places = at.astype(np.float32) if is_rounded(op, axis) else at
    return ROUNDINGS[op.nearest_mode](places).clip(0, length - 1).astype(np.intp)


def _coordinates(op: Resize, axis: int, length: int, size: int, scale: float) -> Array:
    """The coordinate of each element of the result on the axis of x. The axis is scaled to
    ``width``, which need not be an integer, and cut to ``size``.
    """
    index, width = np.arange(size, dtype=np.float64), scale * length
    match op.coordinate_transformation_mode:
        case "asymmetric":
            return index / scale
        case "tf_half_pixel_for_nn":
            return (index + 0.5) / scale
        case "align_corners":
            return index * (length - 1) / (width - 1) if width > 1 else index
        case "tf_crop_and_resize":
            begin, end = op.roi[axis], op.roi[axis + len(op.roi) // 2]
            if width <= 1:
                return index + (begin + end) / 2 * (length - 1)
            return index * (end - begin) * (length - 1) / (width - 1) + begin * (length - 1)
        case "pytorch_half_pixel" if size == 1:
            return index
        case "half_pixel_symmetric":
            return length / 2 * (1 - size / width) + (index + 0.5) / scale - 0.5
        case _:
            return (index + 0.5) / scale - 0.5


def _interpolated(op: Resize, axis: int, x: Array, at: Array, shrink: float) -> Array:
    """A sum over the taps of the kernel, each gathered from the axis, extended by its edge
    elements.

    ``shrink``, at most 1, widens the kernel.
    """
    last, linear = x.shape[axis] - 1, op.mode == "linear"
    reach = int(np.ceil((1 if linear else 2) / shrink))
    index = np.floor(at)[:, None] + np.arange(1 - reach, reach + 1)
    distance = np.abs(index - at[:, None]) * shrink
    weights = np.maximum(1 - distance, 0) if linear else _cubic(distance, op.cubic_coeff_a)
    if op.exclude_outside:
        weights = np.where((index >= 0) & (index <= last), weights, 0)
    weights = (weights / weights.sum(1, keepdims=True)).astype(x.dtype)
    taps = index.clip(0, last).astype(np.intp)
    result = np.zeros((*x.shape[:axis], len(at), *x.shape[axis + 1 :]), x.dtype)
    gathered = np.empty_like(result)
    for tap, weight in zip(taps.T, weights.T, strict=True):
        np.take(x, tap, axis, gathered, mode="clip")
        gathered *= _along(axis, weight, x)
        result += gathered
    return result


def _cubic(d: Array, a: float) -> Array:
    """The kernel of R. Keys, "Cubic convolution interpolation" (1981), at a distance."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _along(axis: int, values: Array, x: Array) -> Array:
    """One value for each element of an axis, shaped to broadcast over x."""
    return values.reshape(-1, *[1] * (x.ndim - 1 - axis))


def _as_float(x: Array) -> Array:
    return x.astype(np.float64) if x.dtype.kind in "iu" else wide(x)


def _truncated(result: Array, like: Array) -> Array:
    """Rounded for floats, truncated for integers, without losing a unit to a rounding error."""
    if like.dtype.kind in "iu" and result.dtype.kind == "f":
        result = np.round(result, 6).clip(lowest(like.dtype), highest(like.dtype))
    return rounded(result, like)
