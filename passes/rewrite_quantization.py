"""Turns quantising and dequantising into arithmetic, which folds and fuses with its neighbours."""

from __future__ import annotations

import numpy as np

from migx.builders import astype, at_least_f32
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on
from migx.ops.layout import Broadcast, Multibroadcast, Reshape, Slice, Unsqueeze
from migx.ops.pointwise import Add, Clip, Convert, Div, Mul, Nearbyint, Sub
from migx.ops.quantization import DequantizeLinear, Linear, QuantizeLinear, limits
from migx.rewrite import Cursor, Declined, rule
from migx.shape import F64
from migx.weights.constants import is_unpacked


@rule(on(QuantizeLinear, name="q"))
def quantize(at: Cursor, q: Instruction) -> Instruction | Declined:
    """quantizelinear(x, s, z) is convert(clip(round(x / s) + z)) in the type of s, or f32."""
    (x, scale, *zero), op = q.inputs, q.op_as(QuantizeLinear)
    wide = at_least_f32(scale.shape.dtype)
    spread = [repeated(at, op, parameter, x) for parameter in (scale, *zero)]
    if None in spread:
        return Declined("whether the scale has one element or many is not known")
    factor, *points = [astype(at, v, wide) for v in spread if v is not None]
    result = at(Div(), astype(at, x, wide), factor)
    if not op.to.is_float:
        result = at(Nearbyint(), result)
    for point in points:
        result = at(Add(), result, point)
    if op.saturate or not op.to.is_float:
        low, high = (at.literal(np.array(limit, wide.numpy)) for limit in limits(op.to))
        lows, highs = (at(Multibroadcast(x.shape.dims), v) for v in (low, high))
        result = at(Clip(), result, lows, highs)
    return at(Convert(op.to, saturate=op.saturate), result)


@rule(on(DequantizeLinear, name="dq"))
def dequantize(at: Cursor, dq: Instruction) -> Instruction | Declined:
    """dequantizelinear(x, s, z) is (x - z) * s, the difference exact, in the type of s or f32."""
    (x, scale, *zero), op = dq.inputs, dq.op_as(DequantizeLinear)
    if is_unpacked(x):
        return Declined("packed weights stay packed, and are scaled where they are unpacked")
    to, wide = scale.shape.dtype, at_least_f32(scale.shape.dtype)
    spread = [repeated(at, op, parameter, x) for parameter in (scale, *zero)]
    if None in spread:
        return Declined("whether the scale has one element or many is not known")
    factor, *points = (v for v in spread if v is not None)
    # f64 holds every difference of two i32.
    exact = F64 if points and x.shape.dtype.bits >= 32 else wide
    result = astype(at, x, exact)
    for point in points:
        result = at(Sub(), result, astype(at, point, exact))
    result = at(Mul(), astype(at, result, wide), astype(at, factor, wide))
    return astype(at, result, to)


def repeated(at: Cursor, op: Linear, value: Instruction, x: Instruction) -> Instruction | None:
    """A scale or zero point broadcast to the dims of x; None if its granularity is not known."""
    dims, given = x.shape.dims, value.shape.dims
    if all(d == 1 for d in given):
        return at(Multibroadcast(dims), value if not given else at(Reshape(()), value))
    if not op.block:
        return at(Broadcast(op.axis, dims), value) if given == (dims[op.axis],) else None
    blocks = (dims[op.axis] + op.block - 1) // op.block
    before, after = dims[: op.axis], dims[op.axis + 1 :]
    if given != (*before, blocks, *after):
        return None
    wide = at(Unsqueeze((op.axis + 1,)), value)
    wide = at(Multibroadcast((*before, blocks, op.block, *after)), wide)
    whole = at(Reshape((*before, blocks * op.block, *after)), wide)
    return (
        whole if whole.shape.dims == dims else at(Slice((op.axis,), (0,), (dims[op.axis],)), whole)
    )


class RewriteQuantization(Pass):
    """Turns ``quantizelinear`` and ``dequantizelinear`` into arithmetic, except for packed weights
    (MIGraphX rewrite_quantization).
    """

    rules = quantize + dequantize
