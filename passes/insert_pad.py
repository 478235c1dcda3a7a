"""Makes uneven padding of windows explicit."""

from __future__ import annotations

import numpy as np

from migx.ir import Instruction
from migx.manager import Pass
from migx.match import attr, on, var
from migx.op import Operation, with_attributes
from migx.ops._numeric import lowest
from migx.ops._windows import split
from migx.ops.layout import Pad
from migx.ops.linear import Convolution, QuantConvolution
from migx.ops.pooling import Pooling
from migx.rewrite import Cursor, Declined, rule
from migx.shape import Dims


def is_uneven(padding: Dims) -> bool:
    """Whether begins and ends differ."""
    begins, ends = split(padding)
    return begins != ends


def explicit(padding: Dims) -> Pad:
    """The ``pad`` of [N, C, ...] that does what a window's padding does."""
    begins, ends = split(padding)
    return Pad((0, 0, *begins, 0, 0, *ends))


def without_padding(window: Instruction) -> Operation:
    """The operation of a window that has no padding of its own."""
    padding = (0,) * 2 * (window.shape.rank - 2)
    return with_attributes(window.op, padding=padding)


PADDING = attr("padding", is_uneven)
PRODUCTS = (Convolution, QuantConvolution)
OPS = ("convolution", "quant_convolution", "pooling")


@rule(on(PRODUCTS, var("x"), var("w"), name="window", padding=PADDING))
def before_convolution(
    at: Cursor,
    x: Instruction,
    w: Instruction,
    window: Instruction,
    padding: Dims,
    ops: tuple[str, ...] = OPS,
) -> Instruction | None:
    """convolution(x, w) with uneven padding is convolution(pad(x), w) with none."""
    if window.op.name not in ops:
        return None
    return at(without_padding(window), at(explicit(padding), x), w)


@rule(on(Pooling, var("x"), name="window", padding=PADDING, ceil_mode=False))
def before_pooling(
    at: Cursor, x: Instruction, window: Instruction, padding: Dims, ops: tuple[str, ...] = OPS
) -> Instruction | Declined | None:
    """pooling(x) with uneven padding is pooling(pad(x)) with none."""
    op, filler, dtype = window.op_as(Pooling), [], x.shape.dtype
    if op.name not in ops:
        return None
    if op.mode == "average" and not op.count_include_pad:
        return Declined("the average does not count its padding, but would count a pad")
    if op.mode == "max":
        if dtype.is_float and dtype.bits < 16:
            return Declined(f"{dtype} may have no value below all others")
        filler = [at.literal(np.array(lowest(dtype.numpy), dtype.numpy))]
    return at(without_padding(window), at(explicit(padding), x, *filler))


class InsertPad(Pass):
    """Inserts a ``pad`` before operations of ``ops`` with uneven padding, for targets that support
    only even padding (MIGraphX insert_pad).
    """

    rules = before_convolution + before_pooling
    ops: tuple[str, ...] = OPS
