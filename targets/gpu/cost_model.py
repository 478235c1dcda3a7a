"""A cost model of a GPU: the seconds that programs of a tile take, and the tile chosen by them.

The model knows the work (extents, element types) and the GPU (``architectures.py``), and estimates
seconds:

* Programs are distributed over the units of the GPU; as many are resident on a unit as its
  registers, threads and shared memory hold. So time goes in *rounds*, and one program too many
  costs a round.
* In each step along the depth a program does arithmetic, reads its operands (from L2, as other
  programs read them too), and waits for memory. The longest of these counts; resident programs
  share arithmetic and bandwidth, and hide each other's latency, as do loads that run ahead
  (*stages*).

``around`` sets the GPU, and ``choosing`` can ask for the second best tile, the third, ... instead:
the candidates to measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from migx.dim import Extent, bounds
from migx.targets.gpu.architectures import ARCHITECTURES, Architecture

MANY = 4096
"""The stand-in for an unknown extent, unless its bounds are lower."""
LATENCY = 0.7e-6
"""Seconds of memory latency, and about those of starting a program."""
IN_L2 = 3.0
"""The bandwidth of L2 relative to that of memory, about, on all of these GPUs."""
HIDDEN = 0.2
"""The part of a step's shorter costs that is not hidden behind the longest."""
PARTS = range(1, 17)
"""The numbers of parts that a depth may be cut into."""
TURN = 2.5e-6
"""Seconds of one more launch, with waiting for it."""
SIMPLE = 16
"""Operations to read an element, compute with it and fold it."""


@dataclass(frozen=True)
class Tile:
    """Rows by columns of results, by a part of the depth at a time; the warps, and the loads that
    run ahead. Several programs share a tile whose depth is cut into ``parts``. ``why`` is the
    model's estimate in a sentence.
    """

    rows: int
    columns: int
    depth: int = 1
    warps: int = 4
    stages: int = 2
    parts: int = 1
    why: str = field(default="", compare=False)


@dataclass(frozen=True)
class Choice:
    """The GPU that tiles are for, the number of better tiles to skip, and whether products of f32
    are rounded to tf32.
    """

    gpu: Architecture = ARCHITECTURES["sm_90"]
    rank: int = 0
    rounds: bool = False


_USUAL = Choice()
_around: ContextVar[Choice] = ContextVar("_around", default=_USUAL)


def chosen() -> Choice:
    """What tiles are chosen for in this context."""
    return _around.get()


def around(*archs: str, fast_math: bool = False) -> AbstractContextManager[None]:
    """Chooses tiles, within the context, for the first of some architectures (by default a common
    one) among those that fit all of them. With ``fast_math`` f32 is multiplied as tf32, if all of
    them support it.
    """
    gpus = [ARCHITECTURES[arch] for arch in archs if arch in ARCHITECTURES] or [_USUAL.gpu]
    gpu = replace(gpus[0], shared=min(each.shared for each in gpus))
    return choosing(Choice(gpu, 0, fast_math and all("tf32" in each.products for each in gpus)))


@contextmanager
def choosing(choice: Choice) -> Iterator[None]:
    """Chooses tiles for this within the context."""
    token = _around.set(choice)
    try:
        yield
    finally:
        _around.reset(token)


def many(extent: Extent) -> int:
    """An extent, or its stand-in if it is unknown; at least 1, as an empty result of a reduction
    needs a kernel too: the sum of nothing is 0.
    """
    low, high = bounds(extent)
    return max(1, int(min(high, max(low, MANY))))


def from_memory(nbytes: float, share: float = 1.0) -> float:
    """The seconds in which a unit reads so many bytes, the ``share`` that it needs of those that
    memory transfers; the rest is found in L2.
    """
    gpu = chosen().gpu
    return nbytes / min(1.0, IN_L2 * share) / (gpu.bandwidth / gpu.units)


def from_l2(nbytes: float) -> float:
    """The seconds in which a unit reads so many bytes that others read, too."""
    gpu = chosen().gpu
    return nbytes / (IN_L2 * gpu.bandwidth / gpu.units)


