"""Kernels that walk along one axis in order: ``argmax`` and ``argmin``, running sums and products.

A line is all elements along the axis at one place of the others. Lines that lie side by side are
walked by vectors, one line in each lane; ``argmax`` goes along a line of neighbours by vectors,
each lane remembering its own best, and the lanes compare at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from migx import op as operations
from migx.dim import Extent, maximum, product
from migx.ir import Instruction
from migx.ops.reduce import Argmax, Argmin, PrefixScan, PrefixScanProd, PrefixScanSum
from migx.targets.cpu import elements
from migx.targets.cpu.emit import I64, Value
from migx.targets.cpu.kernel import Frame, Kernel, memory_of, results
from migx.targets.cpu.machine import Machine

ELEMENTS = 1 << 13
"""About how many elements a tile walks over."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of one of these on elements that the machine computes with."""
    match at.op:
        case Argmax() if elements.computable(at.inputs[0].shape.dtype, machine):
            return _Extreme(at, machine).kernel()
        case PrefixScanSum() | PrefixScanProd() if elements.computable(at.shape.dtype, machine):
            return _Scan(at, machine).kernel()
    return None


class Lines(ABC):
    """Writes the kernel of one instruction, which walks along every line by itself."""

    def __init__(self, at: Instruction, machine: Machine) -> None:
        self.at, self.machine = at, machine
        self.frame = Frame(at, machine)
        self.f = self.frame.function
        self.given = at.inputs[0].shape
        self.dtype = self.given.dtype
        self.axis = int(operations.attributes(at.op)["axis"]) % self.given.rank
        self.length = self.frame.extent(self.given.dims[self.axis])
        self.step = self.frame.extent(self.given.true_strides[self.axis])
        last = self.given.rank - 1
        self.side_by_side = self.axis != last and self.given.true_strides[last] == 1
        self.lanes = machine.lanes(I64) * 2
        self.scratch: Extent = 0

    @abstractmethod
    def line(self, given: Value, made: Sequence[Value], lanes: int) -> None:
        """Walks along the line that begins at an address, or ``lanes`` of them side by side, and
        writes what comes of it to others.
        """

    def kernel(self) -> Kernel:
        """The whole of it."""
        frame, dims = self.frame, self.given.dims
        rank = len(dims) - int(self.side_by_side)
        counted = [i for i in range(rank) if i != self.axis]
        across: Extent = dims[-1] if self.side_by_side else 1
        rows = product(dims[i] for i in counted)
        height = maximum(ELEMENTS // maximum(dims[self.axis] * across, 1), 1)
        with frame.rows(rows, height) as row:
            self._row(row, counted)
        tiles, work = (rows + height - 1) // height, self.given.elements
        return frame.finished(self.at.name, tiles, scratch=self.scratch, flops=work)

    def _row(self, row: Value, counted: Sequence[int]) -> None:
        f, frame = self.f, self.frame
        shapes = [self.given, *results(self.at)]
        numbers = [0, *range(len(self.at.inputs), len(frame.operands))]
        offsets = [f.as_index(0)] * len(shapes)
        for axis in reversed(counted):
            extent = frame.extent(self.given.dims[axis])
            place = row % extent if axis != counted[0] else row
            row = row // extent if axis != counted[0] else row
            for k, shape in enumerate(shapes):
                offsets[k] = offsets[k] + place * frame.extent(shape.true_strides[axis])
        types = [memory_of(shape.dtype) for shape in shapes]
        starts = [
            f.element(frame.operands[number], offset, type_)
            for number, offset, type_ in zip(numbers, offsets, types, strict=True)
        ]
        if not self.side_by_side:
            self.line(starts[0], starts[1:], 0)
            return
        end = frame.extent(self.given.dims[-1])
        whole = end // self.lanes * self.lanes
        for first, last, lanes in ((f.as_index(0), whole, self.lanes), (whole, end, 0)):
            with f.loop(first, last, max(1, lanes)) as at:
                moved = [f.element(s, at.index, t) for s, t in zip(starts, types, strict=True)]
                self.line(moved[0], moved[1:], lanes)

    def read(self, given: Value, index: Value | int, lanes: int) -> Value:
        """The elements at a place of lines, in their computing type."""
        memory = memory_of(self.dtype)
        place = self.f.element(given, self.step * index, memory)
        return elements.loaded(self.f, self.f.load(place, memory.times(lanes)), self.dtype)


class _Extreme(Lines):
    """Where the greatest or the least is."""

    def __init__(self, at: Instruction, machine: Machine) -> None:
        super().__init__(at, machine)
        assert isinstance(at.op, Argmax)
        self.greatest = not isinstance(at.op, Argmin)
        self.last_of_equals = at.op.select_last_index

    def line(self, given: Value, made: Sequence[Value], lanes: int) -> None:
        f = self.f
        start = [self.read(given, 0, lanes), f.const(I64.times(lanes), 0)]
        if lanes or self.step.number != 1:
            found = self._walk(given, f.as_index(1), self.length, lanes, start)
            f.store(found[1], made[0])
            return
        whole = self.length // self.lanes * self.lanes
        many = [f.splat(v, self.lanes) for v in start]
        best = self._walk(given, f.as_index(0), whole, self.lanes, many, along=True)
        for lane in range(self.lanes):
            start = self._better(f.extract(best[0], lane), f.extract(best[1], lane), start)
        found = self._walk(given, whole, self.length, 0, start)
        f.store(found[1], made[0])

    def _walk(
        self,
        given: Value,
        begin: Value,
        end: Value,
        lanes: int,
        start: list[Value],
        *,
        along: bool = False,
    ) -> list[Value]:
        """The best between two places and where it is: of each line, or ``along`` one by lanes."""
        f = self.f
        with f.loop(begin, end, lanes if along else 1, start) as k:
            value = self.read(given, k.index, lanes)
            index = f.splat(k.index, lanes)
            if along:
                index = index + f.iota(I64.times(lanes))
            take = self._is_before(value, k.carried[0], equal=self.last_of_equals)
            k.carry(f.select(take, value, k.carried[0]), f.select(take, index, k.carried[1]))
        return k.carried

    def _is_before(self, x: Value, y: Value, *, equal: bool = False) -> Value:
        """Whether x is greater than y (or less); or ``equal`` where asked for. NaN is the greatest
        of all, or the least.
        """
        f = self.f
        relation = ("g" if self.greatest else "l") + ("e" if equal else "t")
        found = f.compare(relation, x, y, signed=self.dtype.kind == "int")
        if not self.dtype.is_float:
            return found
        is_nan, was_nan = f.compare("ne", x, x), f.compare("ne", y, y)
        return found | (is_nan if equal else is_nan & ~was_nan)

    def _better(self, value: Value, index: Value, than: list[Value]) -> list[Value]:
        """The better of two; of equals the one of the lower index, or of the higher one."""
        f = self.f
        best, place = than
        wins = self._is_before(value, best)
        same = ~(wins | self._is_before(best, value))
        further = f.compare("gt" if self.last_of_equals else "lt", index, place)
        take = wins | (same & further)
        return [f.select(take, value, best), f.select(take, index, place)]


class _Scan(Lines):
    """Running sums and products."""

    def line(self, given: Value, made: Sequence[Value], lanes: int) -> None:
        f, op = self.f, self.at.op
        assert isinstance(op, PrefixScan)
        adds = isinstance(op, PrefixScanSum)
        one = elements.computing(self.dtype)
        to = self.frame.extent(self.at.shape.true_strides[self.axis])
        total = f.const(one.times(lanes), 0 if adds else 1)
        with f.loop(0, self.length, carry=[total]) as k:
            index = self.length - 1 - k.index if op.reverse else k.index
            value = self.read(given, index, lanes)
            (before,) = k.carried
            after = before + value if adds else before * value
            result = elements.stored(f, before if op.exclusive else after, self.dtype)
            f.store(result, f.element(made[0], to * index, memory_of(self.dtype)))
            k.carry(after)
