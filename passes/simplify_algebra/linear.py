"""Factors and terms around products of matrices and convolutions move into the weights.

A factor along input or output channels scales the weights once and for all. A term before the
product is a term after it, and is moved only to merge with another there; for a convolution, only
without padding, so that it adds the same at every position. MIGraphX moves it regardless, and
constant folding then runs whole convolutions.
"""

from __future__ import annotations

from migx import dim
from migx.builders import concatenate, sliced
from migx.dim import Extent
from migx.ir import Instruction
from migx.match import constant, on, var, varying
from migx.ops._windows import reach
from migx.ops.layout import Multibroadcast, Slice
from migx.ops.linear import Convolution, ConvolutionBackwards, Dot
from migx.ops.pointwise import Add, Mul
from migx.passes.simplify_algebra.terms import (
    is_kept_small,
    is_light,
    is_movable,
    keeps_range,
    laid_along,
    rounds_well,
    seems_finite,
    varies_along,
)
from migx.rewrite import Cursor, Declined, rule
from migx.weights.constants import is_unpacked

x, y, w, a, b = varying("x"), var("y"), constant("w"), constant("a"), constant("b")
light = constant("w", is_light)
CONVOLUTIONS = (Convolution, ConvolutionBackwards)


def scaled(
    at: Cursor, w: Instruction, axis: int, a: Instruction, *along: int
) -> Instruction | None:
    """Weights times a factor, along one of their axes. None if the factor varies along axes other
    than ``along``, the weights may not change or would leave their range, or the factor is not
    finite, which would make padding NaN.
    """
    if not varies_along(a, *along) or not rounds_well(w) or not is_movable(w):
        return None
    if not seems_finite(a):
        return None
    factor = laid_along(at, a, axis, w.shape.dims)
    return at(Mul(), w, factor) if keeps_range(Mul(), w, factor, small=False) else None


@rule(on(Mul, on(CONVOLUTIONS, x, w, name="f").once(), a))
def mul_conv(
    at: Cursor, x: Instruction, w: Instruction, a: Instruction, f: Instruction
) -> Instruction | None:
    """conv(x, w) * a is conv(x, w * a), for a factor of each output channel."""
    back = isinstance(f.op, ConvolutionBackwards)
    grouped = isinstance(f.op, ConvolutionBackwards) and f.op.group > 1
    weights = scaled(at, w, int(back), a, *(() if grouped else (1,)))
    return None if weights is None else at(f.op, x, weights)


@rule(on(CONVOLUTIONS, on(Mul, x, a).once(), w, name="f"))
def conv_mul(
    at: Cursor, x: Instruction, w: Instruction, a: Instruction, f: Instruction
) -> Instruction | None:
    """conv(x * a, w) is conv(x, w * a), for a factor of each input channel."""
    back = isinstance(f.op, ConvolutionBackwards)
    grouped = isinstance(f.op, Convolution) and f.op.group > 1
    weights = scaled(at, w, int(not back), a, *(() if grouped else (1,)))
    return None if weights is None else at(f.op, x, weights)


@rule(on(Mul, on(Dot, x, light, name="f").once() | on(Dot, light, x, name="f").once(), a))
def mul_dot(
    at: Cursor, x: Instruction, w: Instruction, a: Instruction, f: Instruction
) -> Instruction | None:
    """dot(x, w) * a is dot(x, w * a), for a factor of each column; dot(w, x) * a is dot(w * a, x),
    for one of each row.
    """
    axis = f.shape.rank - 2 + f.inputs.index(w)
    weights = scaled(at, w, axis, a, axis)
    return None if weights is None else at(Dot(), *(weights if v is w else v for v in f.inputs))


@rule(
    on(
        Mul,
        on(Slice, on((Convolution, Dot), x, light, name="f"), name="cut").once(),
        a,
        name="root",
    )
)
def mul_slice(
    at: Cursor,
    x: Instruction,
    w: Instruction,
    a: Instruction,
    f: Instruction,
    cut: Instruction,
    root: Instruction,
) -> dict[Instruction, Instruction] | Declined | None:
    """slice(f(x, w)) * a is slice(f(x, w * b)), for a factor of each column or output channel of
    the slice; b is a there and 1 elsewhere. All users of the dot or convolution f are slices, and
    the others are disjoint from this one.
    """
    out, along = (1, 0) if isinstance(f.op, Convolution) else ((f.shape.rank - 1,) * 2)
    span, *others = [span_along(u, out) for u in (cut, *(u for u in f.users if u is not cut))]
    if span is None or not varies_along(a, out):
        return None
    start, end = span
    if any(o is None or not (dim.at_most(end, o[0]) or dim.at_most(o[1], start)) for o in others):
        return Declined("other users read the same columns, or all")
    at.together((f, root))
    one, rest = at.literal(1, a.shape.dtype), f.shape.dims[out] - end
    ones = [[at(Multibroadcast((n,)), one)] if n != 0 else [] for n in (start, rest)]
    factors = laid_along(at, at.bring(a), 0, (end - start,))
    factor = concatenate(at, 0, [*ones[0], factors, *ones[1]])
    weights = scaled(at, w, along, laid_along(at, factor, out, f.shape.dims), out)
    if weights is None:
        return None
    made = at(f.op, x, weights)
    return {f: made, root: at(cut.op, made)}