def sharing(count: int, steps: int, size: int, bits: int, stages: int) -> int:
    """The number of programs that share each of ``count`` tiles of rows, whose steps, of ``size``
    elements, run one after another in each stage: as many as gain more than their turns cost.
    """
    gpu = chosen().gpu
    each = LATENCY + SIMPLE * size / (gpu.plain / 2 / gpu.units)
    all_of_them = count * steps * size * bits / 8 / gpu.bandwidth
    found = []
    for parts in (1 << n for n in range(10)):
        if parts > 1 and (parts > steps or count * parts > 4 * gpu.units):
            break
        rounds = max(1.0, count * parts / gpu.units)
        seconds = stages * max(rounds * -(-steps // parts) * each, all_of_them)
        found.append((seconds + (parts > 1) * stages * TURN, parts))
    return min(found)[1]


def estimated(
    tile: Tile,
    count: int,
    residents: int,
    steps: int,
    work: float,
    read: float,
    wait: float = 0.0,
) -> tuple[float, Tile]:
    """The seconds of so many programs, whose steps take ``work`` and ``read`` seconds on a unit of
    their own, and in which a program's products ``wait`` for one another; and the tile, annotated
    with its limit.
    """
    gpu = chosen().gpu
    on_one = -(-count // gpu.units)
    together = min(residents, on_one)
    rounds = math.ceil(on_one / together)
    alone = work + wait if wait else 0.0  # otherwise arithmetic says it
    waiting = rounds * max(alone, LATENCY / max(1, tile.stages - 1))
    limits = {"arithmetic": on_one * work, "reading": on_one * read, "waiting": waiting}
    limit = max(limits, key=lambda name: limits[name])
    less = sum(limits.values()) - limits[limit]
    seconds = rounds * LATENCY + steps * (limits[limit] + less * HIDDEN)
    shape = f"{tile.rows} x {tile.columns} by {tile.depth}"
    why = f"{shape}: {count} programs, {together} at a time on each of {gpu.units} units"
    said = f"{why}, in {rounds} round{'s' * (rounds > 1)}; limited by {limit}"
    return seconds, replace(tile, why=said)


def in_parts(
    tile: Tile,
    sums: tuple[Extent, Extent, Extent],
    depth: Extent,
    residents: int,
    work: float,
    read: float,
    wait: float = 0.0,
) -> Iterator[tuple[float, Tile]]:
    """A tile of ``sums`` (items, rows and columns) with its depth whole, and if there are few of
    them, cut into parts: then there are more programs with fewer steps each, and another launch
    that reads and adds up the partial sums. That takes a known depth, and a bound on their memory.
    """
    gpu, (items, rows, columns) = chosen().gpu, sums
    count = -(-many(rows) // tile.rows) * -(-many(columns) // tile.columns) * many(items)
    steps, size = -(-many(depth) // tile.depth), tile.rows * tile.columns
    kept = size * 4 * count / (IN_L2 * gpu.bandwidth)
    known = isinstance(depth, int) and all(bounds(e)[1] < math.inf for e in sums)
    for parts in PARTS if known else PARTS[:1]:
        programs = count * parts
        if parts > 1 and (steps < 2 * parts or programs > 4 * gpu.units):
            break
        cut, each = replace(tile, parts=parts), -(-steps // parts)
        if -(-steps // each) < parts:  # some parts would be empty
            continue
        seconds, cut = estimated(cut, programs, residents, each, work, read, wait)
        if parts > 1:
            seconds += TURN + 2 * parts * kept
            cut = replace(cut, why=f"{cut.why}, after which {parts} parts are added up")
        yield seconds, cut


def picked(found: Iterable[tuple[float, Tile]]) -> Tile:
    """The best tile, or the one after as many as are skipped; of equals the larger."""
    order = sorted(found, key=lambda e: (e[0], -e[1].rows * e[1].columns, -e[1].depth))
    return ranked([tile for _, tile in order])


def ranked(tiles: list[Tile]) -> Tile:
    """The tile of the rank asked for, or the last."""
    return tiles[min(chosen().rank, len(tiles) - 1)]
