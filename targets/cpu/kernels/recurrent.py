"""Kernels of recurrent layers: ``lstm``, ``gru`` and ``rnn``.

A tile is one direction of a layer. First the inputs of all steps are multiplied with their weights
at once, as any product of matrices is; then step follows step inside the kernel, each a product of
the states with the recurrent weights, and the arithmetic of the cell on vectors of units. So a step
costs no more than reading the recurrent weights, which stay in the cache where they fit. Their
panels are wide: a single row then still has as many sums as cover the latency of the units.

Constant weights are read in panels packed ahead. Others are packed into scratch, however they lie:
each panel of the inputs' just before all steps are multiplied with it, so it is still in the cache;
the recurrent ones once, for all steps.

Everything between is f32 in scratch: products by rows of ``width`` (the gates behind each other, as
they stand in the weights), states by rows of whole vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from migx.dim import Extent
from migx.ir import Instruction
from migx.ops.rnn import BACKWARD, GRU, LSTM, RNN, Recurrent
from migx.shape import F32 as FLOAT
from migx.shape import OPTIONAL, Shape
from migx.targets.cpu import elements, vector_math
from migx.targets.cpu.emit import F32, I64, Function, Value
from migx.targets.cpu.kernel import Frame, Kernel, behind
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.tile import Matrix, Tile, accumulate, memory_of
from migx.targets.cpu.transpose import gather_columns

BLOCK = 48
"""Rows that are multiplied with a panel before they are put in their place."""
Activation = Callable[[Function, Value], Value]
ACTIVATIONS: dict[str, Activation] = {
    "Sigmoid": vector_math.sigmoid,
    "Tanh": vector_math.tanh,
    "Relu": lambda f, x: f.maximum(x, 0.0),
}


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a layer in f32, f16 or bf16, whose weights are of known size."""
    if not isinstance(at.op, LSTM | GRU | RNN) or not _is_taken(at.op, at, machine):
        return None
    return _Writer(at, machine, at.op).kernel()


def _is_taken(op: Recurrent, at: Instruction, machine: Machine) -> bool:
    x, w, r = at.inputs[:3]
    if not (w.shape.static and r.shape.static):
        return False
    each = len(op.defaults)
    if (
        not set(op.activations) <= set(ACTIVATIONS)
        or op.activations[:each] != op.activations[-each:]
    ):
        return False
    half = machine.vector_bytes < 32 and not machine.has("neon")
    return x.shape.dtype.bits in ((32,) if half else (16, 32)) and machine.lanes(F32) > 1


@dataclass(frozen=True)
class _Step:
    """A vector of units in one step: the member of the batch, the first unit, which of them there
    are, and the products of its input and of its states.
    """

    row: Value
    unit: Value
    mask: Value | None
    given: Value
    recurrent: Value


