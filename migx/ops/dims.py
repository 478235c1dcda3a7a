"""Tensors made of dims and counts rather than of other tensors' elements."""

from __future__ import annotations

import math
import sys

import numpy as np

from migx.argument import Argument
from migx.dim import Extent
from migx.errors import EvaluationError, ShapeError
from migx.op import Arguments, Array, Modules, Op, Shapes, Traits
from migx.ops._rules import expect, expect_same_type, rounded, wide
from migx.shape import I64, DType, Shape


class DimLiteral(Op):
    """A tensor, of dims ``lens``, whose elements are extents: known once the sizes are bound."""

    traits = Traits(any_sizes=True)
    values: tuple[Extent, ...]
    lens: tuple[int, ...]
    to: DType = I64

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 0)
        if len(self.values) != math.prod(self.lens):
            raise ShapeError(f"dim_literal: {len(self.values)} values for dims {list(self.lens)}")
        return Shape(self.to, self.lens)

    def compute(self) -> Array:
        return np.array(self.values, self.to.numpy).reshape(self.lens)


class DimensionsOf(Op):
    """The dims of a tensor from axis ``start`` up to ``end``, not included, as i64."""

    start: int
    end: int

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        if not (shapes[0].dtype.is_tensor and 0 <= self.start <= self.end <= shapes[0].rank):
            raise ShapeError(
                f"dimensions_of: {shapes[0].text} has no axes {self.start} up to {self.end}"
            )
        return Shape(I64, (self.end - self.start,))

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        return Argument(shape, np.array(arguments[0].shape.dims[self.start : self.end], np.int64))


class DynamicRange(Op):
    """start, start + delta, ... up to limit, not included, of three scalars (ONNX Range-11).

    ``count`` is a symbol for their number: max(ceil((limit - start) / delta), 0).
    """

    count: Extent

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 3)
        dtype = expect_same_type(self, shapes)
        if not (dtype.is_float or dtype.is_integer) or any(s.rank for s in shapes):
            raise ShapeError(
                f"dynamic_range needs numbers of rank 0, got {', '.join(s.text for s in shapes)}"
            )
        return Shape(dtype, (self.count,))

    def compute(self, start: Array, limit: Array, delta: Array) -> Array:
        first, last, step = (wide(value).item() for value in (start, limit, delta))
        ratio = (last - first) / step if step else math.nan
        if not math.isfinite(ratio):
            raise EvaluationError(
                f"dynamic_range from {first} to {last} by {step}: "
                "needs finite limits and a step that is not 0"
            )
        count = max(math.ceil(ratio) if isinstance(step, float) else -((first - last) // step), 0)
        if count > sys.maxsize // 16:  # numpy.arange would return none for some
            raise EvaluationError(f"dynamic_range from {first} to {last} by {step} is too long")
        index = np.arange(count).astype(wide(start).dtype)
        return rounded(index * wide(delta) + wide(start), start)
