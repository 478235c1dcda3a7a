"""Windows reduced in place: the loops of depthwise convolutions and of pooling.

Lanes are adjacent windows. Rows of windows entirely inside the image are unrolled element by
element, several rows together, so that each input is read once, and masks and the numbers of a
kernel stay in registers; at the upper and lower edge a loop runs over the rows that exist. Masks
mark what is beyond the left and right edges.

If windows are so large that elements are read many times, rows are first copied to scratch together
with their padding; for a stride, the columns of each phase are stored apart. Then there are neither
edges nor masks, and lanes are always contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import product as product_of

from migx.dim import Extent, maximum, minimum, product
from migx.shape import DType
from migx.targets.cpu.emit import Type, Value
from migx.targets.cpu.kernel import Frame, memory_of
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.windows import Axis

TILE = 16384
"""Windows of a tile: some microseconds of work, so that sharing costs little."""
UNROLLED, TOGETHER = 100, 4
"""The most window elements that are unrolled, and rows of windows that are reduced together."""
MORE = 350, 7
"""The same for windows of a copy: the more sums, the better they hide each other's latency."""
COPIED = 16
"""The elements of a window from which copying the image first pays."""

Tap = tuple[Value | int, Value | int, Value | int]
"""The index of an element in its window, or of a group of them in a row of it."""
Fold = Callable[[Value, Value, Value, Tap], Value]
"""A function of a total, the values that the windows of a channel see at a tap, the channel and the
tap, that gives the next total.
"""


@dataclass(frozen=True)
class WindowVector:
    """Adjacent windows: their channel, counted over all items; their indices in depth and height,
    and the first in width; and the mask of lanes that exist.
    """

    channel: Value
    depth: Value
    row: Value
    column: Value
    mask: Value | None


