"""The inner loops of matrix products: a tile of sums in registers, fed by rows and a panel.

**Why it is fast.** A tile of ``rows`` x ``vectors`` sums stays in registers along the depth. One
step of the depth reads one number of each row, which is broadcast, and ``vectors`` vectors of the
panel; each is used with all of the other kind, so nine rows by three vectors are 27 fused
multiply-adds for twelve loads, and the loads hide behind the arithmetic. There are sums enough to
hide the latency of the units. The panel is packed in the order in which it is read, so the hardware
prefetcher keeps ahead. Rows are read in place: each is a stream of its own, and packing them would
gain nothing. Blocks of the depth are short enough for panel and rows to stay in the L2 cache, from
which they are read again for the next rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from migx import dim
from migx.dim import Extent
from migx.shape import DType
from migx.targets.cpu.emit import F32, F64, I32, I64, Function, Type, Value
from migx.targets.cpu.kernel import memory_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts.matrix import Matrix, widened

SUMS = {F32: DType.of("f32"), F64: DType.of("f64"), I32: DType.of("i32"), I64: DType.of("i64")}
"""The element type of each type of sums."""


def sum_type(dtype: DType) -> Type | None:
    """The type in which products of a type are summed: integers wrap, in at least 32 bits."""
    if dtype.is_float:
        return F64 if dtype.bits == 64 else F32
    return (I64 if dtype.bits == 64 else I32) if dtype.is_integer else None


class Strip(NamedTuple):
    """``rows`` that are multiplied at a time while at least ``least`` are left. If there are fewer,
    the last is repeated, and the sums after its own mean nothing.
    """

    rows: int
    least: int


@dataclass(frozen=True)
class Tile:
    """How a product is cut. ``rows`` x ``vectors`` of ``lanes`` sums are in registers; ``block``
    rows use one panel before the next; ``depth`` is how much of the sum is added at a time; ``sum``
    is the type of the sums.
    """

    rows: int
    vectors: int
    lanes: int
    block: int
    depth: int
    sum: Type

    @property
    def columns(self) -> int:
        """The width of a panel."""
        return self.vectors * self.lanes

    @property
    def vector(self) -> Type:
        """A vector of sums."""
        return self.sum.times(self.lanes)

    def strips(self, rows: Extent | None) -> list[Strip]:
        """The strips that a matrix of so many rows, or of any number, is cut into, the largest
        first. They take no more rows than the next multiple of the tile's.
        """
        if not isinstance(rows, int):
            return strips(self.rows, self.vectors)
        blocks = {min(self.block, rows), rows % self.block}
        used = {self.rows for block in blocks if block >= self.rows}
        used |= {block % self.rows for block in blocks}
        return [Strip(height, height) for height in sorted(used - {0}, reverse=True)]


# The cost model. Steps of the depth are counted in cycles of the two multiply-add units.
LOADS = 0.25
"""The cost of a load beyond the arithmetic it hides behind; 0.5 would hide nothing."""
LATENCY = 4.0
"""Cycles until a sum can be added to again."""
READING = 2.0
"""Cycles to read a vector of a panel again, from the L2 cache."""
MOST_ROWS, MOST_VECTORS = 16, 6
BLOCK = 64
"""About how many rows use a panel before the next: enough to amortise packing it."""
FEW_TILES = 8
"""With fewer tiles than this, blocks are made smaller, so that every thread has some."""
WORTH = 1 << 17
"""The operations worth handing to another thread: under a microsecond of arithmetic."""


def cycles(height: int, vectors: int) -> float:
    """The cost of a step of the depth."""
    return max(height * vectors / 2 + LOADS * (height + vectors), LATENCY)


def strips(height: int, vectors: int) -> list[Strip]:
    """The strips for any number of rows: as high as the tile, and powers of two far enough below
    it. Each is used where those below it would cost more.
    """
    powers = [2**i for i in range(height.bit_length()) if 3 * 2**i <= 2 * height]
    found = list[Strip]()
    costs, taken = [0.0], [0]  # the cost of so many rows, and the rows taken for them
    for rows in sorted({1, *powers, height}):
        own, least = max(cycles(rows, vectors), READING * vectors), len(costs)
        while found and least < rows:
            below = found[0].rows
            cost = costs[below] + costs[least - below]
            if cost >= own or below + taken[least - below] > rows:
                break
            costs.append(cost)
            taken.append(below + taken[least - below])
            least += 1
        costs += [own] * (rows - least + 1)
        taken += [rows] * (rows - least + 1)
        found.insert(0, Strip(rows, least))
    return found


def chosen(
    machine: Machine, sum_: Type, rows: Extent, columns: Extent, depth: Extent, items: Extent = 1
) -> Tile:
    """The tile of least cost for ``items`` products of these extents.

    The width of panels does not depend on the number of rows, so weights packed for one number of
    rows serve any other.
    """
    lanes = machine.lanes(sum_)
    best: tuple[float, int, int] | None = None
    for vectors in range(1, MOST_VECTORS + 1):
        height = min(MOST_ROWS, (machine.registers - vectors - 1) // vectors)
        if height < 1:
            continue
        turns = cycles(height, vectors) / height
        across = -(-columns // (vectors * lanes)) if isinstance(columns, int) else 1 / vectors
        if best is None or turns * across < best[0]:
            best = turns * across, height, vectors
    assert best is not None
    _, height, vectors = best
    height = int(min(height, max(1, dim.bounds(rows)[1])))
    panels = (columns + vectors * lanes - 1) // (vectors * lanes) * items
    block = _block(rows, height, panels)
    return Tile(height, vectors, lanes, block, _depth(machine, sum_, block, vectors, depth), sum_)


def _block(rows: Extent, height: int, panels: Extent) -> int:
    """The rows of a block: a multiple of the height, with all blocks about equal."""
    most = -(-BLOCK // height) * height
    if not isinstance(rows, int):
        return most
    blocks = max(1, -(-rows // most))
    if isinstance(panels, int):
        blocks = min(max(blocks, FEW_TILES // max(1, panels)), max(1, -(-rows // height)))
    share = -(-rows // blocks)
    return max(1, -(-share // height)) * height


def _depth(machine: Machine, sum_: Type, block: int, vectors: int, depth: Extent) -> int:
    """The depth of a block: its panel and rows fill half the L2 cache."""
    bytes_of_step = (vectors * machine.lanes(sum_) + block) * sum_.nbytes
    most = max(64, machine.l2 // 2 // bytes_of_step // 16 * 16)
    if not isinstance(depth, int):
        return most
    return -(-depth // max(1, -(-depth // most))) or 1


def staged(tile: Tile, lines: Matrix, rows: Value, depth: Value, to: Value) -> Matrix:
    """A copy of some rows in the type of sums, with row stride ``tile.depth``."""
    f, made = lines.into, Matrix.dense(to, tile.depth, SUMS[tile.sum])
    with f.loop(0, rows) as i, f.loop(0, depth, tile.lanes) as k:
        mask = f.first_lanes(depth - k.index, tile.lanes)
        vector = lines.vector(i.index, k.index, tile.lanes, mask)
        f.store(widened(f, vector, lines.dtype, tile.sum), made.at(i.index, k.index), mask=mask)
    return made


Multiply = Callable[[Function, Value, Value, Value], Value]
"""A function that adds the product of two values to a third."""


def accumulate(
    tile: Tile,
    sums: Value,
    left: Matrix,
    panel: Matrix,
    rows: Value,
    depth: Value,
    strips: Sequence[Strip],
    *,
    fresh: bool,
    ahead: bool = False,
    multiply: Multiply = Function.muladd,
) -> None:
    """Adds the product of some rows and a panel to the sums, which have row stride
    ``tile.columns``; ``fresh`` sums are uninitialised.

    ``left`` has elements of the type of sums; the panel is read by vectors along its rows.
    ``ahead`` says that the next panel follows directly, and is worth prefetching. ``multiply`` is
    given a broadcast number, a vector of the panel and a vector of sums.
    """
    f = left.into
    enough = rows >= tile.rows * tile.vectors
    for top, numbers in cut(rows, strips):
        here = f.element(sums, top * tile.columns, tile.sum)
        behind = None
        if ahead and len(numbers) == tile.rows:
            # Each iteration prefetches one vector of every row of the panel, so there must be
            # enough of them; with fewer, memory bandwidth is the limit, and the hardware
            # prefetcher does better.
            vector = top // tile.rows % tile.vectors * tile.lanes
            place = f.select(enough, panel.at(depth, vector), panel.first)
            behind = replace(panel, first=place, row=f.select(enough, panel.row, 0))
        starts = [left.moved(row, 0) for row in numbers]
        add_strip(tile, here, starts, panel, depth, behind, fresh=fresh, multiply=multiply)


def cut(rows: Value, strips: Sequence[Strip]) -> Iterator[tuple[Value, list[Value]]]:
    """Loops over so many rows, one loop for each height: the first row of a strip, and all of its
    rows, for the body of the loop.
    """
    f = rows.into
    first, last = f.as_index(0), rows - 1
    for height, least in strips:
        end = first + (rows - first + (height - least)) // height * height
        with f.loop(first, end, height) as turn:
            numbers = [turn.index + i for i in range(height)]
            yield turn.index, numbers[:least] + [f.minimum(n, last) for n in numbers[least:]]
        first = end if least == height else f.minimum(end, rows)


def add_strip(
    tile: Tile,
    sums: Value,
    starts: Sequence[Matrix],
    panel: Matrix,
    depth: Value,
    behind: Matrix | None,
    *,
    fresh: bool,
    multiply: Multiply = Function.muladd,
) -> None:
    """``accumulate`` for rows that begin at ``starts``, as many as fit in registers; prefetches the
    first column of the matrix ``behind``.
    """
    f, wide, height = panel.into, memory_of(panel.dtype).times(tile.lanes), len(starts)
    places = [
        f.element(sums, i * tile.columns + j * tile.lanes, tile.sum)
        for i in range(height)
        for j in range(tile.vectors)
    ]
    nothing = f.const(tile.vector, 0)
    begun = [nothing if fresh else f.load(p, tile.vector) for p in places]
    with f.loop(0, depth, carry=begun) as k:
        line = panel.at(k.index, 0)
        if behind is not None:
            f.prefetch(behind.at(k.index, 0), locality=2)
        read = (f.load(f.element(line, j * tile.lanes, wide), wide) for j in range(tile.vectors))
        vectors = [widened(f, vector, panel.dtype, tile.sum) for vector in read]
        k.carry(
            *(
                multiply(f, one, vectors[j], k.carried[i * tile.vectors + j])
                for i in range(height)
                for one in [f.splat(f.load(starts[i].at(0, k.index), tile.sum), tile.lanes)]
                for j in range(tile.vectors)
            )
        )
    for place, total in zip(places, k.carried, strict=True):
        f.store(total, place)
