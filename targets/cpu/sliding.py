"""Windows that are folded where they lie: the loops of depthwise convolutions and of pooling.

Lanes are windows side by side. Those of the rows that lie in the image as a whole are written out,
element by element and some rows together, so that what they see is read once, and masks and the
numbers of a kernel stay in registers; at the upper and lower edge a loop runs over the rows that
are there. To the left and to the right masks say what is beside the image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product as product_of

from migx.dim import Extent, maximum, minimum, product
from migx.shape import DType
from migx.targets.cpu.emit import Value
from migx.targets.cpu.kernel import Frame
from migx.targets.cpu.tile import memory_of
from migx.targets.cpu.windows import Axis

TILE = 16384
"""Windows of a tile: some microseconds of work, so that sharing costs little."""
UNROLLED, TOGETHER = 100, 4
"""Elements of windows that are written out, and rows of windows that are folded together."""

Tap = tuple[Value | int, Value | int, Value | int]
"""The place of an element in its window."""


@dataclass(frozen=True)
class Windows:
    """Some windows side by side: the channel they are of, counted over all items; their places in
    depth and height, and the first in width; and which lanes there are.
    """

    channel: Value
    depth: Value
    row: Value
    column: Value
    mask: Value | None


@dataclass
class Sliding:
    """The loops over all windows of an image. ``steps`` lead from one item and one channel to the
    next, of which each item has ``channels``, and each is seen by ``repeat`` channels of windows.

    ``begun`` gives what a fold begins with for a channel, ``fold`` adds an element, and ``done``
    takes what came out. ``other`` is seen beside the image.
    """

    frame: Frame
    axes: tuple[Axis, Axis, Axis]
    dtype: DType
    lanes: int
    operand: int
    counts: tuple[Extent, int, int]
    steps: tuple[Extent, Extent]
    begun: Callable[[], Value]
    fold: Callable[[Value, Value, Value, Tap], Value]
    done: Callable[[Windows, Value], None]
    other: float = 0

    @property
    def planes(self) -> Extent:
        """Channels of windows in all items."""
        items, channels, repeat = self.counts
        return items * (channels * repeat)

    def write(self) -> Extent:
        """Writes the loops; gives the number of tiles."""
        f, e = self.frame.function, self.frame.extent
        depth, height, width = self.axes
        pixels = maximum(product(axis.made for axis in self.axes), 1)
        share = maximum(TILE // pixels, 1)
        rows = maximum(minimum(TILE // maximum(width.made, 1), height.made), 1)
        down = (height.made + rows - 1) // rows
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
        image = f.element(self.frame.operands[self.operand], offset, memory_of(self.dtype))
        _, height, width = self.axes
        first, end = (f.maximum(top, f.minimum(v, bottom)) for v in height.whole(self.frame))
        with f.loop(0, e(width.made), self.lanes) as column:
            left = e(width.made) - column.index
            known = isinstance(width.made, int) and width.made % self.lanes == 0
            mask = None if known else f.first_lanes(f.opaque(left), self.lanes)
            at = Windows(channel, depth, top, column.index, mask)
            together = first + (end - first) // self.together * self.together
            self._turns(at, image, top, first, 0)
            self._turns(at, image, first, together, self.together)
            if self.together > 1:
                self._turns(at, image, together, end, 1)
            self._turns(at, image, end, bottom, 0)

    @property
    def together(self) -> int:
        """How many rows of windows are folded in one turn, for what they see is read once."""
        _, height, width = self.axes
        return max(1, min(TOGETHER, UNROLLED // (height.length * width.length)))

    def _turns(self, at: Windows, image: Value, begin: Value, end: Value, rows: int) -> None:
        """Rows of windows, so many in each turn, which lie in the image as a whole; 0 are single
        ones that do not.
        """
        f = self.frame.function
        with f.loop(begin, end, max(1, rows)) as row:
            there = [replace(at, row=row.index + i) for i in range(max(1, rows))]
            totals = self._folded(there, image, rows > 0)
            for windows, total in zip(there, totals, strict=True):
                self.done(windows, total)

    def _folded(self, at: list[Windows], image: Value, whole: bool) -> list[Value]:
        """The folds of rows of windows, which lie in the image as a whole, or one that does not."""
        f, (depth, _, _) = self.frame.function, self.axes
        begun = [self.begun() for _ in at]
        begin, end = depth.taps(self.frame, at[0].depth)
        if depth.plain and depth.length == 1:
            return self._rows(at, image, f.as_index(0), begun, whole)
        with f.loop(begin, end, carry=begun) as deep:
            place = depth.place(self.frame, at[0].depth, deep.index)
            offset = place * self.frame.extent(depth.step)
            plane = f.element(image, offset, memory_of(self.dtype))
            deep.carry(*self._rows(at, plane, deep.index, deep.carried, whole))
        return deep.carried

    def _rows(
        self, at: list[Windows], plane: Value, deep: Value, totals: list[Value], whole: bool
    ) -> list[Value]:
        f, (_, height, width) = self.frame.function, self.axes
        taps = range(width.length)
        if whole and height.length * width.length <= UNROLLED:
            first = height.place(self.frame, at[0].row, 0)
            seen: dict[tuple[int, int], Value] = {}
            for n, i, j in product_of(range(len(at)), range(height.length), taps):
                place = n * height.stride + i * height.dilation, j
                if place not in seen:
                    seen[place] = self._seen(at[n], plane, first + place[0], j)
                totals[n] = self.fold(totals[n], seen[place], at[n].channel, (deep, i, j))
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

    def _seen(self, at: Windows, plane: Value, row: Value, tap: Value | int) -> Value:
        """What windows see of a row by one of their columns."""
        f, (_, height, width) = self.frame.function, self.axes
        line = f.element(plane, row * self.frame.extent(height.step), memory_of(self.dtype))
        first = width.place(self.frame, at.column, tap)
        limit = self.frame.extent(width.given)
        return width.vector(self.frame, line, first, limit, self.dtype, self.lanes, self.other)
