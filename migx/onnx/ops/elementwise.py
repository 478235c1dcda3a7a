"""ONNX elementwise operators. Inputs are broadcast by separate instructions."""

from __future__ import annotations

import math
from functools import reduce

from migx import ops
from migx.ir import Instruction
from migx.onnx.alike import BINARY, UNARY, class_of
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.op import Operation
from migx.shape import F64

VARIADIC = {"Sum": "Add", "Max": "Max", "Min": "Min"}


def plus(node: Node, x: Instruction, other: Instruction | None) -> Instruction:
    """The sum of two values; the first alone if there is no other."""
    return x if other is None else node.add(ops.Add(), x, other)


@importer(*UNARY)
def unary(node: Node) -> Instruction:
    return node.add(class_of(node.proto.op_type)(), node.input(0))


@importer(*BINARY, since=7)
def two_operands(node: Node) -> Instruction:
    return node.add(class_of(node.proto.op_type)(), node.input(0), node.input(1))


@importer(*(o for o in BINARY if not o.startswith(("Bitwise", "GreaterOr", "LessOr"))), "Pow")
def two_aligned_operands(node: Node) -> Instruction:
    """Until version 7 the second operand's dims are aligned with the first's from ``axis`` on."""
    x, y, kind = node.input(0), node.input(1), node.proto.op_type
    start = 1 if kind == "PRelu" else x.shape.rank - y.shape.rank
    start = node.axis(node.integer("axis", start), x.shape.rank) if y.shape.rank else 0
    trailing = x.shape.rank - start - y.shape.rank
    if y.shape.elements == 1 or trailing < 0:
        trailing = 0
    return node.add(class_of(kind)(), x, node.reshape(y, (*y.shape.dims, *[1] * trailing)))


@importer(*VARIADIC)
def variadic(node: Node) -> Instruction:
    return combined(node, class_of(VARIADIC[node.proto.op_type])())


@importer("Mean")
def mean(node: Node) -> Instruction:
    total = combined(node, ops.Add())
    return node.add(ops.Div(), total, len(node.inputs))


def combined(node: Node, op: Operation) -> Instruction:
    """All operands combined by a binary operation, from left to right."""
    return reduce(lambda x, y: node.add(op, x, y), node.operands())


@importer("Pow", since=7)
def power(node: Node) -> Instruction:
    """The result has the type of the base, but a more precise exponent is not rounded."""
    base, exponent = node.input(0), node.input(1)
    dtype, other = base.shape.dtype, exponent.shape.dtype
    finer = other.is_float and (not dtype.is_float or other.bits > dtype.bits)
    wide = dtype if not finer else other if dtype.is_float else F64
    result = node.add(ops.Pow(), node.convert(base, wide), node.convert(exponent, wide))
    return node.convert(result, dtype)


@importer("Mod")
def mod(node: Node) -> Instruction:
    op = ops.Fmod() if node.integer("fmod", 0) else ops.Mod()
    return node.add(op, node.input(0), node.input(1))


@importer("BitShift")
def bit_shift(node: Node) -> Instruction:
    way = node.choice("direction", ("LEFT", "RIGHT"))
    op = ops.ShiftLeft() if way == "LEFT" else ops.ShiftRight()
    return node.add(op, node.input(0), node.input(1))


@importer("Where")
def where(node: Node) -> Instruction:
    return node.add(ops.Where(), node.input(0), node.input(1), node.input(2))


@importer("Clip")
def clip_by_attributes(node: Node) -> Instruction:
    x = node.input(0)
    low = node.literal(node.number("min", -math.inf), x.shape.dtype) if node.has("min") else None
    high = node.literal(node.number("max", math.inf), x.shape.dtype) if node.has("max") else None
    return clipped(node, x, low, high)


@importer("Clip", since=11)
def clip(node: Node) -> Instruction:
    return clipped(node, node.input(0), node.optional(1), node.optional(2))


