"""Turns transposed convolutions into convolutions."""

from __future__ import annotations

from itertools import chain
from math import prod

from migx.builders import concatenate, sliced
from migx.dim import Extent, maximum
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on, var
from migx.ops._windows import split
from migx.ops.layout import Pad, Reshape, Reverse, Transpose
from migx.ops.linear import Convolution, ConvolutionBackwards
from migx.rewrite import Cursor, Declined, RuleSet, rule

_Share = tuple[int, int, int]
"""Phases of a stride, from the first to before the second number, and how many taps each has."""


@rule(on(ConvolutionBackwards, var("x"), var("w"), name="root"))
def forwards(
    at: Cursor, x: Instruction, w: Instruction, root: Instruction
) -> Instruction | Declined:
    """A transposed convolution is a convolution for each phase of ``stride``, with that phase's
    taps of the kernels, reversed; phases with equally many taps share one convolution.
    """
    op = root.op_as(ConvolutionBackwards)
    lengths = [length for length in w.shape.dims[2:] if isinstance(length, int)]
    geometry = list(zip(lengths, op.stride, op.dilation, strict=False))
    if len(lengths) < w.shape.rank - 2 or not all(isinstance(d, int) for d in w.shape.dims[:2]):
        return Declined("the sizes of the kernels are not known")
    if any(s > 1 and (d > 1 or k < s) for k, s, d in geometry):
        return Declined("some phases of a stride have no taps")
    kernels = _apart(at, w, op, tuple(-k % s for k, s, _ in geometry))
    made = _joined(at, x, kernels, op, [_shares(k, s) for k, s, _ in geometry])
    return _cut(at, _interleaved(at, made, op), root)


def _shares(length: int, stride: int) -> list[_Share]:
    """The phases of a stride by their number of taps."""
    taps, more = divmod(length, stride)
    return [(0, more, taps + 1), (more, stride, taps)] if more else [(0, stride, taps)]


def _apart(
    at: Cursor, w: Instruction, op: ConvolutionBackwards, filled: tuple[int, ...]
) -> Instruction:
    """The kernels, padded to whole strides, with an axis for the phases of each stride."""
    inputs, outputs = (int(d) for d in w.shape.dims[:2])
    whole = at(Pad((*[0] * w.shape.rank, 0, 0, *filled)), w) if any(filled) else w
    lengths = zip(whole.shape.dims[2:], op.stride, strict=True)
    pairs = chain.from_iterable((length // stride, stride) for length, stride in lengths)
    return at(Reshape((op.group, inputs // op.group, outputs, *pairs)), whole)


def _joined(
    at: Cursor,
    x: Instruction,
    kernels: Instruction,
    op: ConvolutionBackwards,
    shares: list[list[_Share]],
    chosen: tuple[_Share, ...] = (),
) -> Instruction:
    """The results of all shares, [N, channels, phases..., ...], concatenated."""
    if len(chosen) == len(shares):
        return _convolved(at, x, kernels, op, chosen)
    axis = len(chosen)
    parts = [_joined(at, x, kernels, op, shares, (*chosen, s)) for s in shares[axis]]
    return concatenate(at, 2 + axis, parts)


def _convolved(
    at: Cursor,
    x: Instruction,
    kernels: Instruction,
    op: ConvolutionBackwards,
    shares: tuple[_Share, ...],
) -> Instruction:
    """The convolution with one share of the kernels; results are as long as for the longest."""
    rank = len(shares)
    elements, places = ([first + 2 * i for i in range(rank)] for first in (3, 4))
    kept = [(axis, 0, taps) for axis, (_, _, taps) in zip(elements, shares, strict=True)]
    kept += [(axis, begin, end) for axis, (begin, end, _) in zip(places, shares, strict=True)]
    spans = [(i, b, e) for i, b, e in sorted(kept) if e - b != kernels.shape.dims[i]]
    part = sliced(at, kernels, spans)
    turned = at(Transpose((0, 2, *places, 1, *elements)), at(Reverse(tuple(elements)), part))
    group, outputs, *rest = (int(d) for d in turned.shape.dims)
    counts, kernel = rest[:rank], rest[rank:]
    weights = at(Reshape((group * outputs * prod(counts), *kernel)), turned)
    taps = [taps for _, _, taps in shares]
    longest = [int(kernels.shape.dims[i]) for i in elements]
    before, behind = (
        [(n - 1) * d for n, d in zip(most, op.dilation, strict=True)] for most in (taps, longest)
    )
    made = at(Convolution((*before, *behind), (1,) * rank, op.dilation, op.group), x, weights)
    if prod(op.stride) == 1:
        return made
    dims = made.shape.dims
    return at(Reshape((dims[0], group * outputs, *counts, *dims[2:])), made)


def _interleaved(at: Cursor, made: Instruction, op: ConvolutionBackwards) -> Instruction:
    """The result with the axes of phases merged into the spatial axes they belong to."""
    if prod(op.stride) == 1:
        return made
    rank = len(op.stride)
    pairs = chain.from_iterable((2 + rank + i, 2 + i) for i in range(rank))
    turned = at(Transpose((0, 1, *pairs)), made)
    lengths = zip(made.shape.dims[2 + rank :], op.stride, strict=True)
    whole = [extent * stride for extent, stride in lengths]
    return at(Reshape((*made.shape.dims[:2], *whole)), turned)


def _cut(at: Cursor, made: Instruction, root: Instruction) -> Instruction:
    """The result without what padding cuts off, and with zeros where no tap reaches."""
    begins, _ = split(root.op_as(ConvolutionBackwards).padding)
    ends: list[Extent] = [b + d for b, d in zip(begins, root.shape.dims[2:], strict=True)]
    beyond = [maximum(end - d, 0) for end, d in zip(ends, made.shape.dims[2:], strict=True)]
    if any(more != 0 for more in beyond):
        made = at(Pad((*[0] * made.shape.rank, 0, 0, *beyond)), made)
    limits = zip(begins, ends, made.shape.dims[2:], strict=True)
    kept = [(i + 2, b, end) for i, (b, end, d) in enumerate(limits) if b != 0 or end != d]
    return sliced(at, made, kept)


class RewriteConvolutionBackwards(Pass):
    """Turns transposed convolutions into convolutions and a change of layout: sub-pixel convolution
    (Shi et al. 2016).
    """

    rules = RuleSet(forwards)
