"""Kernels of products with constant weights of four or eight bits and rows rounded to bytes: groups
that ``quantize_activations`` has allowed to round.

Rows are rounded first, once for all that this call computes of them: each block of adjacent
elements gets the scale that ``choose_scales`` gives it, and becomes bytes. Then the products of a
block are integers: levels times bytes, four per 32-bit lane. A zero point is multiplied by the sum
of the block's bytes and subtracted before anything is scaled; after it come the two scales, and the
sum over the blocks in f32.

**Why it is fast.** Weights are read in panels of a few vectors of columns. In eight bits a lane has
four indices of the depth, ready to be multiplied; in four bits eight, the even ones in the lower
halves of its bytes and the odd ones in the upper, so a load and three bitwise operations make two
vectors of bytes. Each is multiplied and summed by one instruction, for four indices of the depth at
once: a fifth of the time that f32 takes. The other factor is four adjacent bytes of the row, as
rounding has put even indices before odd ones. For one row that leaves memory bandwidth as the
limit; several rows share the unpacked weights in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from migx.ir import Instruction
from migx.ops.quantization import limits
from migx.shape import I8 as BYTE
from migx.targets.cpu.emit import F32, I8, I16, I32, Value, reductions
from migx.targets.cpu.emit.dot4 import FLIP, SHORT, Signs, dot4, dot4_short, widened
from migx.targets.cpu.kernel import Kernel, KernelWriter, memory_of
from migx.targets.cpu.kernels.weight_only_forms import WORD, Problem
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.epilogue import Destination, Epilogue
from migx.targets.cpu.parts.matrix import Matrix
from migx.targets.cpu.parts.tile import Tile, cut

TOGETHER = 2
"""Vectors of columns that several rows are multiplied with at a time."""
ROWS = 48
"""About how many rows are rounded together, if they fit in a quarter of the L2 cache."""
SHARES = 8
"""The most tiles for a block of rows: each tile must round the rows first."""
UNROLLED = SHORT // 2
"""Groups that are multiplied in one iteration, if they divide a block; each of small levels is two
products.
"""
WRITTEN_OUT = 8
"""The most vectors of a block that are rounded without a loop."""
AHEAD = 8192
"""The prefetch distance in a panel in bytes: hardware prefetchers stop at page boundaries."""
TINY = 2.0**-100
"""A smaller maximum is scaled up by its reciprocal before the division."""
MAGIC = 1.5 * 2**23
"""Adding a small float to this rounds it to an integer, in the low bits."""
MAGIC_BITS = 0x4B400000
LEAST, MOST = limits(BYTE)
ORDER = {4: (0, 2, 4, 6, 1, 3, 5, 7), 8: range(4)}
"""The indices of a lane of weights, by their bits, in the order in which they are multiplied."""
SIGNS = -0x77777778
"""The upper bit of each of eight levels, as i32."""


def widths(machine: Machine) -> list[int]:
    """The widths a panel may have: a few vectors of columns."""
    lanes = machine.lanes(F32)
    return [lanes * vectors for vectors in ((2, 4) if machine.registers >= 32 else (2,))]


@dataclass(frozen=True)
class _Strip:
    """Some rows, from ``row`` on, by some vectors of a panel, given by their indices."""

    panel: Value
    row: Value
    height: int
    vectors: Sequence[int]

    @property
    def rows(self) -> Iterator[Value]:
        """The indices of the rows."""
        return (self.row + i for i in range(self.height))


class Writer(KernelWriter):
    """Writes the kernel of one problem."""

    def __init__(self, at: Instruction, machine: Machine, problem: Problem) -> None:
        super().__init__(at, machine)
        self.problem = problem
        lanes = machine.lanes(F32)
        self.lanes, self.vector, self.integers = lanes, F32.times(lanes), I32.times(lanes)
        self.group = problem.group
        self.wide = max(lanes, self.group)
        right, depth = problem.right, problem.depth
        self.even = right.block % self.wide == 0 and depth % right.block == 0
        self.depth = -(-depth // self.group) * self.group
        self.blocks = -(-depth // right.block)
        self.unrolled = UNROLLED
        while any(n // self.group % self.unrolled for n in (right.block, self.depth)):
            self.unrolled //= 2
        fitting = min(ROWS, machine.l2 // 4 // self.depth)
        height, block = problem.heights((machine.registers - 6) // (2 * TOGETHER), fitting)
        self.width = problem.width
        self.tile = Tile(height, self.width // lanes, lanes, block, self.depth, F32)
        self.epilogue = Epilogue(self.frame, problem.epilogue, F32, lanes, problem.left.rows)
        # The signs of the factors; levels of four bits are under 128, so either sign reads them.
        self.signs = Signs.chosen(machine, lanes, x=False, w=True, small=problem.bits == 4)
        self.turned = right.signed != (problem.bits == 8 and self.signs.flip)
        self.base = (1 << problem.bits - 1) * (1 if right.signed else -1) * self.turned
        zero = right.zero
        self.plain_zero = int(zero.number) + self.base if zero.operand is None else None

    def kernel(self) -> Kernel:
        f, frame, problem, tile = self.f, self.frame, self.problem, self.tile
        rows, columns = frame.extent(problem.left.rows), problem.right.columns
        panels = -(-columns // self.width)
        share = -(-panels // SHARES)
        shares = -(-panels // share)
        blocks = (problem.left.rows + tile.block - 1) // tile.block
        self._divide_scratch()
        with f.loop(frame.begin, frame.end, carry=[f.as_index(-1)]) as cell:
            first, top = cell.index % shares * share, cell.index // shares * tile.block
            count = f.minimum(rows - top, tile.block)
            with f.when(f.compare("ne", top, cell.carried[0])):
                self._round(top, count)
            cell.carry(top)
            with f.loop(first, f.minimum(first + share, panels)) as panel:
                self._panel(panel.index, top, count)
        return frame.finished(
            f"int{problem.bits} product of bytes",
            blocks * shares,
            flops=2 * problem.left.rows * columns * problem.depth + problem.epilogue.flops,
            formats=problem.formats,
        )

    def _panel(self, panel: Value, top: Value, count: Value) -> None:
        """The results of some rows and a panel."""
        f, problem, tile = self.f, self.problem, self.tile
        for row, numbers in cut(count, tile.strips(problem.left.rows)):
            height = len(numbers)
            together = tile.vectors if height == 1 else TOGETHER
            for part in range(0, tile.vectors, together):
                self._write_strip(_Strip(panel, row, height, range(part, part + together)))
        column = panel * self.width
        there = f.minimum(problem.right.columns - column, self.width)
        to = Destination(f.as_index(0), top, column, count)
        whole = problem.right.columns % self.lanes == 0
        self.epilogue.write_lines(to, self.sums, self.width, there, whole=whole)

    def _divide_scratch(self) -> None:
        """Takes the sums, the scales of rows, the sums of their blocks, and their bytes."""
        rows, take = self.tile.block, self.frame.take
        self.sums = take(rows * self.width, F32)
        self.scales = take(rows * self.blocks, F32)
        self.totals = take(rows * self.blocks, I32)
        self.bytes = take(rows * self.depth, I8)

    # Rows.

    def _round(self, top: Value, count: Value) -> None:
        """Rounds rows to bytes, with their scales and the sums of their blocks."""
        f, problem, frame = self.f, self.problem, self.frame
        whole = Matrix.of(frame, problem.left.operand, problem.left.steps, problem.left.dtype)
        # Two loops, as waiting for a scale would stall the next blocks too.
        with f.loop(0, count) as row:
            scales = f.element(self.scales, row.index * self.blocks, F32)
            with f.loop(0, self.blocks) as block:
                start = block.index * problem.right.block
                line = whole.moved(top + row.index, start)
                most = self._most(line, self._length(start))
                f.store(most, f.element(scales, block.index, F32))
            with f.loop(0, self.blocks) as block:
                start = block.index * problem.right.block
                line = whole.moved(top + row.index, start)
                place = f.element(scales, block.index, F32)
                scale, *factors = self._scale(f.load(place, F32))
                f.store(scale, place)
                to = f.element(self.bytes, row.index * self.depth + start, I8)
                total = self._rounded(line, self._length(start), factors, to)
                if self.plain_zero is not None:
                    total = total * -self.plain_zero
                f.store(total, f.element(self.totals, row.index * self.blocks + block.index, I32))

    def _length(self, start: Value) -> Value:
        """The length of the block that begins here."""
        f, problem = self.f, self.problem
        block = f.as_index(problem.right.block)
        return block if self.even else f.minimum(problem.depth - start, block)

    def _read(self, line: Matrix, k: Value, length: Value) -> Value:
        """A vector of a block of a row in f32, with zeros beyond its end."""
        mask = None if self.even else self.f.first_lanes(length - k, self.wide)
        return self.f.cast(line.loaded(0, k, self.wide, mask), F32)

    def _most(self, line: Matrix, length: Value) -> Value:
        """The magnitude of a block that maps to the greatest byte; NaN if an element is NaN or
        infinite.
        """
        f, wide = self.f, self.wide
        nothing = f.const(F32.times(wide), 0.0)

        def seen(k: Value, carried: list[Value]) -> list[Value]:
            least, most, lost = carried
            x = self._read(line, k, length)
            below, above = f.select(x < least, x, least), f.select(x > most, x, most)
            return [below, above, f.fma(x, nothing, lost)]

        least, most, lost = self._over(length, [nothing] * 3, seen)
        least = least * (MOST / LEAST)
        most = f.select(least > most, least, most) + lost
        # As integers, nonnegative floats are in order, and NaN is the greatest.
        bits = f.bitcast(most, I32.times(wide)) & 0x7FFFFFFF
        return f.bitcast(reductions.fold(f, "umax", bits), F32)

    def _scale(self, most: Value) -> tuple[Value, Value, Value]:
        """The scale of a block; and two factors that divide by it, as the reciprocal of a small
        scale would be infinite.
        """
        f = self.f
        raised = f.select(most < TINY, 1 / TINY, f.const(F32, 1.0))
        scale, inverse = most / MOST, MOST / (most * raised)
        none = f.compare("eq", scale, 0.0)
        return f.select(none, 1.0, scale), raised, f.select(none, 0.0, inverse)

    def _rounded(self, line: Matrix, length: Value, factors: Sequence[Value], to: Value) -> Value:
        """Writes the bytes of a block in the order of the levels; gives their sum."""
        f, wide = self.f, self.wide
        integers = I32.times(wide)
        raised, inverse = (f.splat(factor, wide) for factor in factors)
        room = (length + (self.group - 1)) // self.group * self.group
        order = [i + j for i in range(0, wide, self.group) for j in ORDER[self.problem.bits]]

        def write(k: Value, carried: list[Value]) -> list[Value]:
            x = self._read(line, k, length) * raised * inverse
            x = f.minimum(f.maximum(x, LEAST), MOST)
            whole = f.bitcast(x + MAGIC, integers) - MAGIC_BITS
            narrow = f.cast(whole, I8)
            mask = None if self.even else f.first_lanes(room - k, wide)
            f.store(f.shuffle(narrow, narrow, order), f.element(to, k, I8), mask=mask)
            return [carried[0] + whole]

        (total,) = self._over(length, [f.const(integers, 0)], write)
        return reductions.fold(f, "add", total)

    def _over(
        self,
        length: Value,
        carried: list[Value],
        step: Callable[[Value, list[Value]], list[Value]],
    ) -> list[Value]:
        """Carries values from vector to vector of a block."""
        f, count = self.f, self.problem.right.block // self.wide
        if self.even and count <= WRITTEN_OUT:
            for number in range(count):
                carried = step(f.as_index(number * self.wide), carried)
            return carried
        with f.loop(0, length, self.wide, carry=carried) as k:
            k.carry(*step(k.index, k.carried))
        return k.carried

    # Products.

    def _write_strip(self, strip: _Strip) -> None:
        """Writes the sums over the whole depth."""
        f, problem, many = self.f, self.problem, len(strip.vectors)
        zeros = [f.const(self.vector, 0)] * (strip.height * many)
        with f.loop(0, self.blocks, carry=zeros) as block:
            start = block.index * problem.right.block
            end = start + problem.right.block
            if problem.depth % problem.right.block:
                end = f.minimum(end, self.depth)
            begun = self._begun(strip, block.index)
            whole = self._multiplied(strip, start, end, begun)
            scales = self._scales(strip, block.index)
            made = []
            for i, row in enumerate(strip.rows):
                place = row * self.blocks + block.index
                of_row = f.splat(f.load(f.element(self.scales, place, F32), F32), self.lanes)
                for j, of_column in enumerate(scales):
                    number = i * many + j
                    total = f.cast(whole[number], F32) * of_row
                    was = block.carried[number]
                    made.append(f.muladd(total, of_column, was))
            block.carry(*made)
        for i, row in enumerate(strip.rows):
            for j, vector in enumerate(strip.vectors):
                place = row * self.width + vector * self.lanes
                f.store(block.carried[i * many + j], f.element(self.sums, place, F32))

    def _begun(self, strip: _Strip, block: Value) -> list[Value]:
        """The initial sums of a block, which subtract its zero points."""
        f, nothing = self.f, self.f.const(self.integers, 0)
        if self.plain_zero == 0:
            return [nothing] * (strip.height * len(strip.vectors))
        places = (row * self.blocks + block for row in strip.rows)
        totals = [f.load(f.element(self.totals, place, I32), I32) for place in places]
        if self.plain_zero is not None:
            return [f.splat(total, self.lanes) for total in totals for _ in strip.vectors]
        zeros = self._zeros(strip, block)
        return [nothing - z * f.splat(total, self.lanes) for total in totals for z in zeros]

    def _multiplied(
        self, strip: _Strip, start: Value, end: Value, begun: list[Value]
    ) -> list[Value]:
        """The sums of the products of one block, as integers."""
        f, problem, single = self.f, self.problem, strip.height == 1
        size = self.width * WORD // 8
        panel_bytes = -(-problem.right.form.stored // self.group) * size
        words = f.element(self.frame.operands[problem.weight], strip.panel * panel_bytes, I8)
        # One row has few sums: products alternate between two sets, so that none waits for itself.
        carried = begun + [f.const(self.integers, 0)] * (len(begun) if single else 0)
        with f.loop(start, end, self.group * self.unrolled, carry=carried) as k:
            sums = list(k.carried)
            few = [f.const(I16.times(2 * self.lanes), 0)] * len(sums)
            for group in range(self.unrolled):
                at = k.index + group * self.group
                line = f.element(words, at // self.group * size, I8)
                lines = [f.element(line, j * 4 * self.lanes, I8) for j in strip.vectors]
                if single:
                    for each in lines:
                        f.prefetch(f.element(each, AHEAD, I8))
                levels = [self._levels(f.load(each, self.integers)) for each in lines]
                for number, fours in enumerate(zip(*levels, strict=True)):
                    second = single and (group * len(levels[0]) + number) % 2
                    of_row = len(begun) if second else 0
                    for i, row in enumerate(strip.rows):
                        to = f.element(self.bytes, row * self.depth + at + number * 4, I8)
                        x = f.splat(f.load(to, I32, align=4), self.lanes)
                        for s, w in enumerate(fours, of_row + i * len(strip.vectors)):
                            if self.signs.short:
                                few[s] = dot4_short(f, few[s], w, x)
                            else:
                                sums[s] = dot4(f, sums[s], w, x, self.signs)
            if self.signs.short:
                sums = [widened(f, *pair) for pair in zip(sums, few, strict=True)]
            k.carry(*sums)
        found = k.carried
        if single:
            return [a + b for a, b in zip(found[: len(begun)], found[len(begun) :], strict=True)]
        return found

    def _levels(self, word: Value) -> Sequence[Value]:
        """The levels in words as bytes: of four bits those of even indices, and of odd ones."""
        if self.problem.bits == 8:
            return [word ^ FLIP if self.turned else word]
        if self.turned:
            word = word ^ SIGNS
        return [word & 0x0F0F0F0F, (word >> 4) & 0x0F0F0F0F]

    # Scales and zero points.

    def _scales(self, strip: _Strip, block: Value) -> list[Value]:
        """The scales of columns, for some vectors."""
        f, scale = self.f, self.problem.right.scale
        if scale.operand is None:
            return [f.const(self.vector, scale.number)] * len(strip.vectors)
        if not scale.by_column:
            shared = f.splat(scale.shared(self.frame, block, F32), self.lanes)
            return [shared] * len(strip.vectors)
        memory, first = memory_of(scale.dtype), self.frame.operands[scale.operand]
        start = f.element(first, scale.panel(strip.panel, block) * self.width, memory)
        places = [f.element(start, j * self.lanes, memory) for j in strip.vectors]
        loaded = [f.load(p, memory.times(self.lanes)) for p in places]
        return [f.cast(elements.loaded(f, v, scale.dtype), F32) for v in loaded]

    def _zeros(self, strip: _Strip, block: Value) -> list[Value]:
        """The zero points of columns in i32, for some vectors, biased as levels are."""
        f, zero, lanes = self.f, self.problem.right.zero, self.lanes
        assert zero.operand is not None
        if not zero.by_column:
            shared = f.splat(zero.shared(self.frame, block, I32) + self.base, lanes)
            return [shared] * len(strip.vectors)
        first = self.frame.operands[zero.operand]
        if zero.dtype.is_packed:
            start = f.element(first, zero.panel(strip.panel, block) * (self.width // 2), I8)
            places = [f.element(start, j * lanes // 2, I8) for j in strip.vectors]
            return [self._unpacked(f.load(p, I8.times(lanes // 2))) for p in places]
        signed = zero.dtype.kind == "int"
        start = f.element(first, zero.panel(strip.panel, block) * self.width, I8)
        vectors = [f.load(f.element(start, j * lanes, I8), I8.times(lanes)) for j in strip.vectors]
        return [f.cast(v, I32, signed=signed) + self.base for v in vectors]

    def _unpacked(self, pairs: Value) -> Value:
        """Zero points, two to a byte, as i32."""
        f = self.f
        if self.problem.right.signed:
            pairs = pairs ^ -0x78
        order = [n for k in range(pairs.type.lanes) for n in (k, pairs.type.lanes + k)]
        return f.cast(f.shuffle(pairs & 15, pairs >> 4, order), I32, signed=False)
