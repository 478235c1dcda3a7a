"""Which extents of an instruction's operands must be equal although their symbols do not say so.

Shape rules accept sizes that may be equal, and compare them when they are known. A kernel has no
shape rule: it would read out of bounds. So a code object keeps the checks of its instruction.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, pairwise

from migx import op as operations
from migx.dim import Dim, Extent, maximum
from migx.ir import Instruction
from migx.ops._windows import reach, split
from migx.ops.layout import Concat, Multibroadcast
from migx.ops.linear import Convolution, Dot
from migx.ops.pooling import Pooling
from migx.ops.trees import TreeEnsemble
from migx.ops.vision import RoiAlign
from migx.shape import Dims

Pair = tuple[Extent, Extent]


def agreements(at: Instruction) -> tuple[Extent, ...]:
    """Extents that must be equal in pairs, flattened, for an instruction and those inside it."""
    inside = [inner for module in at.modules for inner in module]
    found = dict.fromkeys(p for each in (at, *inside) for p in _pairs(each) if _open(*p))
    return tuple(chain.from_iterable(found))


def _open(a: Extent, b: Extent) -> bool:
    """Whether the equality of two extents depends on sizes."""
    return a != b and (isinstance(a, Dim) or isinstance(b, Dim))


def _pairs(at: Instruction) -> Iterator[Pair]:
    """The pairs of extents that an operation assumes to be equal."""
    dims = [v.shape.dims for v in at.inputs if v.shape.dtype.is_tensor]
    op = at.op
    if isinstance(op, Dot):
        x, y = dims
        yield from _each(x[:-2], y[:-2])
        yield x[-1], y[-2]
    elif isinstance(op, Convolution):
        yield dims[0][1], dims[1][1] * op.group
        yield from _windows(op, dims[0][2:], dims[1][2:])
    elif isinstance(op, Pooling):
        yield from _windows(op, dims[0][2:], op.lengths)
    elif isinstance(op, Concat):
        for first, second in pairwise(dims):
            pairs = zip(first, second, strict=True)
            yield from (p for axis, p in enumerate(pairs) if axis != op.axis)
    elif isinstance(op, Multibroadcast):
        last = op.out_lens[len(op.out_lens) - len(dims[0]) :]
        yield from (p for p in zip(dims[0], last, strict=True) if p[0] != 1)
    elif isinstance(op, RoiAlign):
        yield from ((dims[1][0], dims[2][0]), (dims[1][1], 4))
    elif isinstance(op, TreeEnsemble):
        yield from ((table[0], dims[1][0]) for table in dims[2:5])
        yield dims[4][1], 2
    elif operations.traits(op).pointwise:
        for first, second in pairwise(dims):
            if len(first) == len(second):
                yield from _each(first, second)


def _windows(op: Convolution | Pooling, dims: Dims, lengths: Dims) -> Iterator[Pair]:
    """The padded extents of an image, each at least as large as the window along it, unless that
    has one element.
    """
    begins, ends = split(op.padding)
    for i, (extent, length) in enumerate(zip(dims, lengths, strict=True)):
        over = op.stride[i] - 1 if isinstance(op, Pooling) and op.ceil_mode else 0
        size, room = reach(length, op.dilation[i]), extent + begins[i] + ends[i] + over
        if size != 1:
            yield room, maximum(room, size)


def _each(first: Dims, second: Dims) -> Iterator[Pair]:
    yield from zip(first, second, strict=True)
