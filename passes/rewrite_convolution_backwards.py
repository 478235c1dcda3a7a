"""Turns transposed convolutions into convolutions."""

from __future__ import annotations

from itertools import chain
from math import prod

from migx.dim import Extent
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on, var
from migx.ops._windows import split
from migx.ops.layout import Reshape, Reverse, Slice, Transpose
from migx.ops.linear import Convolution, ConvolutionBackwards
from migx.rewrite import Cursor, Declined, RuleSet, rule


@rule(on(ConvolutionBackwards, var("x"), var("w"), name="root"))
def forwards(
    at: Cursor, x: Instruction, w: Instruction, root: Instruction
) -> Instruction | Declined:
    """Each element of a transposed convolution is a sum over the elements that add to it: those at
    one place among ``stride`` are one convolution, with a share of the kernels, reversed.
    """
    op = root.op
    assert isinstance(op, ConvolutionBackwards)
    lengths = [length for length in w.shape.dims[2:] if isinstance(length, int)]
    geometry = list(zip(lengths, op.stride, op.dilation, strict=False))
    if len(lengths) < w.shape.rank - 2 or not all(isinstance(d, int) for d in w.shape.dims[:2]):
        return Declined("how large the kernels are is not known")
    if any(s > 1 and (d > 1 or k % s) for k, s, d in geometry):
        return Declined("the places among a stride have unlike shares of the kernels")
    taps = [k // s for k, s, _ in geometry]
    around = [(tap - 1) * d for tap, (_, _, d) in zip(taps, geometry, strict=True)]
    if any(out != 0 for out in op.output_padding):
        return Declined("the result is longer than what is added up")
    forward = Convolution((*around, *around), (1,) * len(taps), op.dilation, op.group)
    made = at(forward, x, _shares(at, w, op, taps))
    return _cut(at, _interleaved(at, made, op), root)


def _shares(at: Cursor, w: Instruction, op: ConvolutionBackwards, taps: list[int]) -> Instruction:
    """The kernels of convolutions: of each output channel one for each place among the strides."""
    inputs, outputs = (int(d) for d in w.shape.dims[:2])
    rank = len(taps)
    pairs = chain.from_iterable(zip(taps, op.stride, strict=True))
    parts = at(Reshape((op.group, inputs // op.group, outputs, *pairs)), w)
    reverse = at(Reverse(tuple(3 + 2 * i for i in range(rank))), parts)
    places, elements = ([first + 2 * i for i in range(rank)] for first in (4, 3))
    turned = at(Transpose((0, 2, *places, 1, *elements)), reverse)
    count = op.group * outputs * prod(op.stride)
    return at(Reshape((count, inputs // op.group, *taps)), turned)


def _interleaved(at: Cursor, made: Instruction, op: ConvolutionBackwards) -> Instruction:
    """The channels for the places among the strides, brought together to one."""
    if prod(op.stride) == 1:
        return made
    dims, rank = made.shape.dims, len(op.stride)
    channels = dims[1] // prod(op.stride)
    parts = at(Reshape((dims[0], channels, *op.stride, *dims[2:])), made)
    pairs = chain.from_iterable((2 + rank + i, 2 + i) for i in range(rank))
    turned = at(Transpose((0, 1, *pairs)), parts)
    whole = [extent * stride for extent, stride in zip(dims[2:], op.stride, strict=True)]
    return at(Reshape((dims[0], channels, *whole)), turned)


def _cut(at: Cursor, made: Instruction, root: Instruction) -> Instruction:
    """The result without what padding cuts off."""
    begins, _ = split(root.op.padding)  # type: ignore[attr-defined]
    ends: list[Extent] = [b + d for b, d in zip(begins, root.shape.dims[2:], strict=True)]
    limits = zip(begins, ends, made.shape.dims[2:], strict=True)
    axes = [i for i, (begin, end, d) in enumerate(limits) if begin != 0 or end != d]
    if not axes:
        return made
    starts = tuple(begins[i] for i in axes)
    return at(Slice(tuple(i + 2 for i in axes), starts, tuple(ends[i] for i in axes)), made)


class RewriteConvolutionBackwards(Pass):
    """Turns transposed convolutions into convolutions and a change of layout, where every place
    among the strides has as many elements of a kernel (sub-pixel convolution, Shi et al. 2016).
    """

    rules = RuleSet((forwards,))
