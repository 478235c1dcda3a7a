"""Products of bytes that were widened to i32 first, as ONNX's MatMulInteger and ConvInteger are."""

from __future__ import annotations

from dataclasses import replace

from migx.dim import product
from migx.ir import Instruction
from migx.match import on, skip, var
from migx.ops.layout import Broadcast, Multibroadcast, Reshape, Squeeze, Unsqueeze
from migx.ops.linear import Convolution, Dot
from migx.ops.pointwise import Convert, Sub
from migx.passes.simplify_qdq.cleaning import MIDDLE, centred
from migx.passes.simplify_qdq.products import MOVED, seen_through
from migx.passes.simplify_qdq.zero_points import (
    Factor,
    beyond,
    columns_of,
    convolved,
    is_matrix,
    multiplied,
)
from migx.rewrite import Cursor, Declined, rule
from migx.shape import I8, I32, U8
from migx.weights import is_constant, looked_at, value_of

NAME = "simplify_qdq"
SPREAD = (Multibroadcast, Broadcast, Reshape, Squeeze, Unsqueeze, Convert)
"""What may stand between a zero point and where it is taken off."""


def widened(value: Instruction) -> Factor | None:
    """The side of a product that a value is; None where it is no view of widened bytes."""
    views, value = seen_through(value)
    zero: Instruction | None = None
    if type(value.op) is Sub:
        value, zero = value.inputs
    if type(value.op) is not Convert or value.shape.dtype is not I32:
        return None
    (source,) = value.inputs
    dtype = source.shape.dtype
    if dtype not in (I8, U8):
        return None
    while zero is not None and type(zero.op) in SPREAD and zero.shape.dtype is not dtype:
        zero = zero.inputs[0]
    if zero is not None and (zero.shape.dtype is not dtype or zero.shape.elements != 1):
        return None
    return Factor(source, views, source, zero, None)


def point(w: Factor) -> int | None:
    """The zero point of weights, where one number is known to be all of it, and 0 where there is
    none.
    """
    if w.zero is None:
        return 0
    held = looked_at(w.zero, relied_on_by=NAME)
    return None if held is None else int(held.array.item())


def may_do_without(w: Factor) -> bool:
    """Whether weights can be held without a zero point: they have 0, or are constant u8 about
    128.
    """
    middle = w.source.shape.dtype is U8 and is_constant(w.source)
    return point(w) == 0 or (middle and point(w) == MIDDLE)


def without(at: Cursor, w: Factor) -> Factor:
    """Weights without a zero point, where they can be held so."""
    if w.zero is None or not may_do_without(w):
        return w
    about = point(w)
    value_of(w.zero, relied_on_by=NAME)
    return replace(w, source=centred(at, w.source) if about else w.source, zero=None)


def is_byte(value: Instruction) -> bool:
    """Whether a value is of bytes."""
    return value.shape.dtype in (I8, U8)


wide = on(Convert, var(test=is_byte), to=I32)
bytes_ = skip(*MOVED)(wide | on(Sub, wide, var()))


@rule(on(Dot, bytes_, bytes_, name="dot"))
def dot_of_bytes(at: Cursor, dot: Instruction) -> Instruction | Declined:
    """dot(convert(x) - zx, convert(w) - zw) is quant_dot(x, w), less what the zero points add."""
    x, w = map(widened, dot.inputs)
    if x is None or w is None:
        return Declined("a side is no view of widened bytes")
    depth, width = dot.inputs[1].shape.dims[-2:]
    columns = columns_of(w, dot.shape.rank)
    if reason := beyond(x, w, columns, depth):
        return Declined(reason)
    if x.zero is not None and not is_matrix(w, columns, (depth, width)):
        return Declined("the sum of each column is not that of one matrix")
    return multiplied(at, x, without(at, w), columns)


@rule(on(Convolution, bytes_, wide | on(Sub, wide, var()), name="convolution"))
def convolution_of_bytes(at: Cursor, convolution: Instruction) -> Instruction | Declined:
    """A convolution of widened bytes is that of the bytes, less what zero points add; padding
    stands for that of the image.
    """
    x, w = map(widened, convolution.inputs)
    op = convolution.op_as(Convolution)
    if x is None or w is None or w.views:
        return Declined("a side is no view of widened bytes")
    if reason := beyond(x, w, 0, product(w.source.shape.dims[1:])):
        return Declined(reason)
    if op.group > 1 and not may_do_without(w):
        return Declined("a zero point of the weights asks for the sum of each group's windows")
    return convolved(at, x, without(at, w), op)


integers = dot_of_bytes + convolution_of_bytes
