"""Spreading an image (a lean im2col): copying what windows see so that every tap of a kernel is a
line of its own.

For one channel, and each plane in depth that kernels see, there is a copy for each column of the
kernel; in it the rows that windows see lie by *phase*: first those that windows begin on, then
those one further, as far as the stride. So what windows side by side see of one tap lies side by
side, from row to row of windows too, and taps differ by an offset alone. Where panels of sums end
with a row of windows, one copy does: its rows are as long as all that windows see of them. What
only those taps see that see nothing but padding is not spread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from migx.dim import Extent, minimum
from migx.shape import DType
from migx.targets.cpu.emit import I1, I64, Type, Value
from migx.targets.cpu.kernel import Frame, memory_of
from migx.targets.cpu.parts.cutting import Cut
from migx.targets.cpu.parts.matrix import widened
from migx.targets.cpu.parts.windows import Axis

UNROLLED, WRITTEN = 8, 7
"""Vectors of a row that are copied without a loop around them, and columns of a kernel likewise."""


@dataclass(frozen=True)
class Windows:
    """The windows of a tile: those from (depth, top, left) on, so many rows and columns of them."""

    depth: Value
    top: Value
    left: Value
    rows: Value
    columns: Value


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
        self.row, self.pitch = self.width, cut.width
        if cut.by_row:
            self.row, self.pitch = replace(self.width, length=1), cut.width + self.width.reach
        self.rows: Extent = 0
        self.starts: list[Extent] = []
        for shift in self.shifts:
            self.starts.append(self.rows)
            self.rows = self.rows + self._most_rows(shift)
        self.copy = self.rows * self.pitch + cut.lanes
        self.plane = self.copy * self.row.length

    def room(self, planes: Extent) -> Extent:
        """The elements that are made of so many planes."""
        return self.plane * planes

    def _most_rows(self, shift: int) -> Extent:
        """How many rows of a phase are spread at most, of which windows see so many beyond theirs:
        where taps are left out, those of the image, and beside it what other windows see there.
        """
        rows, height = self.cut.height + shift, self.height
        if not self.compact:
            return rows
        given = (height.given + height.stride - 1) // height.stride
        return minimum(rows, given + 2 * (self.cut.height - 1))

    @property
    def _apart(self) -> int:
        """How many rows lie between those of one tap and the next, of one phase."""
        return self.height.dilation // self.height.stride

    @property
    def compact(self) -> bool:
        """Whether rows that only those taps see which are left out take no place."""
        return self.cut.skips and len(self.phases) == 1

    def begin(self, table: Value, windows: Windows) -> Value:
        """Writes for each tap of the windows of a tile where it begins, in elements from the start
        of a plane, and where some are left out its number; gives how many there are.
        """
        f, e = self.f, self.frame.extent
        self.rows_seen = first, last = self._live(self.height, windows.top, windows.rows)
        self.columns_seen = left, right = self._live(self.width, windows.left, windows.columns)
        words, step = 1 + self.cut.skips, self.width.dilation if self.cut.by_row else e(self.copy)
        for row in range(self.height.length if self.height.length * self.width.length > 1 else 0):
            tap = row * self.height.dilation
            phase = self.phases.index(tap % self.height.stride)
            line = e((self.starts[phase] + tap // self.height.stride) * self.pitch)
            if self.compact:
                line = (row - first) * e(self._apart * self.pitch)
            there = (first <= row) & (last > row) if self.cut.skips else f.const(I1, 1)
            with f.when(there), f.loop(left, right) as column:
                number = (row - first) * (right - left) + (column.index - left)
                place = f.element(table, number * words, I64)
                f.store(column.index * step + line, place)
                if self.cut.skips:
                    tap_number = column.index + row * self.width.length
                    f.store(tap_number, f.element(place, 1, I64))
        return (last - first) * (right - left)

    def _live(self, axis: Axis, first: Value, count: Value) -> tuple[Value, Value]:
        """Which taps along an axis windows from one on see in the image: from one to before
        another.
        """
        if not self.cut.skips:
            return self.f.as_index(0), self.f.as_index(axis.length)
        begin, _ = axis.taps(self.frame, first + (count - 1))
        _, end = axis.taps(self.frame, first)
        return begin, end

    def write(
        self, made: Value, image: Value, channels: Value, step: Value, windows: Windows
    ) -> Value:
        """Spreads some channels for the windows of a tile. Gives the address where what is spread
        begins.

        Rows are written in the order in which they lie, for a vector may run over into the next;
        behind the last of a copy there is room for that.
        """
        f, e = self.f, self.frame.extent
        self.step = step
        with f.loop(0, channels * self.depth.length) as plane:
            channel, deep = plane.index // self.depth.length, plane.index % self.depth.length
            inside = self.depth.place(self.frame, windows.depth, deep)
            there = f.compare("lt", inside, e(self.depth.given), signed=False)
            self.enter(channel, step)
            given = f.element(
                image, channel * step + inside * e(self.depth.step), memory_of(self.dtype)
            )
            to = f.element(made, plane.index * e(self.plane), self.sum)
            for number in range(len(self.phases)):
                self._phase(number, to, given, there, windows)
        return made

    def enter(self, channel: Value, step: Value) -> None:
        """Whatever is best done once for all rows of a channel; ``step`` leads to the next."""

    def place(self, pixel: Value) -> Value:
        """Where the first element of the window of a pixel is, in what was made of a plane."""
        if not self.cut.by_row:
            return pixel
        return pixel + pixel // self.frame.extent(self.cut.width) * self.width.reach

    def nothing(self) -> Value:
        """A vector of what is seen beside the image."""
        return self.f.const(self.sum.times(self.cut.lanes), 0)

    def _phase(self, number: int, to: Value, given: Value, there: Value, windows: Windows) -> None:
        """The rows of one phase, from the first windows of the tile on."""
        f, e = self.f, self.frame.extent
        columns = windows.columns + (self.width.reach if self.cut.by_row else 0)
        begin, end = self.rows_seen if self.compact else (f.as_index(0), None)
        base = self.height.place(self.frame, windows.top, begin) + self.phases[number]
        shift = self.shifts[number] if end is None else (end - 1 - begin) * self._apart
        first = f.element(to, e(self.starts[number] * self.pitch), self.sum)
        with f.loop(0, windows.rows + shift) as row:
            at = base + row.index * self.height.stride
            whole = there & f.compare("lt", at, e(self.height.given), signed=False)
            line = f.element(given, at * e(self.height.step), memory_of(self.dtype))
            out = f.element(first, row.index * e(self.pitch), self.sum)
            with f.when(whole):
                self._row(out, line, windows.left, columns)
            with f.unless(whole), f.loop(0, columns, self.cut.lanes) as column:
                for _, copy in self._taps(out):
                    f.store(self.nothing(), f.element(copy, column.index, self.sum))

    def _taps(self, out: Value) -> Iterator[tuple[Value, Value]]:
        """The columns of the kernel, and where the copy of a row for each is: one after another, so
        that the row is still near; in a loop where they are many, or some are left out.
        """
        f, copy = self.f, self.frame.extent(self.copy)
        skips = self.cut.skips and self.row.length > 1
        if self.row.length <= WRITTEN and not skips:
            for number in range(self.row.length):
                yield f.as_index(number), f.element(out, copy * number, self.sum)
            return
        with f.loop(*(self.columns_seen if skips else (0, self.row.length))) as tap:
            yield tap.index, f.element(out, tap.index * copy, self.sum)

    def _row(self, out: Value, line: Value, left: Value, columns: Value) -> None:
        """The copies of one row of the image, from a place on. Only at its ends is there something
        beside it.
        """
        f, lanes, width = self.f, self.cut.lanes, self.pitch
        limit = self.frame.extent(self.width.given)

        def copied(at: Value, bound: Value | None) -> None:
            for tap, copy in self._taps(out):
                begin = self.width.place(self.frame, left, tap)
                self._vector(copy, line, bound, begin, at)
            # Rows are short runs of memory: of the next channel's the processor knows nothing.
            ahead = self.step + (left + at) * self.width.stride * self.frame.extent(self.width.step)
            f.prefetch(f.element(line, ahead, memory_of(self.dtype)), locality=2)

        count = f.as_index(width) if isinstance(width, int) and self.cut.even else columns
        clear = self.row.clear(self.frame, self.width.place(self.frame, left, 0), lanes)
        first, end = (f.minimum(v, count) for v in clear)
        if any(v.number is None for v in (first, end, count)):
            with f.loop(0, count, lanes) as at:
                inside = (at.index >= first) & (at.index < end)
                with f.when(inside):
                    copied(at.index, None)
                with f.unless(inside):
                    copied(at.index, limit)
            return
        places = [int(v.number or 0) for v in (f.as_index(0), first, end, count)]
        for (start, stop), bound in zip(pairwise(places), (limit, None, limit), strict=True):
            if stop - start <= UNROLLED * lanes:
                for place in range(start, stop, lanes):
                    copied(f.as_index(place), bound)
            else:
                with f.loop(start, stop, lanes) as at:
                    copied(at.index, bound)

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
        self, made: Value, image: Value, channels: Value, step: Value, windows: Windows
    ) -> Value:
        """Gives the address of the first window of the first channel."""
        return self.f.element(image, windows.left, self.sum)
