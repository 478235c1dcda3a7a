"""Kernels of recurrent layers: ``lstm``, ``gru`` and ``rnn``.

A direction of a layer is the work of a team of tiles (``together.py``). First the inputs of many
steps are multiplied with their weights at once, as any product of matrices; then come the steps,
each a product of the states with the recurrent weights, and the arithmetic of the cells on vectors
of units. Each tile has some panels of the products and some units of the cells. So a step costs no
more than reading the recurrent weights, and each thread reads its own part of them, which stays in
its cache if it fits. A step too small to be shared is done by one tile.

Constant weights are read in panels packed ahead. Others are packed into scratch, whatever their
layout: each panel of the input weights just before it is used, so it is still in the cache; the
recurrent ones once, for all steps.

Intermediate values are f32 in memory that the team shares: products in rows of ``width`` (one gate
after another, as in the weights), states in rows of whole vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from migx.dim import Extent, maximum, minimum
from migx.ir import Instruction
from migx.ops.rnn import BACKWARD, GRU, LSTM, RNN, Recurrent
from migx.shape import F32 as FLOAT
from migx.shape import OPTIONAL, Shape
from migx.targets.cpu.emit import F32, I1, I64, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, behind, memory_of
from migx.targets.cpu.kernels.recurrent_cells import ACTIVATIONS, Cells, Units, resets_first
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.matrix import Matrix
from migx.targets.cpu.parts.tile import WORTH, Strip, Tile, accumulate
from migx.targets.cpu.parts.together import Part, Team
from migx.targets.cpu.parts.transpose import gather_columns

PAIR = 2
"""Panels by which a single row is multiplied at a time: enough sums to hide the latency of the
units. Several rows take the panels one after another, as they need the registers themselves.
"""
BLOCK = 24
"""Rows that are multiplied with a panel before they are copied to their place."""
ROWS = 1024
"""About how many rows of inputs are multiplied before the steps that need them."""
PART = WORTH // 4
"""Operations that are worth a part of a step, all of whose parts must wait for each other."""
MOST = 16
"""The most tiles that share a direction."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a layer in f32, f16 or bf16, whose weights have static sizes."""
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
    return x.shape.dtype.bits in ((16, 32) if machine.halves else (32,)) and machine.lanes(F32) > 1


@dataclass
class _Rooms:
    """The layout of shared memory: the offset of each area by name, in floats, and the total."""

    total: Extent = 0
    starts: dict[str, Extent] = field(default_factory=dict)

    def add(self, name: str, floats: Extent) -> None:
        """Adds an area, aligned to a cache line."""
        self.starts[name] = self.total
        self.total = self.total + (floats + 15) // 16 * 16


