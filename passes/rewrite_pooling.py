"""Turns pooling over the whole of each image into a reduction."""

from __future__ import annotations

from migx.ir import Instruction
from migx.manager import Pass
from migx.match import attr, on, var
from migx.ops.pointwise import Abs, Mul, Sqrt
from migx.ops.pooling import Pooling
from migx.ops.reduce import ReduceMax, ReduceMean, ReduceSum
from migx.rewrite import Cursor, Declined, RuleSet, rule
from migx.shape import Dims


def without_padding(padding: Dims) -> bool:
    """Whether a window sees the input alone."""
    return all(p == 0 for p in padding)


def without_gaps(dilation: tuple[int, ...]) -> bool:
    """Whether a window sees neighbours."""
    return all(d == 1 for d in dilation)


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
    op, axes = pool.op, tuple(range(2, x.shape.rank))
    assert isinstance(op, Pooling)
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
    return Declined(f"a norm of order {op.lp_order} is better left whole")


class RewritePooling(Pass):
    """Turns global pooling into reductions, which fuse with the work around them (MIGraphX
    rewrite_pooling).
    """

    rules = RuleSet((whole,))
