"""Unrolls recurrent layers into matrix products and arithmetic."""

from __future__ import annotations

import math

import numpy as np

from migx.builders import astype, at_index, at_least_f32, concatenate
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import attr, on
from migx.ops.layout import Multibroadcast, Reshape, Slice, Squeeze, Transpose, Unsqueeze
from migx.ops.linear import Dot
from migx.ops.pointwise import Add
from migx.ops.rnn import BACKWARD, GRU, LSTM, RNN, Recurrent
from migx.passes.rewrite_rnn.cells import States, Weights, biased, cell_of, part
from migx.rewrite import Cursor, Declined, RuleSet, rule
from migx.shape import OPTIONAL, DType

MAX_STEPS = 64


@rule(on((RNN, GRU, LSTM), name="layer", clip=attr("clip")))
def unroll(
    at: Cursor, layer: Instruction, clip: float, max_steps: int = MAX_STEPS
) -> tuple[Instruction, ...] | Declined:
    """A layer with a known number of steps is unrolled into them."""
    op, steps = layer.op_as(Recurrent), layer.inputs[0].shape.dims[0]
    directions = BACKWARD[op.direction]
    if clip < math.inf or op.activations not in ((), op.defaults * len(directions)):
        return Declined("the activations are not the default ones")
    if getattr(op, "input_forget", False) or extras(layer):
        return Declined("gates are coupled or have peepholes, or sequences have their own length")
    if not isinstance(steps, int) or not 1 <= steps <= max_steps:
        return Declined(f"{steps} steps are not 1 to {max_steps}")
    runs = [run(at, layer, d, steps, backward) for d, backward in enumerate(directions)]
    hidden = concatenate(at, 1, [rows for rows, _ in runs])
    states = zip(*(last for _, last in runs), strict=True)
    finals = (concatenate(at, 0, kept) for kept in states)
    return tuple(astype(at, v, layer.inputs[0].shape.dtype) for v in (hidden, *finals))


def extras(layer: Instruction) -> list[Instruction]:
    """The lengths of the sequences and the peepholes, where they are given."""
    states = layer.op_as(Recurrent).states
    optional = (*layer.inputs[4:5], *layer.inputs[5 + len(states) :])
    return [v for v in optional if v.shape.dtype is not OPTIONAL]


def run(
    at: Cursor, layer: Instruction, d: int, steps: int, backward: bool
) -> tuple[Instruction, States]:
    """One direction: its hidden states [time, 1, batch, hidden] and last states [1, batch, hidden].

    The inputs of all steps are multiplied by the weights at once.
    """
    op = layer.op_as(Recurrent)
    x, w, r, *others = layer.inputs
    wide = at_least_f32(x.shape.dtype)
    given = [None if v.shape.dtype is OPTIONAL else one(at, v, d, wide) for v in others]
    before, after = biases(at, op, given[0] if given else None)
    projected = project(at, astype(at, x, wide), one(at, w, d, wide), before)
    weights = Weights(at(Transpose((1, 0)), one(at, r, d, wide)), after, op.hidden_size)
    dims = (x.shape.dims[1], op.hidden_size)
    initial = [given[i] if i < len(given) else None for i in range(2, 2 + len(op.states))]
    states: States = tuple(
        at(Multibroadcast(dims), at.literal(np.zeros((), wide.numpy))) if v is None else v
        for v in initial
    )
    hidden: list[Instruction] = [states[0]] * steps
    for t in reversed(range(steps)) if backward else range(steps):
        now = at_index(at, projected, 0, t)
        states = cell_of(op)(at, weights, now, states)
        hidden[t] = at(Unsqueeze((0, 1)), states[0])
    return concatenate(at, 0, hidden), tuple(at(Unsqueeze((0,)), v) for v in states)


def biases(
    at: Cursor, op: Recurrent, b: Instruction | None
) -> tuple[Instruction | None, Instruction | None]:
    """The biases added to the inputs of all steps at once, and to each step's state product."""
    if b is None:
        return None, None
    rows = op.gates * op.hidden_size
    before, after = part(at, b, 0, rows), part(at, b, rows, 2 * rows)
    apart = isinstance(op, GRU) and op.linear_before_reset
    return (before, after) if apart else (at(Add(), before, after), None)


def project(at: Cursor, x: Instruction, w: Instruction, b: Instruction | None) -> Instruction:
    """The sum x w + b for x [time, batch, input] and the transpose of w, as one product."""
    time, batch, features = x.shape.dims
    flat = at(Reshape((time * batch, features)), x)
    result = biased(at, at(Dot(), flat, at(Transpose((1, 0)), w)), b)
    return at(Reshape((time, batch, w.shape.dims[0])), result)


def one(at: Cursor, value: Instruction, d: int, to: DType) -> Instruction:
    """The part of a value for one direction, in another element type."""
    if value.shape.dims[0] != 1:
        value = at(Slice((0,), (d,), (d + 1,)), value)
    return astype(at, at(Squeeze((0,)), value), to)


class RewriteRnn(Pass):
    """Turns recurrent layers of at most ``max_steps`` known steps, with the default activations,
    into matrix products and arithmetic (MIGraphX rewrite_rnn).
    """

    rules = RuleSet(unroll)
    max_steps: int = MAX_STEPS
