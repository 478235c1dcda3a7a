"""Windows lose the elements that read only padding.

A 3 x 3 filter whose rate is near the size of the image degenerates to 1 x 1 (DeepLabv3, Chen et al.
2017, section 3.3), and so does any on an image of one pixel. Where the image has no known size, its
bounds decide.
"""

from __future__ import annotations

from typing import TypeAlias

from migx.builders import sliced
from migx.dim import Extent, bounds
from migx.ir import Instruction
from migx.match import attr, on, var
from migx.op import Operation, with_attributes
from migx.ops._windows import split
from migx.ops.linear import Convolution, QuantConvolution
from migx.ops.pooling import Pooling
from migx.passes.simplify_algebra.terms import is_movable
from migx.rewrite import Cursor, Declined, rule
from migx.shape import Dims
from migx.weights import may_be_finite

Window: TypeAlias = Convolution | Pooling
Span: TypeAlias = tuple[int, Extent]
"""A half-open range of a window's elements along one axis."""


def pads(padding: Dims) -> bool:
    """Whether there is any padding."""
    return any(p != 0 for p in padding)


PADDING = attr("padding", pads)


@rule(on((Convolution, QuantConvolution), var("x"), var("w"), name="root", padding=PADDING))
def conv_padding(
    at: Cursor, x: Instruction, w: Instruction, root: Instruction
) -> Instruction | Declined | None:
    """conv(x, w) is conv(x, slice(w)): taps that read only padding add nothing."""
    op, lengths = root.op_as(Convolution), w.shape.dims[2:]
    spans = seen(op, root, lengths)
    cut = [(i + 2, *span) for i, span in enumerate(spans) if span != (0, lengths[i])]
    if not cut:
        return None
    if w.constant and not is_movable(w):
        return Declined("other users read the whole constant")
    if not may_be_finite(w):
        return Declined("a weight is infinite or NaN, and makes NaN of padding")
    return at(narrowed(op, lengths, spans), x, sliced(at, w, cut))


@rule(on(Pooling, var("x"), name="root", ceil_mode=False, padding=PADDING))
def pool_padding(at: Cursor, x: Instruction, root: Instruction) -> Instruction | Declined | None:
    """Pooling does not need window positions that see only padding, which is no element."""
    op = root.op_as(Pooling)
    spans = seen(op, root, op.lengths)
    if all(span == (0, length) for span, length in zip(spans, op.lengths, strict=True)):
        return None
    if op.mode == "average" and op.count_include_pad:
        return Declined("the average counts its padding")
    lengths = tuple(end - first for first, end in spans)
    return at(with_attributes(narrowed(op, op.lengths, spans), lengths=lengths), x)


def seen(op: Window, root: Instruction, lengths: Dims) -> list[Span]:
    """The elements of a window that may read the image, by axis; at least one."""
    image, made = root.inputs[0].shape.dims[2:], root.shape.dims[2:]
    return [
        (0, length) if not isinstance(length, int) else _seen(length, *axis)
        for length, *axis in zip(
            lengths, op.dilation, op.stride, image, made, *split(op.padding), strict=True
        )
    ]


def _seen(
    length: int,
    dilation: int,
    stride: int,
    image: Extent,
    made: Extent,
    begin: Extent,
    end: Extent,
) -> Span:
    """The elements that may read the image along one axis, and those whose removal would make the
    padding negative.
    """

    def before(i: int) -> bool:
        last = i * dilation - begin + (made - 1) * stride
        return bounds(last)[1] < 0 <= bounds(begin - (i + 1) * dilation)[0]

    def behind(i: int) -> bool:
        first = i * dilation - begin
        return min(bounds(first - image)[0], bounds(end - (length - i) * dilation)[0]) >= 0

    low, high = 0, length
    while low < high - 1 and before(low):
        low += 1
    while low < high - 1 and behind(high - 1):
        high -= 1
    return low, high


def narrowed(op: Window, lengths: Dims, spans: list[Span]) -> Operation:
    """The operation with its windows cut to these elements; a single one has no dilation."""
    axes = list(zip(spans, lengths, op.dilation, *split(op.padding), strict=True))
    begins = (begin - first * d for (first, _), _, d, begin, _ in axes)
    ends = (end - (n - last) * d for (_, last), n, d, _, end in axes)
    dilation = tuple(1 if last - first == 1 else d for (first, last), _, d, _, _ in axes)
    return with_attributes(op, padding=(*begins, *ends), dilation=dilation)


windows = conv_padding + pool_padding
