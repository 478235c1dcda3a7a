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

# Costs, in turns of the two units that multiply and add.
LOADS = 0.1
"""What a load costs beside the arithmetic it hides behind; 0.5 would be all of it."""
STEP = 2.0
"""Going on to the next element of the kernels."""
LATENCY = 4.0
"""Turns until a sum can be added to again."""
COPY = 2.0
"""Spreading a vector of the image; of a row whose elements are gathered, ``GATHER``."""
GATHER = 12.0
FINISH = 2.0
"""Writing a vector of the result; a vector of sums that waits for more channels costs as much."""
TURNING = 12.0
"""The same where pixels and channels must change places."""
FETCH = 3.0
"""Bringing a vector from afar, for each tile again: of weights, of an image read as it lies."""
WAIT = 4.0
"""What a step waits for an image that is read as it lies, where channels share a place in the first
level cache: it is never there.
"""
TILE = 1000.0
"""Beginning a tile."""
ALONE = 30_000.0
"""What one thread has done before others have come."""

UNKNOWN = (96, 288, 800)
"""What a size is taken for, each in turn, that only the run will tell: odd multiples of 32, for
many networks halve images five times.
"""
FEWEST = (1, 4)
"""How many tiles an image of unknown size is cut into at least, where its rows allow it."""
ROOM = 512
"""How many pixels a tile has at most, of whose number nothing is known."""
MOST_ROWS, MOST_VECTORS = 12, 4
"""With more rows, numbers that are repeated take registers before it is their turn."""
PANELS = (1, 2, 4, 6, 7, 8, 12, 14, 16, 20, 24, 32)
BLOCKS = (1, 2, 4, 8, 16)
"""Into how many tiles pixels and output channels are cut: as many panels of pixels to each, and so
many blocks of channels.
"""


