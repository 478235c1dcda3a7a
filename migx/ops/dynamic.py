"""Operations on tensors that take at run time what their static forms have as attributes.

Their results' dims are symbols of their own, bound when they are computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from migx import op as operations
from migx.dim import Extent
from migx.errors import EvaluationError, ShapeError
from migx.op import Array, Modules, Op, Shapes
from migx.ops._rules import expect, expect_same_type, expect_single
from migx.ops.layout import PAD_MODES, Pad, expect_vectors
from migx.ops.resize import Resize
from migx.shape import F64, DType, Shape


class DynamicTranspose(Op):
    """The axes in the order the second input names: a permutation of them, as integers.

    ``out_lens`` are the dims of the result.
    """

    out_lens: tuple[Extent, ...]

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2)
        dtype = expect_same_type(self, shapes[:1])
        expect_vectors(self, shapes[1:], shapes[0].rank)
        if len(self.out_lens) != shapes[0].rank:
            raise ShapeError(f"{self.name}: {shapes[0].text} cannot get dims {list(self.out_lens)}")
        return Shape(dtype, self.out_lens)

    def compute(self, x: Array, permutation: Array) -> Array:
        order = permutation.tolist()
        if sorted(order) != list(range(x.ndim)):
            raise EvaluationError(f"{self.name}: {order} does not permute {x.ndim} axes")
        return np.ascontiguousarray(x.transpose(order)) if order else x


class DynamicPad(Op):
    """The tensor with elements added around it, as many as the second input says.

    The second input and ``mode`` are as for ``pad``; a third input of one element is the padding
    value. ``out_lens`` are the dims of the result (ONNX Pad-19).
    """

    out_lens: tuple[Extent, ...]
    mode: str = "constant"

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2, 3)
        x, pads, *value = shapes
        dtype = expect_same_type(self, [x, *value])
        expect_vectors(self, [pads], 2 * x.rank)
        if self.mode not in PAD_MODES:
            raise ShapeError(f"{self.name} knows {', '.join(PAD_MODES)}, not {self.mode!r}")
        expect_single(self, "a value to pad with", value)
        if len(self.out_lens) != x.rank:
            raise ShapeError(f"{self.name}: {x.text} cannot get dims {list(self.out_lens)}")
        return Shape(dtype, self.out_lens)

    def compute(self, x: Array, pads: Array, value: Array | None = None) -> Array:
        op = Pad(tuple(pads.tolist()), self.mode)
        op.compute_shape([Shape(DType.of(x.dtype), x.shape)])
        return op.compute(x, value)


class DynamicResize(Resize):
    """``resize`` whose sizes, scales and, for ``tf_crop_and_resize``, region are inputs.

    Inputs are x, the sizes as integers, the scales and, where given, the region: f64, one number
    (of the region two) for each axis. The attribute ``sizes`` holds the dims of the result;
    ``scales`` and ``roi`` stay empty.
    """

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 3, 4)
        x, sizes, *numbers = shapes
        expect_vectors(self, [sizes], x.rank)
        for given, count in zip(numbers, (x.rank, 2 * x.rank), strict=False):
            if given.dtype is not F64 or not given.may_match(Shape(F64, (count,))):
                raise ShapeError(f"{self.name} takes {count} numbers as f64, got {given.text}")
        return self.told(self.sizes, (1.0,) * x.rank, (0.0,) * 2 * x.rank).compute_shape([x])

    def compute(self, x: Array, *operands: Array) -> Array:
        sizes, scales, *roi = (tuple(operand.tolist()) for operand in operands)
        op = self.told(sizes, scales, *roi)
        op.compute_shape([Shape(DType.of(x.dtype), x.shape)])
        return op.compute(x)

    def told(self, sizes: Any, scales: Any, roi: Any = ()) -> Resize:
        """The static form, for known values of the inputs."""
        given = {**operations.attributes(self), "sizes": sizes, "scales": scales, "roi": roi}
        return Resize(**given)
