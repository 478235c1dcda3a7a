"""Kernels that fetch each element from an index computed per axis: ``pad`` that repeats what is
inside, ``reverse_sequence``, and resampling to the nearest element.

A row of the result runs along the last axis, in parts: contiguous ones are copied by vectors,
others element by element. The indices on other axes are computed once for a row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from migx.dim import maximum, product
from migx.ir import Instruction
from migx.ops._windows import split
from migx.ops.indexing import ReverseSequence
from migx.ops.layout import Pad
from migx.ops.resize import Resize
from migx.planning import is_memory
from migx.targets.cpu.emit import I64, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, Rows, bits_of, memory_of, type_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts.resampling import COORDINATES, coordinate, end_of

ELEMENTS = 1 << 13
"""About how many elements a tile has."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of an instruction that moves elements of whole bytes in one of these ways."""
    if not is_memory(at.shape) or at.shape.dtype.is_packed or at.shape.rank == 0:
        return None
    match at.op:
        case Pad(mode="edge" | "reflect" | "wrap"):
            return _Pads(at, machine).kernel()
        case ReverseSequence() if _has_members_in_rows(at):
            return _Sequences(at, machine).kernel()
        case Resize(mode="nearest") if _is_counted(at.op):
            return _Nearest(at, machine).kernel()
    return None


def _is_counted(op: Resize) -> bool:
    """Whether a resize has constant sizes, and a coordinate transformation that kernels know."""
    return type(op) is Resize and op.coordinate_transformation_mode in COORDINATES


def _has_members_in_rows(at: Instruction) -> bool:
    """Whether each row of a reverse_sequence belongs to one member of the batch."""
    known = type_of(at.inputs[1].shape.dtype) is not None
    return known and at.op_as(ReverseSequence).batch_axis != at.shape.rank - 1


@dataclass(frozen=True)
class _Part:
    """A part of a row, a half-open range of the last axis. Its elements come from indices shifted
    by ``moved``, or from those given by ``place``.
    """

    begin: Value
    end: Value
    moved: Value | None = None
    place: Callable[[Value], Value] | None = None


class _Writer(KernelWriter):
    def __init__(self, at: Instruction, machine: Machine) -> None:
        super().__init__(at, machine)
        self.memory = bits_of(at.shape.dtype)
        self.given = at.inputs[0].shape
        self.last = at.shape.rank - 1

    @abstractmethod
    def place(self, axis: int, index: Value, places: Sequence[Value]) -> Value:
        """The index on an axis of the data of the element at an index of the result; ``places`` are
        the indices on the axes before the last.
        """

    @abstractmethod
    def parts(self, places: Sequence[Value]) -> list[_Part]:
        """The parts of a row."""

    def end(self) -> Value:
        """The end of the tiles: the first, if the operands are such that there is no result."""
        return end_of(self.frame, self.given.elements)

    def kernel(self) -> Kernel:
        frame, dims = self.frame, self.at.shape.dims
        rows = Rows(product(dims[: self.last]), dims[self.last], ELEMENTS)
        with frame.rows(rows, self.end()) as row:
            self._row(row)
        return frame.finished(self.at.name, rows.tiles)

    def _row(self, row: Value) -> None:
        f, frame, dims = self.f, self.frame, self.at.shape.dims
        start = row * frame.extent(dims[self.last])
        found = frame.places(row, dims, range(self.last))
        places = [found[axis] for axis in range(self.last)]
        offset = f.as_index(0)
        for axis, index in enumerate(places):
            step = frame.extent(self.given.true_strides[axis])
            offset = offset + self.place(axis, index, places) * step
        given = f.element(frame.operands[0], offset, self.memory)
        made = f.element(frame.operands[len(self.at.inputs)], start, self.memory)
        for part in self.parts(places):
            self._copy(part, given, made)

    def _copy(self, part: _Part, given: Value, made: Value) -> None:
        f = self.f
        step = self.frame.extent(self.given.true_strides[self.last])
        near = part.moved is not None and step.number == 1
        lanes = self.machine.lanes(self.memory) if near else 0
        for at, many in f.by_vectors(part.begin, part.end, lanes):
            if part.moved is not None:
                place = at + part.moved
            else:
                assert part.place is not None
                place = part.place(at)
            read = f.load(f.element(given, place * step, self.memory), self.memory.times(many))
            f.store(read, f.element(made, at, self.memory))

    def _whole(self) -> tuple[Value, Value]:
        """The range of the last axis."""
        return self.f.as_index(0), self.frame.extent(self.at.shape.dims[self.last])