@dataclass(frozen=True)
class Work:
    """What is to be done: the windows, channels and outputs of each of so many ``repeats``. Panels
    may be of output channels where it ``may_turn``. An image in ``lines`` may be read as it lies;
    where it is ``aliased``, the same pixels of different channels share a place in caches. The size
    may be ``guessed``. Where ``padding_counts`` it may be other than zero. Outputs of a strip come
    in ``pairs`` where two share a byte.
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
        """Whether taps are left out that see nothing but padding."""
        return not self.padding_counts and any(axis.scattered for axis in self.axes[1:])

    @property
    def known(self) -> bool:
        """Whether the size of the image is."""
        return all(isinstance(axis.made, int) for axis in self.axes)

    def fills_rows(self, lanes: int) -> bool:
        """Whether a kernel is wide, at no stride, and vectors fill a row of windows."""
        width = self.axes[2]
        several = width.length > 1 and width.stride == 1
        return several and isinstance(width.made, int) and width.made % lanes == 0

    @property
    def cases(self) -> list[Work]:
        """The same of an image of known size; of several such, where the size is not known."""
        return [self] if self.known else [self._of(size) for size in UNKNOWN]

    def _of(self, size: int) -> Work:
        """The same with a size in the place of each that is not known."""
        axes = [
            replace(a, made=_guess(a.made, size), given=_guess(a.given, size)) for a in self.axes
        ]
        return replace(self, axes=(axes[0], axes[1], axes[2]), guessed=True)


@dataclass(frozen=True)
class Strip:
    """The sums that registers hold: ``rows`` are output channels, a panel ``vectors`` of ``lanes``
    pixels; or, when ``turned``, a panel is of output channels, and ``rows`` are pixels. Panels
    ``by_row`` do not go on in the next row of windows, and then a row is spread but once; for those
    ``in_place`` nothing is spread.
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
    """Tiles of ``height`` rows of windows by ``width``, whole rows where there are several, by
    so many ``strips`` of output channels, each of this form. Channels are spread ``chunk`` at a
    time.

    ``positions`` are the pixels of the greatest tile; ``fills`` says whether a tile has whole
    panels. ``rests`` are the vectors that what is left may take: how many of them are whole at
    least, and how many there are. ``even`` widths are always whole. Where a cut ``skips``, taps are
    left out that see nothing but padding.
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
    """How many pixels a tile has at most, and how many tiles there are at least."""

    pixels: int
    fewest: int = 1


@dataclass(frozen=True)
class _Tile:
    """A tile of at most some pixels, or of one row of windows: so many rows of windows, the pixels
    in each row, and how many such tiles there are of each number of pixels. One channel of it is
    spread to ``spread`` elements, ``chunk`` channels at a time.
    """

    down: Extent
    across: Extent
    sizes: Mapping[int, int]
    spread: Extent
    chunk: Extent

    @classmethod
    def of(cls, machine: Machine, work: Work, strip: Strip, limit: _Limit) -> _Tile:
        """The tile of at most so many pixels of an image cut into so many, for strips of a form."""
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
        """How many runs of pixels there are in a tile of so many, and the pixels of each."""
        across = int(self.across) if strip.by_row else pixels
        return (pixels // across, across) if across and pixels % across == 0 else (1, pixels)


@lru_cache(maxsize=1024)
def chosen(machine: Machine, work: Work) -> Cut:
    """The cut by which the work costs least; of unknown size, least beyond the best for each."""
    found = list(_candidates(machine, work))
    best = [max(1.0, min(costs)) for costs in zip(*(costs for costs, *_ in found), strict=True)]
    _, strip, limit, strips = min(
        found, key=lambda one: sum(a / b for a, b in zip(one[0], best, strict=True))
    )
    return _cut(work, strip, _Tile.of(machine, work, strip, limit), limit.pixels, strips)


def _candidates(
    machine: Machine, work: Work
) -> Iterator[tuple[tuple[float, ...], Strip, _Limit, int]]:
    """For each way to cut its cost in each case, the strip, the limit of a tile and the strips in
    it.
    """
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
    """An extent where each of its symbols has a size, or what its bounds leave of it; at least 1,
    and that size where the extent refuses it.
    """
    sizes = {s.name: int(min(max(size, s.bounds[0]), s.bounds[1])) for s in dim.symbols(extent)}
    try:
        return max(1, dim.evaluate(extent, sizes))
    except DimError:
        return size


def _limits(work: Work, strip: Strip) -> Iterator[_Limit]:
    """The limits of tiles: sums of any number of pixels take room for them all."""
    if work.known:
        yield from (_Limit(count * strip.panel) for count in PANELS)
        return
    for count in (max(1, ROOM // strip.panel),) if strip.turned else PANELS[-1:]:
        yield from (_Limit(count * strip.panel, fewest) for fewest in FEWEST)


def _strips(machine: Machine, work: Work, turned: bool) -> Iterator[list[Strip]]:
    """The strips that registers have room for, those of equal panels together."""
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
    """Whether panels may be by row, and whether in place."""
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
    """How many tiles there are of each number of pixels; nothing where that is not known."""
    _, height, width = work.axes
    if not all(isinstance(e, int) for e in (across, down, height.made, width.made)):
        return {}
    sizes: dict[int, int] = {}
    for tall, times in _pieces(int(height.made), int(down)):
        for wide, often in _pieces(int(width.made), int(across)):
            sizes[tall * wide] = sizes.get(tall * wide, 0) + times * often
    return sizes


def _pieces(extent: int, step: int) -> list[tuple[int, int]]:
    """The pieces of an extent: how large, and how many of them."""
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
    """The turns that all of the work takes on as many threads as there are cores, for each number
    of strips that a tile may have.
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
    """The turns that bringing what a pixel sees to where it is multiplied takes."""
    width, across, down = work.axes[2], int(tile.across), int(tile.down)
    copy = COPY if width.stride <= 2 and width.step == 1 else GATHER
    row = -(-across // strip.lanes) / across
    spread = copy * work.channels * row * int(tile.spread) / (across * down)
    if work.lines:  # from afar; what is spread is written and read again, too
        spread += FETCH * (1 if strip.in_place else 3) * work.channels / strip.lanes
    return spread


@lru_cache(maxsize=256)
def _live(work: Work, down: int, across: int) -> float:
    """The taps of a plane, on average, that tiles of so many windows down and across have."""
    _, height, width = work.axes
    if not work.skips:
        return height.length * width.length
    return height.live(down) * width.live(across)


def _until_all_are_done(tiles: list[tuple[float, int]], threads: int) -> float:
    """The turns of tiles of several costs, so many of each, when threads take one after another,
    the dearest first.
    """
    (longest, count), *others = sorted(tiles, reverse=True)
    rounds = -(-count // threads)
    if not others:
        return rounds * longest
    next_to, left = others[0][0], sum(n for _, n in others)
    between = (rounds * threads - count) * int(longest // next_to)  # what fits beside the dearest
    return rounds * longest + -(-max(0, left - between) // threads) * next_to


def _turns_of(strip: Strip, pixels: int, guessed: bool) -> tuple[float, float]:
    """The turns of one step of the sums of a strip and all pixels, and their number of vectors."""
    if strip.turned:
        # Of a number that is guessed it says nothing that it can be divided; half is left over.
        pieces = max(1, pixels / strip.rows + 0.5) if guessed else -(-pixels // strip.rows)
        turns = pieces * step_turns(strip.rows, strip.vectors)
        return turns, pieces * strip.rows * strip.vectors
    full, rest = pixels // strip.panel, -(-(pixels % strip.panel) // strip.lanes)
    turns = full * step_turns(strip.rows, strip.vectors)
    turns += step_turns(strip.rows, rest) if rest else 0
    return turns, strip.rows * (full * strip.vectors + rest)


def step_turns(rows: int, vectors: int) -> float:
    """The turns of one step of the sums of a strip and a panel."""
    return max(rows * vectors / 2 + LOADS * (rows + vectors) + STEP, LATENCY)
