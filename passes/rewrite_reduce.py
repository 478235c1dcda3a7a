"""Reductions, and the arithmetic around them, in their simplest forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from migx.argument import Argument
from migx.builders import astype, at_least_f32, broadcast_to
from migx.dim import product
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import attr, on, value, var
from migx.op import Array
from migx.ops.builtin import Literal
from migx.ops.layout import Multibroadcast
from migx.ops.pointwise import Div, Exp, Mul, Recip, Rsqrt, Sqrt, Sub
from migx.ops.reduce import ReduceMax, ReduceMean, ReduceSum, Softmax
from migx.passes._common import broadcast_of
from migx.passes.simplify_algebra.broadcasts import trailing
from migx.passes.simplify_algebra.reductions import shifted
from migx.passes.simplify_algebra.terms import repeated
from migx.pipeline import Approximation
from migx.rewrite import Cursor, Declined, rule

x, v = var("x"), var("v")


@rule(on(Div, x, broadcast_of(on(Sqrt, v).once()), name="root"))
def div_sqrt(at: Cursor, x: Instruction, v: Instruction, root: Instruction) -> Instruction | None:
    """Quotient: x / sqrt(v) is x * rsqrt(v), so a normalisation divides once for each row."""
    whole = repeated(root.inputs[1])
    if not isinstance(whole.source.op, Sqrt):
        return None
    narrow = trailing(at, at(Rsqrt(), v), whole.rank - whole.first)
    return at(Mul(), x, broadcast_to(at, narrow, root.shape.dims))


@rule(
    on(Div, on(ReduceSum, x, name="total").once(), broadcast_of(value(name="n")), name="root")
    | on(Mul, on(ReduceSum, x, name="total").once(), broadcast_of(value(name="n")), name="root")
)
def sum_as_mean(
    at: Cursor, x: Instruction, total: Instruction, n: Instruction, root: Instruction
) -> Instruction | None:
    """A sum of n floats over n, or times 1 / n, is their mean."""
    axes = total.op_as(ReduceSum).axes
    count = product(x.shape.dims[axis] for axis in axes)
    if not isinstance(count, int) or count == 0 or not x.shape.dtype.is_float:
        return None
    number = n.op_as(Literal).value.array
    wanted = number.dtype.type(count if isinstance(root.op, Div) else 1 / count)
    return at(ReduceMean(axes), x) if (number == wanted).all() else None


sums = on(ReduceSum, on(Exp, shifted | x, name="e"), axes=attr("axes")).once()


@rule(on(Div, var("e"), broadcast_of(sums)) | on(Mul, var("e"), broadcast_of(on(Recip, sums))))
def softmax(
    at: Cursor, x: Instruction, axes: tuple[int, ...], softmax: bool = False
) -> Instruction | None:
    """Softmax spelled out, exp(x) / sum(exp(x)), with or without x - max(x), is one operation,
    where the sum has no other user.
    """
    return None if softmax or len(axes) != 1 else at(Softmax(axes[0]), x)


@rule(on(Softmax, x, axis=attr("axis")))
def softmax_in_parts(
    at: Cursor, x: Instruction, axis: int, softmax: bool = False
) -> Instruction | Declined:
    """softmax(x) is exp(x - max(x)) over its sum, computed in f32 at least."""
    if not softmax:
        return Declined("only softmax=true takes softmax apart")
    dtype = x.shape.dtype
    x = astype(at, x, at_least_f32(dtype))
    greatest = at(Multibroadcast(x.shape.dims), at(ReduceMax((axis,)), x))
    powers = at(Exp(), at(Sub(), x, greatest))
    sums = at(Multibroadcast(x.shape.dims), at(ReduceSum((axis,)), powers))
    return astype(at, at(Div(), powers, sums), dtype)


class OutOfRange(Approximation):
    """No bound on powers that are infinite, or 0 where the exponent is finite: softmax as one
    operation subtracts the greatest exponent first.
    """

    def of_elements(
        self, at: Instruction, inputs: Sequence[Argument], result: Argument
    ) -> Array | None:
        """Infinite for such powers."""
        powers = result.array
        beyond = np.isposinf(powers) | ((powers == 0) & np.isfinite(inputs[0].array))
        return np.where(beyond, np.inf, 0.0) if beyond.any() else None


class RewriteReduce(Pass):
    """Writes division by a square root as a product with one per row, sums over their count as
    means, and spelled-out softmax as softmax; or, with ``softmax``, softmax as reductions (MIGraphX
    pass of this name).
    """

    rules = div_sqrt + sum_as_mean + softmax + softmax_in_parts
    softmax: bool = False
    variants = ("softmax=true",)

    @property
    def approximations(self) -> Mapping[str, Approximation]:
        """Spelled-out softmax may overflow where softmax does not."""
        return {} if self.softmax else {"exp": OutOfRange()}
