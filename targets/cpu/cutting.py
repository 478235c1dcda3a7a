"""How a convolution is cut into tiles: the cost model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from migx.dim import Extent, maximum, minimum
from migx.targets.cpu.emit import Type
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.windows import Axis

# Costs, in turns of the two units that multiply and add.
LOADS = 0.25
"""What a load costs beside the arithmetic it hides behind; 0.5 would be all of it."""
LATENCY = 4.0
"""Turns until a sum can be added to again."""
COPY = 2.0
"""Spreading a vector of the image; of a row whose elements are gathered, ``GATHER``."""
GATHER = 12.0
FINISH = 2.0
"""Writing a vector of the result; a vector of sums that waits for more channels costs as much."""
TILE = 1000.0
"""Beginning a tile."""

UNKNOWN = 56
"""What an extent is taken for that only the run will tell."""
MOST_ROWS, MOST_VECTORS = 16, 4
MOST_PANELS = 32
"""The greatest tile, in panels of pixels."""


@dataclass(frozen=True)
class Work:
    """What is to be done: the windows, channels and outputs of each of so many ``repeats``."""

    axes: tuple[Axis, Axis, Axis]
    channels: int
    outputs: int
    repeats: Extent
    sum: Type


@dataclass(frozen=True)
class Cut:
    """Tiles of ``height`` rows of windows by ``width``, whole rows where there are several, by
    ``strips`` of output channels. A strip is ``rows`` channels, a panel ``vectors`` of ``lanes``
    pixels. Channels are spread ``chunk`` at a time.

    ``positions`` are the pixels of the greatest tile; ``fills`` says whether a tile has whole
    panels, and ``rests`` how many vectors what is left may take. ``even`` widths are always whole.
    """

    rows: int
    vectors: int
    lanes: int
    height: Extent
    width: Extent
    strips: int
    chunk: int
    positions: int
    fills: bool
    rests: tuple[int, ...]
    even: bool

    @property
    def panel(self) -> int:
        """Pixels of a panel."""
        return self.vectors * self.lanes


Strip = tuple[int, int, int]
"""Channels, vectors of pixels, and lanes of a vector, of the sums that registers hold."""


@dataclass(frozen=True)
class _Tile:
    """A tile of at most some pixels, or of one row of windows: so many rows of windows, the pixels
    in each row, and how many such tiles there are of each number of pixels. One channel of it is
    spread to ``spread`` elements, ``chunk`` channels at a time.
    """

    down: Extent
    across: Extent
    sizes: Mapping[int, int]
    spread: int
    chunk: int

    @classmethod
    def of(cls, machine: Machine, work: Work, pixels: int) -> _Tile:
        """The tile of at most so many pixels."""
        _, height, width = work.axes
        across = minimum(maximum(width.made, 1), pixels)
        down = minimum(maximum(pixels // maximum(width.made, 1), 1), maximum(height.made, 1))
        spread = _spread(work, down, across)
        fits = machine.l2 // 2 // work.sum.nbytes // max(1, spread)
        chunks = -(-work.channels // max(1, min(work.channels, fits)))
        return cls(down, across, _sizes(work, across, down), spread, -(-work.channels // chunks))


def chosen(machine: Machine, work: Work) -> Cut:
    """The cut by which the work costs least."""
    _, _, strip, pixels, strips = min(_candidates(machine, work))
    return _cut(work, strip, _Tile.of(machine, work, pixels), pixels, strips)


def _candidates(machine: Machine, work: Work) -> Iterator[tuple[float, int, Strip, int, int]]:
    """For each way to cut its cost, a number by which no two are equal, the strip, the pixels of a
    tile and the strips in it.
    """
    lanes, number = machine.lanes(work.sum), 0
    tiles: dict[int, _Tile] = {}
    for vectors in range(1, MOST_VECTORS + 1):
        counts = sorted({1, 2, 4, 6, 7, 8, 12, 14, 16, 20, 24, MOST_PANELS})
        different: dict[tuple[Extent, Extent], int] = {}
        for pixels in (count * vectors * lanes for count in counts):
            tile = tiles.setdefault(pixels, _Tile.of(machine, work, pixels))
            different.setdefault((tile.down, tile.across), pixels)
        most = min(MOST_ROWS, (machine.registers - vectors - 1) // vectors, work.outputs)
        for rows in range(max(1, most // 2), most + 1):
            strips = -(-work.outputs // rows)
            shares = dict.fromkeys(-(-strips // min(strips, n)) for n in (1, 2, 4, 8, 16))
            for pixels in different.values():
                strip = rows, vectors, lanes
                for share, cost in _costs(machine, work, strip, tiles[pixels], shares):
                    number += 1
                    yield cost, number, strip, pixels, share


def _cut(work: Work, strip: Strip, tile: _Tile, pixels: int, strips: int) -> Cut:
    rows, vectors, lanes = strip
    across, made, panel = tile.across, work.axes[2].made, vectors * lanes
    rests = {-(-(size % panel) // lanes) for size in tile.sizes} - {0} if tile.sizes else {vectors}
    return Cut(
        rows,
        vectors,
        lanes,
        tile.down,
        across,
        strips,
        tile.chunk,
        max(tile.sizes, default=pixels),
        not tile.sizes or any(size >= panel for size in tile.sizes),
        tuple(sorted(rests)),
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


def _spread(work: Work, down: Extent, across: Extent) -> int:
    """The elements that one channel is spread to."""
    depth, height, width = work.axes
    reach = (height.length - 1) * height.dilation
    phases = len({i * height.dilation % height.stride for i in range(height.length)})
    rows = phases * _known(down) + reach // height.stride * phases
    return depth.length * width.length * rows * _known(across)


def _known(extent: Extent) -> int:
    return extent if isinstance(extent, int) else UNKNOWN


def _costs(
    machine: Machine, work: Work, strip: Strip, tile: _Tile, shares: Iterable[int]
) -> Iterator[tuple[int, float]]:
    """The turns that all of the work takes on as many threads as there are cores, for each number
    of strips that a tile may have.
    """
    (rows, vectors, lanes), (depth, _, width) = strip, work.axes
    across, down = _known(tile.across), _known(tile.down)
    sizes = tile.sizes or {across * down: max(1, UNKNOWN * UNKNOWN // (across * down))}
    steps = work.channels * prod(axis.length for axis in work.axes)
    chunks = -(-work.channels // tile.chunk)
    copy = COPY if width.stride <= 2 and width.step == 1 else GATHER
    row = -(-across // lanes) * lanes / across / lanes
    spread = copy * work.channels * row * tile.spread / (across * down)
    begun = each = 0.0
    for size, often in sizes.items():
        full, rest = size // (vectors * lanes), -(-(size % (vectors * lanes)) // lanes)
        turns = full * _turns(rows, vectors) + (_turns(rows, rest) if rest else 0)
        ends = FINISH * rows * (full * vectors + rest) * (2 * chunks - 1)
        begun += often * (TILE + spread * size)
        each += often * (turns * steps + ends)
    repeats = _known(depth.made) * (work.repeats if isinstance(work.repeats, int) else 1)
    for share in shares:
        times = repeats * -(-(-(-work.outputs // rows)) // share)
        tiles = max(1, sum(sizes.values()) * times)
        idle = -(-tiles // machine.cores) * machine.cores / tiles
        yield share, (begun + share * each) * times * idle


def _turns(rows: int, vectors: int) -> float:
    """The turns of one step of the sums of a strip and a panel."""
    return max(rows * vectors / 2 + LOADS * (rows + vectors), LATENCY)
