"""Choosing the scales that quantise weights or activations to a few bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from migx.argument import Argument
from migx.errors import ShapeError
from migx.op import Arguments, Array, Modules, Op, Shapes
from migx.ops._rules import expect, expect_axis, no_warnings, wide
from migx.shape import F16, I2, I4, I8, U2, U4, U8, DType, Shape, integers

SHARES = tuple(n / 16 for n in range(16, 7, -1))
"""The shares of a block's range that "mse" tries."""
CLIPS = ("minmax", "mse")
"""The ways to choose a block's range."""
HELD = (I8, I4, U4, I2, U2)
"""The types that hold levels."""


class ChooseScales(Op):
    """The scales that quantise numbers to ``to``, one for each block along an axis; with the zero
    points in u8, as a pair, where ``to`` is unsigned.

    With ``clip`` "minmax" the levels cover the whole range of a block and 0. With "mse" they cover
    the share of it, from all to a half, with the least sum of squared errors. A block of zeros has
    the scale 1. Scales have the type of the weights.
    """

    to: DType = U4
    axis: int = 0
    block: int = 32
    clip: str = "minmax"

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        x, axis = shapes[0], expect_axis(self, self.axis, shapes[0].rank)
        if self.to not in HELD or self.clip not in CLIPS or self.block < 1:
            held = ", ".join(dtype.name for dtype in HELD)
            raise ShapeError(
                f"{self.name} fits blocks of 1 or more to {held} by minmax or mse, not blocks of "
                f"{self.block} to {self.to} by {self.clip}"
            )
        if not x.dtype.is_float or x.dtype.bits < F16.bits:
            raise ShapeError(f"{self.name} takes f16 and wider floats, not {x.dtype}")
        blocks = (x.dims[axis] + self.block - 1) // self.block
        scale = Shape(x.dtype, (*x.dims[:axis], blocks, *x.dims[axis + 1 :]))
        return scale if self.to.kind == "int" else Shape.tuple(scale, scale.with_type(U8))

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        x = arguments[0].array
        with no_warnings():
            scale, zero = _chosen(blocks_of(x, self.axis, self.block), self.to, x.dtype, self.clip)
        scale, zero = (np.moveaxis(v, -1, self.axis) for v in (scale, zero))
        if not shape.parts:
            return Argument(shape, np.ascontiguousarray(scale, x.dtype))
        return Argument.tuple(
            [
                Argument(shape.parts[0], np.ascontiguousarray(scale, x.dtype)),
                Argument(shape.parts[1], np.ascontiguousarray(zero, np.uint8)),
            ]
        )


def blocks_of(x: Array, axis: int, block: int) -> Array:
    """The blocks along an axis as last axes: (..., blocks, block), zero-padded at the end."""
    lines = wide(np.moveaxis(x, axis, -1))
    count = -(-lines.shape[-1] // block)
    short = count * block - lines.shape[-1]
    padded = np.pad(lines, [*[(0, 0)] * (x.ndim - 1), (0, short)])
    return padded.reshape(*lines.shape[:-1], count, block)


def _chosen(blocks: Array, to: DType, narrow: Any, clip: str) -> tuple[Array, Array]:
    """The scales, rounded to the type ``narrow``, and zero points of blocks."""
    best = _fitted(blocks, to, narrow, 1.0)
    if clip == "minmax":
        return best
    least = _error(blocks, to, *best)
    for share in SHARES[1:]:
        tried = _fitted(blocks, to, narrow, share)
        error = _error(blocks, to, *tried)
        better = error < least
        least = np.where(better, error, least)
        best = np.where(better, tried[0], best[0]), np.where(better, tried[1], best[1])
    return best


def _fitted(blocks: Array, to: DType, narrow: Any, share: float) -> tuple[Array, Array]:
    """The scales and zero points whose levels cover a share of each block's range."""
    low, high = integers(to)
    least, most = (np.minimum(blocks.min(-1), 0) * share, np.maximum(blocks.max(-1), 0) * share)
    scale = np.maximum(least / low, most / high) if low else (most - least) / high
    scale = scale.astype(narrow).astype(blocks.dtype)
    scale = np.where(scale == 0, scale.dtype.type(1), scale)
    zero = np.zeros_like(scale) if low else np.clip(np.rint(-least / scale), 0, high)
    return scale, zero


def _error(blocks: Array, to: DType, scale: Array, zero: Array) -> Array:
    """The sum of squared errors of rounding each block to its levels."""
    scale, zero = scale[..., None], zero[..., None]
    levels = np.clip(np.rint(blocks / scale) + zero, *integers(to))
    error: Array = np.square((levels - zero) * scale - blocks).sum(-1)
    return error
