"""Fuses products of bytes with their padding and the quantisation of their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from migx.dim import bounds, product
from migx.fusion.outlining import Bundle, Outlining, only_reader
from migx.ir import Instruction, Module
from migx.ops._windows import joined, split
from migx.ops.channels_last import ConvolutionChannelsLast, to_first
from migx.ops.fused import Group
from migx.ops.layout import Pad
from migx.ops.linear import QuantConvolution
from migx.ops.quantization import QuantizeLinear
from migx.passes.fuse_pointwise import dims_of, is_by_element

SMALL = 100
"""The most elements of a depthwise kernel that has to support padding."""
TAGS = {
    "quant_dot": "gemm_quantized",
    "quant_convolution": "conv_quantized",
    "quant_convolution_channels_last": "conv_quantized",
}
"""The tag of the group of each kind of product."""


class FuseQuantized(Outlining):
    """Makes a ``group`` of a ``quant_dot`` or ``quant_convolution`` and the arithmetic with
    constants on its result, up to its quantisation, so that its output is bytes; and of a
    convolution and a ``pad`` that only it uses.

    It runs before the fusions of arithmetic, which would let the sums of several products meet in
    one ``pointwise``, four times as large; fuse_epilogue then adds what follows. Kernels must
    support padding by any number, so only some targets use this pass.
    """

    def bundles(self, module: Module) -> list[Bundle]:
        found = list[Bundle]()
        for at in module:
            if at.op.name in TAGS:
                members = (*_padding(at), at, *_until_bytes(at))
                if len(members) > 1:
                    found.append(Bundle(members, Group(TAGS[at.op.name])))
        return found


def _padding(at: Instruction) -> list[Instruction]:
    """The pad that only a convolution with constant weights reads, if it has one group, or small
    depthwise kernels of at most two axes.
    """
    image, weights = at.inputs
    op = at.op
    if not isinstance(op, QuantConvolution) or not weights.constant:
        return []
    last = isinstance(op, ConvolutionChannelsLast)
    _, channels, *taps = _first(weights.shape.dims) if last else weights.shape.dims
    each = channels == 1 and len(taps) <= 2 and bounds(product(taps))[1] <= SMALL
    if op.group != 1 and not each:
        return []
    pad = image.op
    if not isinstance(pad, Pad) or pad.mode != "constant" or only_reader(image) is not at:
        return []
    plain = all(p == 0 for p in op.padding)
    begins, ends = (_first(half) if last else half for half in split(pad.pads))
    return [image] if plain and joined((*begins, *ends), op.padding) is not None else []


def _first(along: Sequence[Any]) -> tuple[Any, ...]:
    """What belongs to axes of which the channels are the last, with the channels second."""
    return tuple(along[axis] for axis in to_first(len(along)))


def _until_bytes(at: Instruction) -> list[Instruction]:
    """The chain of arithmetic with constants on a value, each the only reader of the one before, up
    to its quantisation; empty if it is not quantised.
    """
    found: list[Instruction] = []
    while (reader := only_reader(at)) is not None and is_by_element(reader):
        others = [v for v in reader.inputs if v is not at]
        if dims_of(reader) != at.shape.dims or not all(v.constant for v in others):
            return []
        found.append(reader)
        if type(reader.op) is QuantizeLinear:
            return found
        at = reader
    return []
