"""Products of dequantised or widened bytes, computed on the bytes and scaled once.

The sum of (x - zx) sx (w - zw) sw is sx sw times that of (x - zx) (w - zw): so the scale is the
product of both, and the rest is computed on integers.
"""

from __future__ import annotations

from dataclasses import replace

from migx.builders import astype, at_least_f32, broadcast_to
from migx.dim import Extent, bounds, product
from migx.fusion.narrow_floats import FORMATS
from migx.ir import Instruction
from migx.match import on, var
from migx.ops.layout import Reshape
from migx.ops.linear import Convolution, Dot
from migx.ops.pointwise import Convert, Mul
from migx.ops.quantization import DequantizeLinear
from migx.passes.simplify_qdq.factors import factor, may_do_without, numbers, side, without
from migx.passes.simplify_qdq.zero_points import (
    Factor,
    beyond,
    columns_of,
    convolved,
    is_matrix,
    multiplied,
)
from migx.rewrite import Cursor, Declined, rule
from migx.shape import F32, DType
from migx.weights import may_be_finite

INFINITE = "a scale is not finite: each product is infinite or NaN by itself"
"""Why scales are not taken out of a sum."""


@rule(on(Dot, side, side, name="dot"))
def quant_dot(at: Cursor, dot: Instruction) -> Instruction | Declined:
    """dot(dequantizelinear(x), dequantizelinear(w)) is dequantizelinear(quant_dot(x, w)), and
    dot(convert(x) - zx, convert(w) - zw) is quant_dot(x, w), less the zero points' terms.
    """
    x, w = map(factor, dot.inputs)
    last, (depth, width) = dot.shape.rank - 1, dot.inputs[1].shape.dims[-2:]
    if x is None or w is None:
        return Declined("an input is not a view of bytes that are dequantised or widened")
    columns = columns_of(w, dot.shape.rank)
    if reason := unfit(x, w, columns, depth):
        return Declined(reason)
    if x.zero is not None and not is_matrix(w, columns, (depth, width)):
        return Declined("the right side is not one matrix, whose columns can be summed once")
    return scaled(at, multiplied(at, x, without(at, w), columns), x, w, last, dot)


@rule(on(Convolution, side, numbers, name="convolution"))
def quant_convolution(at: Cursor, convolution: Instruction) -> Instruction | Declined:
    """A convolution of dequantised or widened bytes is a quant_convolution, dequantised or less the
    zero points' terms.

    Padding stands for 0, which is the zero point where x has one.
    """
    x, w = map(factor, convolution.inputs)
    op = convolution.op_as(Convolution)
    if x is None or w is None:
        return Declined("an input is not a view of bytes that are dequantised or widened")
    if reason := unfit(x, w, 0, product(w.source.shape.dims[1:])):
        return Declined(reason)
    if op.group > 1 and not may_do_without(w):
        return Declined("zero points of the weights would need the sums of each group's windows")
    return scaled(at, convolved(at, x, without(at, w), op), x, w, 1, convolution)


def unfit(x: Factor, w: Factor, channels: int | None, depth: Extent) -> str:
    """Why a product cannot be computed on integers; empty if it can. ``channels`` is the axis of
    the weights that the result keeps. Integers may wrap around, floats may not.
    """
    if x.scale is not None and w.scale is not None:
        if bounds(depth)[1] * x.largest * w.largest >= 2**31:
            return "the sum may not fit 32 bits"
        if x.axis is not None or w.axis not in (None, channels):
            return "scales differ along the summed axis, or along rows"
        if not (may_be_finite(x.scale) and may_be_finite(w.scale)):
            return INFINITE
    return beyond(x, w, channels, depth)


def scaled(
    at: Cursor, total: Instruction, x: Factor, w: Factor, axis: int, root: Instruction
) -> Instruction:
    """The integer product times the scales, if any; ``axis`` is that of the weights' channels."""
    if x.scale is None or w.scale is None:
        return total
    dtype = root.shape.dtype
    scale = at(Mul(), *spread(at, (x.scale, w.scale), at_least_f32(dtype)))
    return astype(at, at(DequantizeLinear(axis=axis), total, scale), dtype)


def spread(at: Cursor, pair: tuple[Instruction, ...], to: DType) -> list[Instruction]:
    """A number and a number or vector, both converted to a type and at the dims of the second."""
    first, second = (astype(at, v, to) for v in pair)
    dims = () if second.shape.elements == 1 else second.shape.dims
    flat = [
        v if v.shape.elements != 1 or not v.shape.rank else at(Reshape(()), v)
        for v in (first, second)
    ]
    return [broadcast_to(at, v, dims) for v in flat]


@rule(on(Dot, var("x"), side, name="dot"))
def scale_after(at: Cursor, x: Instruction, dot: Instruction) -> Instruction | Declined:
    """dot(x, dequantizelinear(w)) is dot(x, convert(w)) * scale, where w are constant floats of
    eight bits: a product reads them as they are, and scales a result once.
    """
    w, dtype = factor(dot.inputs[1], _is_narrow_constant), dot.shape.dtype
    if w is None or w.scale is None or w.zero is not None:
        return Declined("the right side is no view of constant floats of eight bits times a scale")
    if dtype is not F32 or w.axis not in (None, columns_of(w, dot.shape.rank)):
        return Declined("scales differ along the summed axis, or the sum may not fit f16")
    if not may_be_finite(w.scale):
        return Declined(INFINITE)
    total = at(Dot(), x, replace(w, source=at(Convert(dtype), w.source)).moved(at))
    scale = w.scale if w.axis is not None else at(Reshape(()), w.scale)
    return at(Mul(), total, broadcast_to(at, astype(at, scale, dtype), total.shape.dims))


def _is_narrow_constant(value: Instruction) -> bool:
    return value.constant and value.shape.dtype in FORMATS


products = quant_dot + quant_convolution + scale_after
