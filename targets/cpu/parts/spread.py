"""Spreading an image (a lean im2col): copying what windows see so that every tap of a kernel reads
contiguous elements.

For one channel, and each plane in depth that kernels see, there is a copy for each column of the
kernel. Its rows are ordered by *phase*: first those at which windows begin, then those one further,
up to the stride. So what adjacent windows see at one tap is contiguous, across rows of windows too,
and taps differ only by an offset. If panels of sums end with a row of windows, one copy suffices:
its rows are as long as all that windows see of them. Pixels seen only by taps that see nothing but
padding are not spread.
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
"""The most vectors of a row whose copy is unrolled, and the most columns of a kernel."""


@dataclass(frozen=True)
class Windows:
    """The windows of a tile: ``rows`` by ``columns`` of them from (depth, top, left) on."""

    depth: Value
    top: Value
    left: Value
    rows: Value
    columns: Value


class Spread:
    """Writes the code that spreads the rows a tile reads; ``plane`` is the size of the copy of one
    plane in elements, ``room`` that of several. ``beyond`` says that memory after the last window
    may be read.
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
        """The elements of the copy of so many planes."""
        return self.plane * planes

    def _most_rows(self, shift: int) -> Extent:
        """The most rows of a phase that are spread; windows see ``shift`` rows beyond theirs. If
        taps are skipped, these are the rows of the image, and the padding that other windows see
        with them.
        """
        rows, height = self.cut.height + shift, self.height
        if not self.compact:
            return rows
        given = (height.given + height.stride - 1) // height.stride
        return minimum(rows, given + 2 * (self.cut.height - 1))

    @property
    def _apart(self) -> int:
        """The rows between one tap and the next of the same phase."""
        return self.height.dilation // self.height.stride

    @property
    def compact(self) -> bool:
        """Whether rows that only skipped taps see take no room."""
        return self.cut.skips and len(self.phases) == 1

    def begin(self, table: Value, windows: Windows) -> Value:
        """Writes the offset of each tap of the windows of a tile, in elements from the start of a
        plane, and if some are skipped its number; gives how many there are.
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
        """The taps along an axis with which windows from ``first`` on see the image, as a half-open
        range.
        """
        if not self.cut.skips:
            return self.f.as_index(0), self.f.as_index(axis.length)
        begin, _ = axis.taps(self.frame, first + (count - 1))
        _, end = axis.taps(self.frame, first)
        return begin, end

    def write(
        self, made: Value, image: Value, channels: Value, step: Value, windows: Windows
    ) -> Value:
        """Spreads some channels for the windows of a tile; gives the address of the copy.

        Rows are written in memory order, as a vector may run over into the next row; there is room
        for that after the last row of a copy.
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
        """A hook for what is best done once for all rows of a channel; ``step`` is the channel
        stride.
        """

    def place(self, pixel: Value) -> Value:
        """The offset of the first element of a pixel's window in the copy of a plane."""
        if not self.cut.by_row:
            return pixel
        return pixel + pixel // self.frame.extent(self.cut.width) * self.width.reach

    def nothing(self) -> Value:
        """A vector of padding."""
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
        """The columns of the kernel, and for each the address of its copy of a row: in sequence,
        while the row is still in cache; in a loop if they are many, or some are skipped.
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
        """The copies of one row of the image, from a column on. Only its ends have padding."""
        f, lanes, width = self.f, self.cut.lanes, self.pitch
        limit = self.frame.extent(self.width.given)

        def copied(at: Value, bound: Value | None) -> None:
            for tap, copy in self._taps(out):
                begin = self.width.place(self.frame, left, tap)
                self._vector(copy, line, bound, begin, at)
            # Rows are short runs of memory, and the prefetcher cannot guess the next channel's.
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
        """What adjacent windows see of a row from a column on, in the type of sums."""
        vector = self.width.vector(self.frame, line, first, limit, self.dtype, self.cut.lanes)
        return widened(self.f, vector, self.dtype, self.sum)


def in_lines(axes: tuple[Axis, Axis, Axis], dtype: DType, sum_: Type) -> bool:
    """Whether each channel of an image is contiguous, of the type of sums, and each element a
    window.
    """
    *outer, width = axes
    lines = width.plain and width.step == 1 and all(a.plain and a.made == 1 for a in outer)
    return lines and memory_of(dtype) == sum_


class InPlace(Spread):
    """Spreads nothing: if windows are adjacent single elements, each channel is read in place, and
    the next is ``step`` elements away.
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
        """The address of the first window of the first channel."""
        return self.f.element(image, windows.left, self.sum)
