"""Folds padding into the windows that read it."""

from __future__ import annotations

from typing import Any

import numpy as np

from migx.ir import Instruction
from migx.manager import Pass
from migx.match import Pattern, attr, on, value, var
from migx.op import Array, with_attributes
from migx.ops._numeric import lowest
from migx.ops._rules import wide
from migx.ops._windows import joined
from migx.ops.layout import Pad
from migx.ops.linear import Convolution, QuantConvolution
from migx.ops.pooling import Pooling
from migx.rewrite import Cursor, Declined, rule
from migx.shape import Dims


def is_lowest(array: Array) -> bool:
    """Whether every element is the initial value of a window's maximum."""
    return bool(np.all(array == lowest(wide(array).dtype)))


def padded_by(*filler: Pattern) -> Pattern:
    """x, padded by a constant."""
    return on(Pad, var("x"), *filler, mode="constant", pads=attr("pads"))


PADDING = attr("padding")
padded_by_zero = padded_by() | padded_by(value(0))


@rule(on((Convolution, QuantConvolution), padded_by_zero, var("w"), name="window", padding=PADDING))
def into_convolution(
    at: Cursor, x: Instruction, w: Instruction, pads: Dims, window: Instruction, padding: Dims
) -> Instruction | Declined:
    """convolution(pad(x), w) is convolution(x, w) with more padding."""
    return folded(at, window, joined(pads, padding), x, w)


@rule(
    on(
        Pooling,
        padded_by(value(is_lowest)),
        name="window",
        mode="max",
        ceil_mode=False,
        padding=PADDING,
    )
)
def into_max(
    at: Cursor, x: Instruction, pads: Dims, window: Instruction, padding: Dims
) -> Instruction | Declined:
    """Max pooling of pad(x, least value) is max pooling of x with more padding."""
    return folded(at, window, joined(pads, padding), x)


@rule(on(Pooling, padded_by_zero, name="window", mode="lpnorm", ceil_mode=False, padding=PADDING))
def into_norm(
    at: Cursor, x: Instruction, pads: Dims, window: Instruction, padding: Dims
) -> Instruction | Declined:
    """Norm pooling of pad(x, 0) is that of x with more padding: neither adds to a norm."""
    return folded(at, window, joined(pads, padding), x)


@rule(
    on(
        Pooling,
        padded_by_zero,
        name="window",
        mode="average",
        ceil_mode=False,
        padding=PADDING,
        count_include_pad=attr("counted"),
    )
)
def into_average(
    at: Cursor, x: Instruction, pads: Dims, window: Instruction, padding: Dims, counted: bool
) -> Instruction | Declined:
    """Average pooling of pad(x, 0) is that of x with more padding, which is counted."""
    if any(p != 0 for p in padding) and not counted:
        return Declined("the average counts one padding and not the other")
    return folded(at, window, joined(pads, padding), x, count_include_pad=True)


def folded(
    at: Cursor, window: Instruction, padding: Dims | None, *inputs: Instruction, **changed: Any
) -> Instruction | Declined:
    """The window with other padding, on other inputs."""
    if padding is None:
        return Declined("the padding is not of spatial axes alone, or may be negative")
    return at(with_attributes(window.op, padding=padding, **changed), *inputs)


class EliminatePad(Pass):
    """Folds ``pad`` into convolutions and poolings whose padding means the same (MIGraphX
    eliminate_pad).
    """

    rules = into_convolution + into_max + into_norm + into_average
