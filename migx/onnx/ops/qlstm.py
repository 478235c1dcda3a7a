"""The LSTM of ``com.microsoft`` with quantised weights: its inputs, and the hidden states at each
step, are quantised by their own range at run time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from migx import ops
from migx.builders import arange, at_index, stacked
from migx.ir import Instruction, Module
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops._common import delegated, equal_parts
from migx.onnx.ops.contrib import DOMAIN
from migx.onnx.ops.linear import matrix_product, scaled
from migx.onnx.ops.qlinear import by_range, dequantized
from migx.onnx.ops.recurrent import operation
from migx.ops.rnn import BACKWARD, LSTM
from migx.shape import F32, I64

Activation = tuple[str, tuple[float, ...]]
"""A name and its parameters."""


@dataclass(frozen=True)
class Direction:
    """One direction of a layer: the inputs' contribution to the gates [time, batch, 4 * hidden],
    the recurrent weights [hidden, 4 * hidden], optional peepholes [3 * hidden], the states [batch,
    hidden], and the lengths of the sequences, i64 [batch], if they differ.
    """

    op: LSTM
    backward: bool
    activations: Sequence[Activation]
    inputs: Instruction
    weights: Instruction
    peepholes: Instruction | None
    states: Sequence[Instruction]
    lengths: Instruction | None


@importer("DynamicQuantizeLSTM", domain=DOMAIN)
def dynamic_quantize_lstm(node: Node) -> tuple[Instruction, ...]:
    """An LSTM with quantised weights [directions, input, 4 * hidden], whose other operands are
    quantised by their own range: the inputs of all steps at once, the hidden states of the batch at
    each step. This is what onnxruntime does on one thread; on several, it does so for each part of
    a batch.
    """
    runs = [run(node, each) for each in directions(node)]
    return tuple(
        stacked(node, axis, parts)
        for axis, parts in zip((1, 0, 0), zip(*runs, strict=True), strict=True)
    )


def directions(node: Node) -> list[Direction]:
    """The directions of the layer."""
    op: LSTM = operation(node, "LSTM")
    if op.direction not in BACKWARD:
        raise node.fail(f"no direction {op.direction!r}; there are {', '.join(BACKWARD)}")
    batch, lengths = node.input(0).shape.dims[1], node.optional(4)
    lengths = None if lengths is None else node.convert(lengths, I64)
    x = by_range(node, seen(node, node.input(0), lengths))
    blank = node.full(0, F32, (batch, op.hidden_size))
    found = []
    for d, backward in enumerate(BACKWARD[op.direction]):
        bias, h, c, peepholes = (of_direction(node, i, d) for i in (3, 5, 6, 7))
        inputs = matrix_product(node, ops.Dot(), x, weights(node, d, 1, 8))
        if bias is not None:
            inputs = node.add(ops.Add(), inputs, node.add(ops.Add(), *equal_parts(node, bias, 2)))
        states = [blank if v is None else node.reshape(v, blank.shape.dims) for v in (h, c)]
        own, r = op.named_activations()[d], weights(node, d, 2, 10)
        found.append(Direction(op, backward, own, inputs, r, peepholes, states, lengths))
    return found


def of_direction(node: Node, at: int, d: int) -> Instruction | None:
    """The part of an operand for one direction, if it is given."""
    value = node.optional(at)
    if value is None:
        return None
    return at_index(node, value, 0, d)


def weights(node: Node, d: int, at: int, scale_at: int) -> Instruction:
    """The weights [rows, columns] of one direction, dequantised; scales and zero points are one
    number, or one for each column.
    """
    levels, scale, zero = (of_direction(node, i, d) for i in (at, scale_at, scale_at + 1))
    if levels is None or scale is None:
        raise node.fail(f"input {at if levels is None else scale_at} is missing")
    columns = levels.shape.dims[1:]
    if zero is not None and zero.shape.dims != scale.shape.dims:
        scale, zero = (node.broadcast_to(v, columns) for v in (scale, zero))
    return dequantized(node, levels, scale, zero, 1)


def seen(node: Node, x: Instruction, lengths: Instruction | None) -> Instruction:
    """The inputs, zero beyond the longest sequence, where they must not extend the range."""
    if lengths is None:
        return x
    longest = node.add(ops.ReduceMax((0,)), lengths)
    inside = node.add(ops.Less(), arange(node, x.shape.dims[0]), longest)
    inside = node.add(ops.Broadcast(0, x.shape.dims), inside)
    return node.add(ops.Where(), inside, x, 0)


def run(node: Node, of: Direction) -> tuple[Instruction, Instruction, Instruction]:
    """The hidden states [time, batch, hidden], and both final states. Sequences with lengths are
    reversed as a whole for the backward direction, so that all start together.
    """
    scanned, turned = [of.inputs], of.backward and of.lengths is not None
    if of.lengths is not None:
        scanned.append(arange(node, of.inputs.shape.dims[0]))
        if turned:
            scanned[0] = node.add(ops.ReverseSequence(1, 0), of.inputs, of.lengths)
    back = int(of.backward and not turned)
    op = ops.Scan(len(scanned), (), (back,) * len(scanned), (), (back,))
    whole = node.add(op, *of.states, *scanned, modules=[body(node, of, scanned)])
    h, c, y = node.elements(whole, 3)
    if of.lengths is not None and turned:
        y = node.add(ops.ReverseSequence(1, 0), y, of.lengths)
    return y, h, c


def body(node: Node, of: Direction, scanned: Sequence[Instruction]) -> Module:
    """One step. A sequence that has ended keeps its states; its rows of the result are zero, and
    count as zero in the range of the others.
    """
    step = node.inside("lstm.step")
    module = step.module
    slices = [v.shape.with_dims(v.shape.dims[1:]) for v in scanned]
    shapes = [*(v.shape.as_standard() for v in of.states), *slices]
    h, c, x, *t = (module.add_parameter(n, s) for n, s in zip("hcxt", shapes, strict=False))

    def before_end(
        compared: ops.Less | ops.LessOrEqual, v: Instruction, other: Instruction
    ) -> Instruction:
        """A value, or another for sequences that have ended."""
        if of.lengths is None:
            return v
        goes_on = step.add(compared, t[0], of.lengths)
        return step.add(ops.Where(), step.add(ops.Broadcast(0, v.shape.dims), goes_on), v, other)

    zero = step.scalar(0, h)
    rounded = by_range(step, before_end(ops.LessOrEqual(), h, zero))
    gates = step.add(ops.Add(), x, step.add(ops.Dot(), rounded, of.weights))
    new = cell(step, of, equal_parts(step, gates, 4), c)
    after = [before_end(ops.Less(), v, old) for v, old in zip(new, (h, c), strict=True)]
    module.add_return(*after, before_end(ops.Less(), new[0], zero), names=["h_new", "c_new", "y"])
    return module


def cell(
    step: Node, of: Direction, gates: Sequence[Instruction], c: Instruction
) -> tuple[Instruction, Instruction]:
    """Both states after a step, from the sums for its gates and the previous cell state."""
    (i, o, forget, new), (f, g, h) = gates, of.activations
    peepholes = [] if of.peepholes is None else equal_parts(step, of.peepholes, 3)

    def gate(x: Instruction, by: Activation, place: int, sees: Instruction) -> Instruction:
        """A gate's activation of a sum plus its peephole on the cell state."""
        if peepholes:
            x = step.add(ops.Add(), x, step.add(ops.Mul(), peepholes[place], sees))
        return activated(step, by, clipped(step, x, of.op.clip))

    i, coupled = gate(i, f, 0, c), of.op.input_forget
    kept = step.add(ops.Sub(), 1, i) if coupled else gate(forget, f, 2, c)
    added = step.add(ops.Mul(), i, activated(step, g, clipped(step, new, of.op.clip)))
    after = step.add(ops.Add(), step.add(ops.Mul(), kept, c), added)
    return step.add(ops.Mul(), gate(o, f, 1, after), activated(step, h, after)), after


def clipped(node: Node, x: Instruction, limit: float) -> Instruction:
    """A value clipped to a limit on either side; unchanged if there is none."""
    if limit == math.inf:
        return x
    return node.add(ops.Clip(), x, -limit, limit)


def activated(node: Node, by: Activation, x: Instruction) -> Instruction:
    """An activation; most are ONNX operators with the same name."""
    name, parameters = by
    match name:
        case "Affine":
            alpha, beta = parameters
            return node.add(ops.Add(), scaled(node, x, alpha), beta)
        case "ScaledTanh":
            alpha, beta = parameters
            return scaled(node, node.add(ops.Tanh(), scaled(node, x, beta)), alpha)
        case "ThresholdedRelu":
            return node.add(ops.Where(), node.add(ops.Less(), x, parameters[0]), 0, x)
    return delegated(node, name, x, **dict(zip(("alpha", "beta"), parameters, strict=False)))