class _Writer(KernelWriter):
    def __init__(self, at: Instruction, machine: Machine, op: Recurrent) -> None:
        super().__init__(at, machine, shares=True)
        self.op = op
        self.roles = dict(zip(op._roles(), range(len(at.inputs)), strict=False))
        self.time, self.batch, _ = at.inputs[0].shape.dims
        self.hidden, self.features = op.hidden_size, int(at.inputs[1].shape.dims[2])
        self.packed = {v for v in at.inputs[1:3] if behind(v) is v}
        vectors, lanes = 4 if machine.registers >= 32 else 2, machine.lanes(F32)
        height = (machine.registers - vectors - 1) // vectors
        self.tile = Tile(height, vectors, lanes, BLOCK, max(self.hidden, self.features), F32)
        self.panels = -(-op.gates * self.hidden // (PAIR * self.tile.columns)) * PAIR
        self.width = self.panels * self.tile.columns
        self.directions = len(BACKWARD[op.direction])
        self.span = minimum(self.time, maximum(ROWS // maximum(self.batch, 1), 1))
        self._form_team(min(-(-machine.cores // self.directions), MOST))
        self._divide()

    def _form_team(self, most: int) -> None:
        """Sizes the team to the work; a step may use fewer members."""
        gates = 2 * self.batch * self.op.gates * self.hidden
        work = self.time * gates * (self.features + self.hidden)
        self.flops = work * self.directions
        self.members = minimum(most, maximum(work // (2 * WORTH), 1))
        self.of_step = minimum(self.members, maximum(gates * self.hidden // PART, 1))
        self.team = Team(self.frame, self.directions, self.members, most)

    def _divide(self) -> None:
        """Allocates products, states, and intermediate values."""
        lanes, rows = self.tile.lanes, self.span * self.batch
        w, r = self.at.inputs[1:3]
        self.padded = padded = -(-self.hidden // lanes) * lanes
        columns, take = self.tile.columns, self.frame.take
        self.sums = take(BLOCK * columns, F32)
        self.panels_of_w = take(0 if w in self.packed else self._deep(w) * PAIR * columns, F32)
        self.common = common = _Rooms()
        common.add("given", rows * self.width + lanes)  # vectors may extend beyond the last gate
        common.add("recurrent", self.batch * self.width + lanes)
        for state in self.op.states:
            common.add(state, self.batch * padded)
        for gate in ("update", "reset"):
            common.add(gate, self.batch * padded if resets_first(self.op) else 0)
        x = self.at.inputs[0].shape
        self.copied = x.dtype is not FLOAT or x.true_strides[0] != self.batch * x.true_strides[1]
        common.add("x", rows * self.features if self.copied else 0)
        common.add("kept", 0 if r in self.packed else self._deep(r) * self.width)

    def kernel(self) -> Kernel:
        f, frame, directions = self.f, self.frame, self.directions
        with f.loop(frame.begin, frame.end) as tile:
            direction, member = tile.index % directions, tile.index // directions
            with self.team.joined(direction, member):
                self._direction(direction)
        weights = enumerate(self.at.inputs[1:3], 1)
        return frame.finished(
            self.at.name,
            directions * self.members,
            shared=directions * self.common.total * F32.nbytes,
            flops=self.flops,
            formats=tuple((number, self._format(v)) for number, v in weights if v in self.packed),
        )

    def _format(self, weight: Instruction) -> str:
        """The weight format of whole pairs of panels."""
        depth, columns = self._depth(weight), self.tile.columns
        if depth < 2:
            return f"aBc{PAIR * columns}b"  # of one row: panels and columns are in the same order
        return f"aBC{PAIR}b{depth}c{columns}b"

    def _room(self, name: str, direction: Value) -> Value:
        """The address of an area that the tiles of a direction share."""
        f, frame = self.f, self.frame
        start = direction * frame.extent(self.common.total) + frame.extent(self.common.starts[name])
        return f.element(frame.operands[-1], start, F32)

    # Operands.

    def _operand(self, role: str, direction: Value) -> Matrix | None:
        """An input for a direction, by rows; None if it is absent."""
        if not self._has(role):
            return None
        number = self.roles[role]
        return self._matrix(number, self.at.inputs[number].shape, direction)

    def _has(self, role: str) -> bool:
        """Whether an input is there."""
        number = self.roles.get(role)
        return number is not None and self.at.inputs[number].shape.dtype is not OPTIONAL

    def _matrix(self, number: int, shape: Shape, direction: Value) -> Matrix:
        """The last two axes of an operand; with one axis less, there is one row."""
        frame, strides = self.frame, shape.true_strides
        row = strides[-2] if shape.rank > 2 else 0
        of_direction = strides[-3] if shape.rank > 2 else strides[0] if shape.rank == 2 else 0
        offset = direction * frame.extent(of_direction)
        return Matrix.of(frame, number, (row, strides[-1]), shape.dtype, offset)

    def _results(self, direction: Value) -> list[Matrix]:
        """The outputs: after each step, here the first, and after the last."""
        count = len(self.at.inputs)
        parts = enumerate(self.at.shape.parts, count)
        return [self._matrix(number, shape, direction) for number, shape in parts]

    def _write(self, value: Value, to: Matrix, at: Units) -> None:
        stored = elements.stored(self.f, value, to.dtype)
        self.f.store(stored, to.at(at.row, at.unit), mask=at.mask)

    def _cells(self, direction: Value) -> Cells:
        """The cells of a direction."""
        return Cells(
            self.f,
            self.op,
            self.tile.lanes,
            self.frame.extent(self.batch),
            self.width,
            given=self._room("given", direction),
            recurrent=self._room("recurrent", direction),
            states=[self._room(state, direction) for state in self.op.states],
            update=self._room("update", direction),
            reset=self._room("reset", direction),
            bias=self._operand("b", direction),
            peepholes=self._operand("p", direction),
        )

    def _rows(self, start: Value, count: Value, direction: Value) -> Matrix:
        """The inputs of some steps as rows, copied if they are not contiguous."""
        f, x = self.f, self.at.inputs[0].shape
        steps = [self.frame.extent(s) for s in x.true_strides]
        number, memory = self.roles["x"], memory_of(x.dtype)
        first = f.element(self.frame.operands[number], start * steps[0], memory)
        if not self.copied:
            return Matrix(first, steps[1], steps[2], x.dtype)
        batch, lanes = self.frame.extent(self.batch), self.tile.lanes
        made = Matrix.dense(self._room("x", direction), self.features, FLOAT)
        with self.team.phase(self.frame.extent(self.members)) as part:
            begin, end = part.of(count * batch)
            with f.loop(begin, end) as row, f.loop(0, self.features, lanes) as k:
                mask = f.first_lanes(self.features - k.index, lanes)
                line = f.element(first, row.index // batch * steps[0], memory)
                given = Matrix(line, steps[1], steps[2], x.dtype)
                value = given.loaded(row.index % batch, k.index, lanes, mask)
                f.store(value, made.at(row.index, k.index), mask=mask)
        return made

    # Products.

    def _multiply(
        self,
        part: Part,
        left: Matrix,
        rows: Value,
        role: str,
        direction: Value,
        to: Value,
        pairs: range | None = None,
    ) -> None:
        """A part of the product of some rows with pairs of panels of a weight, by default all, in
        rows of ``width``.
        """
        f, weight = self.f, self.at.inputs[self.roles[role]]
        pairs = range(self.panels // PAIR) if pairs is None else pairs
        strips = self._strips(role)
        deep, tops = f.as_index(self._depth(weight)), (rows + (BLOCK - 1)) // BLOCK
        begin, end = part.of(tops * len(pairs))
        with f.loop(begin, end) as cell:
            first, top = (cell.index // tops + pairs.start) * PAIR, cell.index % tops * BLOCK
            if role == "w" and weight not in self.packed:
                with f.when((cell.index <= begin) | (top <= 0)):
                    self._pack(role, direction, first, first + PAIR)
            many, lines = f.minimum(rows - top, BLOCK), left.moved(top, 0)
            place = f.element(to, top * self.width, F32)
            if strips[-1].rows == 1:
                with f.when(f.compare("eq", many, 1)):
                    pair = [self._panel(role, direction, first + k) for k in range(PAIR)]
                    self._row(lines, pair, deep, f.element(place, first * self.tile.columns, F32))
            if strips[0].rows > 1:
                with f.when(many > 1), f.loop(first, first + PAIR) as panel:
                    right = self._panel(role, direction, panel.index)
                    there = f.element(place, panel.index * self.tile.columns, F32)
                    self._block(lines, right, many, deep, strips, there)

    def _row(self, left: Matrix, panels: list[Matrix], deep: Value, to: Value) -> None:
        """The product of one row and adjacent panels."""
        f, tile = self.f, self.tile
        columns = [(panel, j) for panel in panels for j in range(0, tile.columns, tile.lanes)]
        with f.loop(0, deep, carry=[f.const(tile.vector, 0)] * len(columns)) as k:
            one = f.splat(f.load(left.at(0, k.index), F32), tile.lanes)
            read = [panel.loaded(k.index, j, tile.lanes, None) for panel, j in columns]
            k.carry(*(f.muladd(one, *b) for b in zip(read, k.carried, strict=True)))
        for number, total in enumerate(k.carried):
            f.store(total, f.element(to, number * tile.lanes, F32))

    def _block(
        self, left: Matrix, right: Matrix, rows: Value, deep: Value, strips: list[Strip], to: Value
    ) -> None:
        """The product of several rows and a panel, copied to its place."""
        f, tile, sums = self.f, self.tile, self.sums
        accumulate(tile, sums, left, right, rows, deep, strips, fresh=True)
        with f.loop(0, rows) as row:
            place = f.element(to, row.index * self.width, F32)
            for j in range(0, tile.columns, tile.lanes):
                taken = f.load(f.element(sums, row.index * tile.columns + j, F32), tile.vector)
                f.store(taken, f.element(place, j, F32))

    def _strips(self, role: str) -> list[Strip]:
        """The strips of the rows that are multiplied with a weight: those of a step, or of inputs,
        whose number is known if one block has them all.
        """
        rows = self.batch if role == "r" else self.time * self.batch
        known = isinstance(rows, int) and 0 < rows <= ROWS
        short = role == "w" and self._has("sequence_lens")
        return self.tile.strips(rows if known and not short else None)

    def _panel(self, role: str, direction: Value, panel: Value) -> Matrix:
        """A panel of a weight for a direction: packed ahead, or made in scratch."""
        f, columns, number = self.f, self.tile.columns, self.roles[role]
        weight = self.at.inputs[number]
        if weight in self.packed:
            dtype, rows = weight.shape.dtype, self._depth(weight)
            start = (direction * self.panels + panel) * (rows * columns)
            first = f.element(self.frame.operands[number], start, memory_of(dtype))
            return Matrix.dense(first, columns, dtype)
        room = self.panels_of_w if role == "w" else self._room("kept", direction)
        place = panel % PAIR if role == "w" else panel
        first = f.element(room, place * (self._deep(weight) * columns), F32)
        return Matrix.dense(first, columns, FLOAT)

    def _keep_recurrent(self, part: Part, direction: Value) -> None:
        """Packs panels of the recurrent weights, if that has not been done ahead."""
        if self.at.inputs[self.roles["r"]] not in self.packed:
            self._pack("r", direction, *part.of(self.f.as_index(self.panels)))

    def _pack(self, role: str, direction: Value, begin: Value, end: Value) -> None:
        """Copies rows of a weight to a half-open range of panels, as f32."""
        f, tile, number = self.f, self.tile, self.roles[role]
        weight = self.at.inputs[number]
        rows, depth = int(weight.shape.dims[1]), f.as_index(self._depth(weight))
        with f.loop(begin, end) as panel:
            top = panel.index * tile.columns
            given = self._matrix(number, weight.shape, direction).moved(top, 0)
            gather_columns(
                given,
                (rows - top, depth),
                self._panel(role, direction, panel.index),
                tile.columns,
                tile.lanes,
                lambda vector: elements.loaded(f, vector, given.dtype),
            )

    def _depth(self, weight: Instruction) -> int:
        """The rows of a panel."""
        return int(weight.shape.dims[2])

    def _deep(self, weight: Instruction) -> int:
        """The rows of a panel in scratch: whole vectors of them are written."""
        return -(-self._depth(weight) // self.tile.lanes) * self.tile.lanes

    # The steps.

    def _direction(self, direction: Value) -> None:
        """All steps of one direction."""
        f, extent, team = self.f, self.frame.extent, self.team
        batch, members, span = map(extent, (self.batch, self.members, self.span))
        time = self._longest()
        cells, backward = self._cells(direction), self._backward(direction)
        with team.phase(members) as part:
            self._keep_recurrent(part, direction)
            self._begin(part, cells, direction)
        with f.loop(0, time, span) as block:
            count = f.minimum(span, time - block.index)
            first = f.select(backward, time - block.index - count, block.index)
            rows = self._rows(first, count, direction)
            with team.phase(members) as part:
                self._multiply(part, rows, count * batch, "w", direction, cells.given)
            with team.by_one(extent(self.of_step) <= 1), f.loop(0, count) as turn:
                place = f.select(backward, count - 1 - turn.index, turn.index)
                self._step(first + place, place * batch, cells, direction)
        with team.phase(members) as part:
            self._end(part, cells, direction)
            with f.loop(time, extent(self.time)) as late, cells.units(part) as at:
                nothing = f.const(self.tile.vector, 0)
                self._write(nothing, self._made(late.index, direction), at)

    def _backward(self, direction: Value) -> Value:
        """Whether a direction runs backward in time, as an i1."""
        backward = BACKWARD[self.op.direction]
        if len(backward) == 1:
            return self.f.const(I1, backward[0])
        return self.f.compare("ne", direction, 0)

    def _begin(self, part: Part, cells: Cells, direction: Value) -> None:
        """Loads the initial states."""
        f = self.f
        for role, state in zip(self.op.states, cells.states, strict=True):
            given = self._operand(role, direction)
            with cells.units(part) as at:
                value = f.const(self.tile.vector, 0)
                if given is not None:
                    value = given.loaded(at.row, at.unit, self.tile.lanes, at.mask)
                f.store(value, cells.place(state, at))

    def _step(self, t: Value, row: Value, cells: Cells, direction: Value) -> None:
        """The step at a time; the products of its inputs begin at a row."""
        extent, team, gates = self.frame.extent, self.team, self.op.gates
        batch, parts = extent(self.batch), extent(self.of_step)
        resets = resets_first(self.op)
        pairs, across = range(self.panels // PAIR), PAIR * self.tile.columns
        before = pairs[: -(-(gates - resets) * self.hidden // across)]
        with team.phase(parts) as part:
            states = self._states(cells.states[0])
            self._multiply(part, states, batch, "r", direction, cells.recurrent, before)
        if resets:
            with team.phase(parts) as part, cells.units(part, row) as at:
                cells.reset_states(at)
            last = pairs[(gates - 1) * self.hidden // across :]
            with team.phase(parts) as part:
                states = self._states(cells.reset)
                self._multiply(part, states, batch, "r", direction, cells.recurrent, last)
        to = self._made(t, direction)
        with team.phase(parts) as part, cells.units(part, row) as at:
            self._write(cells.step(at, self._alive(t, at.row)), to, at)

    def _made(self, t: Value, direction: Value) -> Matrix:
        """The output of the step at a time."""
        f, (to, *_) = self.f, self._results(direction)
        step = self.frame.extent(self.at.shape.parts[0].true_strides[0])
        return replace(to, first=f.element(to.first, t * step, memory_of(to.dtype)))

    def _end(self, part: Part, cells: Cells, direction: Value) -> None:
        """Writes the states after the last step."""
        for number, final in enumerate(self._results(direction)[1:]):
            with cells.units(part) as at:
                self._write(cells.state(number, at), final, at)

    def _states(self, first: Value) -> Matrix:
        """States, or values of the same layout, as rows."""
        return Matrix.dense(first, self.padded, FLOAT)

    def _alive(self, t: Value, row: Value) -> Value | None:
        """Whether a sequence is longer than that time; None if all are."""
        lengths = self._lengths()
        return None if lengths is None else t < self._length(lengths, row)

    def _lengths(self) -> Matrix | None:
        """The lengths of sequences; None if all span the whole time."""
        return self._operand("sequence_lens", self.f.as_index(0))

    def _length(self, lengths: Matrix, row: Value) -> Value:
        return self.f.cast(self.f.load(lengths.at(0, row), memory_of(lengths.dtype)), I64)

    def _longest(self) -> Value:
        """The length of the longest sequence."""
        f, time, lengths = self.f, self.frame.extent(self.time), self._lengths()
        if lengths is None:
            return time
        with f.loop(0, self.frame.extent(self.batch), carry=[f.as_index(0)]) as row:
            row.carry(f.maximum(row.carried[0], self._length(lengths, row.index)))
        return f.minimum(row.carried[0], time)