def span_along(at: Instruction, axis: int) -> tuple[Extent, Extent] | None:
    """The start and end of a slice along this axis alone; None for anything else."""
    op = at.op
    return (op.starts[0], op.ends[0]) if isinstance(op, Slice) and op.axes == (axis,) else None


@rule(
    on(Dot, on(Mul, x, a).once(), light, name="f") | on(Dot, light, on(Mul, x, a).once(), name="f")
)
def dot_mul(
    at: Cursor, x: Instruction, w: Instruction, a: Instruction, f: Instruction
) -> Instruction | None:
    """dot(x * a, w) is dot(x, w * a), for a factor of each column of x; dot(w, x * a) is
    dot(w * a, x), for one of each row.
    """
    rank, place = f.shape.rank, f.inputs.index(w)
    weights = scaled(at, w, rank - 1 - place, a, rank - 2 + place)
    return None if weights is None else at(Dot(), *(weights if v is w else x for v in f.inputs))


@rule(on(Add, on(Dot, on(Add, x, a).once(), light, name="f").once(), b))
def dot_add(
    at: Cursor, x: Instruction, w: Instruction, a: Instruction, b: Instruction, f: Instruction
) -> Instruction | None:
    """dot(x + a, w) + b is dot(x, w) + (dot(a, w) + b), for a term of each column of x."""
    column = f.shape.rank - 1
    if not (varies_along(a, column) and varies_along(b, column) and term_fits(w, b)):
        return None
    row = laid_along(at, a, column, (*w.shape.dims[:-2], 1, w.shape.dims[-2]))
    moved = at(Multibroadcast(f.shape.dims), at(Dot(), row, w))
    return at(Add(), at(Dot(), x, w), at(Add(), moved, b))


@rule(on(Add, on(Convolution, on(Add, x, a).once(), w, name="f").once(), b))
def conv_add(
    at: Cursor, x: Instruction, w: Instruction, a: Instruction, b: Instruction, f: Instruction
) -> Instruction | Declined | None:
    """conv(x + a, w) + b is conv(x, w) + (conv(a, w) + b), for a term of each channel."""
    op = f.op_as(Convolution)
    if any(p != 0 for p in op.padding):
        return Declined("at padded edges the term adds less, and folding would run the convolution")
    if not (varies_along(a, 1) and varies_along(b, 1) and term_fits(w, b)):
        return None
    window = map(reach, w.shape.dims[2:], op.dilation)
    one = laid_along(at, a, 1, (1, x.shape.dims[1], *window))
    moved = at(Multibroadcast(f.shape.dims), at(op, one, w))
    return at(Add(), at(op, x, w), at(Add(), moved, b))


def term_fits(w: Instruction, b: Instruction) -> bool:
    """Whether a term times weights may be added to another constant: not where weights are
    infinite, as infinities of opposite sign may then meet elsewhere.
    """
    return rounds_well(w) and not is_unpacked(w) and is_kept_small(b) and seems_finite(w)


@rule(
    on(
        Add,
        on((Convolution, Dot), x, a, name="f").once(),
        on((Convolution, Dot), x, b, name="g").once(),
    )
)
def add_convs(
    at: Cursor, x: Instruction, a: Instruction, b: Instruction, f: Instruction, g: Instruction
) -> Instruction | None:
    """conv(x, a) + conv(x, b) is conv(x, a + b), and so with dot."""
    fits = f.op == g.op and a.shape.dims == b.shape.dims and rounds_well(x)
    if not fits or not (is_movable(a) and is_movable(b) and keeps_range(Add(), a, b, small=True)):
        return None
    return at(f.op, x, at(Add(), a, b))


@rule(on(Slice, on(Dot, x, y, name="f").once(), name="cut"))
def dot_slice(
    at: Cursor, x: Instruction, y: Instruction, f: Instruction, cut: Instruction
) -> Instruction | Declined:
    """slice(dot(x, y)) is dot(slice(x), slice(y)): unused rows of x and columns of y go."""
    op, rank = cut.op_as(Slice), f.shape.rank
    spans = list(zip(op.axes, op.starts, op.ends, strict=True))
    sides = []
    for side, other in ((x, rank - 1), (y, rank - 2)):
        own = [span for span in spans if span[0] != other]
        sides.append(sliced(at, side, own))
    cut_constants = [v for v, made in zip((x, y), sides, strict=True) if made is not v]
    if any(v.constant and not is_movable(v) for v in cut_constants):
        return Declined("other users read the whole constant")
    return at(Dot(), *sides)


linear = (
    mul_conv + conv_mul + mul_dot + mul_slice + dot_mul + dot_add + conv_add + add_convs + dot_slice
)
