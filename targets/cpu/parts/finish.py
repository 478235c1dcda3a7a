"""What follows a convolution: sums in registers go through the arithmetic and become the result."""

from __future__ import annotations

from dataclasses import dataclass, replace

from migx.fusion.kernels import PRODUCT, Access, FusedKernel, row_and_column_axes
from migx.fusion.stages import weight
from migx.fusion.tables import tabled
from migx.targets.cpu.emit import I8, Type, Value, lookup
from migx.targets.cpu.kernel import Frame, memory_of
from migx.targets.cpu.parts.epilogue import along, starts_of, write_results

LINE = 64
"""Bytes of a cache line."""
LIGHT = 6
"""Arithmetic on an element that is worth writing for each vector of a strip."""


@dataclass(frozen=True)
class Destination:
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
        self.frame, self.f = frame, frame.function
        self.kernel = tabled(kernel, lookup.cost(frame.machine))
        self.sum, self.lanes, self.outputs = sum_, lanes, outputs
        self.row_axes, _ = row_and_column_axes(kernel)
        self.light = sum(weight(node) for node in self.kernel.nodes) <= LIGHT

    def fetch(self, to: Destination, vectors: int) -> None:
        """Asks for the memory that so many vectors of a strip will be written to, and for what is
        read with them; to begin to write lines one after another that are far takes long.
        """
        f, kernel = self.f, self.kernel
        near = [a for a in kernel.accesses if a.operand != PRODUCT and along(kernel, a) == 1]
        with f.loop(0, to.rows) as row:
            starts = self._starts(to, to.output + row.index)
            for access in near:
                memory = memory_of(access.dtype)
                for place in range(0, vectors * self.lanes * memory.nbytes, LINE):
                    at = f.element(starts[access], to.pixel, memory)
                    f.prefetch(f.element(at, place, I8), locality=2)

    def write(self, to: Destination, sums: list[Value], rows: int, columns: Value | None) -> None:
        """Writes a strip of sums, so many rows; of each, all columns or some."""
        f, lanes = self.f, self.lanes
        vectors = len(sums) // rows
        masks: list[Value | None] = [None] * vectors
        if columns is not None:
            # LLVM 22 writes four bytes where it finds that only the first of narrow lanes is there.
            hidden = f.opaque(columns)
            masks = [f.first_lanes(hidden - j * lanes, lanes) for j in range(vectors)]
        self._row(to, f.as_index(0), sums[:vectors], masks)
        for i in range(1, rows):
            with f.when(to.rows > i):
                self._row(to, f.as_index(i), sums[i * vectors : (i + 1) * vectors], masks)

    def write_lines(self, to: Destination, lines: Value, pitch: int, columns: Value) -> None:
        """Writes sums that lie in memory, from one channel to the next by so many elements."""
        f, lanes = self.f, self.lanes
        whole = columns // lanes * lanes
        with f.loop(0, to.rows) as row:
            line = f.element(lines, row.index * pitch, self.sum)

            def write(at: Value, mask: Value | None, row: Value, line: Value) -> None:
                total = f.load(f.element(line, at, self.sum), self.sum.times(lanes))
                here = replace(to, pixel=to.pixel + at)
                self._row(here, row, [total], [mask])

            with f.loop(0, whole, lanes) as column:
                write(column.index, None, row.index, line)
            with f.when(columns > whole):
                write(whole, f.first_lanes(f.opaque(columns - whole), lanes), row.index, line)

    def _row(
        self, to: Destination, row: Value, line: list[Value], masks: list[Value | None]
    ) -> None:
        """One channel."""
        starts = self._starts(to, to.output + row)
        for j, (total, mask) in enumerate(zip(line, masks, strict=True)):
            column = to.pixel + j * self.lanes
            write_results(self.frame, self.kernel, starts, column, total, mask)

    def _starts(self, to: Destination, output: Value) -> dict[Access, Value]:
        """Where a channel of each operand begins."""
        frame, dims, axes = self.frame, self.kernel.dims, self.row_axes
        if axes and dims[axes[-1]] == self.outputs:
            places = {axes[-1]: output} | frame.places(to.item, dims, axes[:-1])
        else:
            places = frame.places(to.item * self.outputs + output, dims, axes)
        return starts_of(frame, self.kernel, places)
