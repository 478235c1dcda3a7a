"""Kernels of 3 x 3 convolutions by minimal filtering, with their epilogues: groups tagged
``winograd``, see ``migx.fusion.winograd``.

A thread computes a block of tiles by some output channels at a time. First what the block sees is
transformed, channel by channel: down, on contiguous rows, and then across, on elements
deinterleaved by their column in a tile; so a vector holds one position of adjacent tiles. Results
stay in scratch, for each of the 36 positions a matrix of channels by tiles. Then for each strip of
kernels come the 36 matrix products, with the inner loop of any product; their sums are transformed
back, interleaved, and go through the epilogue from registers.

A block has as many rows of tiles, one after another, as fill the vectors of a panel best. The
excess of the last vector of a row is overwritten by the next row.

Each sum is accumulated channel by channel by one thread, so bits depend neither on the number of
threads nor on the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from migx.dim import Extent, product
from migx.fusion import winograd
from migx.fusion.kernels import FusedKernel, epilogue
from migx.fusion.winograd import INPUT, MADE, OUTPUT, PLACES, SEEN, tiles
from migx.ir import Instruction
from migx.shape import F32 as ELEMENT
from migx.shape import Dims
from migx.targets.cpu.emit import F32, I8, I32, Function, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, input_number
from migx.targets.cpu.kernels.convolution import is_literal
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts.cutting import ALONE, FETCH, TILE, step_turns
from migx.targets.cpu.parts.epilogue import Destination, Epilogue, writable
from migx.targets.cpu.parts.matrix import Matrix
from migx.targets.cpu.parts.strips import AHEAD
from migx.targets.cpu.parts.tile import Tile, add_strip
from migx.targets.cpu.parts.transpose import deinterleaved, interleaved

MOST_ROWS, MOST_VECTORS = 16, 6
"""The most rows of a strip of kernels, and vectors of a panel of tiles."""
FORTH, BACK = 150.0, 120.0
"""Cycles to transform a vector of tiles of one channel, and their sums back."""
FAR = 1.15
"""The cost of sums whose image does not stay in the L2 cache, relative to those whose does."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a group that is a convolution by minimal filtering."""
    problem = described(at, machine)
    return None if problem is None else Writer(at, machine, problem).kernel()


@dataclass(frozen=True)
class Problem:
    """A convolution and its epilogue.

    ``image`` and ``weights`` are numbers of inputs; ``steps`` are the strides of the image,
    ``given`` its height and width, ``made`` those of the result, and ``before`` the padding before
    the image along both.
    """

    image: int
    weights: int
    items: Extent
    channels: int
    outputs: int
    steps: Dims
    given: tuple[int, int]
    made: tuple[int, int]
    before: tuple[int, int]
    epilogue: FusedKernel

    @property
    def tiles(self) -> tuple[int, int]:
        """The number of tiles down and across."""
        down, across = map(tiles, self.made)
        return down, across


def described(at: Instruction, machine: Machine) -> Problem | None:
    """The convolution of a group; None if there is none, or its operands are not inputs as they
    are.
    """
    parts = winograd.found(at)
    if parts is None:
        return None
    numbers = [input_number(at, parts.result, v) for v in (parts.image, parts.weights)]
    if None in numbers:
        return None
    image, weights = [n for n in numbers if n is not None]
    x, w = at.inputs[image].shape, at.inputs[weights].shape
    items, *_, height, width = parts.result.shape.dims
    sizes = [d for d in (*x.dims[2:], height, width, *w.dims) if isinstance(d, int)]
    rest = epilogue(at, parts.result, product((height, width)))
    if rest is None or not writable(rest, machine) or len(sizes) < 7 or 0 in sizes:
        return None
    if x.dtype is not ELEMENT or x.true_strides[-1] != 1 or not is_literal(at, weights, rest):
        return None
    above, beside, down, across, _, outputs, channels = sizes
    if outputs == 1:  # strips of kernels have two or more
        return None
    given, made = (above, beside), (down, across)
    return Problem(
        image, weights, items, channels, outputs, x.true_strides, given, made, parts.before, rest
    )


class Cut(NamedTuple):
    """Tiles of ``height`` by ``width`` of the image's, as many as ``vectors`` hold, by one of
    ``shares`` shares of the output channels; these in strips of ``rows``.
    """

    rows: int
    vectors: int
    height: int
    width: int
    shares: int


def chosen(machine: Machine, problem: Problem) -> Cut:
    """The cut of least cost per item."""
    return min(_cuts(machine, problem), key=lambda cut: _cost(machine, problem, cut))


