"""Between real numbers and the small integers or floats that stand for them.

``real = (quantised - zero_point) * scale``. A scale, and its zero point, holds for the whole tensor
(one element), for each index of an axis (rank 1), or for each block of ``block`` neighbours along
the axis (the rank of the tensor, ``ceil(d / block)`` long on that axis).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import ml_dtypes
import numpy as np

from migx import dim
from migx.dim import Extent
from migx.errors import ShapeError
from migx.op import Array, Modules, Op, Shapes
from migx.ops._rules import expect, expect_axis, no_warnings, rounded, wide
from migx.shape import (
    F8E4M3FN,
    F8E4M3FNUZ,
    F8E5M2,
    F8E5M2FNUZ,
    F16,
    F32,
    I8,
    I16,
    I32,
    U8,
    U16,
    DType,
    Shape,
)

QUANTIZED = (I8, U8, I16, U16, F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ)
TARGETS = (*QUANTIZED, F32)
"""The result types of quantizelinear; pack_fp4 then rounds f32 to f4."""


class Linear(Op, abstract=True):
    """Shared by both directions: inputs x, scale and, optionally, zero point."""

    axis: int = 1
    block: int = 0

    def check(self, shapes: Shapes, quantized: DType) -> None:
        """Raises ``ShapeError`` unless scale and zero point fit input and quantised type."""
        x, scale, *zero = shapes
        if self.block < 0:
            raise ShapeError(f"{self.name}: a block is 0, for none, or more, not {self.block}")
        if not scale.dtype.is_float or scale.dtype.bits < F16.bits:
            raise ShapeError(f"{self.name} needs a scale of f16 or wider, got {scale.dtype}")
        if zero and zero[0].dtype is not quantized:
            raise ShapeError(f"{self.name} needs a {quantized} zero point, got {zero[0].dtype}")
        wanted = self._granularities(x)
        for given in (scale, *zero):
            if not any(_fits(given.dims, dims) for dims in wanted):
                raise ShapeError(
                    f"{self.name}: a scale or zero point {given} does not fit {x}: it has one "
                    f"element or dims {' or '.join(map(str, wanted[1:]))} (axis {self.axis})"
                )

    def _granularities(self, x: Shape) -> list[tuple[Extent, ...]]:
        """The dims a scale may have, those of a single element first."""
        if not self.block:
            return [(), x.dims[self.axis : self.axis + 1]]
        axis = expect_axis(self, self.axis, x.rank)
        blocks = (x.dims[axis] + self.block - 1) // self.block
        return [(), (*x.dims[:axis], blocks, *x.dims[axis + 1 :])]

    def folded(self, x: Array) -> Array:
        """The input with its axis split into blocks, if all of them are whole."""
        if not self.block or x.shape[self.axis] % self.block:
            return x
        before, after = x.shape[: self.axis], x.shape[self.axis + 1 :]
        return x.reshape(*before, x.shape[self.axis] // self.block, self.block, *after)

    def aligned(self, parameter: Array, x: Array) -> Array:
        """A scale or zero point, made to broadcast against the folded input."""
        if parameter.size == 1 or (parameter.size and not any(parameter.strides)):
            one = parameter[(0,) * parameter.ndim]
            return np.asarray(one, parameter.dtype)
        if not self.block:
            return parameter.reshape([-1 if i == self.axis else 1 for i in range(x.ndim)])
        if x.shape[self.axis] % self.block == 0:
            return np.expand_dims(parameter, self.axis + 1)
        whole = np.repeat(parameter, self.block, self.axis)
        return whole[(slice(None),) * self.axis + (slice(x.shape[self.axis]),)]


def _fits(scale: tuple[Extent, ...], dims: tuple[Extent, ...]) -> bool:
    """Whether a scale may have these dims; a scalar's are any that may hold one element."""
    if not dims:
        return all(dim.may_equal(d, 1) for d in scale)
    return len(scale) == len(dims) and all(map(dim.may_equal, scale, dims))


class QuantizeLinear(Linear):
    """saturate(round_half_even(x / scale) + zero_point) in ``to``; ONNX QuantizeLinear 21.

    The quotient is in the type of the scale, f32 for narrower ones. A float target rounds it once;
    beyond its range it gives the greatest finite value, or without ``saturate`` what the format has
    there. NaN becomes 0 in integers. Targets under 8 bits are i8, u8 or, for f4, f32 here, and are
    clipped by packing.
    """

    name = "quantizelinear"
    to: DType = U8
    saturate: bool = True

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2, 3)
        if self.to not in TARGETS:
            raise ShapeError(f"{self.name} makes {_listed(TARGETS)}, not {self.to}")
        self.check(shapes, self.to)
        x = shapes[0]
        if x.dtype is not I32 and (not x.dtype.is_float or x.dtype.bits < F16.bits):
            raise ShapeError(f"{self.name} quantises i32, f16 and wider floats, not {x.dtype}")
        return x.with_type(self.to)

    def compute(self, x: Array, scale: Array, *zero: Array) -> Array:
        scale = wide(scale)
        with no_warnings():
            wide_x = self.folded(x.astype(scale.dtype, copy=False))
            q = np.asarray(wide_x / self.aligned(scale, x))
            if not self.to.is_float:
                np.rint(q, out=q)
            if zero and (self.to.is_float or zero[0].any()):  # -0.0 + 0.0 is 0.0
                q += self.aligned(zero[0], x).astype(q.dtype)
            if self.saturate or not self.to.is_float:
                np.clip(q, *limits(self.to), out=q)
            return q.astype(self.to.numpy).reshape(x.shape)


class DequantizeLinear(Linear):
    """(x - zero_point) * scale in the type of the scale; ONNX DequantizeLinear 21.

    The difference of integers is exact; the product is made in f32, or in a wider scale's type, and
    rounded once to the scale's type.
    """

    name = "dequantizelinear"

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2, 3)
        x, scale = shapes[0], shapes[1]
        if x.dtype not in (*QUANTIZED, I32):
            raise ShapeError(f"{self.name} takes {_listed((*QUANTIZED, I32))}, not {x.dtype}")
        self.check(shapes, x.dtype)
        return x.with_type(scale.dtype)

    def compute(self, x: Array, scale: Array, *zero: Array) -> Array:
        factor = wide(scale)
        # f64 holds every difference of two i32.
        exact = np.dtype(np.float64) if x.dtype.itemsize >= 4 else factor.dtype
        difference = self.folded(x.astype(exact))
        if zero and zero[0].any():
            difference -= self.aligned(zero[0], x).astype(exact)
        y = difference.astype(factor.dtype, copy=False)
        with no_warnings():
            y *= self.aligned(factor, x)
            return rounded(y, scale).reshape(x.shape)


def _listed(types: Sequence[DType]) -> str:
    return " or ".join(map(str, types))


def limits(dtype: DType) -> tuple[float, float]:
    """The least and greatest finite value of an element type."""
    if dtype.is_float:
        finite = ml_dtypes.finfo(dtype.numpy)  # type: ignore[no-untyped-call]
        return float(finite.min), float(finite.max)
    bounds = np.iinfo(dtype.numpy)
    return bounds.min, bounds.max


@cache
def smallest(dtype: DType) -> float:
    """The smallest positive number of a float type, which is subnormal."""
    return float(ml_dtypes.finfo(dtype.numpy).smallest_subnormal)  # type: ignore[no-untyped-call]
