"""Which tiles kernels are cut into: a cost model of a GPU, in one place.

A kernel asks here for its tile and gets the one that the model estimates to be fastest. The model
knows the work (extents, element types) and the GPU (``architectures.py``), and estimates seconds:

* Programs are distributed over the units of the GPU; as many are resident on a unit as its
  registers, threads and shared memory hold. So time goes in *rounds*, and one program too many
  costs a round.
* In each step along the depth a program does arithmetic, reads its operands (from L2, as other
  programs read them too), and waits for memory. The longest of these counts; resident programs
  share arithmetic and bandwidth, and hide each other's latency, as do loads that run ahead
  (*stages*).

So large tiles read less, small ones keep all units busy, and the model weighs that. ``around`` sets
the GPU, and can ask for the second best, the third, ... instead: the candidates to measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import product as combinations

from migx.dim import Extent, bounds
from migx.shape import F32, DType
from migx.targets.gpu.architectures import ARCHITECTURES, Architecture

MANY = 4096
"""The stand-in for an unknown extent, unless its bounds are lower."""
LATENCY = 0.7e-6
"""Seconds of memory latency, and about those of starting a program."""
IN_L2 = 3.0
"""The bandwidth of L2 relative to that of memory, about, on all of these GPUs."""
HIDDEN = 0.2
"""The part of a step's shorter costs that is not hidden behind the longest."""
SECTOR = 32
"""Bytes of a memory transaction."""
PARTS = range(1, 17)
"""The numbers of parts that a depth may be cut into."""
TURN = 2.5e-6
"""Seconds of one more launch, with waiting for it."""
OPERATIONS = 5
"""What it takes to unpack a weight of four bits and multiply it."""
SIMPLE = 16
"""What it takes to read an element, compute with it and fold it."""
BLOCKS = (8, 16, 32, 64, 128)
"""How many blocks of such weights a program takes at a time, each thread one of them."""
QUARTERS = 4
"""Into how many parts a unit is divided, each of which takes instructions of other warps."""
AHEAD = 16
"""How many words of such weights, or numbers of an image, a thread reads before it needs the
first.
"""
HELD = 64
"""Elements of an operand that a thread loads at a time, if each is needed once."""
SHORT = 128
"""So many keys are compared in the time it takes to transpose them."""
CROSSED = 64
"""Operations that a unit does while a thread of each of its warps reads a number from shared
memory, all from the same bank: four numbers come per cycle.
"""
LEAST = (16, 32)
"""The smallest tile of queries by keys."""
WRITTEN = 1024
"""The most products per thread in an iteration over keys without matrix units: all are unrolled,
and for many more the assembler runs out of registers.
"""
STEPS = (32, 64, 128)
"""How much of a depth a program takes at a time."""
PRODUCTS = tuple((r, c) for r in (16, 32, 64, 128) for c in (16, 32, 64, 128, 256))
REGISTERS = 128
"""The most sums of a product per thread; half as many without matrix units, as it also keeps
operands then.
"""


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


@contextmanager
def around(*archs: str, rank: int = 0, fast_math: bool = False) -> Iterator[None]:
    """Chooses tiles, within the context, for the first of some architectures (by default a common
    one) among those that fit all of them; ``rank`` counts from the best. With ``fast_math`` f32 is
    multiplied as tf32, if all of them support it.
    """
    gpus = [ARCHITECTURES[arch] for arch in archs if arch in ARCHITECTURES] or [_USUAL.gpu]
    gpu = replace(gpus[0], shared=min(each.shared for each in gpus))
    rounds = fast_math and all("tf32" in each.products for each in gpus)
    token = _around.set(Choice(gpu, rank, rounds))
    try:
        yield
    finally:
        _around.reset(token)


def power_of_two(least: int) -> int:
    """The least power of two that is no less."""
    return 1 << max(0, least - 1).bit_length()


def tiles(extent: Extent, size: int) -> Extent:
    """The number of tiles of a size that cover an extent."""
    return (extent + size - 1) // size


def whole(extent: Extent, size: int) -> bool:
    """Whether tiles of a size are always full; the one that covers nothing is not."""
    return extent != 0 and (size == 1 or (isinstance(extent, int) and extent % size == 0))


def many(extent: Extent) -> int:
    """An extent, or its stand-in if it is unknown; at least 1, as an empty result of a reduction
    needs a kernel too: the sum of nothing is 0.
    """
    low, high = bounds(extent)
    return max(1, int(min(high, max(low, MANY))))