def _cuts(machine: Machine, problem: Problem) -> Iterator[Cut]:
    """The possible cuts."""
    lanes, (down, across) = machine.lanes(F32), problem.tiles
    for vectors in range(1, MOST_VECTORS + 1):
        most = min(MOST_ROWS, (machine.registers - vectors - 1) // vectors, problem.outputs)
        if most < 2:
            continue
        rows = _even(problem.outputs, most)
        room = vectors * lanes
        width = across if across <= room else _even(across, room)
        height = _even(down, min(down, max(1, room // width)))
        strips = -(-problem.outputs // rows)
        for shares in range(1, min(strips, 2 * machine.cores) + 1):
            yield Cut(rows, vectors, height, width, shares)


def _even(extent: int, most: int) -> int:
    """The size of pieces of about equal size, at most ``most``."""
    return -(-extent // -(-extent // most))


def _cost(machine: Machine, problem: Problem, cut: Cut) -> float:
    """The cycles for an item on as many threads as there are cores."""
    lanes, (down, across) = machine.lanes(F32), problem.tiles
    strips = -(-problem.outputs // (cut.rows * cut.shares))
    step = step_turns(cut.rows, cut.vectors) + FETCH * cut.rows / lanes
    near = PLACES * problem.channels * cut.vectors * lanes * F32.nbytes <= machine.l2
    multiplied = strips * PLACES * problem.channels * step * (1 if near else FAR)
    ends = FORTH * problem.channels + BACK * strips * cut.rows
    each = TILE + multiplied + ends * cut.height * -(-cut.width // lanes)
    count = -(-down // cut.height) * -(-across // cut.width) * cut.shares
    shared = each * count > ALONE
    return each * (-(-count // machine.cores) * machine.cores if shared else count)


class Corner(NamedTuple):
    """A block of tiles: its item, the first tile down and across, and the numbers of tiles."""

    item: Value
    top: Value
    left: Value
    rows: Value
    columns: Value


class Writer(KernelWriter):
    """Writes the kernel of one problem."""

    def __init__(self, at: Instruction, machine: Machine, problem: Problem) -> None:
        super().__init__(at, machine)
        self.problem, self.lanes = problem, machine.lanes(F32)
        self.cut = chosen(machine, problem)
        self.vector = F32.times(self.lanes)
        self.columns = self.cut.vectors * self.lanes
        self.strips = -(-problem.outputs // self.cut.rows)
        self.epilogue = Epilogue(self.frame, problem.epilogue, F32, self.lanes, problem.outputs)
        # A vector of the last row of a block may extend beyond it.
        self.seen = problem.channels * self.columns + self.lanes
        self.made = self.cut.rows * self.columns + self.lanes
        self.tiles = self.frame.take(PLACES * self.seen, F32)
        self.sums = self.frame.take(PLACES * self.made, F32)

    def kernel(self) -> Kernel:
        f, e, cut, problem = self.f, self.frame.extent, self.cut, self.problem
        down, across = problem.tiles
        rows, columns = -(-down // cut.height), -(-across // cut.width)
        share = -(-self.strips // cut.shares)
        with f.loop(self.frame.begin, self.frame.end) as tile:
            number, part = tile.index // cut.shares, tile.index % cut.shares
            left, top = number % columns * cut.width, number // columns % rows * cut.height
            counts = f.minimum(down - top, cut.height), f.minimum(across - left, cut.width)
            corner = Corner(number // (rows * columns), top, left, *counts)
            self._see(corner)
            first = part * share
            with f.loop(first, f.minimum(first + share, e(self.strips))) as strip:
                self._multiply(strip.index)
                self._make(corner, strip.index * cut.rows)
        products = problem.items * (PLACES * down * across * problem.outputs * problem.channels)

        return self.frame.finished(
            "convolution by tiles",
            problem.items * (rows * columns * cut.shares),
            flops=2 * products + problem.epilogue.flops,
            formats=((problem.weights, f"Bac{cut.rows}b"),),
            over=problem.epilogue.in_place(problem.image, problem.weights),
        )

    def _see(self, corner: Corner) -> None:
        """Transforms what a block of tiles sees of all channels."""
        f, problem, e = self.f, self.problem, self.frame.extent
        item, channel, *_ = map(e, problem.steps)
        image = f.element(self.frame.operands[problem.image], corner.item * item, F32)
        with f.loop(0, problem.channels) as number:
            plane = f.element(image, number.index * channel, F32)
            out = f.element(self.tiles, number.index * self.columns, F32)
            with f.loop(0, corner.rows) as row, f.loop(0, corner.columns, self.lanes) as column:
                first = (corner.top + row.index) * MADE, (corner.left + column.index) * MADE
                to = f.element(out, row.index * corner.columns + column.index, F32)
                self._see_tiles(plane, first, to)

    def _see_tiles(self, plane: Value, first: tuple[Value, Value], to: Value) -> None:
        """Transforms what a vector of adjacent tiles sees of a channel."""
        f, lanes = self.f, self.lanes
        lines = list(self._lines(plane, first))
        turned = [_combined(f, INPUT, column) for column in zip(*lines, strict=True)]
        for i, (*vectors, beyond) in enumerate(zip(*turned, strict=True)):
            seen = deinterleaved(f, vectors)
            moved = [[*range(1, lanes), lanes + k] for k in range(SEEN - MADE)]
            seen += [f.shuffle(v, beyond, m) for v, m in zip(seen, moved, strict=False)]
            for j, value in enumerate(_combined(f, INPUT, seen)):
                f.store(value, f.element(to, (i * SEEN + j) * self.seen, F32))

    def _lines(self, plane: Value, first: tuple[Value, Value]) -> Iterator[list[Value]]:
        """The six rows that adjacent tiles see, element by element, with one vector more."""
        f, lanes, problem = self.f, self.lanes, self.problem
        (height, width), (above, beside) = problem.given, problem.before
        _, following, step, _ = map(self.frame.extent, problem.steps)
        top, left = first[0] - above, first[1] - beside
        numbers = [
            f.iota(I32.times(lanes)) + f.splat(f.cast(left + j * lanes, I32), lanes)
            for j in range(MADE + 1)
        ]
        for i in range(SEEN):
            row = top + i
            there = f.compare("lt", row, height, signed=False)
            limit = f.splat(f.cast(f.select(there, f.as_index(width), 0), I32), lanes)
            start = f.element(plane, row * step + left, F32)
            # Rows are short runs of memory, and the prefetcher cannot guess the next channel's.
            for j in range(MADE if i >= SEEN - MADE else 0):
                f.prefetch(f.element(start, following + j * lanes, F32), locality=2)
            yield [
                f.load(
                    f.element(start, j * lanes, F32),
                    self.vector,
                    mask=f.compare("lt", number, limit, signed=False),
                )
                for j, number in enumerate(numbers)
            ]

    def _multiply(self, strip: Value) -> None:
        """The sums of a strip of kernels at all positions of the block's tiles."""
        f, cut, channels = self.f, self.cut, self.problem.channels
        weights = self.frame.operands[self.problem.weights]
        tile = Tile(cut.rows, cut.vectors, self.lanes, cut.rows, channels, F32)
        with f.loop(0, PLACES) as place:
            number = (strip * PLACES + place.index) * (channels * cut.rows)
            kernels = Matrix.dense(f.element(weights, number, F32), cut.rows, ELEMENT)
            starts = [kernels.moved(0, i).turned for i in range(cut.rows)]
            ahead = Matrix.dense(f.element(kernels.first, AHEAD, I8), cut.rows, ELEMENT)
            panel = f.element(self.tiles, place.index * self.seen, F32)
            seen = Matrix.dense(panel, self.columns, ELEMENT)
            sums = f.element(self.sums, place.index * self.made, F32)
            add_strip(tile, sums, starts, seen, f.as_index(channels), ahead, fresh=True)

    def _make(self, corner: Corner, output: Value) -> None:
        """Transforms the sums of a strip of kernels back and writes the results."""
        f = self.f
        outputs = f.minimum(self.problem.outputs - output, self.cut.rows)
        with f.loop(0, outputs) as channel:
            sums = f.element(self.sums, channel.index * self.columns, F32)
            with f.loop(0, corner.rows) as row, f.loop(0, corner.columns, self.lanes) as column:
                at = f.element(sums, row.index * corner.columns + column.index, F32)
                first = (corner.top + row.index) * MADE, (corner.left + column.index) * MADE
                left = (corner.columns - column.index) * MADE
                self._make_tiles(corner.item, output + channel.index, at, first, left)

    def _make_tiles(
        self, item: Value, output: Value, sums: Value, first: tuple[Value, Value], columns: Value
    ) -> None:
        """Writes a vector of adjacent tiles of one channel."""
        f, (height, width) = self.f, self.problem.made
        places = [f.element(sums, i * self.made, F32) for i in range(PLACES)]
        loaded = [f.load(place, self.vector) for place in places]
        turned = [_combined(f, OUTPUT, loaded[j::SEEN]) for j in range(SEEN)]
        left = None
        if width % (MADE * self.lanes) or self.cut.width % self.lanes:
            left = f.minimum(width - first[1], columns)
        for i, line in enumerate(zip(*turned, strict=True)):
            row = first[0] + i
            made = interleaved(f, _combined(f, OUTPUT, line))
            to = Destination(item, output, row * width + first[1], f.as_index(1))
            with f.when(row < height):
                self.epilogue.write(to, made, 1, left)


def _combined(f: Function, matrix: winograd.Matrix, values: Sequence[Value]) -> list[Value]:
    """The linear combinations of some values with the rows of a matrix."""
    return [_combination(f, row, values) for row in matrix]


def _combination(f: Function, row: Sequence[float], values: Sequence[Value]) -> Value:
    """A linear combination, in which at least one factor is 1 or -1."""
    terms = [(factor, value) for factor, value in zip(row, values, strict=True) if factor]
    terms.sort(key=lambda term: -term[0] if abs(term[0]) == 1 else abs(term[0]))
    (sign, total), *rest = terms
    total = total if sign == 1 else -total
    for factor, value in rest:
        if abs(factor) == 1:
            total = total + value if factor == 1 else total - value
        else:
            total = f.muladd(value, f.const(value.type, factor), total)
    return total
