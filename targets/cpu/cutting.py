"""How a convolution is cut into tiles: the cost model."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from migx.dim import Extent, maximum, minimum
from migx.targets.cpu.emit import Type
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.windows import Axis

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
FETCH = 1.0
"""Bringing a vector of weights from afar, for each tile again."""
TILE = 1000.0
"""Beginning a tile."""
ALONE = 30_000.0
"""What one thread has done before others have come."""

UNKNOWN, FEW = (5, 20, 80), 4
"""What an extent is taken for, each in turn, that only the run will tell, and how many tiles it is
cut into then, if not more.
"""
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
    """What is to be done: the windows, channels and outputs of each of so many ``repeats``. Where
    the weights are ``packed`` as they are wanted, panels may be of output channels. An image in
    ``lines`` may be read as it lies. The size may be ``guessed``.
    """

    axes: tuple[Axis, Axis, Axis]
    channels: int
    outputs: int
    repeats: Extent
    sum: Type
    packed: bool
    lines: bool = False
    guessed: bool = False

    @property
    def known(self) -> bool:
        """Whether the size of the image is."""
        return all(isinstance(axis.made, int) for axis in self.axes)

    @property
    def cases(self) -> list[Work]:
        """The same of an image of known size; of several such, where the size is not known."""
        return [self] if self.known else [self._of(size) for size in UNKNOWN]

    def _of(self, size: int) -> Work:
        """The same with a size in the place of what is not known."""
        axes = [replace(a, made=a.made if isinstance(a.made, int) else size) for a in self.axes]
        return replace(self, axes=(axes[0], axes[1], axes[2]), guessed=True)


@dataclass(frozen=True)
class Strip:
    """The sums that registers hold: ``rows`` are output channels, a panel ``vectors`` of ``lanes``
    pixels; or, when ``turned``, a panel is of output channels, and ``rows`` are pixels.
    """

    rows: int
    vectors: int
    lanes: int
    turned: bool

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
    panels, and ``rests`` how many vectors what is left may take. ``even`` widths are always whole.
    """

    height: Extent
    width: Extent
    strips: int
    chunk: Extent
    positions: int
    fills: bool
    rests: tuple[int, ...]
    even: bool


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
    def of(cls, machine: Machine, work: Work, pixels: int, panel: int) -> _Tile:
        """The tile of at most so many pixels, where so wide a panel of weights must stay near."""
        _, height, width = work.axes
        across = minimum(maximum(width.made, 1), pixels)
        down = minimum(maximum(pixels // maximum(width.made, 1), 1), maximum(height.made, 1))
        if work.guessed or not work.known:
            down = minimum(down, (height.made + FEW - 1) // FEW + 1)
        spread = 0 if work.lines and not panel else _spread(work, down, across)
        weights = panel * prod(axis.length for axis in work.axes)
        fits = machine.l2 // 2 // work.sum.nbytes // maximum(1, spread + weights)
        most = maximum(1, minimum(work.channels, fits))
        chunks = (work.channels + most - 1) // most
        chunk = (work.channels + chunks - 1) // chunks
        return cls(down, across, _sizes(work, across, down), spread, chunk)


@lru_cache(maxsize=1024)
def chosen(machine: Machine, work: Work) -> Cut:
    """The cut by which the work costs least; of unknown size, least beyond the best for each."""
    found = list(_candidates(machine, work))
    best = [max(1.0, min(costs)) for costs in zip(*(costs for costs, *_ in found), strict=True)]
    _, strip, pixels, strips = min(
        found, key=lambda one: sum(a / b for a, b in zip(one[0], best, strict=True))
    )
    panel = strip.panel if strip.turned else 0
    return _cut(work, strip, _Tile.of(machine, work, pixels, panel), pixels, strips)


def _candidates(
    machine: Machine, work: Work
) -> Iterator[tuple[tuple[float, ...], Strip, int, int]]:
    """For each way to cut its cost in each case, the strip, the pixels of a tile and the strips in
    it.
    """
    cases = work.cases
    for turned in (False, True) if work.packed else (False,):
        for strips in _strips(machine, work, turned):
            panel = strips[0].panel
            different: dict[Hashable, tuple[int, list[_Tile]]] = {}
            for pixels in (count * panel for count in _panels(work, panel, turned)):
                weights = panel if turned else 0
                tiles = [_Tile.of(machine, case, pixels, weights) for case in cases]
                sizes = tuple((tile.down, tile.across) for tile in tiles)
                different.setdefault(sizes, (pixels, tiles))
            for strip in strips:
                count = -(-work.outputs // strip.unit)
                shares = list(dict.fromkeys(-(-count // min(count, n)) for n in BLOCKS))
                for pixels, tiles in different.values():
                    each = zip(cases, tiles, strict=True)
                    costs = [list(_costs(machine, c, strip, t, shares)) for c, t in each]
                    for share, *cost in zip(shares, *costs, strict=True):
                        yield tuple(cost), strip, pixels, share


def _panels(work: Work, panel: int, turned: bool) -> Iterable[int]:
    """How many panels wide tiles may be: sums of any number of pixels take room for them all."""
    if work.known:
        return PANELS
    return (max(1, ROOM // panel),) if turned else PANELS[-1:]


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
        yield [Strip(rows, vectors, lanes, turned) for rows in range(least, most + 1)]


def _cut(work: Work, strip: Strip, tile: _Tile, pixels: int, strips: int) -> Cut:
    across, made = tile.across, work.axes[2].made
    rests = {-(-(size % strip.panel) // strip.lanes) for size in tile.sizes} - {0}
    return Cut(
        strip.rows,
        strip.vectors,
        strip.lanes,
        strip.turned,
        tile.down,
        across,
        strips,
        tile.chunk,
        max(tile.sizes, default=pixels),
        not tile.sizes or any(size >= strip.panel for size in tile.sizes),
        tuple(sorted(rests)) if tile.sizes else tuple(range(1, strip.vectors + 1)),
        isinstance(across, int) and isinstance(made, int) and made % across == 0,
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


def _spread(work: Work, down: Extent, across: Extent) -> Extent:
    """The elements that one channel is spread to."""
    depth, height, width = work.axes
    reach = (height.length - 1) * height.dilation
    phases = len({i * height.dilation % height.stride for i in range(height.length)})
    rows = phases * down + reach // height.stride * phases
    return depth.length * width.length * rows * across


def _costs(
    machine: Machine, work: Work, strip: Strip, tile: _Tile, shares: Iterable[int]
) -> Iterator[float]:
    """The turns that all of the work takes on as many threads as there are cores, for each number
    of strips that a tile may have.
    """
    depth, _, width = work.axes
    across, down, chunk = int(tile.across), int(tile.down), int(tile.chunk)
    steps = work.channels * prod(axis.length for axis in work.axes)
    chunks = -(-work.channels // chunk)
    copy = COPY if width.stride <= 2 and width.step == 1 else GATHER
    row = -(-across // strip.lanes) / across
    spread = copy * work.channels * row * int(tile.spread) / (across * down)
    fetched = FETCH * steps * strip.unit / strip.lanes
    kinds = []
    for size, often in tile.sizes.items():
        turns, vectors = _turns_of(strip, size, work.guessed)
        ends = (TURNING if strip.turned else FINISH) * vectors * (2 * chunks - 1)
        kinds.append((TILE + spread * size, turns * steps + ends + fetched, often))
    repeats = int(depth.made) * (work.repeats if isinstance(work.repeats, int) else 1)
    for share in shares:
        times = repeats * -(-work.outputs // (strip.unit * share))
        tiles = [(begun + share * each, often * times) for begun, each, often in kinds]
        all_of_it = sum(cost * count for cost, count in tiles)
        shared = all_of_it > ALONE and bool(tiles)
        yield machine.cores * _until_all_are_done(tiles, machine.cores) if shared else all_of_it


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
        return pieces * _turns(strip.rows, strip.vectors), pieces * strip.rows * strip.vectors
    full, rest = pixels // strip.panel, -(-(pixels % strip.panel) // strip.lanes)
    turns = full * _turns(strip.rows, strip.vectors) + (_turns(strip.rows, rest) if rest else 0)
    return turns, strip.rows * (full * strip.vectors + rest)


def _turns(rows: int, vectors: int) -> float:
    """The turns of one step of the sums of a strip and a panel."""
    return max(rows * vectors / 2 + LOADS * (rows + vectors) + STEP, LATENCY)
