"""One step of each recurrent layer, as arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from migx.ir import Instruction
from migx.ops.layout import Multibroadcast, Slice
from migx.ops.linear import Dot
from migx.ops.pointwise import Add, Mul, Sigmoid, Sub, Tanh
from migx.ops.rnn import GRU, LSTM, Recurrent
from migx.rewrite import Cursor

States: TypeAlias = tuple[Instruction, ...]


@dataclass(frozen=True)
class Weights:
    """The weights r [hidden, gates*hidden] of the state, their bias, and the hidden size.

    The bias b [gates*hidden] is None where there is none, or where it is in the projected input.
    """

    r: Instruction
    b: Instruction | None
    hidden: int


Cell: TypeAlias = Callable[[Cursor, Weights, Instruction, States], States]
"""A step: the states after it, hidden first, from its projected input and the states before it."""


def cell_of(op: Recurrent) -> Cell:
    """The step of a layer with the default activations."""
    if isinstance(op, LSTM):
        return lstm
    if isinstance(op, GRU):
        return gru_linear if op.linear_before_reset else gru
    return rnn


def rnn(at: Cursor, weights: Weights, x: Instruction, states: States) -> States:
    """The state h becomes tanh(x + h r)."""
    return (at(Tanh(), at(Add(), x, at(Dot(), states[0], weights.r))),)


def gru(at: Cursor, weights: Weights, x: Instruction, states: States) -> States:
    """The state h becomes g + z (h - g) of gates z and q, where g is tanh(x + (q h) r)."""
    (h,), n = states, weights.hidden
    gates = at(Add(), part(at, x, 0, 2 * n), at(Dot(), h, part(at, weights.r, 0, 2 * n)))
    z, q = (at(Sigmoid(), part(at, gates, k * n, k * n + n)) for k in range(2))
    kept = at(Dot(), at(Mul(), q, h), part(at, weights.r, 2 * n, 3 * n))
    return (blended(at, z, h, at(Tanh(), at(Add(), part(at, x, 2 * n, 3 * n), kept))),)


def gru_linear(at: Cursor, weights: Weights, x: Instruction, states: States) -> States:
    """The state h becomes g + z (h - g) of gates z and q, where g is tanh(x + q (h r + b))."""
    (h,), n = states, weights.hidden
    after = biased(at, at(Dot(), h, weights.r), weights.b)
    gates = at(Add(), part(at, x, 0, 2 * n), part(at, after, 0, 2 * n))
    z, q = (at(Sigmoid(), part(at, gates, k * n, k * n + n)) for k in range(2))
    kept = at(Mul(), q, part(at, after, 2 * n, 3 * n))
    return (blended(at, z, h, at(Tanh(), at(Add(), part(at, x, 2 * n, 3 * n), kept))),)


def lstm(at: Cursor, weights: Weights, x: Instruction, states: States) -> States:
    """The states: c becomes f c + i tanh(g), then h o tanh(c), of i, o, f and g in x + h r."""
    (h, c), n = states, weights.hidden
    gates = at(Add(), x, at(Dot(), h, weights.r))
    i, o, f = (at(Sigmoid(), part(at, gates, k * n, k * n + n)) for k in range(3))
    new = at(Mul(), i, at(Tanh(), part(at, gates, 3 * n, 4 * n)))
    c = at(Add(), at(Mul(), f, c), new)
    return at(Mul(), o, at(Tanh(), c)), c


def biased(at: Cursor, x: Instruction, b: Instruction | None) -> Instruction:
    """The sum of each row and b, where there is one."""
    return x if b is None else at(Add(), x, at(Multibroadcast(x.shape.dims), b))


def blended(at: Cursor, z: Instruction, h: Instruction, new: Instruction) -> Instruction:
    """The sum new + z (h - new)."""
    return at(Add(), new, at(Mul(), z, at(Sub(), h, new)))


def part(at: Cursor, x: Instruction, start: int, end: int) -> Instruction:
    """Some columns of the last axis."""
    return at(Slice((x.shape.rank - 1,), (start,), (end,)), x)
