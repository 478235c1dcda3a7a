"""The sides of products of bytes: dequantised, or widened to i32 first, as ONNX's MatMulInteger and
ConvInteger have them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from migx.ir import Instruction
from migx.match import on, skip, var
from migx.ops.layout import Broadcast, Multibroadcast, Reshape, Squeeze, Transpose, Unsqueeze
from migx.ops.pointwise import Convert, Sub
from migx.ops.quantization import DequantizeLinear
from migx.passes.simplify_qdq.cleaning import MIDDLE, centred
from migx.passes.simplify_qdq.zero_points import Factor
from migx.rewrite import Cursor
from migx.shape import I8, I32, U8
from migx.weights import looked_at, value_of

NAME = "simplify_qdq"
MOVED = (Transpose, Multibroadcast, Broadcast, Reshape, Squeeze, Unsqueeze)
SPREAD = (Multibroadcast, Broadcast, Reshape, Squeeze, Unsqueeze, Convert)
"""Operations that may stand between a zero point and its subtraction."""


def is_byte(value: Instruction) -> bool:
    """Whether a value is of bytes."""
    return value.shape.dtype in (I8, U8)


_wide = on(Convert, var(test=is_byte), to=I32)
numbers = on(DequantizeLinear) | _wide | on(Sub, _wide, var())
"""Bytes converted to floats by a scale, or to integers, possibly less a zero point."""
side = skip(*MOVED)(numbers)


def factor(value: Instruction, of: Callable[[Instruction], bool] = is_byte) -> Factor | None:
    """A value as the side of a product; None if it is not a view of converted bytes, or of what
    else is asked for.
    """
    views: list[Instruction] = []
    while type(value.op) in MOVED and len(value.inputs) == 1:
        views.insert(0, value)
        (value,) = value.inputs
    is_scaled = isinstance(value.op, DequantizeLinear)
    found = _dequantized(value, of) if is_scaled else _widened(value)
    return None if found is None else replace(found, views=tuple(views))


def _dequantized(value: Instruction, of: Callable[[Instruction], bool]) -> Factor | None:
    op, (source, *parameters) = value.op_as(DequantizeLinear), value.inputs
    several = [v for v in parameters if v.shape.elements != 1]
    if not of(source):
        return None
    if several and (op.block or any(v.shape.rank != 1 for v in several)):
        return None
    scale, zero = parameters[0], parameters[1] if len(parameters) > 1 else None
    return Factor(source, (), scale, zero, op.axis if several else None)


def _widened(value: Instruction) -> Factor | None:
    zero: Instruction | None = None
    if type(value.op) is Sub:
        value, zero = value.inputs
    if type(value.op) is not Convert or value.shape.dtype is not I32:
        return None
    (source,) = value.inputs
    dtype = source.shape.dtype
    while zero is not None and type(zero.op) in SPREAD and zero.shape.dtype is not dtype:
        zero = zero.inputs[0]
    alike = zero is None or (zero.shape.dtype is dtype and zero.shape.elements == 1)
    return Factor(source, (), None, zero, None) if is_byte(source) and alike else None


def point(w: Factor) -> int | None:
    """The zero point of widened weights, if it is one known number; 0 if there is none."""
    if w.zero is None:
        return 0
    held = looked_at(w.zero, relied_on_by=NAME) if w.scale is None else None
    return None if held is None else int(held.array.item())


def may_do_without(w: Factor) -> bool:
    """Whether weights can be held without a zero point: they have 0, or are constant u8 about
    128.
    """
    middle = w.source.shape.dtype is U8 and w.source.constant
    return point(w) == 0 or (middle and point(w) == MIDDLE)


def without(at: Cursor, w: Factor) -> Factor:
    """Weights without a zero point, where they can be held so."""
    if w.zero is None or not may_do_without(w):
        return w
    about = point(w)
    value_of(w.zero, relied_on_by=NAME)
    return replace(w, source=centred(at, w.source) if about else w.source, zero=None)
