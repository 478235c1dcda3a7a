"""The inner loops of convolutions: sums of some output channels at some pixels, in registers.

``Straight`` has vectors of pixels, and broadcasts elements of the kernels. For images so small that
their pixels fill vectors badly, ``Turned`` has vectors of output channels and broadcasts pixels;
its results are pixel-major, and are transposed when they are complete.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from migx.targets.cpu.emit import I1, I8, I64, Type, Value
from migx.targets.cpu.kernel import Frame
from migx.targets.cpu.machine import LINE, PAGE, places_apart
from migx.targets.cpu.parts.cutting import Cut
from migx.targets.cpu.parts.epilogue import Destination, Epilogue
from migx.targets.cpu.parts.spread import Spread
from migx.targets.cpu.parts.transpose import turned

AHEAD = 4096
"""The prefetch distance of weights in bytes: they often come from far memory."""
PLANES_AHEAD = 8
"""The prefetch distance, in channels, of an image read in place, unless the L1 cache has room for
two panels of all channels: then it is the next panel.
"""
TOGETHER = 16
"""Vectors of pixels that are transposed at a time."""

Step = Callable[[Value, Value, list[Value], Value], list[Value]]
"""A function that adds the products of an element of the kernels: it gets the line of pixels, the
elements of the kernels, the sums, and the index of the element.
"""


@dataclass(frozen=True)
class Share:
    """A unit of work: all ``count`` pixels of a tile, in rows of ``columns``, by the ``number``-th
    strip of output channels of the tile; of the sums, those over ``channels`` from ``channel`` on,
    which are spread to ``lines``.
    """

    to: Destination
    weights: Value
    lines: Value
    channel: Value
    channels: Value
    number: Value
    count: Value
    columns: Value


@dataclass
class Inner:
    """What the inner loops share: the channels of kernels, their planes, and the taps of a plane;
    the address of the table of taps; and how many of them are ``live`` in a tile. The weights of a
    strip may come ``in_pieces``, some channels at a time.
    """

    frame: Frame
    cut: Cut
    sum: Type
    spread: Spread
    finish: Epilogue
    channels: int
    depth: int
    taps: int
    table: Value
    live: Value = field(init=False)
    in_pieces: bool = field(init=False, default=False)

    @property
    def waits(self) -> bool:
        """Whether sums wait for more channels."""
        return self.in_pieces or self.cut.chunk != self.channels

    @property
    def held(self) -> int:
        """The number of strips whose sums are kept: all of a tile's if they wait for channels to be
        spread.
        """
        return self.cut.strips if self.cut.chunk != self.channels else 1

    def enter(self, share: Share) -> None:
        """A hook for what is best done once for all pixels of a share."""

    def summed(
        self, share: Share, first: Value, begun: list[Value], step: Step, numbers: int
    ) -> list[Value]:
        """The sums over the share's channels, of kernels with so many adjacent ``numbers``."""
        f = self.frame.function
        with f.loop(0, share.channels * self.depth, carry=begun) as plane:
            line = f.element(first, plane.index * self.frame.extent(self.spread.plane), self.sum)
            if self.taps == 1:
                kernel = f.element(share.weights, plane.index * numbers, self.sum)
                plane.carry(*step(line, kernel, plane.carried, plane.index))
            else:
                with f.loop(0, self.live, carry=plane.carried) as tap:
                    skips = self.cut.skips
                    place = f.element(self.table, tap.index * (1 + skips), I64)
                    offset = f.load(place, I64)
                    number = f.load(f.element(place, 1, I64), I64) if skips else tap.index
                    k = plane.index * self.taps + number
                    kernel = f.element(share.weights, k * numbers, self.sum)
                    tap.carry(*step(f.element(line, offset, self.sum), kernel, tap.carried, k))
                plane.carry(*tap.carried)
        return plane.carried

    def multiplied(self, number: Value, pixel: Value, total: Value) -> Value:
        """A total plus the product of an element of the kernels and one of the image."""
        return self.frame.function.muladd(number, pixel, total)

    def begun(self, share: Share, places: list[Value]) -> list[Value]:
        """Vectors of sums as earlier channels left them; zeros for the first."""
        f, vector = self.frame.function, self.sum.times(self.cut.lanes)
        zero = f.const(vector, 0)
        if not self.waits:
            return [zero] * len(places)
        fresh = f.compare("eq", share.channel, 0)
        return [f.select(fresh, zero, f.load(p, vector)) for p in places]

    def places(self, first: Value, vectors: int, pitch: int) -> list[Value]:
        """The addresses of the vectors of a strip, whose rows have stride ``pitch``."""
        f, cut = self.frame.function, self.cut
        offsets = [i * pitch + j * cut.lanes for i in range(cut.rows) for j in range(vectors)]
        return [f.element(first, offset, self.sum) for offset in offsets]

    def leave(self, places: list[Value], sums: list[Value]) -> None:
        """Stores sums for later."""
        for place, total in zip(places, sums, strict=True):
            self.frame.function.store(total, place)

    def is_last(self, share: Share) -> Value:
        """Whether there are no more channels."""
        return (share.channel + share.channels) >= self.channels