def precision(dtype: DType) -> str:
    """The argument of ``tl.dot`` for operands of a type: for f32, the precision."""
    name = "tf32" if _around.get().rounds else "ieee"
    return f', input_precision="{name}"' if dtype is F32 else ""


# The families.


def product(
    rows: Extent,
    columns: Extent,
    depth: Extent,
    items: Extent,
    bits: int,
    steps: Sequence[int] = STEPS,
) -> Tile:
    """The tile of products of matrices, of operands of so many bits; those of 8 and 16, and f32 as
    tf32, are multiplied by matrix units. One of the ``steps`` is how much of the depth is taken at
    a time.

    Tiles are no larger than what they cover, and as large as registers allow if there are enough of
    them for all units.
    """
    gpu = _around.get().gpu
    high, wide, deep = many(rows), many(columns), many(depth)
    cuts, units = _cuts(depth, rows, columns, items), _on_units(bits)
    rate = _rate(gpu, bits)
    found: list[tuple[float, Tile]] = []
    for r, c in PRODUCTS:
        if r > max(16, power_of_two(high)) or c > max(16, power_of_two(wide)):
            continue
        for k in steps:
            warps = 8 if r * c >= 128 * 128 else 4
            stages, residents = _fitting(gpu, (r + c) * k * bits // 8, r * c, warps)
            too_deep = k > steps[0] and k > 32 and (k > power_of_two(deep) or k * bits > 1024)
            kept = r * c * max(32, bits) // 32 * (1 if units else 2)
            if kept > REGISTERS * warps * gpu.warp or not stages or too_deep:
                continue
            count = -(-high // r) * -(-wide // c) * many(items)
            work = 2 * r * c * k / rate / _used(r, c, warps * gpu.warp, bits)
            read = (r + c) * k * bits / 8 / (IN_L2 * gpu.bandwidth / gpu.units)
            tile = Tile(r, c, k, warps, stages)
            found += _in_parts(gpu, tile, deep, cuts, count, residents, work, read)
    return _picked(found)


def row(columns: Extent, depth: Extent, items: Extent, bits: int) -> Tile:
    """The tile of products with one or a few rows, whose right operand has elements of so many
    bits: columns by depth, all multiplied at once and then reduced.

    Such a product is memory-bound. So a program loads as much as its registers hold before it
    waits, rows of a tile are at least a memory transaction long, and there are enough warps to
    saturate the bandwidth.
    """
    gpu = _around.get().gpu
    wide, deep, cuts = many(columns), many(depth), _cuts(depth, columns, items)
    found: list[tuple[float, Tile]] = []
    narrow = wide < 16
    for c in (power_of_two(wide),) if narrow else (16, 32, 64, 128):
        for k in (128, 256, 512, 1024, *((2048, 4096) if narrow else ())):
            warps = max(1, min(16, c * k // (HELD * gpu.warp)))
            uneven = isinstance(depth, int) and depth % k and k > 128 and not narrow
            if c > power_of_two(wide) or c * k > HELD * warps * gpu.warp or uneven:
                continue
            count = -(-wide // c) * many(items)
            share = 1.0 if narrow else min(1.0, c * bits / 8 / SECTOR)  # the rest is in L2
            read = c * k * bits / 8 / min(1.0, IN_L2 * share) / (gpu.bandwidth / gpu.units)
            residents = max(1, gpu.threads // (warps * gpu.warp * 2))
            tile = Tile(1, c, k, warps, 1)
            found += _in_parts(gpu, tile, deep, cuts, count, residents, 0.0, read)
    return _picked(found)


def taps(outputs: int, pixels: Extent, depth: Extent, items: Extent, bits: int) -> Tile:
    """The tile of convolutions whose taps are multiplied one by one, for few output channels: these
    by pixels, one or two for each thread, and as many taps as are read before the first is needed.
    """
    gpu = _around.get().gpu
    wide, deep, cuts = many(pixels), many(depth), _cuts(depth, pixels, items)
    height = min(16, power_of_two(outputs))
    ahead = min(deep, max(4, AHEAD // height))
    found: list[tuple[float, Tile]] = []
    for c in (128, 256):
        tile, count = Tile(height, c, ahead), -(-outputs // height) * -(-wide // c) * many(items)
        work = 2 * height * c * ahead / (gpu.plain / gpu.units)
        read = c * ahead * bits / 8 / (IN_L2 * gpu.bandwidth / gpu.units)
        residents = gpu.threads // (tile.warps * gpu.warp)
        found += _in_parts(gpu, tile, deep, cuts, count, residents, work, read)
    return _picked(found)


def words(
    columns: Extent, depth: Extent, items: Extent, block: int, *, along_depth: bool = False
) -> Tile:
    """The tile of products with a row, of weights of four bits that are read in words along the
    columns or the depth, a scale for each block of that.

    A thread has four neighbouring words at a time: of one block after another place, or of the
    depth for eight columns. That takes arithmetic as long as reading: so there are programs enough
    for several on each unit.
    """
    gpu = _around.get().gpu
    wide, deep, cuts = many(columns), many(depth), _cuts(depth, columns, items)
    found: list[tuple[float, Tile]] = []
    for c in (8, 16, 32, 64, 128, 256):
        for blocks in BLOCKS:
            k = blocks * block
            threads = c * k // 256 if along_depth else max(1, c // 32) * blocks
            if c > max(8, power_of_two(wide)) or deep % k or threads > 8 * gpu.warp:
                continue
            warps, count = max(1, threads // gpu.warp), -(-wide // c) * many(items)
            step = Tile(1, c, k if along_depth else blocks * min(block, AHEAD), warps, 1)
            size = c * step.depth
            work = OPERATIONS * size * max(1.0, QUARTERS * gpu.warp / threads)
            work /= gpu.plain / 2 / gpu.units
            share = 1.0 if along_depth else min(1.0, c / 2 / SECTOR)  # neighbours find the rest
            read = size / 2 / min(1.0, IN_L2 * share) / (gpu.bandwidth / gpu.units)
            most = gpu.registers // (REGISTERS * warps * gpu.warp)
            residents = max(1, min(most, gpu.threads // (warps * gpu.warp)))
            for seconds, tile in _in_parts(gpu, step, deep, cuts, count, residents, work, read):
                if tile.parts * k <= deep:
                    found.append((seconds, replace(tile, depth=k)))
    return _picked(found)


def attention(
    queries: Extent,
    keys: Extent,
    heads: Extent,
    depth: int,
    width: int,
    bits: int,
    *,
    apart: bool = False,
) -> Tile:
    """Queries by keys of attention, of heads with so many features to compare and to add up;
    adjacent keys may be ``apart``, with features between them.

    Each block of keys is read once for all queries of a program: more queries mean less reading,
    until scores and sums exceed the registers.
    """
    gpu = _around.get().gpu
    high, deep = many(queries), many(keys)
    tallest, widest = max(16, power_of_two(high)), max(32, power_of_two(deep))
    rate, units = _rate(gpu, bits), _on_units(bits)
    found = []
    for r, k in combinations((16, 32, 64, 128), (32, 64, 128)):
        warps = 8 if r * max(k, width) >= 128 * 128 else 4
        stages, residents = _fitting(
            gpu, k * (depth + width) * bits // 8, r * (k + width), warps, r * depth * bits // 8
        )
        kept = r * (k + width) * (1 if units else 2) > REGISTERS * warps * gpu.warp
        if r > tallest or k > widest or kept or not stages:
            continue
        terms = r * k * (depth + width)
        if not units and terms > WRITTEN * warps * gpu.warp and (r, k) != LEAST:
            continue
        count, steps = -(-high // r) * many(heads), -(-deep // k)
        work = 2 * terms / rate
        if not units:
            used = [_used(r, columns, warps * gpu.warp, bits) for columns in (k, width)]
            crossed = CROSSED * k * depth * warps if apart else 0
            work = (2 * r * k * (depth / used[0] + width / used[1]) + crossed) / rate
        read = k * (depth + width) * bits / 8 / (IN_L2 * gpu.bandwidth / gpu.units)
        tile = Tile(r, k, depth, warps, min(stages, 2))
        found.append(_estimated(gpu, tile, count, residents, steps, work, read))
    return _picked(found)


def turned(keys: Extent, bits: int) -> bool:
    """Whether keys whose features are contiguous are better transposed, which takes another
    launch.
    """
    return not _on_units(bits) and many(keys) > SHORT


def query(keys: Extent, queries: Extent, depth: int, width: int, bits: int) -> Tile:
    """The keys of attention that a program takes at a time for one query: as many as registers
    hold. With few queries, few units share the memory bandwidth.
    """
    gpu = _around.get().gpu
    count, deep, most = many(queries), many(keys), max(depth, width)
    shared = gpu.bandwidth / gpu.units * max(1.0, min(IN_L2, gpu.units / count))
    found = []
    for warps in (1, 2, 4, 8):
        k = _down(HELD * warps * gpu.warp // most)
        if warps == 1 or k <= power_of_two(deep):
            read = min(k, deep) * (depth + width) * bits / 8 / shared
            residents = max(1, gpu.registers // (2 * REGISTERS * warps * gpu.warp))
            tile = Tile(1, k, depth, warps, 1)
            found.append(_estimated(gpu, tile, count, residents, -(-deep // k), 0.0, read))
    return _picked(found)


def line(count: Extent, bits: int) -> Tile:
    """A line of elements that are computed elementwise, the widest of so many bits.

    A thread takes 16 bytes of the widest operand at a time, the widest load, or twice that;
    narrower operands are still read in pieces of 32 bits, which suffice for a warp. With too few
    elements for all units, lines are shorter.
    """
    gpu = _around.get().gpu
    each = max(4, min(8, 128 // max(bits, 8)))
    found = []
    for times in (1, 2):
        size = each * times * 4 * gpu.warp
        if each * times <= 16 and size <= max(128, power_of_two(many(count))):
            read = size * bits / 8 / (gpu.bandwidth / gpu.units)
            programs, residents = -(-many(count) // size), gpu.threads // (4 * gpu.warp)
            tile = Tile(1, size, 1, 4)
            found.append(_estimated(gpu, tile, programs, residents, 1, 0.0, read))
    least = Tile(1, max(1, min(128, power_of_two(many(count)))), 1, 1, why="all there is")
    return _picked(found) if found else least


def fold(
    rows: Extent, length: Extent, longest: int, bits: int, stages: int, *, along_rows: bool
) -> Tile:
    """Rows by columns of a reduction in so many stages, where columns are added up, for each of
    which so many bits are read; rows up to the ``longest`` are taken at once, others part by part.
    ``along_rows`` says that neighbours in memory are in different rows.

    Threads cover columns first and then warps do, so a row is reduced within a warp if the program
    has only one, or if rows are so short that each warp has its own. With rows enough for all units
    a thread has 32 elements, with fewer 8, so that more threads work.
    """
    gpu = _around.get().gpu
    high = many(rows)
    each, least = 32 if high >= gpu.units else 8, 1
    if along_rows or not isinstance(length, int) or length > longest:
        each, least = 16, 4
    if not isinstance(length, int) or length > longest:
        parts = [(1, 4096), (1, 8192), (1, 2048)] if high >= gpu.units else [(1, 8192), (1, 4096)]
        shapes = [(128, 32), (64, 64)] if along_rows else parts
        why = "rows are longer than registers hold, and are read part by part"
    else:
        width = power_of_two(max(1, length))
        most = 4096 if along_rows or width <= 4 * gpu.warp else each * gpu.warp
        full = max(1, min(most // width, 64))
        shapes = [(full, width), (max(1, full // 2), width), (max(1, full // 4), width)]
        enough = [s for s in shapes if high >= s[0] * gpu.units]
        shapes = (enough or shapes[::-1]) + ([] if not enough else shapes[len(enough) :])
        why = "rows are read once and stay in registers"
    found = []
    for tall, width in dict.fromkeys(shapes):
        height = min(tall, power_of_two(high))
        shared, about = 1, why
        if isinstance(length, int) and length > longest:
            steps, size, count = -(-length // width), height * width, -(-high // height)
            shared = _sharing(gpu, count, steps, size, bits, stages)
            about += f" by {shared} programs, in turns" if shared > 1 else ""
        warps = max(1, min(16, height * width // (gpu.warp * each)))
        warps = max(least, warps) if height * width >= 1024 else warps
        said = f"{height} x {width}: {about}"
        found.append(Tile(height, width, 1, _down(warps), parts=shared, why=said))
    return _ranked(list(dict.fromkeys(found)))


def _sharing(gpu: Architecture, count: int, steps: int, size: int, bits: int, stages: int) -> int:
    """How many programs share each of ``count`` tiles of rows, of so many steps of a size that are
    read and computed one after another, and over again for each stage: as many as make up for the
    turns that they take.
    """
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


# The model.


def _fitting(
    gpu: Architecture, nbytes: int, sums: int, warps: int, always: int = 0
) -> tuple[int, int]:
    """The loads that run ahead, each of so many bytes of shared memory, and the programs resident
    on a unit; 0 if not one fits. The sums, f32, are exchanged in shared memory before they are
    written.
    """
    room = (gpu.shared - always) // max(1, nbytes)
    if room < 1 or 4 * sums > gpu.shared:
        return 0, 0
    stages = min(4, room) if gpu.backend == "cuda" else 2  # on AMD, in registers
    nbytes *= stages if gpu.backend == "cuda" else 1
    threads = warps * gpu.warp
    registers = threads * min(255, 40 + sums // threads)
    residents = min(
        gpu.shared // (nbytes + always), gpu.threads // threads, gpu.registers // registers
    )
    return stages, max(1, residents)


def _on_units(bits: int) -> bool:
    """Whether matrix units multiply elements of so many bits."""
    return bits <= 16 or (bits == 32 and _around.get().rounds)


def _rate(gpu: Architecture, bits: int) -> float:
    """Operations per second of one unit on elements of so many bits; on tf32 half of those on
    f16.
    """
    rate = gpu.matrix * min(1.0, 16 / bits) if _on_units(bits) else gpu.plain
    return rate / gpu.units


def _used(rows: int, columns: int, threads: int, bits: int) -> float:
    """The fraction of its peak that a unit reaches with a tile: less if operands in shared memory
    are read for few products each.

    Without matrix units a thread has a square of sums, and reads its sides four elements at a time.
    Shared memory gives a warp 32 elements at once, and one side of its part of the tile is the same
    for all threads; warps lie along columns first if there are more of these than a warp has.
    """
    if _on_units(bits):
        return min(1.0, rows * columns / (rows + columns) / 32)
    warps = max(1, threads // 32)
    across = min(warps, max(1, columns // 128))
    reading = 4 * (warps // across) / rows + 32 * across / columns
    counted = 1 + 0.5 / math.sqrt(rows * columns / threads)
    return 1 / (max(counted, reading) + HIDDEN * min(counted, reading))


def _estimated(
    gpu: Architecture, tile: Tile, count: int, residents: int, steps: int, work: float, read: float
) -> tuple[float, Tile]:
    """The seconds of so many programs, whose steps take ``work`` and ``read`` seconds on a unit of
    their own; and the tile, annotated with its limit.
    """
    on_one = -(-count // gpu.units)
    together = min(residents, on_one)
    rounds = math.ceil(on_one / together)
    waiting = rounds * LATENCY / max(1, tile.stages - 1)
    limits = {"arithmetic": on_one * work, "reading": on_one * read, "waiting": waiting}
    limit = max(limits, key=lambda name: limits[name])
    less = sum(limits.values()) - limits[limit]
    seconds = rounds * LATENCY + steps * (limits[limit] + less * HIDDEN)
    shape = f"{tile.rows} x {tile.columns} by {tile.depth}"
    why = f"{shape}: {count} programs, {together} at a time on each of {gpu.units} units"
    said = f"{why}, in {rounds} round{'s' * (rounds > 1)}; limited by {limit}"
    return seconds, replace(tile, why=said)


def _cuts(depth: Extent, *others: Extent) -> Iterable[int]:
    """The numbers of parts a depth may be cut into: one, unless the depth and a bound on the memory
    of the sums are known.
    """
    known = isinstance(depth, int) and all(bounds(e)[1] < math.inf for e in others)
    return PARTS if known else PARTS[:1]


def _in_parts(
    gpu: Architecture,
    tile: Tile,
    depth: int,
    cuts: Iterable[int],
    count: int,
    residents: int,
    work: float,
    read: float,
) -> Iterator[tuple[float, Tile]]:
    """A tile with its depth whole, and if there are few of them, cut into parts: then there are
    more programs with fewer steps each, and another launch that reads and adds up the partial sums.
    """
    steps, size = -(-depth // tile.depth), tile.rows * tile.columns
    kept = size * 4 * count / (IN_L2 * gpu.bandwidth)
    for parts in cuts:
        programs = count * parts
        if parts > 1 and (steps < 2 * parts or programs > 4 * gpu.units):
            break
        cut, each = replace(tile, parts=parts), -(-steps // parts)
        if -(-steps // each) < parts:  # some parts would be empty
            continue
        seconds, cut = _estimated(gpu, cut, programs, residents, each, work, read)
        if parts > 1:
            seconds += TURN + 2 * parts * kept
            cut = replace(cut, why=f"{cut.why}, after which {parts} parts are added up")
        yield seconds, cut


def _picked(found: Iterable[tuple[float, Tile]]) -> Tile:
    """The best tile, or the one after as many as are skipped; of equals the larger."""
    order = sorted(found, key=lambda e: (e[0], -e[1].rows * e[1].columns, -e[1].depth))
    return _ranked([tile for _, tile in order])


def _ranked(tiles: list[Tile]) -> Tile:
    return tiles[min(_around.get().rank, len(tiles) - 1)]


def _down(number: int) -> int:
    """The greatest power of two that is no more."""
    return 1 << (max(1, number).bit_length() - 1)
