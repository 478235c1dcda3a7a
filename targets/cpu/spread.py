"""Spreading an image: copying what windows see so that every tap of a kernel is a line of its own.

For one channel, and each plane in depth that kernels see, there is a copy for each column of the
kernel; in it the rows that windows see lie by *phase*: first those that windows begin on, then
those one further, as far as the stride. So what windows side by side see of one tap lies side by
side, from row to row of windows too, and taps differ by an offset alone.
"""

from __future__ import annotations

from migx.dim import Extent
from migx.shape import DType
from migx.targets.cpu.cutting import Cut
from migx.targets.cpu.emit import I64, Type, Value
from migx.targets.cpu.kernel import Frame
from migx.targets.cpu.tile import memory_of, widened
from migx.targets.cpu.windows import Axis

UNROLLED = 2
"""Vectors of a row that are copied without a loop around them."""


class Spread:
    """Writes the code that spreads the rows a tile reads; ``plane`` is the size of what is made of
    one plane, in elements.
    """

    def __init__(
        self, frame: Frame, axes: tuple[Axis, Axis, Axis], cut: Cut, dtype: DType, sum_: Type
    ) -> None:
        self.frame, self.f, self.cut = frame, frame.function, cut
        self.depth, self.height, self.width = axes
        self.dtype, self.sum = dtype, sum_
        taps = [i * self.height.dilation for i in range(self.height.length)]
        stride = self.height.stride
        self.phases = sorted({tap % stride for tap in taps})
        self.shifts = [
            max(tap // stride for tap in taps if tap % stride == phase) for phase in self.phases
        ]
        self.rows: Extent = 0
        self.starts: list[Extent] = []
        for shift in self.shifts:
            self.starts.append(self.rows)
            self.rows = self.rows + cut.height + shift
        self.copy = self.rows * cut.width
        self.plane = self.copy * self.width.length

    def begin(self, table: Value) -> None:
        """Writes where each tap begins, in elements from the start of a plane."""
        f, e = self.f, self.frame.extent
        if self.height.length * self.width.length == 1:
            return
        for row in range(self.height.length):
            tap = row * self.height.dilation
            phase = self.phases.index(tap % self.height.stride)
            line = e((self.starts[phase] + tap // self.height.stride) * self.cut.width)
            with f.loop(0, self.width.length) as column:
                number = column.index + row * self.width.length
                f.store(column.index * e(self.copy) + line, f.element(table, number, I64))

    def write(
        self,
        made: Value,
        image: Value,
        channels: Value,
        step: Value,
        tile: tuple[Value, Value, Value],
        rows: Value,
        columns: Value,
    ) -> None:
        """Spreads some channels for the windows of a tile: those from (depth, top, left) on, so
        many rows and columns of them.

        Rows are written in the order in which they lie, for a vector may run over into the next.
        """
        f, e = self.f, self.frame.extent
        depth, top, left = tile
        with f.loop(0, channels * self.depth.length) as plane:
            channel, deep = plane.index // self.depth.length, plane.index % self.depth.length
            inside = self.depth.place(self.frame, depth, deep)
            there = f.compare("lt", inside, e(self.depth.given), signed=False)
            given = f.element(
                image, channel * step + inside * e(self.depth.step), memory_of(self.dtype)
            )
            to = f.element(made, plane.index * e(self.plane), self.sum)
            with f.loop(0, self.width.length) as tap:
                copy = f.element(to, tap.index * e(self.copy), self.sum)
                begin = self.width.place(self.frame, left, tap.index)
                for number in range(len(self.phases)):
                    self._phase(number, copy, given, there, (top, begin), rows, columns)

    def _phase(
        self,
        number: int,
        copy: Value,
        given: Value,
        there: Value,
        start: tuple[Value, Value],
        rows: Value,
        columns: Value,
    ) -> None:
        """The rows of one phase, from the first windows of the tile on."""
        f, e = self.f, self.frame.extent
        top, begin = start
        base = self.height.place(self.frame, top, 0) + self.phases[number]
        first = f.element(copy, e(self.starts[number] * self.cut.width), self.sum)
        with f.loop(0, rows + self.shifts[number]) as row:
            at = base + row.index * self.height.stride
            whole = there & f.compare("lt", at, e(self.height.given), signed=False)
            line = f.element(given, at * e(self.height.step), memory_of(self.dtype))
            out = f.element(first, row.index * e(self.cut.width), self.sum)
            with f.when(whole):
                self._row(out, line, begin, columns)
            with f.unless(whole), f.loop(0, columns, self.cut.lanes) as column:
                nothing = f.const(self.sum.times(self.cut.lanes), 0)
                f.store(nothing, f.element(out, column.index, self.sum))

    def _row(self, out: Value, line: Value, begin: Value, columns: Value) -> None:
        """One row of the image, from a place on. Only at its ends is there something beside it."""
        f, lanes = self.f, self.cut.lanes
        known, limit = (
            self.cut.width if self.cut.even else None,
            self.frame.extent(self.width.given),
        )
        if isinstance(known, int) and known <= UNROLLED * lanes:
            for place in range(0, known, lanes):
                self._vector(out, line, limit, begin, f.as_index(place))
            return
        first, end = (
            f.minimum(place, columns) for place in self.width.clear(self.frame, begin, lanes)
        )
        turns = (f.as_index(0), first, limit), (first, end, None), (end, columns, limit)
        for start, stop, bound in turns:
            with f.loop(start, stop, lanes) as at:
                self._vector(out, line, bound, begin, at.index)

    def _vector(
        self, out: Value, line: Value, limit: Value | None, begin: Value, at: Value
    ) -> None:
        """Some elements of a row, at the stride of windows."""
        f, lanes, width = self.f, self.cut.lanes, self.width
        first = begin + at * width.stride
        vector = width.vector(self.frame, line, first, limit, self.dtype, lanes)
        f.store(widened(f, vector, self.dtype, self.sum), f.element(out, at, self.sum))