class Straight(Inner):
    """Vectors of pixels."""

    @property
    def _stored(self) -> bool:
        """Whether the sums of all panels go through memory: they wait, or the epilogue is long, so
        that its code is written only once. Those of a partial panel always do.
        """
        return self.waits or not self.finish.light

    @property
    def _ahead(self) -> int:
        """The prefetch distance of weights in bytes; if taps are skipped, a multiple of a plane, so
        that it reaches the same tap of another plane.
        """
        plane = self.taps * self.cut.rows * self.sum.nbytes
        return -(-AHEAD // plane) * plane if self.cut.skips else AHEAD

    @property
    def _next(self) -> Value:
        """The prefetch distance, in elements, of an image read in place."""
        panels = 2 * (self.cut.panel * self.sum.nbytes + LINE)
        apart = places_apart(self.spread.plane * self.sum.nbytes)
        fits = max(panels, apart) * self.channels <= self.frame.machine.l1
        if fits or apart == PAGE:  # neither stays if all share one set
            return self.frame.function.as_index(self.cut.panel)
        return self.frame.extent(self.spread.plane) * PLANES_AHEAD

    @property
    def _pitch(self) -> int:
        """Pixels there is room for."""
        cut = self.cut
        pixels = cut.positions if self._stored else cut.panel * bool(cut.rests)
        return -(-pixels // cut.panel) * cut.panel

    def take(self) -> None:
        """Takes its scratch: the sums of a strip, or of all strips of a tile if they wait."""
        self.sums = self.frame.take(self.held * self.cut.rows * self._pitch, self.sum)

    def write(self, share: Share) -> None:
        """A strip by all pixels of the tile, panel by panel."""
        self.enter(share)
        f, cut = self.frame.function, self.cut
        number = share.number * (cut.rows * self._pitch) if self.held > 1 else f.as_index(0)
        sums = f.element(self.sums, number, self.sum)
        if cut.by_row:
            with f.loop(0, share.count, share.columns) as row:
                self._run(share, sums, row.index, share.columns)
        else:
            self._run(share, sums, f.as_index(0), share.count)
        if not self.finish.light:
            with f.when(self.is_last(share)):
                self.finish.write_lines(share.to, sums, self._pitch, share.count)

    def _run(self, share: Share, sums: Value, first: Value, count: Value) -> None:
        """A strip by a run of pixels, panel by panel."""
        f, cut = self.frame.function, self.cut
        full = count // cut.panel * cut.panel
        if cut.fills:
            with f.loop(0, full, cut.panel) as turn:
                at = first + turn.index
                self._panel(share, f.element(sums, at, self.sum), at, [None] * cut.vectors)
        rest, end = count - full, first + full
        last = f.element(sums, end if self._stored else 0, self.sum)
        for whole, vectors in cut.rests:
            with f.when((rest > whole * cut.lanes) & (rest <= vectors * cut.lanes)):
                counts = (rest - j * cut.lanes for j in range(whole, vectors))
                left = [f.first_lanes(count, cut.lanes) for count in counts]
                self._panel(share, last, end, [None] * whole + left)
        if self.finish.light and cut.rests:
            with f.when(self.is_last(share)):
                here = replace(share.to, column=share.to.column + end)
                self.finish.write_lines(here, last, self._pitch, rest)

    def _panel(self, share: Share, sums: Value, at: Value, masks: list[Value | None]) -> None:
        """A strip by a panel of some vectors from a pixel on, whose sums may go to ``sums``; with
        masks, a partial panel.
        """
        f, cut, vectors = self.frame.function, self.cut, len(masks)
        whole = masks == [None] * cut.vectors
        places = self.places(sums, vectors, self._pitch)
        here = replace(share.to, column=share.to.column + at)
        if self.spread.beyond:
            masks = [None] * vectors

        def step(line: Value, kernel: Value, sums: list[Value], _: Value) -> list[Value]:
            return self._step(line, kernel, sums, masks)

        first = f.element(share.lines, self.spread.place(at), self.sum)
        made = self.summed(share, first, self.begun(share, places), step, cut.rows)
        if not self.finish.light or not whole:
            self.leave(places, made)
            return
        last = self.is_last(share) if self.waits else f.const(I1, 1)
        with f.when(last):
            self.finish.write(here, made, cut.rows, None)
        if self.waits:
            with f.unless(last):
                self.leave(places, made)

    def _step(
        self, line: Value, kernel: Value, sums: list[Value], masks: list[Value | None]
    ) -> list[Value]:
        f, cut, sum_ = self.frame.function, self.cut, self.sum
        vector, vectors = sum_.times(cut.lanes), len(masks)
        pixels = [
            f.load(f.element(line, j * cut.lanes, sum_), vector, mask=mask)
            for j, mask in enumerate(masks)
        ]
        f.prefetch(f.element(kernel, self._ahead, I8))
        if not self.spread.beyond:  # a copy is in cache; this comes from far memory
            ahead = f.element(line, self._next, sum_)
            for begin in range(0, vector.nbytes * vectors, LINE):
                f.prefetch(f.element(ahead, begin, I8))
        made: list[Value] = []
        for i in range(cut.rows):
            number = f.splat(f.load(f.element(kernel, i, sum_), sum_), cut.lanes)
            mine = zip(pixels, sums[i * vectors : (i + 1) * vectors], strict=True)
            made += [self.multiplied(number, pixel, total) for pixel, total in mine]
        return made


class Turned(Inner):
    """Vectors of output channels."""

    @property
    def _pitch(self) -> int:
        """Pixels there is room for: whole strips of them, and whole vectors."""
        cut = self.cut
        strips = -(-cut.positions // cut.rows) * cut.rows
        return (max(strips, cut.positions + cut.lanes) // cut.lanes + 1) * cut.lanes

    @property
    def _block(self) -> int:
        """The pixels transposed at a time."""
        return TOGETHER * self.cut.lanes

    def take(self) -> None:
        """Takes its scratch: sums by channel, and by pixel, of all panels if they wait."""
        self.by_channel = self.frame.take(self.cut.panel * self._block, self.sum)
        self.by_pixel = self.frame.take(self.held * self._pitch * self.cut.panel, self.sum)

    def write(self, share: Share) -> None:
        """A panel of channels by all pixels of the tile, strip by strip."""
        self.enter(share)
        f, cut = self.frame.function, self.cut
        number = share.number * (cut.panel * self._pitch) if self.held > 1 else f.as_index(0)
        sums = f.element(self.by_pixel, number, self.sum)
        with f.loop(0, share.count, cut.rows) as turn:
            self._strip(share, turn.index, f.element(sums, turn.index * cut.panel, self.sum))
        with f.when(self.is_last(share)):
            self._finish(share, sums)

    def _strip(self, share: Share, at: Value, sums: Value) -> None:
        """One strip of pixels, while a part of the next panel's weights is prefetched."""
        f, cut = self.frame.function, self.cut
        deep = share.channels * (self.depth * self.taps)
        after = f.element(share.weights, deep * cut.panel, self.sum)
        part = f.minimum(at // cut.rows, cut.vectors - 1) * deep * LINE
        ahead = f.element(after, part, I8)

        def step(line: Value, kernel: Value, given: list[Value], k: Value) -> list[Value]:
            f.prefetch(f.element(ahead, k * LINE, I8), locality=2)
            return self._step(line, kernel, given)

        places = self.places(sums, cut.vectors, cut.panel)
        first = f.element(share.lines, at, self.sum)
        made = self.summed(share, first, self.begun(share, places), step, cut.panel)
        self.leave(places, made)

    def _step(self, line: Value, kernel: Value, sums: list[Value]) -> list[Value]:
        f, cut, sum_ = self.frame.function, self.cut, self.sum
        vector, count = sum_.times(cut.lanes), cut.vectors
        numbers = [f.load(f.element(kernel, j * cut.lanes, sum_), vector) for j in range(count)]
        made: list[Value] = []
        for i in range(cut.rows):
            pixel = f.splat(f.load(f.element(line, i, sum_), sum_), cut.lanes)
            mine = zip(numbers, sums[i * count : (i + 1) * count], strict=True)
            made += [self.multiplied(number, pixel, total) for number, total in mine]
        return made

    def _finish(self, share: Share, sums: Value) -> None:
        """Transposes and finishes some pixels at a time, so few that they stay in cache."""
        f, cut, sum_ = self.frame.function, self.cut, self.sum
        lanes, wide = cut.lanes, sum_.times(cut.lanes)
        with f.loop(0, share.count, self._block) as at:
            left = f.minimum(share.count - at.index, self._block)
            here = replace(share.to, column=share.to.column + at.index)
            with f.loop(0, left, lanes) as j, f.loop(0, here.rows, lanes) as i:
                first = (at.index + j.index) * cut.panel + i.index
                square = [
                    f.load(f.element(sums, first + k * cut.panel, sum_), wide) for k in range(lanes)
                ]
                for k, line in enumerate(turned(f, square)):
                    place = (i.index + k) * self._block + j.index
                    f.store(line, f.element(self.by_channel, place, sum_))
            self.finish.write_lines(here, self.by_channel, self._block, left)
