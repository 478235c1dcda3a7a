"""Turns global pooling into reductions, and local response normalisation into pooling."""

from __future__ import annotations

from migx.builders import astype, at_least_f32, full_like
from migx.dim import bounds, product
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import attr, on, var
from migx.ops.layout import Reshape
from migx.ops.pointwise import Abs, Add, Div, Mul, Pow, Sqrt
from migx.ops.pooling import Lrn, Pooling
from migx.ops.reduce import ReduceMax, ReduceMean, ReduceSum
from migx.passes._common import without_gaps, without_padding
from migx.rewrite import Cursor, Declined, rule


@rule(
    on(
        Pooling,
        var("x"),
        name="pool",
        padding=attr("padding", without_padding),
        dilation=attr("dilation", without_gaps),
    )
)
def whole(at: Cursor, x: Instruction, pool: Instruction) -> Instruction | Declined:
    """Pooling whose window is the image is a reduction over the spatial axes."""
    op, axes = pool.op_as(Pooling), tuple(range(2, x.shape.rank))
    if op.lengths != x.shape.dims[2:]:
        return Declined("the window is not the whole image")
    match op.mode, op.lp_order:
        case "max", _:
            return at(ReduceMax(axes), x)
        case "average", _:
            return at(ReduceMean(axes), x)
        case "lpnorm", 1:
            return at(ReduceSum(axes), at(Abs(), x))
        case "lpnorm", 2 if x.shape.dtype.bits >= 32:
            return at(Sqrt(), at(ReduceSum(axes), at(Mul(), x, x)))
    return Declined("only norms of order 1, and of order 2 in f32 or wider, become sums")


@rule(on(Lrn, var("x"), name="root"))
def across(at: Cursor, x: Instruction, root: Instruction) -> Instruction | Declined:
    """A local response normalisation divides by a power of the mean of neighbouring squares, which
    is a pooling of images whose rows are the channels.
    """
    op, dtype = root.op_as(Lrn), x.shape.dtype
    images, channels, *rest = dims = x.shape.dims
    if bounds(channels)[0] < 1:
        return Declined("there may be no channels")
    data = astype(at, x, at_least_f32(dtype))
    squares = at(Reshape((images, 1, channels, product(rest))), at(Mul(), data, data))
    around = ((op.size - 1) // 2, 0, op.size // 2, 0)
    pool = Pooling("average", (op.size, 1), around, count_include_pad=True)
    mean = at(Reshape(dims), at(pool, squares))
    alpha, bias = (full_like(at, data, n) for n in (op.alpha, op.bias))
    made = at(Div(), data, _power(at, at(Add(), at(Mul(), mean, alpha), bias), op))
    return astype(at, made, dtype)


def _power(at: Cursor, x: Instruction, op: Lrn) -> Instruction:
    """The divisor of a response, a power of x; 3/4, the usual power, is a product of roots where x
    is never negative.
    """
    if op.beta == 0.75 and op.alpha >= 0 and op.bias >= 0:
        root = at(Sqrt(), x)
        return at(Mul(), root, at(Sqrt(), root))
    return at(Pow(), x, full_like(at, x, op.beta))


class RewritePooling(Pass):
    """Turns global pooling into reductions, which fuse with their neighbours (MIGraphX
    rewrite_pooling), and local response normalisation into pooling and arithmetic.
    """

    rules = whole + across