class _Pads(_Writer):
    """Padding with what is inside, after dropping the elements that negative pads remove."""

    def __init__(self, at: Instruction, machine: Machine) -> None:
        super().__init__(at, machine)
        first, last = split(at.op_as(Pad).pads)
        self.before = [maximum(p, 0) for p in first]
        self.dropped = [b - p for b, p in zip(self.before, first, strict=True)]
        self.inside = [
            d - b - maximum(p, 0) for d, b, p in zip(at.shape.dims, self.before, last, strict=True)
        ]

    def end(self) -> Value:
        return end_of(self.frame, product(self.inside))

    def place(self, axis: int, index: Value, places: Sequence[Value]) -> Value:
        op = self.at.op_as(Pad)
        if (op.pads[axis], op.pads[axis + self.at.shape.rank]) == (0, 0):
            return index
        index = index - self.frame.extent(self.before[axis])
        found = self._found(op.mode, index, self.frame.extent(self.inside[axis]))
        return found + self.frame.extent(self.dropped[axis])

    def _found(self, mode: str, index: Value, extent: Value) -> Value:
        """The index, among ``extent`` elements, for one that may lie beyond them."""
        f, last = self.f, extent - 1
        if mode == "edge":
            return f.minimum(f.maximum(index, 0), last)
        if mode == "wrap":
            return self._positive_rest(index, extent)
        period = f.maximum(last * 2, 1)
        away = self._positive_rest(index, period) - last
        return last - f.maximum(away, -away)

    def _positive_rest(self, x: Value, by: Value) -> Value:
        rest = self.f.op("srem", x, by)
        return self.f.select(rest < 0, rest + by, rest)

    def parts(self, places: Sequence[Value]) -> list[_Part]:
        begin, end = self._whole()
        before, dropped = (self.frame.extent(e[self.last]) for e in (self.before, self.dropped))
        inside = before + self.frame.extent(self.inside[self.last])

        def place(index: Value) -> Value:
            return self.place(self.last, index, places)

        return [
            _Part(begin, before, place=place),
            _Part(before, inside, moved=dropped - before),
            _Part(inside, end, place=place),
        ]


class _Sequences(_Writer):
    """Reversing the first elements of each member of a batch."""

    def _length(self, member: Value) -> Value:
        f, shape = self.f, self.at.inputs[1].shape
        memory, step = memory_of(shape.dtype), self.frame.extent(shape.true_strides[0])
        raw = f.load(f.element(self.frame.operands[1], member * step, memory), memory)
        return f.cast(raw, I64, signed=shape.dtype.kind == "int")

    def end(self) -> Value:
        f, op = self.f, self.at.op_as(ReverseSequence)
        time = self.frame.extent(self.given.dims[op.time_axis])
        batch = self.frame.extent(self.given.dims[op.batch_axis])
        with f.loop(0, batch, carry=[f.as_index(0)]) as member:
            length = self._length(member.index)
            bad = f.cast((length < 0) | (length > time), I64)
            member.carry(member.carried[0] | bad)
        wrong = f.compare("ne", member.carried[0], 0)
        self.frame.fails(wrong, "reverse_sequence: a length is negative or beyond its axis")
        return f.select(wrong, self.frame.begin, self.frame.end)

    def _turned(self, time: Value, member: Value) -> Value:
        length = self._length(member)
        return self.f.select(time < length, length - 1 - time, time)

    def place(self, axis: int, index: Value, places: Sequence[Value]) -> Value:
        op = self.at.op_as(ReverseSequence)
        return self._turned(index, places[op.batch_axis]) if op.time_axis == axis else index

    def parts(self, places: Sequence[Value]) -> list[_Part]:
        op = self.at.op_as(ReverseSequence)
        if op.time_axis == self.last:
            return [_Part(*self._whole(), place=lambda k: self._turned(k, places[op.batch_axis]))]
        return [_Part(*self._whole(), moved=self.f.as_index(0))]


class _Nearest(_Writer):
    """Resampling to the nearest element."""

    def place(self, axis: int, index: Value, places: Sequence[Value]) -> Value:
        f, op = self.f, self.at.op_as(Resize)
        if not op.changes(axis, self.given.dims[axis]):
            return index
        at = coordinate(self.frame, axis, index)
        match op.nearest_mode:
            case "round_prefer_floor":
                at = f.intrinsic("ceil", at - 0.5)
            case "round_prefer_ceil":
                at = f.intrinsic("floor", at + 0.5)
            case other:
                at = f.intrinsic(other, at)
        found = f.cast(at, I64)
        return f.minimum(f.maximum(found, 0), self.frame.extent(self.given.dims[axis]) - 1)

    def parts(self, places: Sequence[Value]) -> list[_Part]:
        return [_Part(*self._whole(), place=lambda k: self.place(self.last, k, places))]
