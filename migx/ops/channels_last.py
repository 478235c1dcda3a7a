"""Convolutions of tensors whose channels are their last axis, as many machines want them."""

from __future__ import annotations

from typing import Any

import numpy as np

from migx.op import Array, Modules, Shapes
from migx.ops.linear import Convolution, QuantConvolution
from migx.shape import Shape


class ConvolutionChannelsLast(Convolution):
    """x [N, ..., C] correlated with w [O, ..., C / group], giving [N, ..., O]; else as
    ``convolution``.
    """

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        first = [s.permuted(to_first(s.rank)) if s.rank > 1 else s for s in shapes]
        result = super().compute_shape([s.as_standard() for s in first])
        return result.permuted(to_last(result.rank)).as_standard()

    def compute(self, x: Array, w: Array) -> Array:
        first: Any = (np.moveaxis(a, -1, 1) for a in (x, w))
        return np.ascontiguousarray(np.moveaxis(super().compute(*first), 1, -1))


class QuantConvolutionChannelsLast(ConvolutionChannelsLast, QuantConvolution):
    """x [N, ..., C] of bytes correlated with w [O, ..., C / group] of bytes as i32, giving
    [N, ..., O]; else as ``quant_convolution``.
    """


CHANNELS_LAST = (ConvolutionChannelsLast, QuantConvolutionChannelsLast)


def to_last(rank: int) -> tuple[int, ...]:
    """The permutation that makes the channels, axis 1, the last axis."""
    return (0, *range(2, rank), 1)


def to_first(rank: int) -> tuple[int, ...]:
    """The permutation that makes the last axis the channels, axis 1."""
    return (0, rank - 1, *range(1, rank - 1))
