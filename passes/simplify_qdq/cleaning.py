"""Zero points of zero, and values quantised again as they were."""

from __future__ import annotations

import numpy as np

from migx.ir import Instruction
from migx.match import on, skip, value, var
from migx.op import Array
from migx.ops.layout import Broadcast, Multibroadcast
from migx.ops.quantization import DequantizeLinear, QuantizeLinear
from migx.rewrite import Cursor, Declined, rule
from migx.weights import is_readable, value_of


def is_sound(scale: Array) -> bool:
    """Whether 65535 steps of each size are finite and told apart."""
    return bool(np.all((scale >= 1e-30) & (scale <= 1e30))) and scale.dtype.itemsize >= 4


@rule(
    on(
        (QuantizeLinear, DequantizeLinear),
        var("x"),
        var("scale"),
        skip(Broadcast, Multibroadcast)(value(0)),
        name="q",
    )
)
def zero_point(at: Cursor, x: Instruction, scale: Instruction, q: Instruction) -> Instruction:
    """A zero point of zero may be left out."""
    return at(q.op, x, scale)


sound = value(is_sound)
dequantized = on(DequantizeLinear, var("x"), sound, name="dq") | on(
    DequantizeLinear, var("x"), sound, var(), name="dq"
)


@rule(
    on(QuantizeLinear, dequantized, var(), name="q")
    | on(QuantizeLinear, dequantized, var(), var(), name="q")
)
def requantize(x: Instruction, dq: Instruction, q: Instruction) -> Instruction | Declined:
    """quantizelinear(dequantizelinear(x, s, z), s, z) is x, of integers."""
    if not alike(dq, q) or not x.shape.same_type(q.shape):
        return Declined("the parameters of the two differ")
    if not x.shape.dtype.is_integer:
        return Declined(f"infinities of {x.shape.dtype} would be saturated")
    return x


quantized = on(QuantizeLinear, name="q")


@rule(
    on(DequantizeLinear, quantized, var(), name="dq")
    | on(DequantizeLinear, quantized, var(), var(), name="dq")
)
def fake(q: Instruction, dq: Instruction) -> Instruction | Declined:
    """dequantizelinear(quantizelinear(x, s, z), s, z) is about x."""
    if not alike(dq, q) or not q.inputs[0].shape.same_type(dq.shape):
        return Declined("the parameters of the two differ")
    return q.inputs[0]


def alike(a: Instruction, b: Instruction) -> bool:
    """Whether two have the same scale, zero point, axis and blocks."""
    if len(a.inputs) != len(b.inputs) or (a.op.axis, a.op.block) != (b.op.axis, b.op.block):  # type: ignore[attr-defined]
        return False
    return all(map(same, a.inputs[1:], b.inputs[1:]))


def same(a: Instruction, b: Instruction) -> bool:
    """Whether two are one instruction, or fixed literals of the same value."""
    return a is b or (is_readable(a) and is_readable(b) and value_of(a) == value_of(b))


cleaning = zero_point + requantize