class _Writer:
    """Writes the kernel of one layer."""

    def __init__(self, at: Instruction, machine: Machine, op: Recurrent) -> None:
        self.at, self.op, self.frame = at, op, Frame(at, machine)
        self.f = self.frame.function
        self.lanes = machine.lanes(F32)
        self.vector = F32.times(self.lanes)
        self.functions = [ACTIVATIONS[name] for name in op.activations or op.defaults]
        self.roles = dict(zip(op._roles(), range(len(at.inputs)), strict=False))
        self.time, self.batch, _ = at.inputs[0].shape.dims
        self.hidden, self.features = op.hidden_size, int(at.inputs[1].shape.dims[2])
        self.packed = {v for v in at.inputs[1:3] if behind(v) is v}
        vectors = 8 if machine.registers >= 32 else 4
        height = (machine.registers - vectors) // vectors
        self.tile = Tile(height, vectors, self.lanes, BLOCK, max(self.hidden, self.features), F32)
        self.panels = -(-op.gates * self.hidden // self.tile.columns)
        self.width = self.panels * self.tile.columns
        self.padded = -(-self.hidden // self.lanes) * self.lanes

    def kernel(self) -> Kernel:
        """The whole of it."""
        f, frame = self.f, self.frame
        self._divide_scratch()
        with f.loop(frame.begin, frame.end) as direction:
            self._direction(direction.index)
        directions = len(BACKWARD[self.op.direction])
        rows, gates = self.time * self.batch, self.op.gates * self.hidden
        letters = f"aBc{self.tile.columns}b"
        weights = enumerate(self.at.inputs[1:3], 1)
        return frame.finished(
            self.at.name,
            directions,
            scratch=self.scratch_floats * F32.nbytes,
            flops=2 * rows * gates * (self.features + self.hidden) * directions,
            formats=tuple((number, letters) for number, v in weights if v in self.packed),
        )

    def _divide_scratch(self) -> None:
        """Finds room for products, states, and what is on its way."""
        self.scratch_floats: Extent = 0
        slack = self.lanes  # vectors may reach beyond the last gate
        rows = self.time * self.batch
        self.sums = self._room(BLOCK * self.tile.columns)
        self.given = self._room(rows * self.width + slack)
        self.recurrent = self._room(self.batch * self.width + slack)
        self.states = [self._room(self.batch * self.padded) for _ in self.op.states]
        kept = self.batch * self.padded if self._resets_first else 0
        self.update, self.reset = self._room(kept), self._room(kept)
        x = self.at.inputs[0].shape
        self.copied = x.dtype is not FLOAT or x.true_strides[0] != self.batch * x.true_strides[1]
        self.x = self._room(rows * self.features if self.copied else 0)
        w, r = self.at.inputs[1:3]
        self.panel = self._room(0 if w in self.packed else self._deep(w) * self.tile.columns)
        self.kept = self._room(0 if r in self.packed else self._deep(r) * self.width)

    def _room(self, floats: Extent) -> Value:
        place = self.f.element(self.frame.scratch, self.frame.extent(self.scratch_floats), F32)
        self.scratch_floats = self.scratch_floats + (floats + 15) // 16 * 16
        return place

    # Operands.

    def _operand(self, role: str, direction: Value) -> Matrix | None:
        """An input for a direction, by its rows; None where there is none."""
        number = self.roles.get(role)
        if number is None or self.at.inputs[number].shape.dtype is OPTIONAL:
            return None
        return self._matrix(number, self.at.inputs[number].shape, direction)

    def _matrix(self, number: int, shape: Shape, direction: Value) -> Matrix:
        """The last two axes of an operand; those of one axis less have one row."""
        frame, strides = self.frame, shape.true_strides
        row = strides[-2] if shape.rank > 2 else 0
        of_direction = strides[-3] if shape.rank > 2 else strides[0] if shape.rank == 2 else 0
        offset = direction * frame.extent(of_direction)
        first = self.f.element(frame.operands[number], offset, memory_of(shape.dtype))
        return Matrix(first, frame.extent(row), frame.extent(strides[-1]), shape.dtype)

    def _results(self, direction: Value) -> list[Matrix]:
        """What is written: after each step, of which this is the first, and after the last."""
        count = len(self.at.inputs)
        parts = enumerate(self.at.shape.parts, count)
        return [self._matrix(number, shape, direction) for number, shape in parts]

    def _read(self, matrix: Matrix, row: Value | int, column: Value, mask: Value | None) -> Value:
        """A vector of an operand, as f32."""
        return elements.loaded(self.f, matrix.vector(row, column, self.lanes, mask), matrix.dtype)

    def _write(self, value: Value, to: Matrix, at: _Step) -> None:
        stored = elements.stored(self.f, value, to.dtype)
        self.f.store(stored, to.at(at.row, at.unit), mask=at.mask)

    def _rows(self) -> Matrix:
        """The inputs of all steps as rows, copied where they do not lie so."""
        f, x = self.f, self.at.inputs[0].shape
        first = self.frame.operands[self.roles["x"]]
        steps = [self.frame.extent(s) for s in x.true_strides]
        if not self.copied:
            return Matrix(first, steps[1], steps[2], x.dtype)
        batch, memory = self.frame.extent(self.batch), memory_of(x.dtype)
        made = Matrix(self.x, f.as_index(self.features), f.as_index(1), FLOAT)
        with f.loop(0, self.frame.extent(self.time)) as t:
            start = f.element(first, t.index * steps[0], memory)
            line = Matrix(start, steps[1], steps[2], x.dtype)
            with f.loop(0, batch) as b, f.loop(0, self.features, self.lanes) as k:
                mask = f.first_lanes(self.features - k.index, self.lanes)
                there = made.at(t.index * batch + b.index, k.index)
                f.store(self._read(line, b.index, k.index, mask), there, mask=mask)
        return made

    def _multiply(
        self, left: Matrix, rows: Extent, role: str, direction: Value, to: Value, first: int = 0
    ) -> None:
        """The rows multiplied with the panels of a weight from one on, in rows of ``width``."""
        f, tile, weight = self.f, self.tile, self.at.inputs[self.roles[role]]
        count, deep = self.frame.extent(rows), f.as_index(int(weight.shape.dims[2]))
        with f.loop(first, self.panels) as p:
            right = self._panel(role, direction, p.index)
            with f.loop(0, count, BLOCK) as top:
                many = f.minimum(count - top.index, BLOCK)
                lines, heights = left.moved(top.index, 0), tile.heights(rows)
                accumulate(f, tile, self.sums, lines, right, many, deep, heights, fresh=True)
                with f.loop(0, many) as row:
                    place = (top.index + row.index) * self.width + p.index * tile.columns
                    for j in range(0, tile.columns, tile.lanes):
                        taken = f.load(
                            f.element(self.sums, row.index * tile.columns + j, F32), tile.vector
                        )
                        f.store(taken, f.element(to, place + j, F32))

    # The weights.

    def _panel(self, role: str, direction: Value, panel: Value) -> Matrix:
        """A panel of a weight for a direction: as it was packed ahead, or made in scratch."""
        f, columns, number = self.f, self.tile.columns, self.roles[role]
        weight = self.at.inputs[number]
        step, one = f.as_index(columns), f.as_index(1)
        if weight in self.packed:
            depth, dtype = int(weight.shape.dims[2]), weight.shape.dtype
            start = (direction * self.panels + panel) * (depth * columns)
            first = f.element(self.frame.operands[number], start, memory_of(dtype))
            return Matrix(first, step, one, dtype)
        if role == "r":
            start = panel * (self._deep(weight) * columns)
            return Matrix(f.element(self.kept, start, F32), step, one, FLOAT)
        made = Matrix(self.panel, step, one, FLOAT)
        self._pack(role, direction, panel, made)
        return made

    def _keep_recurrent(self, direction: Value) -> None:
        """Packs all panels of the recurrent weights, where that has not been done ahead."""
        if self.at.inputs[self.roles["r"]] not in self.packed:
            with self.f.loop(0, self.panels) as p:
                self._pack("r", direction, p.index, self._panel("r", direction, p.index))

    def _pack(self, role: str, direction: Value, panel: Value, made: Matrix) -> None:
        """Copies some rows of a weight to a panel, as f32."""
        f, tile, number = self.f, self.tile, self.roles[role]
        shape = self.at.inputs[number].shape
        rows, depth = int(shape.dims[1]), f.as_index(int(shape.dims[2]))
        top = panel * tile.columns
        given = self._matrix(number, shape, direction).moved(top, 0)
        gather_columns(
            f,
            given,
            (rows - top, depth),
            made,
            tile.columns,
            tile.lanes,
            lambda vector: elements.loaded(f, vector, given.dtype),
        )

    def _deep(self, weight: Instruction) -> int:
        """The rows of a panel in scratch: whole vectors of them are written."""
        return -(-int(weight.shape.dims[2]) // self.lanes) * self.lanes

    # The steps.

    def _direction(self, direction: Value) -> None:
        """All steps of one direction."""
        f, frame = self.f, self.frame
        time, batch = frame.extent(self.time), frame.extent(self.batch)
        self._multiply(self._rows(), self.time * self.batch, "w", direction, self.given)
        self._keep_recurrent(direction)
        self._begin(direction)
        first, *finals = self._results(direction)
        of_time = frame.extent(self.at.shape.parts[0].true_strides[0])
        with f.loop(0, time) as number:
            t = self._moment(number.index, direction)
            self._multiply(self._state(0), self.batch, "r", direction, self.recurrent)
            if self._resets_first:
                self._reset(t, direction)
            to = Matrix(
                f.element(first.first, t * of_time, memory_of(first.dtype)),
                first.row,
                first.column,
                first.dtype,
            )
            with f.loop(0, batch) as row:
                alive = self._alive(t, row.index)
                with self._units(t, row.index) as at:
                    self._step(at, direction, to, alive)
        for state, final in zip(self.states, finals, strict=True):
            with f.loop(0, batch) as row, self._units(f.as_index(0), row.index) as at:
                self._write(f.load(self._place(state, at), self.vector), final, at)

    @property
    def _resets_first(self) -> bool:
        """Whether a product waits for the reset gates."""
        return isinstance(self.op, GRU) and not self.op.linear_before_reset

    def _moment(self, number: Value, direction: Value) -> Value:
        """The time of a step."""
        f, last = self.f, self.frame.extent(self.time) - 1
        match BACKWARD[self.op.direction]:
            case (False,):
                return number
            case (True,):
                return last - number
        return f.select(f.compare("eq", direction, 0), number, last - number)

    def _begin(self, direction: Value) -> None:
        """Brings the states from before the first step."""
        f = self.f
        for role, state in zip(self.op.states, self.states, strict=True):
            given = self._operand(role, direction)
            batch = self.frame.extent(self.batch)
            with f.loop(0, batch) as row, self._units(f.as_index(0), row.index) as at:
                value = f.const(self.vector, 0)
                if given is not None:
                    value = self._read(given, at.row, at.unit, at.mask)
                f.store(value, self._place(state, at))

    @contextmanager
    def _units(self, t: Value, row: Value) -> Iterator[_Step]:
        """The vectors of units of one member of the batch, at one time."""
        f = self.f
        batch = self.frame.extent(self.batch)
        given = f.element(self.given, (t * batch + row) * self.width, F32)
        recurrent = f.element(self.recurrent, row * self.width, F32)
        with f.loop(0, self.hidden, self.lanes) as unit:
            whole = self.hidden % self.lanes == 0
            mask = None if whole else f.first_lanes(self.hidden - unit.index, self.lanes)
            yield _Step(row, unit.index, mask, given, recurrent)

    def _state(self, number: int) -> Matrix:
        """A state, or what else has its form, as rows."""
        place = [*self.states, self.reset][number]
        return Matrix(place, self.f.as_index(self.padded), self.f.as_index(1), FLOAT)

    def _place(self, states: Value, at: _Step) -> Value:
        """Where some units of states are."""
        return self.f.element(states, at.row * self.padded + at.unit, F32)

    def _alive(self, t: Value, row: Value) -> Value | None:
        """Whether a sequence is as long as that; None where all are."""
        lengths = self._operand("sequence_lens", self.f.as_index(0))
        if lengths is None:
            return None
        length = self.f.load(lengths.at(0, row), memory_of(lengths.dtype))
        return t < self.f.cast(length, I64)

    # The cells.

    def _given(self, at: _Step, gate: int, direction: Value) -> Value:
        """What the input gives to a gate."""
        f = self.f
        value = f.load(f.element(at.given, at.unit + gate * self.hidden, F32), self.vector)
        return value + self._bias(at, gate, direction)

    def _recurrent(self, at: _Step, gate: int, direction: Value) -> Value:
        """What the states give to a gate."""
        f = self.f
        value = f.load(f.element(at.recurrent, at.unit + gate * self.hidden, F32), self.vector)
        return value + self._bias(at, self.op.gates + gate, direction)

    def _bias(self, at: _Step, gate: int, direction: Value) -> Value:
        bias = self._operand("b", direction)
        if bias is None:
            return self.f.const(self.vector, 0)
        return self._read(bias, 0, at.unit + gate * self.hidden, at.mask)

    def _both(self, at: _Step, gate: int, direction: Value) -> Value:
        return self._given(at, gate, direction) + self._recurrent(at, gate, direction)

    def _clipped(self, x: Value) -> Value:
        """What the gates' activations get."""
        if self.op.clip <= 0:
            return x
        return self.f.maximum(self.f.minimum(x, self.op.clip), -self.op.clip)

    def _step(self, at: _Step, direction: Value, to: Matrix, alive: Value | None) -> None:
        """One step of some units: their states, and the result."""
        f = self.f
        before = [f.load(self._place(state, at), self.vector) for state in self.states]
        match self.op:
            case LSTM():
                after = self._lstm(at, direction, *before)
            case GRU():
                after = [self._gru(at, direction, before[0])]
            case _:
                after = [self.functions[0](f, self._clipped(self._both(at, 0, direction)))]
        result = after[0]
        if alive is not None:
            after = [f.select(alive, a, b) for a, b in zip(after, before, strict=True)]
            result = f.select(alive, result, 0.0)
        for state, value in zip(self.states, after, strict=True):
            f.store(value, self._place(state, at))
        self._write(result, to, at)

    def _lstm(self, at: _Step, direction: Value, h: Value, c: Value) -> list[Value]:
        f, (gate, new, out) = self.f, self.functions
        i, o, forget, cell = (self._both(at, k, direction) for k in range(4))
        holes = self._operand("p", direction)
        if holes is not None:
            i = i + self._hole(holes, at, 0) * c
            forget = forget + self._hole(holes, at, 2) * c
        i = gate(f, self._clipped(i))
        kept = 1.0 - i if self._forgets_by_input else gate(f, self._clipped(forget))
        c = kept * c + i * new(f, self._clipped(cell))
        if holes is not None:
            o = o + self._hole(holes, at, 1) * c
        return [gate(f, self._clipped(o)) * out(f, c), c]

    @property
    def _forgets_by_input(self) -> bool:
        return isinstance(self.op, LSTM) and self.op.input_forget

    def _hole(self, holes: Matrix, at: _Step, number: int) -> Value:
        return self._read(holes, 0, at.unit + number * self.hidden, at.mask)

    def _gru(self, at: _Step, direction: Value, h: Value) -> Value:
        f, (gate, new) = self.f, self.functions
        if self._resets_first:
            update = f.load(self._place(self.update, at), self.vector)
            hidden = self._both(at, 2, direction)
        else:
            update = gate(f, self._clipped(self._both(at, 0, direction)))
            reset = gate(f, self._clipped(self._both(at, 1, direction)))
            hidden = self._given(at, 2, direction) + reset * self._recurrent(at, 2, direction)
        made = new(f, self._clipped(hidden))
        return made + update * (h - made)

    def _reset(self, t: Value, direction: Value) -> None:
        """The gates of a step, and the product of what the reset gates leave of the states."""
        f, gate = self.f, self.functions[0]
        with f.loop(0, self.frame.extent(self.batch)) as row, self._units(t, row.index) as at:
            update, reset = (gate(f, self._clipped(self._both(at, k, direction))) for k in (0, 1))
            f.store(update, self._place(self.update, at))
            h = f.load(self._place(self.states[0], at), self.vector)
            f.store(reset * h, self._place(self.reset, at))
        panel = 2 * self.hidden // self.tile.columns
        self._multiply(self._state(-1), self.batch, "r", direction, self.recurrent, panel)
