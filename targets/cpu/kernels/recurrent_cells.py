"""The cells of recurrent layers: the arithmetic on the products of a step, on vectors of units."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from migx.ops.rnn import GRU, LSTM, Recurrent
from migx.targets.cpu.emit import F32, Function, Value, vector_math
from migx.targets.cpu.parts.matrix import Matrix
from migx.targets.cpu.parts.together import Part

Activation = Callable[[Function, Value], Value]
ACTIVATIONS: dict[str, Activation] = {
    "Sigmoid": vector_math.sigmoid,
    "Tanh": vector_math.tanh,
    "Relu": lambda f, x: f.maximum(x, 0.0),
}


def resets_first(op: Recurrent) -> bool:
    """Whether a product of a step depends on its reset gates."""
    return isinstance(op, GRU) and not op.linear_before_reset


@dataclass(frozen=True)
class Units:
    """A vector of units in one step: the member of the batch, the first unit, the mask of those
    that exist, and the addresses of the products of its input and of its states.
    """

    row: Value
    unit: Value
    mask: Value | None
    given: Value
    recurrent: Value


@dataclass(frozen=True)
class Cells:
    """The cells of one direction of a layer.

    Rows of ``width`` hold the products, those ``given`` by the inputs of some steps and the
    ``recurrent`` ones of the states; rows of ``padded`` hold the ``states`` themselves, the
    ``update`` gates of a step, and the states times its ``reset`` gates. ``bias`` and ``peepholes``
    are weights, if there are any.
    """

    f: Function
    op: Recurrent
    lanes: int
    batch: Value
    width: int
    given: Value
    recurrent: Value
    states: list[Value]
    update: Value
    reset: Value
    bias: Matrix | None
    peepholes: Matrix | None

    @property
    def padded(self) -> int:
        """The row stride of states: whole vectors of units."""
        return -(-self.op.hidden_size // self.lanes) * self.lanes

    @contextmanager
    def units(self, part: Part, first: Value | int = 0) -> Iterator[Units]:
        """The vectors of units in a part of a step, whose products of inputs begin at a row."""
        f, lanes, hidden = self.f, self.lanes, self.op.hidden_size
        begin, end = part.of(self.batch * (self.padded // lanes))
        vectors = max(self.padded // lanes, 1)
        with f.loop(begin // vectors, (end + (vectors - 1)) // vectors) as row:
            given = f.element(self.given, (row.index + first) * self.width, F32)
            recurrent = f.element(self.recurrent, row.index * self.width, F32)
            before = row.index * vectors
            left = f.maximum(begin - before, 0) * lanes
            with f.loop(left, f.minimum(end - before, vectors) * lanes, lanes) as unit:
                mask = None if hidden % lanes == 0 else f.first_lanes(hidden - unit.index, lanes)
                yield Units(row.index, unit.index, mask, given, recurrent)

    def place(self, states: Value, at: Units) -> Value:
        """The address of some units of states."""
        return self.f.element(states, at.row * self.padded + at.unit, F32)

    def state(self, number: int, at: Units) -> Value:
        """Some units of a state."""
        return self._load(self.place(self.states[number], at))

    def step(self, at: Units, alive: Value | None) -> Value:
        """One step of some units: updates their states in place, and gives the result."""
        f = self.f
        before = [self.state(number, at) for number in range(len(self.states))]
        match self.op:
            case LSTM():
                after = self._lstm(at, *before)
            case GRU():
                after = [self._gru(at, before[0])]
            case _:
                after = [self._activated(0, self._both(at, 0))]
        result = after[0]
        if alive is not None:
            after = [f.select(alive, a, b) for a, b in zip(after, before, strict=True)]
            result = f.select(alive, result, 0.0)
        for state, value in zip(self.states, after, strict=True):
            f.store(value, self.place(state, at))
        return result

    def reset_states(self, at: Units) -> None:
        """The gates of a step, and the states times the reset gates."""
        update, reset = (self._activated(0, self._both(at, gate)) for gate in (0, 1))
        self.f.store(update, self.place(self.update, at))
        self.f.store(reset * self.state(0, at), self.place(self.reset, at))

    def _load(self, place: Value) -> Value:
        return self.f.load(place, F32.times(self.lanes))

    # The terms of a gate.

    def _given(self, at: Units, gate: int) -> Value:
        """The input's term of a gate."""
        place = self.f.element(at.given, at.unit + gate * self.op.hidden_size, F32)
        return self._load(place) + self._weight(self.bias, at, gate)

    def _recurrent(self, at: Units, gate: int) -> Value:
        """The states' term of a gate."""
        place = self.f.element(at.recurrent, at.unit + gate * self.op.hidden_size, F32)
        return self._load(place) + self._weight(self.bias, at, self.op.gates + gate)

    def _both(self, at: Units, gate: int) -> Value:
        return self._given(at, gate) + self._recurrent(at, gate)

    def _weight(self, weights: Matrix | None, at: Units, number: int) -> Value:
        """The weights of some units for gate ``number``; 0 if there are none."""
        if weights is None:
            return self.f.const(F32.times(self.lanes), 0)
        column = at.unit + number * self.op.hidden_size
        return weights.loaded(0, column, self.lanes, at.mask)

    def _activated(self, number: int, x: Value) -> Value:
        """An activation, by its number, of a gate's sum."""
        name = (self.op.activations or self.op.defaults)[number]
        return ACTIVATIONS[name](self.f, self._clipped(x))

    def _clipped(self, x: Value) -> Value:
        if self.op.clip == math.inf:
            return x
        return self.f.maximum(self.f.minimum(x, self.op.clip), -self.op.clip)

    # The cells.

    def _lstm(self, at: Units, h: Value, c: Value) -> list[Value]:
        assert isinstance(self.op, LSTM)
        i, o, forget, cell = (self._both(at, k) for k in range(4))
        if self.peepholes is not None:
            i = i + self._weight(self.peepholes, at, 0) * c
            forget = forget + self._weight(self.peepholes, at, 2) * c
        i = self._activated(0, i)
        kept = 1.0 - i if self.op.input_forget else self._activated(0, forget)
        c = kept * c + i * self._activated(1, cell)
        if self.peepholes is not None:
            o = o + self._weight(self.peepholes, at, 1) * c
        out = ACTIVATIONS[(self.op.activations or self.op.defaults)[2]]
        return [self._activated(0, o) * out(self.f, c), c]

    def _gru(self, at: Units, h: Value) -> Value:
        if resets_first(self.op):
            update = self._load(self.place(self.update, at))
            hidden = self._both(at, 2)
        else:
            update, reset = (self._activated(0, self._both(at, gate)) for gate in (0, 1))
            hidden = self._given(at, 2) + reset * self._recurrent(at, 2)
        made = self._activated(1, hidden)
        return made + update * (h - made)
