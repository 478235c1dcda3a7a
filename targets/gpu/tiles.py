"""The tile that each family of kernels is cut into: of some candidates, the one that the cost model
(``cost_model.py``) estimates to be fastest. Large tiles read less, small ones keep all units busy,
and the model weighs that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product as combinations

from migx.dim import Extent, bounds
from migx.targets.gpu.arithmetic import arithmetic, fitting, multiplying
from migx.targets.gpu.cost_model import (
    IN_L2,
    TURN,
    Tile,
    chosen,
    estimated,
    from_l2,
    from_memory,
    in_parts,
    many,
    picked,
    ranked,
    sharing,
)

FEW = 4
"""The most rows, or queries, for which the elements of a tile are multiplied one by one."""
SECTOR = 32
"""Bytes of a memory transaction."""
OPERATIONS = 5
"""Operations to unpack a four-bit weight and multiply it, or to read a feature of a key or of a
value, widen it, multiply it and add it up.
"""
UNPACKING = 6
"""Operations to unpack a four-bit weight, scale it and write it to shared memory; counted in
machine code for ``sm_90``, where a step of 32 by 256 by 32 takes 374 beside 32 products.
"""
BLOCKS = (8, 16, 32, 64, 128)
"""Blocks of such weights that a program takes at a time, one per thread."""
QUARTERS = 4
"""Partitions of a unit, each of which issues instructions of its own warps."""
AHEAD = 16
"""Words of such weights, or elements of an image, that a thread loads before it uses the first."""
HELD = 64
"""Elements of an operand that a thread loads at a time, if each is needed once."""
SHORT = 128
"""So many keys are compared in the time it takes to transpose them."""
CROSSED = 64
"""Operations that a unit does while a thread of each of its warps reads a number from shared
memory, all from the same bank: four numbers come per cycle.
"""
LEAST = (16, 32)
"""The smallest tile of queries by keys; it is taken if, by estimate, none fits shared memory."""
WRITTEN = 1024
"""The most products per thread in an iteration over keys without matrix units: all are unrolled,
and for many more the assembler runs out of registers.
"""
STEPS = (32, 64, 128)
"""The parts of the depth that a program may take at a time."""
PRODUCTS = tuple((r, c) for r in (16, 32, 64, 128) for c in (16, 32, 64, 128, 256))
NARROW = 128
"""The most columns of products of f32 that are split: for more there are too few registers."""
REGISTERS = 128
"""The registers of a thread, about, where one row is multiplied."""
LONGEST = 16_384
"""The longest row that stays in registers."""
BESIDE = 16
"""The fewest rows of a tile where adjacent elements are in different rows, if there are as many: a
memory transaction of elements of 16 bits.
"""
LOADED = 256
"""The most words that a thread loads for its elements, about: the assembler loads them early, and
for many more it runs out of registers.
"""


def power_of_two(least: int) -> int:
    """The least power of two that is no less."""
    return 1 << max(0, least - 1).bit_length()


def tiles(extent: Extent, size: int) -> Extent:
    """The number of tiles of a size that cover an extent."""
    return (extent + size - 1) // size


def whole(extent: Extent, size: int) -> bool:
    """Whether tiles of a size are always full; the one that covers nothing is not."""
    return extent != 0 and (size == 1 or (isinstance(extent, int) and extent % size == 0))


# The families.


def product(
    rows: Extent,
    columns: Extent,
    depth: Extent,
    items: Extent,
    bits: int,
    steps: Sequence[int] = STEPS,
    *,
    stored: int = 0,
) -> Tile:
    """The tile of matrix products, of operands of so many bits; elements of the right one may be
    ``stored`` in fewer. The part of the depth taken at a time is one of the ``steps``.

    Tiles are no larger than what they cover, and as large as registers allow if there are enough of
    them for all units.
    """
    gpu = chosen().gpu
    high, wide, deep = many(rows), many(columns), many(depth)
    how = arithmetic(bits, depth)
    found: list[tuple[float, Tile]] = []
    for r, c in PRODUCTS:
        if r > max(16, power_of_two(high)) or c > max(16, power_of_two(wide)):
            continue
        if how.split and c > NARROW:
            continue
        for k in steps:
            warps = 8 if r * c >= 128 * 128 else 4
            nbytes = (r + c) * k * bits // 8
            stages, residents = fitting(how, nbytes, r * c, warps, how.parts(c * k))
            too_deep = k > steps[0] and k > 32 and (k > power_of_two(deep) or k * bits > 1024)
            kept = r * c * max(32, bits) // 32 * how.copies
            if kept > how.most * warps * gpu.warp or not stages or too_deep:
                continue
            work, wait = multiplying(how, r, c, k, warps * gpu.warp)
            if 0 < stored < 8:  # alone, a program does not unpack and multiply at a time
                before = UNPACKING * c * k / (gpu.plain / 2 / gpu.units)
                work, wait = max(work, before), wait + min(work, before)
            read = from_l2((r * bits + c * (stored or bits)) * k / 8)
            tile = Tile(r, c, k, warps, stages)
            found += in_parts(tile, (items, rows, columns), depth, residents, work, read, wait)
    return picked(found)


def row(columns: Extent, depth: Extent, items: Extent, bits: int) -> Tile:
    """The tile of products with one or a few rows, whose right operand has elements of so many
    bits: columns by depth, all multiplied at once and then reduced.

    Such a product is memory-bound. So a program loads as much as its registers hold before it
    waits, rows of a tile are at least a memory transaction long, and there are enough warps to
    saturate the bandwidth.
    """
    gpu, wide = chosen().gpu, many(columns)
    found: list[tuple[float, Tile]] = []
    narrow = wide < 16
    for c in (power_of_two(wide),) if narrow else (16, 32, 64, 128):
        for k in (128, 256, 512, 1024, *((2048, 4096) if narrow else ())):
            warps = max(1, min(16, c * k // (HELD * gpu.warp)))
            uneven = isinstance(depth, int) and depth % k and k > 128 and not narrow
            if c > power_of_two(wide) or c * k > HELD * warps * gpu.warp or uneven:
                continue
            share = 1.0 if narrow else min(1.0, c * bits / 8 / SECTOR)
            read = from_memory(c * k * bits / 8, share)
            residents = max(1, gpu.threads // (warps * gpu.warp * 2))
            tile = Tile(1, c, k, warps, 1)
            found += in_parts(tile, (items, 1, columns), depth, residents, 0.0, read)
    return picked(found)


def taps(outputs: int, pixels: Extent, depth: Extent, items: Extent, bits: int) -> Tile:
    """The tile of convolutions whose taps are multiplied one by one, for few output channels: these
    by pixels, one or two per thread; its depth is the number of taps that are loaded ahead.
    """
    gpu = chosen().gpu
    height = min(16, power_of_two(outputs))
    ahead = min(many(depth), max(4, AHEAD // height))
    found: list[tuple[float, Tile]] = []
    for c in (128, 256):
        tile = Tile(height, c, ahead)
        work = 2 * height * c * ahead / (gpu.plain / gpu.units)
        read = from_l2(c * ahead * bits / 8)
        residents = gpu.threads // (tile.warps * gpu.warp)
        found += in_parts(tile, (items, outputs, pixels), depth, residents, work, read)
    return picked(found)


def taps_beside(pixels: Extent, outputs: int, depth: int, bits: int) -> Tile:
    """The tile of such convolutions where adjacent elements are channels of one pixel: pixels by
    outputs. A thread has 16 bytes of a pixel, the widest load.
    """
    each = max(1, 128 // max(bits, 8))
    found: list[tuple[float, Tile]] = []
    for warps in (4, 2):
        size = each * warps * chosen().gpu.warp
        for most in (64, 128, 32):
            c = min(most, power_of_two(outputs))
            tile = Tile(size // c, c, min(depth, AHEAD), warps)
            work = 2 * size * tile.depth / (chosen().gpu.plain / chosen().gpu.units)
            read = from_l2(size * tile.depth * bits / 8)
            residents = chosen().gpu.threads // (warps * chosen().gpu.warp)
            sums = 1, pixels, outputs
            found += in_parts(tile, sums, depth, residents, work, read)
    return picked(found)


def words(
    columns: Extent, depth: Extent, items: Extent, block: int, *, along_depth: bool = False
) -> Tile:
    """The tile of products with one row, by four-bit weights that are read in words along the
    columns or the depth, with a scale for each block of the depth.

    A thread has four adjacent words at a time: along the columns at one place of its block, or
    along the depth. Their arithmetic takes as long as reading them: so there are enough programs
    for several on each unit.
    """
    gpu = chosen().gpu
    wide, deep = many(columns), many(depth)
    found: list[tuple[float, Tile]] = []
    for c in (8, 16, 32, 64, 128, 256):
        for blocks in BLOCKS:
            k = blocks * block
            threads = c * k // 256 if along_depth else max(1, c // 32) * blocks
            if c > max(8, power_of_two(wide)) or deep % k or threads > 8 * gpu.warp:
                continue
            warps = max(1, threads // gpu.warp)
            step = Tile(1, c, k if along_depth else blocks * min(block, AHEAD), warps, 1)
            size = c * step.depth
            work = OPERATIONS * size * max(1.0, QUARTERS * gpu.warp / threads)
            work /= gpu.plain / 2 / gpu.units
            share = 1.0 if along_depth else min(1.0, c / 2 / SECTOR)  # neighbours find the rest
            read = from_memory(size / 2, share)
            most = gpu.registers // (REGISTERS * warps * gpu.warp)
            residents = max(1, min(most, gpu.threads // (warps * gpu.warp)))
            sums = items, 1, columns
            for seconds, tile in in_parts(step, sums, depth, residents, work, read):
                if tile.parts * k <= deep:
                    found.append((seconds, replace(tile, depth=k)))
    return picked(found)


def attention(
    queries: Extent,
    keys: Extent,
    heads: Extent,
    depth: int,
    width: int,
    bits: int,
    *,
    apart: bool = False,
    beside: int = 0,
) -> Tile:
    """Queries by keys of attention, of heads with so many features to compare and to add up;
    adjacent keys may be ``apart``, with features between them. With each score so many bits are
    read ``beside`` it, as of a bias.

    Each block of keys is read once for all queries of a program: more queries mean less reading,
    until scores and sums exceed the registers.
    """
    gpu = chosen().gpu
    high, deep = many(queries), many(keys)
    tallest, widest = max(16, power_of_two(high)), max(32, power_of_two(deep))
    how = arithmetic(bits, depth)
    found = []
    for r, k in combinations((16, 32, 64, 128), (32, 64, 128)):
        warps = 8 if r * max(k, width) >= 128 * 128 else 4
        parts = how.parts(k * max(depth, width))
        always = r * depth * bits // 8 + parts
        stages, residents = fitting(
            how, k * (depth + width) * bits // 8, r * (k + width), warps, always
        )
        sums = r * (k + width) * how.copies + r * k * beside // 32
        kept = max(sums, parts // 4) > how.most * warps * gpu.warp
        if r > tallest or k > widest or kept or not stages:
            continue
        terms = r * k * (depth + width)
        if not how.units and terms > WRITTEN * warps * gpu.warp and (r, k) != LEAST:
            continue
        count, steps = -(-high // r) * many(heads), -(-deep // k)
        threads = warps * gpu.warp
        both = multiplying(how, r, k, depth, threads), multiplying(how, r, width, k, threads)
        work, wait = (sum(seconds) for seconds in zip(*both, strict=True))
        if apart and not how.units:
            work += CROSSED * k * depth * warps / how.rate
        read = from_l2(k * (depth + width) * bits / 8)
        tile = Tile(r, k, depth, warps, min(stages, 2))
        found.append(estimated(tile, count, residents, steps, work, read, wait))
    least = Tile(*LEAST, depth, 4, 1, why="the smallest")
    return picked(found) if found else least


def turned(keys: Extent, depth: int, bits: int) -> bool:
    """Whether keys whose features are contiguous are better transposed, which takes another
    launch.
    """
    return not arithmetic(bits, depth).units and many(keys) > SHORT


def one_by_one(each: Extent, heads: Extent, items: Extent, depth: int, bits: int) -> bool:
    """Whether queries of attention, so many of ``each`` of the heads that share keys, are better
    taken one by one: if they are few. But several that share keys are a tile if there are items for
    most units, and matrix units multiply: it reads the keys once, and takes a tenth of the
    instructions.
    """
    how = arithmetic(bits, depth)
    several = how.units and not how.split and bounds(heads * each)[0] >= FEW
    together = several and many(items) >= chosen().gpu.units // 2
    return bounds(each)[1] <= FEW and not together


def query(keys: Extent, queries: Extent, depth: int, width: int, bits: int) -> Tile:
    """The keys of attention that a program takes at a time for one query: as many as registers
    hold. With few queries, few units share the memory bandwidth; so if there are many keys, several
    programs have a part of them each.
    """
    gpu = chosen().gpu
    count, deep, most = many(queries), many(keys), max(depth, width)
    found = []
    for warps, parts in combinations((1, 2, 4, 8), (1, 2, 4, 8, 16, 32)):
        k = _down(HELD * warps * gpu.warp // most)
        steps, programs = -(-deep // (k * parts)), count * parts
        if warps > 1 and k > power_of_two(deep):
            continue
        if parts > 1 and (k * parts > deep or programs > 4 * gpu.units):
            continue
        shared = gpu.bandwidth / gpu.units * max(1.0, min(IN_L2, gpu.units / programs))
        features = min(k, deep) * (depth + width)
        read = features * bits / 8 / shared
        work = OPERATIONS * features / (gpu.plain / 2 / gpu.units)
        residents = max(1, gpu.registers // (2 * REGISTERS * warps * gpu.warp))
        tile = Tile(1, k, depth, warps, 1, parts)
        # A program reads before it computes: alone on a unit, it takes the time of both.
        seconds, tile = estimated(tile, programs, residents, steps, work, read, wait=read)
        found.append((seconds + (parts > 1) * TURN, tile))
    return picked(found)


def line(count: Extent, bits: int, total: int = 0) -> Tile:
    """A line of elements that are computed elementwise, the widest operand's of so many bits; those
    of all operands are ``total`` bits.

    A thread takes 16 bytes of the widest operand at a time, the widest load, or twice that;
    narrower operands are still read in pieces of 32 bits, which suffice for a warp. With too few
    elements for all units, lines are shorter.
    """
    gpu = chosen().gpu
    most = min(16, _elements(max(bits, total)))
    each = min(most, max(4, min(8, 128 // max(bits, 8))))
    found = []
    for times in (1, 2):
        size = each * times * 4 * gpu.warp
        if each * times <= most and size <= max(128, power_of_two(many(count))):
            read = from_memory(size * bits / 8)
            programs, residents = -(-many(count) // size), gpu.threads // (4 * gpu.warp)
            tile = Tile(1, size, 1, 4)
            found.append(estimated(tile, programs, residents, 1, 0.0, read))
    least = Tile(1, max(1, min(128, power_of_two(many(count)))), 1, 1, why="all there is")
    return picked(found) if found else least


def block(high: Extent, wide: Extent, count: Extent, bits: int) -> Tile:
    """Rows by columns of ``count`` elements in all that are computed elementwise, of operands that
    are contiguous along rows or along columns; for each, operands have so many bits in all.

    A block is about square, and a side is as long as a memory transaction or longer; with few rows
    or columns, the other side is longer. With too few elements for all units, blocks are smaller.
    """
    gpu, found = chosen().gpu, []
    each, high, wide = min(16, _elements(bits)), many(high), many(wide)
    for side in (64, 32):
        columns = min(side, power_of_two(wide))
        rows = min(side * side // columns, power_of_two(high))
        columns = min(side * side // rows, power_of_two(wide))
        warps = max(1, min(16, rows * columns // (each * gpu.warp)))
        blocks = many(count) // (rows * columns)
        found.append((blocks >= 4 * gpu.units, Tile(rows, columns, 1, warps)))
    (enough, large), (_, small) = found
    return ranked([large, small] if enough else [small, large])


def fold(
    rows: Extent, length: Extent, longest: int, bits: int, stages: int, *, along_rows: bool
) -> Tile:
    """Rows by columns of a reduction over columns, in so many stages, each of which reads so many
    bits per element; rows up to the ``longest`` are taken at once, others part by part.
    ``along_rows`` says that adjacent elements are in different rows.

    Threads cover columns first and then warps do, so a row is reduced within a warp if the program
    has only one, or if rows are so short that each warp has its own. With enough rows for all units
    a thread has 32 elements, with fewer 8, so that more threads work.
    """
    gpu, high = chosen().gpu, many(rows)
    at_once = isinstance(length, int) and length <= longest
    each, least = 32 if high >= gpu.units else 8, 1
    if along_rows or not at_once:
        each, least = 16, 4
    each = min(each, _elements(bits))
    if isinstance(length, int) and at_once:
        shapes = _whole_rows(high, length, each, along_rows=along_rows)
        why = "rows are read once and stay in registers"
    else:
        parts = [(1, 4096), (1, 8192), (1, 2048)] if high >= gpu.units else [(1, 8192), (1, 4096)]
        shapes = [(128, 32), (64, 64)] if along_rows else parts
        why = "rows are longer than registers hold, and are read part by part"
    found = []
    for tall, width in dict.fromkeys(shapes):
        height = min(tall, power_of_two(high))
        shared, about = 1, why
        if isinstance(length, int) and not at_once:
            steps, size, count = -(-length // width), height * width, -(-high // height)
            shared = sharing(count, steps, size, bits, stages)
            about += f" by {shared} programs, in turns" if shared > 1 else ""
        warps = max(1, min(16, height * width // (gpu.warp * each)))
        warps = max(least, warps) if height * width >= 1024 else warps
        said = f"{height} x {width}: {about}"
        found.append(Tile(height, width, 1, _down(warps), parts=shared, why=said))
    return ranked(list(dict.fromkeys(found)))


def _whole_rows(high: int, length: int, each: int, *, along_rows: bool) -> list[tuple[int, int]]:
    """Tiles of whole rows, of which a thread has so many elements: those first of which there are
    enough for all units.
    """
    gpu, width = chosen().gpu, power_of_two(max(1, length))
    most = 4096 if along_rows or width <= 4 * gpu.warp else each * gpu.warp
    full = max(BESIDE if along_rows else 1, min(min(most, 16 * each * gpu.warp) // width, 64))
    shapes = [(max(1, full // part), width) for part in (1, 2, 4)]
    enough = [shape for shape in shapes if high >= shape[0] * gpu.units]
    return enough + shapes[len(enough) :] if enough else shapes[::-1]


def _elements(bits: int) -> int:
    """The most elements of a thread, each with so many bits of operands."""
    return _down(LOADED * 32 // max(bits, 1))


def _down(number: int) -> int:
    """The greatest power of two that is no more."""
    return 1 << (max(1, number).bit_length() - 1)
