"""Reductions over axes, which keep one element, and operations along one axis."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from migx.argument import Argument
from migx.dim import Dim, Extent, bounds
from migx.errors import EvaluationError, ShapeError
from migx.op import Arguments, Array, Modules, Op, Shapes, Traits
from migx.ops._numeric import (
    FLOAT,
    LOGICAL,
    NUMBER,
    ORDERED,
    Kinds,
    expect_kind,
    highest,
    lowest,
    quotient,
)
from migx.ops._rules import expect, expect_axis, expect_single, no_warnings, rounded, wide
from migx.shape import I64, Shape


class Reduce(Op, abstract=True):
    """One input; the result keeps its type and rank, and has one element on each of ``axes``."""

    traits = Traits(reduction=True)
    kinds: ClassVar[Kinds] = NUMBER
    ufunc: ClassVar[np.ufunc]
    axes: tuple[int, ...]

    def start(self, dtype: np.dtype[Any]) -> Any:
        """The initial value of a reduction of a type: the result for no elements."""
        return self.ufunc.identity

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        (shape,) = shapes
        expect_kind(self, shape.dtype, self.kinds)
        for axis in self.axes:
            expect_axis(self, axis, shape.rank)
        if len(set(self.axes)) < len(self.axes):
            raise ShapeError(f"{self.name}: each axis once, got {self.axes}")
        return Shape(shape.dtype, [1 if i in self.axes else d for i, d in enumerate(shape.dims)])

    def compute(self, x: Array) -> Array:
        with no_warnings():
            return rounded(self.of(wide(x)), x)

    def of(self, x: Array) -> Array:
        """The meaning, on an array of integers or of floats of at least 32 bits; of an ``Extreme``,
        of any type.
        """
        start = self.start(x.dtype)
        folded: Array = self.ufunc.reduce(x, self.axes, x.dtype, keepdims=True, initial=start)
        return folded


class ReduceSum(Reduce):
    """The sum; integers wrap around."""

    ufunc = np.add


class ReduceMean(Reduce):
    """The mean; of integers, truncated toward zero."""

    ufunc = np.add

    def of(self, x: Array) -> Array:
        count = math.prod(x.shape[axis] for axis in self.axes)
        if x.dtype.kind not in "iu":
            return np.asarray(super().of(x) / count)
        total = np.asarray(np.sum(x, self.axes, keepdims=True))
        return quotient(total, np.asarray(count, total.dtype))


class Extreme(Reduce, abstract=True):
    """The greatest or least, which is exact in any type."""

    kinds = ORDERED

    def compute(self, x: Array) -> Array:
        with no_warnings():
            return self.of(x)


class ReduceMax(Extreme):
    """The greatest; NaN if there is one, and the least value of the type for no elements."""

    ufunc = np.maximum

    def start(self, dtype: np.dtype[Any]) -> Any:
        return lowest(dtype)


class ReduceMin(Extreme):
    """The least; NaN if there is one, and the greatest value of the type for no elements."""

    ufunc = np.minimum

    def start(self, dtype: np.dtype[Any]) -> Any:
        return highest(dtype)


class ReduceProd(Reduce):
    """The product; integers wrap around."""

    ufunc = np.multiply


class ReduceAll(Reduce):
    """Whether all are True."""

    kinds = LOGICAL
    ufunc = np.logical_and


class ReduceAny(Reduce):
    """Whether any is True."""

    kinds = LOGICAL
    ufunc = np.logical_or


REDUCTIONS = (ReduceAll, ReduceAny, ReduceMax, ReduceMean, ReduceMin, ReduceProd, ReduceSum)
"""Those that rules know and kernels compute by their ufunc; any other ``Reduce`` has no kernel."""


class Argmax(Op):
    """The index of the greatest along an axis, as i64; the first or last of equals. ONNX ArgMax."""

    axis: int
    select_last_index: bool = False

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        (shape,) = shapes
        expect_kind(self, shape.dtype, ORDERED)
        expect_axis(self, self.axis, shape.rank)
        if shape.dims[self.axis] == 0:
            raise ShapeError(f"{self.name} needs elements on axis {self.axis}, got {shape.text}")
        return Shape(I64, [1 if i == self.axis else d for i, d in enumerate(shape.dims)])

    def compute(self, x: Array) -> Array:
        x = wide(x)
        if not self.select_last_index:
            return self.of(x)
        return np.asarray(x.shape[self.axis] - 1 - self.of(np.flip(x, self.axis)))

    def of(self, x: Array) -> Array:
        """The index of the first extreme."""
        return np.asarray(np.argmax(x, self.axis, keepdims=True))


class Argmin(Argmax):
    """The index of the least along an axis, as i64; the first or last of equals. ONNX ArgMin."""

    def of(self, x: Array) -> Array:
        return np.asarray(np.argmin(x, self.axis, keepdims=True))


class Softmax(Op):
    """exp(x) over its sum along an axis. ONNX Softmax-13."""

    axis: int

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        expect_kind(self, shapes[0].dtype, FLOAT)
        expect_axis(self, self.axis, shapes[0].rank)
        return shapes[0].as_standard()

    def compute(self, x: Array) -> Array:
        with no_warnings():
            return rounded(self.of(self.shifted(wide(x))), x)

    def shifted(self, x: Array) -> Array:
        """The array less its maximum: exp cannot overflow, and softmax does not change."""
        shifted: Array = x - np.max(x, self.axis, keepdims=True, initial=-np.inf)
        return shifted

    def of(self, shifted: Array) -> Array:
        """The meaning, on the result of ``shifted``, which may be overwritten."""
        np.exp(shifted, out=shifted)
        shifted /= np.sum(shifted, self.axis, keepdims=True)
        return shifted


class Logsoftmax(Softmax):
    """The logarithm of softmax. ONNX LogSoftmax-13."""

    def of(self, shifted: Array) -> Array:
        shifted -= np.log(np.sum(np.exp(shifted), self.axis, keepdims=True))
        return shifted


class PrefixScan(Op, abstract=True):
    """The running result of a ufunc along an axis.

    Each result counts its own element unless ``exclusive``; ``reverse`` runs from the end.
    """

    ufunc: ClassVar[np.ufunc]
    axis: int
    exclusive: bool = False
    reverse: bool = False

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        expect_kind(self, shapes[0].dtype, NUMBER)
        expect_axis(self, self.axis, shapes[0].rank)
        return shapes[0].as_standard()

    def compute(self, x: Array) -> Array:
        turn = slice(None, None, -1 if self.reverse else 1)
        with no_warnings():
            along = np.moveaxis(wide(x), self.axis, 0)[turn]
            total = np.full_like(along, self.ufunc.identity)
            first = int(self.exclusive)
            self.ufunc.accumulate(along[: len(along) - first], 0, along.dtype, total[first:])
            total = np.moveaxis(total[turn], 0, self.axis)
            return rounded(np.ascontiguousarray(total), x)


class PrefixScanSum(PrefixScan):
    """The running sum along an axis. ONNX CumSum.

    Each result counts its own element unless ``exclusive``; ``reverse`` runs from the end.
    """

    ufunc = np.add


class PrefixScanProd(PrefixScan):
    """The running product along an axis. ONNX CumProd.

    Each result counts its own element unless ``exclusive``; ``reverse`` runs from the end.
    """

    ufunc = np.multiply


class Topk(Op):
    """The k greatest (or least) along an axis and where they are: a tuple of values and i64.

    The result is always sorted, best first; among equals the lower index comes first; NaN counts as
    greatest. A second input, i64 of one element, gives k at run time. ONNX TopK.
    """

    k: Extent
    axis: int
    largest: bool = True
    sorted: bool = True

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1, 2)
        shape = shapes[0]
        expect_kind(self, shape.dtype, NUMBER)
        extent = shape.dims[expect_axis(self, self.axis, shape.rank)]
        if bounds(extent - self.k)[1] < 0:
            raise ShapeError(
                f"topk: k = {self.k} is more than axis {self.axis} of {shape.text} has"
            )
        expect_single(self, "a k", shapes[1:])
        dims = [self.k if i == self.axis else d for i, d in enumerate(shape.dims)]
        return Shape.tuple(Shape(shape.dtype, dims), Shape(I64, dims))

    def compute(self, arguments: Arguments) -> Argument:
        x = arguments[0].array
        k = int(arguments[1].array.item()) if isinstance(self.k, Dim) else self.k
        if not 0 <= k <= x.shape[self.axis]:
            raise EvaluationError(
                f"topk: k = {k} of axis {self.axis}, which has {x.shape[self.axis]} elements"
            )
        indices = self._order(wide(x))[(slice(None),) * self.axis + (slice(k),)]
        values = np.take_along_axis(x, indices, self.axis)
        return Argument.tuple([Argument.of(values), Argument.of(indices)])

    def _order(self, x: Array) -> Array:
        if not self.largest:
            return np.argsort(x, self.axis, kind="stable")
        # A stable sort of the reversed axis, read backwards, descends and keeps equals in order.
        rising = np.argsort(np.flip(x, self.axis), self.axis, kind="stable")
        return np.asarray(x.shape[self.axis] - 1 - np.flip(rising, self.axis))
