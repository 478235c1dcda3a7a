"""Distinct elements, and the determinant."""

from __future__ import annotations

import math

import numpy as np

from migx.argument import Argument
from migx.dim import Extent, may_equal
from migx.errors import ShapeError
from migx.op import Arguments, Array, Modules, Op, Shapes
from migx.ops._numeric import FLOAT, expect_kind
from migx.ops._rules import expect, expect_axis, expect_same_type, no_warnings, rounded, wide
from migx.shape import I64, Shape


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
