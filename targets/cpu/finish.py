"""What follows a convolution: sums in registers go through the arithmetic and become the result."""

from __future__ import annotations

from dataclasses import dataclass

from migx.kernels import PRODUCT, Access, FusedKernel
from migx.stages import weight
from migx.targets.cpu import elements
from migx.targets.cpu.emit import Type, Value
from migx.targets.cpu.epilogue import along, axes, evaluated
from migx.targets.cpu.kernel import Frame
from migx.targets.cpu.tile import Matrix, memory_of

LIGHT = 6
"""Arithmetic on an element that is written for each vector of a strip; of more, the text and its
compile time count, and a loop goes over the rows.
"""


@dataclass(frozen=True)
class Strip:
    """Where sums belong: the item, the first output channel and pixel, and how many channels."""

    item: Value
    output: Value
    pixel: Value
    rows: Value


class Finish:
    """Writes results. ``held`` is scratch for a strip of sums, where it takes some."""

    held: Value

    def __init__(
        self,
        frame: Frame,
        kernel: FusedKernel,
        sum_: Type,
        lanes: int,
        outputs: int,
        light: int = LIGHT,
    ) -> None:
        self.frame, self.f, self.kernel = frame, frame.function, kernel
        self.sum, self.lanes, self.outputs = sum_, lanes, outputs
        self.row_axes, _ = axes(kernel)
        self.light = sum(weight(node) for node in kernel.nodes) <= light

    def held_bytes(self, rows: int, panel: int) -> int:
        """The scratch it takes for a strip."""
        return 0 if self.light else rows * panel * self.sum.nbytes

    def write(self, strip: Strip, sums: list[Value], rows: int, columns: Value | None) -> None:
        """Writes a strip of sums, so many rows; of each, all columns or some."""
        f, lanes = self.f, self.lanes
        vectors = len(sums) // rows
        masks: list[Value | None] = [None] * vectors
        if columns is not None:
            masks = [f.first_lanes(columns - j * lanes, lanes) for j in range(vectors)]
        if self.light:
            for i in range(rows):
                line = sums[i * vectors : (i + 1) * vectors]
                if i == 0:
                    self._row(strip, f.as_index(0), line, masks)
                else:
                    with f.when(strip.rows > i):
                        self._row(strip, f.as_index(i), line, masks)
            return
        for i, total in enumerate(sums):
            f.store(total, f.element(self.held, i * lanes, self.sum))
        with f.loop(0, strip.rows) as row:
            start = f.element(self.held, row.index * (vectors * lanes), self.sum)
            line = [
                f.load(f.element(start, j * lanes, self.sum), sums[0].type) for j in range(vectors)
            ]
            self._row(strip, row.index, line, masks)

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
