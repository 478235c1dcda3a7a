"""What follows a convolution: sums in registers go through the arithmetic and become the result."""

from __future__ import annotations

from dataclasses import dataclass, replace

from migx.kernels import PRODUCT, Access, FusedKernel
from migx.stages import weight
from migx.targets.cpu import elements
from migx.targets.cpu.emit import Type, Value
from migx.targets.cpu.epilogue import along, axes, evaluated
from migx.targets.cpu.kernel import Frame
from migx.targets.cpu.tile import Matrix, memory_of

LIGHT = 6
"""Arithmetic on an element that is worth writing for each vector of a strip."""


@dataclass(frozen=True)
class Strip:
    """Where sums belong: the item, the first output channel and pixel, and how many channels."""

    item: Value
    output: Value
    pixel: Value
    rows: Value


class Finish:
    """Writes results; ``light`` are those that take little arithmetic."""

    def __init__(
        self, frame: Frame, kernel: FusedKernel, sum_: Type, lanes: int, outputs: int
    ) -> None:
        self.frame, self.f, self.kernel = frame, frame.function, kernel
        self.sum, self.lanes, self.outputs = sum_, lanes, outputs
        self.row_axes, _ = axes(kernel)
        self.light = sum(weight(node) for node in kernel.nodes) <= LIGHT

    def write(self, strip: Strip, sums: list[Value], rows: int, columns: Value | None) -> None:
        """Writes a strip of sums, so many rows; of each, all columns or some."""
        f, lanes = self.f, self.lanes
        vectors = len(sums) // rows
        masks: list[Value | None] = [None] * vectors
        if columns is not None:
            # LLVM 22 writes four bytes where it finds that only the first of narrow lanes is there.
            hidden = f.opaque(columns)
            masks = [f.first_lanes(hidden - j * lanes, lanes) for j in range(vectors)]
        self._row(strip, f.as_index(0), sums[:vectors], masks)
        for i in range(1, rows):
            with f.when(strip.rows > i):
                self._row(strip, f.as_index(i), sums[i * vectors : (i + 1) * vectors], masks)

    def write_lines(self, strip: Strip, lines: Value, pitch: int, columns: Value) -> None:
        """Writes sums that lie in memory, from one channel to the next by so many elements."""
        f, lanes = self.f, self.lanes
        whole = columns // lanes * lanes
        with f.loop(0, strip.rows) as row:
            line = f.element(lines, row.index * pitch, self.sum)

            def write(at: Value, mask: Value | None, row: Value, line: Value) -> None:
                total = f.load(f.element(line, at, self.sum), self.sum.times(lanes))
                here = replace(strip, pixel=strip.pixel + at)
                self._row(here, row, [total], [mask])

            with f.loop(0, whole, lanes) as column:
                write(column.index, None, row.index, line)
            with f.when(columns > whole):
                write(whole, f.first_lanes(f.opaque(columns - whole), lanes), row.index, line)

    def _row(self, strip: Strip, row: Value, line: list[Value], masks: list[Value | None]) -> None:
        """One channel."""
        f = self.f
        starts = self._starts(strip, strip.output + row)
        for j, (total, mask) in enumerate(zip(line, masks, strict=True)):
            column = strip.pixel + j * self.lanes

            def read(
                access: Access, total: Value = total, mask: Value | None = mask, at: Value = column
            ) -> Value:
                return self._operand(access, starts, total, mask, at)

            values = evaluated(f, self.kernel.nodes, read)
            for number, access in self.kernel.outputs:
                value = elements.stored(f, f.splat(values[number], self.lanes), access.dtype)
                there = f.element(starts[access], column, memory_of(access.dtype))
                f.store(value, there, mask=mask)

    def _operand(
        self,
        access: Access,
        starts: dict[Access, Value],
        total: Value,
        mask: Value | None,
        column: Value,
    ) -> Value:
        f = self.f
        if access.operand == PRODUCT:
            computing = elements.computing(access.dtype)
            assert computing is not None
            return f.cast(total, computing)
        step = self.frame.extent(along(self.kernel, access))
        line = Matrix(starts[access], f.as_index(0), step, access.dtype)
        return elements.loaded(f, line.vector(0, column, self.lanes, mask), access.dtype)

    def _starts(self, strip: Strip, output: Value) -> dict[Access, Value]:
        """Where a channel of each operand begins."""
        frame, f, dims = self.frame, self.f, self.kernel.dims
        places: dict[int, Value] = {}
        axes_left = list(self.row_axes)
        if axes_left and dims[axes_left[-1]] == self.outputs:
            places[axes_left.pop()] = output
            rest = strip.item
        else:
            rest = strip.item * self.outputs + output
        for number, axis in reversed(list(enumerate(axes_left))):
            extent = frame.extent(dims[axis])
            places[axis] = rest % extent if number else rest
            rest = rest // extent if number else rest
        starts: dict[Access, Value] = {}
        for access in self.kernel.accesses:
            if access.operand != PRODUCT:
                offset = f.as_index(0)
                for axis, place in places.items():
                    offset = offset + place * frame.extent(access.strides[axis])
                first = frame.operands[access.operand]
                starts[access] = f.element(first, offset, memory_of(access.dtype))
        return starts
