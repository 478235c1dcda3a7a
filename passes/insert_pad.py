"""Makes padding explicit that a window has more of on one side than on the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.match import On, attr, on, var
from migx.op import Operation, with_attributes
from migx.ops._numeric import lowest
from migx.ops._windows import split
from migx.ops.layout import Pad
from migx.ops.linear import Convolution, QuantConvolution
from migx.ops.pooling import Pooling
from migx.rewrite import Cursor, Declined, RuleSet, rewrite, rule
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


@rule(on(PRODUCTS, var("x"), var("w"), name="window", padding=PADDING))
def before_convolution(
    at: Cursor, x: Instruction, w: Instruction, window: Instruction, padding: Dims
) -> Instruction:
    """convolution(x, w) with uneven padding is convolution(pad(x), w) with none."""
    return at(without_padding(window), at(explicit(padding), x), w)


@rule(on(Pooling, var("x"), name="window", padding=PADDING, ceil_mode=False))
def before_pooling(
    at: Cursor, x: Instruction, window: Instruction, padding: Dims
) -> Instruction | Declined:
    """pooling(x) with uneven padding is pooling(pad(x)) with none."""
    op, filler, dtype = window.op, [], x.shape.dtype
    assert isinstance(op, Pooling)
    if op.mode == "average" and not op.count_include_pad:
        return Declined("an average that does not count its padding would")
    if op.mode == "max":
        if dtype.is_float and dtype.bits < 16:
            return Declined(f"{dtype} may have no value below all others")
        filler = [at.literal(np.array(lowest(dtype.numpy), dtype.numpy))]
    return at(without_padding(window), at(explicit(padding), x, *filler))


class InsertPad(Pass):
    """Puts a ``pad`` before those of the operations ``ops`` whose padding is uneven, for targets
    that know even padding alone (MIGraphX insert_pad).
    """

    rules = before_convolution + before_pooling
    ops: tuple[str, ...] = ("convolution", "quant_convolution", "pooling")

    def apply(self, module: Module, manager: PassManager) -> bool:
        """Applies the rules at the operations asked for."""
        chosen = RuleSet(
            replace(each, pattern=replace(pattern, ops=ops))
            for each in self.rules
            if isinstance(pattern := each.pattern, On) and (ops := pattern.ops & set(self.ops))
        )
        return rewrite(module, chosen, self.name, manager.log)