def clipped(
    node: Node, x: Instruction, low: Instruction | None, high: Instruction | None
) -> Instruction:
    """min(max(x, low), high), with optional bounds."""
    if low is not None and high is not None:
        bounds = [node.broadcast_to(bound, x.shape.dims) for bound in (low, high)]
        return node.add(ops.Clip(), x, *bounds)
    if low is not None:
        return node.add(ops.Max(), x, low)
    return x if high is None else node.add(ops.Min(), x, high)


@importer("LeakyRelu")
def leaky_relu(node: Node) -> Instruction:
    return node.add(ops.LeakyRelu(node.number("alpha", 0.01)), node.input(0))


@importer("Elu")
def elu(node: Node) -> Instruction:
    return node.add(ops.Elu(node.number("alpha", 1.0)), node.input(0))


@importer("Celu", since=12)
def celu(node: Node) -> Instruction:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    x = node.input(0)
    alpha = node.scalar(node.number("alpha", 1.0), x)
    below = node.add(ops.Elu(1.0), node.add(ops.Div(), node.add(ops.Min(), x, 0), alpha))
    return node.add(ops.Add(), node.add(ops.Relu(), x), node.add(ops.Mul(), below, alpha))


@importer("Selu")
def selu(node: Node) -> Instruction:
    x = node.add(ops.Elu(node.number("alpha", 1.6732632423543772)), node.input(0))
    return node.add(ops.Mul(), x, node.number("gamma", 1.0507009873554805))


@importer("HardSigmoid")
def hard_sigmoid(node: Node) -> Instruction:
    return saturated_line(node, node.number("alpha", 0.2), node.number("beta", 0.5))


@importer("HardSwish")
def hard_swish(node: Node) -> Instruction:
    return node.add(ops.Mul(), node.input(0), saturated_line(node, 1 / 6, 0.5))


def saturated_line(node: Node, alpha: float, beta: float) -> Instruction:
    """min(max(alpha * x + beta, 0), 1)."""
    x = node.input(0)
    line = node.add(ops.Add(), node.add(ops.Mul(), x, alpha), beta)
    return node.add(ops.Clip(), line, 0, 1)


@importer("Softplus")
def softplus(node: Node) -> Instruction:
    """log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)), which never overflows. What rounding 1 + u
    loses of a small u is added to the logarithm, which is otherwise 0 then.
    """
    x = node.input(0)
    one = node.scalar(1, x)
    tail = node.add(ops.Exp(), node.add(ops.Neg(), node.add(ops.Abs(), x)))
    whole = node.add(ops.Add(), tail, one)
    lost = node.add(ops.Sub(), tail, node.add(ops.Sub(), whole, one))
    log = node.add(ops.Add(), node.add(ops.Log(), whole), lost)
    return node.add(ops.Add(), node.add(ops.Relu(), x), log)


@importer("Softsign")
def softsign(node: Node) -> Instruction:
    x = node.input(0)
    return node.add(ops.Div(), x, node.add(ops.Add(), node.add(ops.Abs(), x), 1))


@importer("Gelu", since=20)
def gelu(node: Node) -> Instruction:
    x = node.input(0)
    half = node.add(ops.Mul(), x, 0.5)
    if node.choice("approximate", ("none", "tanh"), "none") == "tanh":
        cube = node.add(ops.Mul(), node.add(ops.Mul(), x, x), x)
        inner = node.add(ops.Add(), x, node.add(ops.Mul(), cube, 0.044715))
        bent = node.add(ops.Tanh(), node.add(ops.Mul(), inner, math.sqrt(2 / math.pi)))
    else:
        bent = node.add(ops.Erf(), node.add(ops.Mul(), x, math.sqrt(0.5)))
    return node.add(ops.Mul(), half, node.add(ops.Add(), bent, 1))


@importer("IsInf")
def is_inf(node: Node) -> Instruction:
    negative, positive = node.integer("detect_negative", 1), node.integer("detect_positive", 1)
    return node.add(ops.Isinf(bool(negative), bool(positive)), node.input(0))