@dataclass
class Sliding:
    """The loops over all windows of an image. ``steps`` are the strides between items and between
    channels; ``counts`` are the items, the channels of each, and how many channels of windows see
    each. ``begun`` gives the initial value of a reduction, ``fold`` adds an element, and ``done``
    takes the result. ``other`` is the value of padding. ``joined``, if possible, combines two
    reductions.
    """

    frame: Frame
    axes: tuple[Axis, Axis, Axis]
    dtype: DType
    lanes: int
    operand: int
    counts: tuple[Extent, int, int]
    steps: tuple[Extent, Extent]
    begun: Callable[[], Value]
    fold: Fold
    done: Callable[[WindowVector, Value], None]
    other: float = 0
    joined: Callable[[Value, Value], Value] | None = None
    top: Value = field(init=False)
    copy: Value = field(init=False)

    @property
    def copies(self) -> bool:
        """Whether the image is copied together with its padding."""
        depth, height, width = self.axes
        pays = width.stride <= 2 or width.length > width.stride
        return depth.plain and pays and COPIED <= height.length * width.length <= UNROLLED

    @property
    def taps(self) -> range:
        """The elements of a row of a window, by the numbers that ``fold`` gets."""
        return range(self.axes[2].length)

    @property
    def _room(self) -> Extent:
        """The elements of a copy; lanes that are no windows may read beyond the rows."""
        width = self.axes[2]
        rows = self._seen_rows(self._rows_of_tile) * width.stride
        return rows * self._pitch + (self.lanes + width.reach)

    @property
    def _memory(self) -> Type:
        return memory_of(self.dtype)

    @property
    def _rows_of_tile(self) -> Extent:
        _, height, width = self.axes
        return maximum(minimum(TILE // maximum(width.made, 1), height.made), 1)

    def _seen_rows(self, rows: Extent) -> Extent:
        """The rows of the image that so many rows of windows see."""
        height = self.axes[1]
        return (rows - 1) * height.stride + height.reach + 1

    @property
    def _pitch(self) -> Extent:
        """The row stride of the copy in elements, whole vectors. Lanes that are no windows may read
        more.
        """
        width, lanes = self.axes[2], self.lanes
        reach = width.reach // width.stride
        return (width.made + (reach + lanes - 1)) // lanes * lanes

    @property
    def planes(self) -> Extent:
        """Channels of windows in all items."""
        items, channels, repeat = self.counts
        return items * (channels * repeat)

    def write(self) -> Extent:
        """Writes the loops; gives the number of tiles."""
        f, e = self.frame.function, self.frame.extent
        depth, height, _ = self.axes
        pixels = maximum(product(axis.made for axis in self.axes), 1)
        share = maximum(TILE // pixels, 1)
        rows = self._rows_of_tile
        down = (height.made + rows - 1) // rows
        if self.copies:
            self.copy = self.frame.take(self._room, self._memory)
        with f.loop(self.frame.begin, self.frame.end) as tile:
            top = tile.index % e(down) * e(rows)
            rest = tile.index // e(down)
            place, first = rest % e(depth.made), rest // e(depth.made) * e(share)
            last = f.minimum(first + e(share), e(self.planes))
            bottom = f.minimum(top + e(rows), e(height.made))
            with f.loop(first, last) as channel:
                self._plane(channel.index, place, top, bottom)
        return (self.planes + share - 1) // share * depth.made * down

    def _plane(self, channel: Value, depth: Value, top: Value, bottom: Value) -> None:
        """Some rows of windows of one channel."""
        f, e = self.frame.function, self.frame.extent
        _, channels, repeat = self.counts
        item, seen = channel // (channels * repeat), channel // repeat % channels
        offset = item * e(self.steps[0]) + seen * e(self.steps[1])
        deep, height, width = self.axes
        if deep.plain:
            offset = offset + depth * e(deep.step)
        image = f.element(self.frame.operands[self.operand], offset, self._memory)
        if self.copies:
            image = self._copied(image, top, bottom)
            first, end = top, bottom
        else:
            first, end = (f.maximum(top, f.minimum(v, bottom)) for v in height.whole(self.frame))
        self.top = top
        with f.loop(0, e(width.made), self.lanes) as column:
            left = e(width.made) - column.index
            known = isinstance(width.made, int) and width.made % self.lanes == 0
            mask = None if known else f.first_lanes(left, self.lanes)
            at = WindowVector(channel, depth, top, column.index, mask)
            if not self.copies:
                self._turns(at, image, top, first, 0)
            begin = first
            for rows in self.groups:
                past = begin + (end - begin) // rows * rows
                self._turns(at, image, begin, past, rows)
                begin = past
            if not self.copies:
                self._turns(at, image, end, bottom, 0)

    def _copied(self, image: Value, top: Value, bottom: Value) -> Value:
        """Copies what some rows of windows see to scratch; gives the address of the copy."""
        f, e = self.frame.function, self.frame.extent
        _, height, width = self.axes
        made, lanes, pitch = self.copy, self.lanes, e(self._pitch)
        rows = (bottom - top - 1) * height.stride + (height.reach + 1)
        other = elements.in_memory(f, self.other, self.dtype, lanes)
        with f.loop(0, rows) as row:
            place = height.place(self.frame, top, 0) + row.index
            inside = f.compare("lt", place, e(height.given), signed=False)
            line = f.element(image, place * e(height.step), self._memory)
            for phase in range(width.stride):
                number = row.index * width.stride + phase
                out = f.element(made, number * pitch, self._memory)
                with f.when(inside), f.loop(0, pitch, lanes) as at:
                    begin = width.place(self.frame, at.index, 0) + phase
                    limit = e(width.given)
                    seen = width.vector(
                        self.frame, line, begin, limit, self.dtype, lanes, self.other
                    )
                    f.store(seen, f.element(out, at.index, self._memory))
                with f.unless(inside), f.loop(0, pitch, lanes) as at:
                    f.store(other, f.element(out, at.index, self._memory))
        return made

    @property
    def groups(self) -> list[int]:
        """How many rows of windows are reduced together, so that what they see is read once: the
        most, and then those for the remainder.
        """
        _, height, width = self.axes
        unrolled, most = MORE if self.copies else (UNROLLED, TOGETHER)
        most = max(1, min(most, unrolled // (height.length * width.length)))
        if not self.copies or not isinstance(height.made, int):
            most -= most % 2 if most > 1 else 0  # most heights are even
            return sorted({most, min(most, 2), 1}, reverse=True)
        turns = max(1, -(-height.made // most))
        even = -(-height.made // turns)
        return [n for n in (even, height.made % even) if n] + [1]

    def _turns(self, at: WindowVector, image: Value, begin: Value, end: Value, rows: int) -> None:
        """Rows of windows, ``rows`` per iteration, entirely inside the image; 0 means single rows
        that may not be.
        """
        f = self.frame.function
        with f.loop(begin, end, max(1, rows)) as row:
            there = [replace(at, row=row.index + i) for i in range(max(1, rows))]
            totals = self._folded(there, image, rows > 0)
            self._done(there, totals)

    def _done(self, at: list[WindowVector], totals: list[Value]) -> None:
        """Passes on the results. In rows of unknown length most vectors are full, and are written
        faster without a mask.
        """
        f, mask, made = self.frame.function, at[0].mask, self.axes[2].made
        if mask is None or isinstance(made, int) or len(at) == 1:
            self._each_done(at, totals)
            return
        whole = (self.frame.extent(made) - at[0].column) >= self.lanes
        with f.when(whole):
            self._each_done([replace(windows, mask=None) for windows in at], totals)
        with f.unless(whole):
            self._each_done(at, totals)

    def _each_done(self, at: list[WindowVector], totals: list[Value]) -> None:
        for windows, total in zip(at, totals, strict=True):
            self.done(windows, total)

    def _folded(self, at: list[WindowVector], image: Value, whole: bool) -> list[Value]:
        """The reductions of rows of windows entirely inside the image, or of one that is not. If
        the depth is plain, the image is their plane.
        """
        f, (depth, _, _) = self.frame.function, self.axes
        begun = [self.begun() for _ in at]
        if depth.plain:
            return self._rows(at, image, f.as_index(0), begun, whole)
        begin, end = depth.taps(self.frame, at[0].depth)
        with f.loop(begin, end, carry=begun) as deep:
            place = depth.place(self.frame, at[0].depth, deep.index)
            offset = place * self.frame.extent(depth.step)
            plane = f.element(image, offset, self._memory)
            deep.carry(*self._rows(at, plane, deep.index, deep.carried, whole))
        return deep.carried

    def _rows(
        self, at: list[WindowVector], plane: Value, deep: Value, totals: list[Value], whole: bool
    ) -> list[Value]:
        f, (_, height, width) = self.frame.function, self.axes
        taps = self.taps
        if whole and height.length * width.length <= UNROLLED:
            first = height.place(self.frame, at[0].row, 0)
            if self.copies:
                first = (at[0].row - self.top) * height.stride
            if self.joined is not None and height.length > height.stride:
                return self._joined(at, plane, (first, deep), totals)
            # Column by column: what these rows see of one column fits in registers.
            for j in taps:
                seen: dict[int, Value] = {}
                for i, n in product_of(range(height.length), range(len(at))):
                    below = n * height.stride + i * height.dilation
                    if below not in seen:
                        seen[below] = self._seen(at[n], plane, first + below, j)
                    totals[n] = self.fold(totals[n], seen[below], at[n].channel, (deep, i, j))
            return totals
        begin, end = height.taps(self.frame, at[0].row)
        with f.loop(begin, end, carry=totals) as row:
            place_of = height.place(self.frame, at[0].row, row.index)

            def folded(total: Value, j: Value | int) -> Value:
                value = self._seen(at[0], plane, place_of, j)
                return self.fold(total, value, at[0].channel, (deep, row.index, j))

            (total,) = row.carried
            if width.length <= UNROLLED:
                for j in taps:
                    total = folded(total, j)
            else:
                with f.loop(0, width.length, carry=[total]) as column:
                    column.carry(folded(column.carried[0], column.index))
                (total,) = column.carried
            row.carry(total)
        return row.carried

    def _joined(
        self, at: list[WindowVector], plane: Value, place: tuple[Value, Value], totals: list[Value]
    ) -> list[Value]:
        """The reductions of rows of windows, each joined from those of its rows, which windows
        share.
        """
        (first, deep), height = place, self.axes[1]
        assert self.joined is not None
        parts: dict[int, Value] = {}
        for n, windows in enumerate(at):
            rows = [n * height.stride + i * height.dilation for i in range(height.length)]
            for i, row in enumerate(rows):
                if row not in parts:
                    part = self.begun()
                    for j in self.taps:
                        seen = self._seen(windows, plane, first + row, j)
                        part = self.fold(part, seen, windows.channel, (deep, i, j))
                    parts[row] = part
            totals[n] = reduce(self.joined, (parts[row] for row in rows), totals[n])
        return totals

    def _seen(self, at: WindowVector, plane: Value, row: Value, tap: Value | int) -> Value:
        """What adjacent windows see of an image row at one of their columns."""
        f, (_, height, width) = self.frame.function, self.axes
        if self.copies and isinstance(tap, int):
            ahead, phase = divmod(tap * width.dilation, width.stride)
            number = row * width.stride + phase
            place = number * self.frame.extent(self._pitch) + at.column + ahead
            return f.load(f.element(plane, place, self._memory), self._memory.times(self.lanes))
        line = f.element(plane, row * self.frame.extent(height.step), self._memory)
        first = width.place(self.frame, at.column, tap)
        limit = self.frame.extent(width.given)
        return width.vector(self.frame, line, first, limit, self.dtype, self.lanes, self.other)
