"""How a convolution is cut into tiles: the cost model."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from migx import dim
from migx.dim import Extent, maximum, minimum
from migx.errors import DimError
from migx.targets.cpu.emit import Type
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts.windows import Axis

# Costs, in cycles of the two multiply-add units.
LOADS = 0.1
"""The cost of a load beyond the arithmetic it hides behind; 0.5 would hide nothing."""
STEP = 2.0
"""Advancing to the next element of the kernels."""
LATENCY = 4.0
"""Cycles until a sum can be added to again."""
COPY = 2.0
"""Spreading a vector of the image; for a row whose elements are gathered, ``GATHER``."""
GATHER = 12.0
FINISH = 2.0
"""Writing a vector of the result; a vector of partial sums that waits for more channels costs the
same.
"""
TURNING = 12.0
"""The same if pixels and channels must be transposed."""
FETCH = 3.0
"""Bringing a vector from far memory, once per tile: of weights, or of an image read in place."""
WAIT = 4.0
"""What a step waits for an image read in place whose channels map to the same set of the L1 cache:
it always misses.
"""
TILE = 1000.0
"""Starting a tile."""
ALONE = 30_000.0
"""The work one thread has done before others have joined."""

UNKNOWN = (96, 288, 800)
"""Stand-ins, each tried in turn, for a size known only at run time: odd multiples of 32, as many
networks halve images five times.
"""
FRAMES = 64
"""Sound has been cut into frames where more elements than these make one window."""
FEWEST = (1, 4)
"""The fewest tiles into which an image of unknown size is cut, if it has rows enough."""
ROOM = 512
"""The most pixels of a tile if nothing is known of their number."""
MOST_ROWS, MOST_VECTORS = 12, 4
"""With more rows, broadcast numbers occupy registers before they are needed."""
PANELS = (1, 2, 4, 6, 7, 8, 12, 14, 16, 20, 24, 32)
BLOCKS = (1, 2, 4, 8, 16)
"""The candidate tiles: panels of pixels per tile, and the number of blocks that output channels are
cut into.
"""


@dataclass(frozen=True)
class Work:
    """A convolution to cut: the windows, channels and outputs of each of so many ``repeats``.
    Panels may be of output channels if it ``may_turn``. An image in ``lines`` may be read in place;
    if it is ``aliased``, the same pixels of different channels map to one cache set. The size may
    be ``guessed``. If ``padding_counts``, padding may be nonzero. Outputs of a strip come in
    ``pairs`` if two share a byte.
    """

    axes: tuple[Axis, Axis, Axis]
    channels: int
    outputs: int
    repeats: Extent
    sum: Type
    may_turn: bool
    lines: bool = False
    aliased: bool = False
    guessed: bool = False
    padding_counts: bool = False
    pairs: bool = False

    @property
    def skips(self) -> bool:
        """Whether taps that see only padding are skipped."""
        return not self.padding_counts and any(axis.scattered for axis in self.axes[1:])

    @property
    def known(self) -> bool:
        """Whether the size of the image is known."""
        return all(isinstance(axis.made, int) for axis in self.axes)

    def fills_rows(self, lanes: int) -> bool:
        """Whether a kernel is wide, of stride 1, and vectors fill a row of windows exactly."""
        width = self.axes[2]
        several = width.length > 1 and width.stride == 1
        return several and isinstance(width.made, int) and width.made % lanes == 0

    @property
    def cases(self) -> list[Work]:
        """The work itself if its size is known, else one for each stand-in size. Of sound that has
        been cut into frames there may be a few frames, as a stream has, or many.
        """
        if self.known:
            return [self]
        found = [self._of(size) for size in UNKNOWN]
        depth, height, width = found[-1].axes
        if (depth.made, height.made) != (1, 1) or int(width.made) * FRAMES >= UNKNOWN[-1]:
            return found
        beyond = width.reach + 1 - width.stride
        many = (replace(width, made=n, given=n * width.stride + beyond) for n in UNKNOWN)
        return found + [replace(found[-1], axes=(depth, height, axis)) for axis in many]

    def _of(self, size: int) -> Work:
        """The work with ``size`` in place of each unknown extent."""
        axes = [
            replace(a, made=_guess(a.made, size), given=_guess(a.given, size)) for a in self.axes
        ]
        return replace(self, axes=(axes[0], axes[1], axes[2]), guessed=True)


@dataclass(frozen=True)
class Strip:
    """The sums held in registers: ``rows`` are output channels, a panel is ``vectors`` of ``lanes``
    pixels; if ``turned``, a panel is of output channels, and ``rows`` are pixels. Panels ``by_row``
    end with a row of windows, so that a row is spread only once; ``in_place``, nothing is spread.
    """

    rows: int
    vectors: int
    lanes: int
    turned: bool
    by_row: bool
    in_place: bool

    @property
    def panel(self) -> int:
        """Pixels of a panel, or output channels."""
        return self.vectors * self.lanes

    @property
    def unit(self) -> int:
        """Output channels of the strip."""
        return self.panel if self.turned else self.rows


@dataclass(frozen=True)
class Cut(Strip):
    """Tiles of ``height`` rows of windows by ``width``, whole rows if there are several, by
    ``strips`` strips of output channels, each of this form. Channels are spread ``chunk`` at a
    time.

    ``positions`` are the pixels of the largest tile; ``fills`` says whether a tile has full panels.
    ``rests`` are the numbers of vectors the remainder of a panel may take: those that are full at
    least, and all. ``even`` widths always divide. If a cut ``skips``, taps that see only padding
    are left out.
    """

    height: Extent
    width: Extent
    strips: int
    chunk: Extent
    positions: int
    fills: bool
    rests: tuple[tuple[int, int], ...]
    even: bool
    skips: bool


@dataclass(frozen=True)
class _Limit:
    """The most pixels of a tile, and the fewest tiles."""

    pixels: int
    fewest: int = 1


@dataclass(frozen=True)
class _Tile:
    """A tile within a limit: ``down`` rows of windows, ``across`` pixels in each row, and how many
    tiles there are of each number of pixels. One channel of it is spread to ``spread`` elements,
    ``chunk`` channels at a time.
    """

    down: Extent
    across: Extent
    sizes: Mapping[int, int]
    spread: Extent
    chunk: Extent

    @classmethod
    def of(cls, machine: Machine, work: Work, strip: Strip, limit: _Limit) -> _Tile:
        """The tile within a limit, for strips of a form."""
        _, height, width = work.axes
        across = minimum(maximum(width.made, 1), limit.pixels)
        down = minimum(maximum(limit.pixels // maximum(width.made, 1), 1), maximum(height.made, 1))
        if limit.fewest > 1 and height.made != 1:
            down = minimum(down, (height.made + limit.fewest - 1) // limit.fewest + 1)
        elif limit.fewest > 1:
            share = strip.panel * limit.fewest
            shares = maximum((width.made + share - 1) // share, 1)
            across = minimum(across, shares * strip.panel)
        spread = 0 if strip.in_place else _spread(work, strip, down, across)
        weights = strip.panel * strip.turned * prod(axis.length for axis in work.axes)
        fits = machine.l2 // 2 // work.sum.nbytes // maximum(1, spread + weights)
        most = maximum(1, minimum(work.channels, fits))
        chunks = (work.channels + most - 1) // most
        chunk = (work.channels + chunks - 1) // chunks
        return cls(down, across, _sizes(work, across, down), spread, chunk)

    def runs(self, strip: Strip, pixels: int) -> tuple[int, int]:
        """The number of runs of pixels in a tile of so many, and the pixels of each."""
        across = int(self.across) if strip.by_row else pixels
        return (pixels // across, across) if across and pixels % across == 0 else (1, pixels)


@lru_cache(maxsize=1024)
def chosen(machine: Machine, work: Work) -> Cut:
    """The cut of least cost; for an unknown size, the one least above the best of each case."""
    found = list(_candidates(machine, work))
    best = [max(1.0, min(costs)) for costs in zip(*(costs for costs, *_ in found), strict=True)]
    _, strip, limit, strips = min(
        found, key=lambda one: sum(a / b for a, b in zip(one[0], best, strict=True))
    )
    return _cut(work, strip, _Tile.of(machine, work, strip, limit), limit.pixels, strips)


def _candidates(
    machine: Machine, work: Work
) -> Iterator[tuple[tuple[float, ...], Strip, _Limit, int]]:
    """The ways to cut: the cost in each case, the strip, the limit of a tile, the strips in it."""
    cases = work.cases
    for turned in (False, True) if work.may_turn else (False,):
        for strips in _strips(machine, work, turned):
            different: dict[Hashable, tuple[_Limit, list[_Tile]]] = {}
            for limit in _limits(work, strips[0]):
                tiles = [_Tile.of(machine, case, strips[0], limit) for case in cases]
                sizes = tuple((tile.down, tile.across) for tile in tiles)
                different.setdefault(sizes, (limit, tiles))
            for strip in strips:
                count = -(-work.outputs // strip.unit)
                shares = list(dict.fromkeys(-(-count // min(count, n)) for n in BLOCKS))
                for limit, tiles in different.values():
                    each = zip(cases, tiles, strict=True)
                    costs = [list(_costs(machine, c, strip, t, shares)) for c, t in each]
                    for share, *cost in zip(shares, *costs, strict=True):
                        yield tuple(cost), strip, limit, share


def _guess(extent: Extent, size: int) -> int:
    """An extent with each symbol set to a size, clamped to its bounds; at least 1, and the size
    itself if the extent refuses it.
    """
    sizes = {s.name: int(min(max(size, s.bounds[0]), s.bounds[1])) for s in dim.symbols(extent)}
    try:
        return max(1, dim.evaluate(extent, sizes))
    except DimError:
        return size


def _limits(work: Work, strip: Strip) -> Iterator[_Limit]:
    """The limits of tiles; for an unknown number of pixels, those whose sums have bounded size."""
    if work.known:
        yield from (_Limit(count * strip.panel) for count in PANELS)
        return
    for count in (max(1, ROOM // strip.panel),) if strip.turned else PANELS[-1:]:
        yield from (_Limit(count * strip.panel, fewest) for fewest in FEWEST)


def _strips(machine: Machine, work: Work, turned: bool) -> Iterator[list[Strip]]:
    """The strips that fit in registers, grouped by panel."""
    lanes = machine.lanes(work.sum)
    for vectors in range(1, MOST_VECTORS + 1):
        most = min(MOST_ROWS, (machine.registers - vectors - 1) // vectors)
        most = most if turned else min(most, work.outputs)
        least = max(1, most // 2)
        if turned and work.known:
            pixels = prod(int(axis.made) for axis in work.axes)
            least = max(1, min(least, pixels))
        for by_row, in_place in _forms(work, turned, lanes):
            yield [
                Strip(rows, vectors, lanes, turned, by_row, in_place)
                for rows in range(least, most + 1)
                if turned or not work.pairs or rows % 2 == 0 or most == 1
            ]


def _forms(work: Work, turned: bool, lanes: int) -> list[tuple[bool, bool]]:
    """The pairs (by row, in place) that panels may have."""
    if turned:
        return [(False, False)]
    if work.lines:
        return [(False, True), (False, False)] if work.aliased else [(False, True)]
    return [(False, False), (True, False)] if work.fills_rows(lanes) else [(False, False)]


def _cut(work: Work, strip: Strip, tile: _Tile, pixels: int, strips: int) -> Cut:
    across, made = tile.across, work.axes[2].made
    runs = {tile.runs(strip, size)[1] for size in tile.sizes}
    left = {-(-(run % strip.panel) // strip.lanes) for run in runs} - {0}
    half = -(-strip.vectors // 2)
    any_ = {(0, half), (half, strip.vectors)} - {(half, half)}
    return Cut(
        **vars(strip),
        height=tile.down,
        width=across,
        strips=strips,
        chunk=tile.chunk,
        positions=max(tile.sizes, default=pixels),
        fills=not runs or any(run >= strip.panel for run in runs),
        rests=tuple(sorted({(n - 1, n) for n in left} if runs else any_)),
        even=isinstance(across, int) and isinstance(made, int) and made % across == 0,
        skips=work.skips,
    )


def _sizes(work: Work, across: Extent, down: Extent) -> dict[int, int]:
    """The number of tiles of each number of pixels; empty if unknown."""
    _, height, width = work.axes
    if not all(isinstance(e, int) for e in (across, down, height.made, width.made)):
        return {}
    sizes: dict[int, int] = {}
    for tall, times in _pieces(int(height.made), int(down)):
        for wide, often in _pieces(int(width.made), int(across)):
            sizes[tall * wide] = sizes.get(tall * wide, 0) + times * often
    return sizes


def _pieces(extent: int, step: int) -> list[tuple[int, int]]:
    """The pieces of an extent: the size and the number of each."""
    pieces = [(step, extent // step), (extent % step, 1)]
    return [(size, count) for size, count in pieces if size and count]


def _spread(work: Work, strip: Strip, down: Extent, across: Extent) -> Extent:
    """The elements that one channel is spread to."""
    depth, height, width = work.axes
    reach = (height.length - 1) * height.dilation
    phases = len({i * height.dilation % height.stride for i in range(height.length)})
    rows = phases * down + reach // height.stride * phases
    if work.skips and phases == 1:
        given = (height.given + height.stride - 1) // height.stride
        rows = minimum(rows, given + 2 * (down - 1))
    columns = across + width.reach if strip.by_row else width.length * across
    return depth.length * rows * columns


def _costs(
    machine: Machine, work: Work, strip: Strip, tile: _Tile, shares: Iterable[int]
) -> Iterator[float]:
    """The cycles of all the work on as many threads as there are cores, for each number of strips
    per tile.
    """
    depth, spread = work.axes[0], _spreading(work, strip, tile)
    steps = work.channels * depth.length * _live(work, int(tile.down), int(tile.across))
    chunks = -(-work.channels // int(tile.chunk))
    fetched = FETCH * steps * strip.unit / strip.lanes
    kinds = []
    for size, often in tile.sizes.items():
        count, run = tile.runs(strip, size)
        turns, vectors = (count * n for n in _turns_of(strip, run, work.guessed))
        ends = (TURNING if strip.turned else FINISH) * vectors * (2 * chunks - 1)
        if strip.in_place and work.aliased:
            ends += WAIT * steps * vectors / (strip.rows * strip.vectors)
        kinds.append((TILE + spread * size, turns * steps + ends + fetched, often))
    repeats = int(depth.made) * (work.repeats if isinstance(work.repeats, int) else 1)
    for share in shares:
        times = repeats * -(-work.outputs // (strip.unit * share))
        tiles = [(begun + share * each, often * times) for begun, each, often in kinds]
        all_of_it = sum(cost * count for cost, count in tiles)
        shared = all_of_it > ALONE and bool(tiles)
        yield machine.cores * _until_all_are_done(tiles, machine.cores) if shared else all_of_it


def _spreading(work: Work, strip: Strip, tile: _Tile) -> float:
    """The cycles it takes to copy the window of a pixel to where it is multiplied."""
    width, across, down = work.axes[2], int(tile.across), int(tile.down)
    copy = COPY if width.stride <= 2 and width.step == 1 else GATHER
    row = -(-across // strip.lanes) / across
    spread = copy * work.channels * row * int(tile.spread) / (across * down)
    if work.lines:  # from far memory; what is spread is also written and read again
        spread += FETCH * (1 if strip.in_place else 3) * work.channels / strip.lanes
    return spread


@lru_cache(maxsize=256)
def _live(work: Work, down: int, across: int) -> float:
    """The average number of taps of a plane that tiles of ``down`` by ``across`` windows do not
    skip.
    """
    _, height, width = work.axes
    if not work.skips:
        return height.length * width.length
    return height.live(down) * width.live(across)


def _until_all_are_done(tiles: list[tuple[float, int]], threads: int) -> float:
    """The cycles until threads that take tiles one after another, the costliest first, have done
    all.
    """
    (longest, count), *others = sorted(tiles, reverse=True)
    rounds = -(-count // threads)
    if not others:
        return rounds * longest
    next_to, left = others[0][0], sum(n for _, n in others)
    between = (rounds * threads - count) * int(longest // next_to)  # what fits beside the costliest
    return rounds * longest + -(-max(0, left - between) // threads) * next_to


def _turns_of(strip: Strip, pixels: int, guessed: bool) -> tuple[float, float]:
    """The cycles of one step of the sums of a strip and all pixels, and their number of vectors."""
    if strip.turned:
        # A guessed number need not divide as the real one does: on average half a strip is left
        # over.
        pieces = max(1, pixels / strip.rows + 0.5) if guessed else -(-pixels // strip.rows)
        turns = pieces * step_turns(strip.rows, strip.vectors)
        return turns, pieces * strip.rows * strip.vectors
    full, rest = pixels // strip.panel, -(-(pixels % strip.panel) // strip.lanes)
    turns = full * step_turns(strip.rows, strip.vectors)
    turns += step_turns(strip.rows, rest) if rest else 0
    return turns, strip.rows * (full * strip.vectors + rest)


def step_turns(rows: int, vectors: int) -> float:
    """The cycles of one step of the sums of a strip and a panel."""
    return max(rows * vectors / 2 + LOADS * (rows + vectors) + STEP, LATENCY)
