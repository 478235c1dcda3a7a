"""Spreading an image: copying what windows see so that every tap of a kernel is a line of its own.

For one channel, and each plane in depth that kernels see, there is a copy for each column of the
kernel; in it the rows that windows see lie by *phase*: first those that windows begin on, then
those one further, as far as the stride. So what windows side by side see of one tap lies side by
side, from row to row of windows too, and taps differ by an offset alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from migx.dim import Extent
from migx.shape import DType
from migx.targets.cpu.cutting import Cut
from migx.targets.cpu.emit import I64, Type, Value
from migx.targets.cpu.kernel import Frame
from migx.targets.cpu.tile import memory_of, widened
from migx.targets.cpu.windows import Axis

UNROLLED, WRITTEN = 8, 7
"""Vectors of a row that are copied without a loop around them, and columns of a kernel likewise."""


class Spread:
    """Writes the code that spreads the rows a tile reads; ``plane`` is the size of what is made of
    one plane, in elements, and ``room`` what is made of so many.

    ``beyond`` says that behind the last window there is something that may be read.
    """

    beyond = True

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
        self.copy = self.rows * cut.width + cut.lanes
        self.plane = self.copy * self.width.length

    def room(self, planes: Extent) -> Extent:
        """The elements that are made of so many planes."""
        return self.plane * planes

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
    ) -> Value:
        """Spreads some channels for the windows of a tile: those from (depth, top, left) on, so
        many rows and columns of them. Gives the address where what is spread begins.

        Rows are written in the order in which they lie, for a vector may run over into the next;
        behind the last of a copy there is room for that.
        """
        f, e = self.f, self.frame.extent
        depth, top, left = tile
        self.step = step
        with f.loop(0, channels * self.depth.length) as plane:
            channel, deep = plane.index // self.depth.length, plane.index % self.depth.length
            inside = self.depth.place(self.frame, depth, deep)
            there = f.compare("lt", inside, e(self.depth.given), signed=False)
            self.enter(channel, step)
            given = f.element(
                image, channel * step + inside * e(self.depth.step), memory_of(self.dtype)
            )
            to = f.element(made, plane.index * e(self.plane), self.sum)
            for number in range(len(self.phases)):
                self._phase(number, to, given, there, (top, left), rows, columns)
        return made

    def enter(self, channel: Value, step: Value) -> None:
        """Whatever is best done once for all rows of a channel; ``step`` leads to the next."""

    def nothing(self) -> Value:
        """A vector of what is seen beside the image."""
        return self.f.const(self.sum.times(self.cut.lanes), 0)

    def _phase(
        self,
        number: int,
        to: Value,
        given: Value,
        there: Value,
        corner: tuple[Value, Value],
        rows: Value,
        columns: Value,
    ) -> None:
        """The rows of one phase, from the first windows of the tile on."""
        f, e = self.f, self.frame.extent
        top, left = corner
        base = self.height.place(self.frame, top, 0) + self.phases[number]
        first = f.element(to, e(self.starts[number] * self.cut.width), self.sum)
        with f.loop(0, rows + self.shifts[number]) as row:
            at = base + row.index * self.height.stride
            whole = there & f.compare("lt", at, e(self.height.given), signed=False)
            line = f.element(given, at * e(self.height.step), memory_of(self.dtype))
            out = f.element(first, row.index * e(self.cut.width), self.sum)
            with f.when(whole):
                self._row(out, line, left, columns)
            with f.unless(whole), f.loop(0, columns, self.cut.lanes) as column:
                for _, copy in self._taps(out):
                    f.store(self.nothing(), f.element(copy, column.index, self.sum))

    def _taps(self, out: Value) -> Iterator[tuple[Value, Value]]:
        """The columns of the kernel, and where the copy of a row for each is: one after another, so
        that the row is still near; in a loop where they are many.
        """
        f, copy = self.f, self.frame.extent(self.copy)
        if self.width.length <= WRITTEN:
            for number in range(self.width.length):
                yield f.as_index(number), f.element(out, copy * number, self.sum)
            return
        with f.loop(0, self.width.length) as tap:
            yield tap.index, f.element(out, tap.index * copy, self.sum)

    def _row(self, out: Value, line: Value, left: Value, columns: Value) -> None:
        """The copies of one row of the image, from a place on. Only at its ends is there something
        beside it; where these are is not asked of rows whose length is unknown.
        """
        f, lanes, width = self.f, self.cut.lanes, self.cut.width
        limit = self.frame.extent(self.width.given)

        def copied(at: Value, bound: Value | None) -> None:
            for tap, copy in self._taps(out):
                begin = self.width.place(self.frame, left, tap)
                self._vector(copy, line, bound, begin, at)
            # Rows are short runs of memory: of the next channel's the processor knows nothing.
            ahead = self.step + (left + at) * self.width.stride * self.frame.extent(self.width.step)
            f.prefetch(f.element(line, ahead, memory_of(self.dtype)), locality=2)

        if left.number is None or not isinstance(width, int) or not self.cut.even:
            with f.loop(0, columns, lanes) as at:
                copied(at.index, limit)
            return
        first, end = self._clear(int(left.number), width)
        for start, stop, bound in ((0, first, limit), (first, end, None), (end, width, limit)):
            if stop - start <= UNROLLED * lanes:
                for place in range(start, stop, lanes):
                    copied(f.as_index(place), bound)
            else:
                with f.loop(start, stop, lanes) as at:
                    copied(at.index, bound)

    def _clear(self, left: int, columns: int) -> tuple[int, int]:
        """Which windows, in vectors from one on, see nothing but the image with all of the columns
        of the kernel: from one to before another.
        """
        axis, lanes = self.width, self.cut.lanes
        if not isinstance(axis.given, int) or not isinstance(axis.begin, int):
            return columns, columns
        begin, span = left * axis.stride - axis.begin, axis.stride * lanes
        reach = (axis.length - 1) * axis.dilation
        first = min(-(-max(-begin, 0) // span) * lanes, columns)
        end = min(max(axis.given - begin - reach, 0) // span * lanes, columns)
        return first, max(first, end)

    def _vector(
        self, out: Value, line: Value, limit: Value | None, begin: Value, at: Value
    ) -> None:
        """Some elements of a row, at the stride of windows."""
        vector = self.seen(line, begin + at * self.width.stride, limit)
        self.f.store(vector, self.f.element(out, at, self.sum))

    def seen(self, line: Value, first: Value, limit: Value | None) -> Value:
        """What windows side by side see of a row from a place on, in the type of sums."""
        vector = self.width.vector(self.frame, line, first, limit, self.dtype, self.cut.lanes)
        return widened(self.f, vector, self.dtype, self.sum)


def in_lines(axes: tuple[Axis, Axis, Axis], dtype: DType, sum_: Type) -> bool:
    """Whether each channel of an image is a line of elements, of the type of sums, and each of them
    a window.
    """
    *outer, width = axes
    lines = width.plain and width.step == 1 and all(a.plain and a.made == 1 for a in outer)
    return lines and memory_of(dtype) == sum_


class InPlace(Spread):
    """Spreads nothing: where windows are single elements side by side, each channel is a line as it
    lies, and the next is a ``step`` away.
    """

    beyond = False

    def __init__(
        self, frame: Frame, axes: tuple[Axis, Axis, Axis], cut: Cut, dtype: DType, step: Extent
    ) -> None:
        super().__init__(frame, axes, cut, dtype, memory_of(dtype))
        self.plane = step

    def room(self, planes: Extent) -> Extent:
        """None is needed."""
        return 0

    def write(
        self,
        made: Value,
        image: Value,
        channels: Value,
        step: Value,
        tile: tuple[Value, Value, Value],
        rows: Value,
        columns: Value,
    ) -> Value:
        """Gives the address of the first window of the first channel."""
        return self.f.element(image, tile[2], self.sum)
