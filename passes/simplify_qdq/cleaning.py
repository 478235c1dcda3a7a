"""Zero points of zero, broadcast parameters, and values requantised with the same parameters."""

from __future__ import annotations

import dataclasses

import numpy as np

from migx.ir import Instruction
from migx.match import OneOf, Pattern, constant, on, skip, value, var
from migx.op import Array
from migx.ops.layout import (
    Broadcast,
    Concat,
    Contiguous,
    Multibroadcast,
    Reshape,
    Slice,
    Squeeze,
    Transpose,
    Unsqueeze,
)
from migx.ops.pointwise import Convert, Sub
from migx.ops.pooling import Pooling
from migx.ops.quantization import DequantizeLinear, Linear, QuantizeLinear
from migx.passes._common import broadcast_of
from migx.passes.simplify_algebra.terms import repeated
from migx.rewrite import Cursor, Declined, rule
from migx.shape import I8, I32, U8
from migx.weights import is_readable, value_of

MIDDLE = 128
"""The zero point with which u8 has the values of i8 without one."""


def is_sound(scale: Array) -> bool:
    """Whether 65535 steps of each scale are finite and distinct."""
    return bool(np.all((scale >= 1e-30) & (scale <= 1e30))) and scale.dtype.itemsize >= 4


@rule(
    on(
        (QuantizeLinear, DequantizeLinear),
        var("x"),
        var("scale"),
        broadcast_of(value(0, several=True)),
        name="q",
    )
)
def zero_point(at: Cursor, x: Instruction, scale: Instruction, q: Instruction) -> Instruction:
    """A zero point of zero may be left out."""
    return at(q.op, x, scale)


@rule(on((QuantizeLinear, DequantizeLinear), name="q"))
def repeated_parameters(at: Cursor, q: Instruction) -> Instruction | Declined | None:
    """A scale or zero point that broadcasts one number is that number; one that broadcasts a vector
    along an axis is that vector.
    """
    op, (x, *parameters) = q.op_as(Linear), q.inputs
    wholes = [repeated(v) for v in parameters]
    pairs = list(zip(wholes, parameters, strict=True))
    if all(w.source is v for w, v in pairs):
        return None
    if not op.block:
        given = [v if w.axes else w.source for w, v in pairs]
        return at(op, x, *given) if given != parameters else None
    axes = {axis for w in wholes for axis in w.axes}
    if len(axes) > 1:
        return Declined("they differ along several axes")
    axis = next(iter(axes), Linear.axis)
    if any(w.axes and v.shape.dims[axis] != x.shape.dims[axis] for w, v in pairs):
        return Declined("they differ from block to block")
    vectors = [w.source if not w.axes else along(at, w.source) for w in wholes]
    return at(dataclasses.replace(op, axis=axis, block=0), x, *vectors)


def along(at: Cursor, value: Instruction) -> Instruction:
    """A value that varies along one axis, as a vector."""
    ones = tuple(i for i, extent in enumerate(value.shape.dims) if extent == 1)
    return at(Squeeze(ones), value) if ones else value


def linear(op: type[Linear], *inputs: Pattern, name: str, once: bool = False) -> OneOf:
    """A quantizelinear or dequantizelinear of some inputs, with a zero point or without."""
    forms = on(op, *inputs, name=name), on(op, *inputs, var(), name=name)
    return OneOf(tuple(form.once() if once else form for form in forms))


dequantized = linear(DequantizeLinear, var("x"), value(is_sound), name="dq")


@rule(linear(QuantizeLinear, dequantized, var(), name="q"))
def requantize(x: Instruction, dq: Instruction, q: Instruction) -> Instruction | Declined:
    """quantizelinear(dequantizelinear(x, s, z), s, z) is x, of integers."""
    if not alike(dq, q) or not x.shape.same_type(q.shape):
        return Declined("the parameters of the two differ")
    if not x.shape.dtype.is_integer:
        return Declined(f"infinities of {x.shape.dtype} would be saturated")
    return x


MOVES = (
    *(Reshape, Transpose, Squeeze, Unsqueeze, Slice, Contiguous),
    *(Multibroadcast, Broadcast, Pooling),
)
"""Operations that move or repeat elements, or take the maximum of some."""


@rule(linear(QuantizeLinear, skip(*MOVES)(dequantized), var(), name="q"))
def move_bytes(
    at: Cursor, x: Instruction, dq: Instruction, q: Instruction
) -> Instruction | Declined:
    """A value that is dequantised, only moved, repeated or max-pooled, and then quantised as
    before, is moved as bytes.
    """
    if not alike(dq, q) or not x.shape.same_type(q.shape.with_dims(x.shape.dims)):
        return Declined("the parameters of the two differ")
    if not x.shape.dtype.is_integer or dq.inputs[1].shape.elements != 1:
        return Declined("the values are no integers, or have more than one scale")
    moves: list[Instruction] = []
    value = q.inputs[0]
    while value is not dq:
        if len(value.users) != 1 or (isinstance(value.op, Pooling) and value.op.mode != "max"):
            return Declined(f"{value.op.name} is read by others, or computes")
        moves.insert(0, value)
        value = value.inputs[0]
    for move in moves:
        x = at(move.op, x, *move.inputs[1:])
    return x


@rule(linear(QuantizeLinear, on(Concat, name="concat").once(), var(), name="q"))
def quantize_first(at: Cursor, concat: Instruction, q: Instruction) -> Instruction | Declined:
    """quantizelinear(concat(...)) is concat(quantizelinear(...)): bytes are moved, not floats."""
    if q.op_as(Linear).block or any(v.shape.elements != 1 for v in q.inputs[1:]):
        return Declined("there is more than one scale")
    return at(concat.op, *(at(q.op, part, *q.inputs[1:]) for part in concat.inputs))


@rule(linear(DequantizeLinear, on(QuantizeLinear, name="q"), var(), name="dq"))
def fake(q: Instruction, dq: Instruction) -> Instruction | Declined:
    """dequantizelinear(quantizelinear(x, s, z), s, z) is about x."""
    if not alike(dq, q) or not q.inputs[0].shape.same_type(dq.shape):
        return Declined("the parameters of the two differ")
    return q.inputs[0]


def alike(a: Instruction, b: Instruction) -> bool:
    """Whether two have the same scale, zero point, axis and blocks."""
    first, second = a.op_as(Linear), b.op_as(Linear)
    if len(a.inputs) != len(b.inputs) or (first.axis, first.block) != (second.axis, second.block):
        return False
    return all(map(same, a.inputs[1:], b.inputs[1:]))


def same(a: Instruction, b: Instruction) -> bool:
    """Whether two are one instruction, or fixed literals of the same value."""
    return a is b or (is_readable(a) and is_readable(b) and value_of(a) == value_of(b))


@rule(
    on(
        DequantizeLinear,
        constant("x", lambda v: v.shape.dtype is U8),
        var("scale"),
        broadcast_of(value(MIDDLE, several=True)),
        name="dq",
    )
)
def weights_about_128(
    at: Cursor, x: Instruction, scale: Instruction, dq: Instruction
) -> Instruction:
    """Constant u8 about 128 are i8 about 0."""
    return at(dq.op, centred(at, x), scale)


def centred(at: Cursor, x: Instruction) -> Instruction:
    """u8 less 128, as i8."""
    middle = at(Multibroadcast(x.shape.dims), at.literal(np.array(MIDDLE, np.int32)))
    return at(Convert(I8), at(Sub(), at(Convert(I32), x), middle))


cleaning = (
    repeated_parameters + zero_point + requantize + move_bytes + quantize_first + weights_about_128
)
