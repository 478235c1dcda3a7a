"""Kernels of products with constant weights of four or eight bits, exactly in f32: groups in which
a ``dot`` reads what is dequantised.

If rows are rounded to bytes, ``weight_only_bytes.py`` writes them.

Weights are read in panels: for each index of the depth one vector of 32-bit words, each with eight
adjacent columns in four bits, or four in eight. If a shorter vector holds all columns, it is used,
so that a narrow matrix stays small. **Why it is fast.** A level becomes a float without a
conversion: its bits, masked where they are in the word and combined with the exponent of 2**(23 -
position), *are* the float 2**(23 - position) + level, so one bitwise operation makes it and one
subtraction removes both the power and the zero point, exactly. With the multiply-add that is three
instructions for a vector of weights, on three kinds of unit. As many sums as a word has levels hide
the latency of the units, and only the levels and the scales are read from memory, in memory order.

With eight levels to a word, the k-th sum has every eighth column from the k-th on. Scales are
permuted into that order once for each block, by shuffles, and sums out of it once, when they are
complete.

A few rows are multiplied as weights are unpacked, and each block's sum is scaled once. Sums take
half of the registers: if there are more in a strip, it takes some of a word's levels after the
others. If the constants do not fit beside them, levels are shifted to fewer positions, whose
constants they share. For more rows than a few such strips (the more registers, the nearer are these
to a tile), a slab of the panel is unpacked and scaled into scratch, and the tiles of ``tile.py``
run over it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from migx.dim import bounds
from migx.ir import Instruction
from migx.shape import F16, DType
from migx.shape import F32 as FLOAT
from migx.targets.cpu.emit import F32, I8, I32, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, memory_of
from migx.targets.cpu.kernels import weight_only_bytes
from migx.targets.cpu.kernels.weight_only_forms import WORD, Problem, described
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.epilogue import Destination, Epilogue, writable
from migx.targets.cpu.parts.matrix import Matrix
from migx.targets.cpu.parts.tile import Tile, accumulate, cut, staged, strips
from migx.targets.cpu.parts.transpose import deinterleaved, interleaved
from migx.targets.cpu.parts.weight_parameters import Parameter

SLAB = 256
"""About how much of the depth is unpacked at a time: it stays in the L2 cache."""
WORKING = 5
"""The registers for a word, its levels as they are unpacked, and the number they multiply."""
ROWS = 96
"""About how many rows use a slab, enough to amortise unpacking it."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a group whose product reads constant weights of four or eight bits."""
    if machine.lanes(F32) < 4:
        return None

    def widths(bits: int, rounded: bool) -> list[int]:
        if rounded:
            return weight_only_bytes.widths(machine)
        return [WORD // bits * lanes for lanes in (4, 8, 16) if lanes <= machine.lanes(F32)]

    problem = described(at, widths)
    if problem is None or not writable(problem.epilogue, machine):
        return None
    types = (problem.left.dtype, problem.right.scale.dtype, problem.right.zero.dtype)
    if F16 in types and not machine.halves:
        return None
    writer = weight_only_bytes.Writer if problem.rounded else _Writer
    return writer(at, machine, problem).kernel()


class _Position(NamedTuple):
    """Where in a shifted word a level is: its bits, the exponent that makes a float of them by an
    exclusive or, and the power of two that this float has too much.
    """

    mask: Value
    exponent: Value
    power: Value


class _Writer(KernelWriter):
    """Writes the kernel of one problem."""

    def __init__(self, at: Instruction, machine: Machine, problem: Problem) -> None:
        super().__init__(at, machine)
        self.problem = problem
        self.levels = WORD // problem.bits
        self.width, lanes = problem.width, problem.width // self.levels
        self.base = float(2 ** (problem.bits - 1)) if problem.right.signed else 0.0
        self.lanes, self.vector = lanes, F32.times(lanes)
        vectors = 4 if machine.registers >= 32 else 2
        height, block = problem.heights((machine.registers - vectors - 1) // vectors, ROWS)
        self.most_sums = machine.registers // 2
        together = max(2, self.most_sums // self.levels)
        self.few = machine.registers // 8 * together
        self.together, least = problem.heights(together, self.few)
        block = max(block, least)  # the last strip may have sums of more rows than there are
        self.tile = Tile(height, vectors, lanes, block, self._slab(), F32)
        self.epilogue = Epilogue(self.frame, problem.epilogue, F32, lanes, problem.left.rows)

    def _slab(self) -> int:
        """How much of the depth is unpacked at a time: whole blocks, or a part of one."""
        block, depth = self.problem.right.block, self.problem.depth
        if block >= depth or block % SLAB == 0:
            return min(depth, SLAB)
        return min(depth, max(1, SLAB // block) * block)

    def kernel(self) -> Kernel:
        f, frame, problem, tile = self.f, self.frame, self.problem, self.tile
        rows, columns = frame.extent(problem.left.rows), problem.right.columns
        panels = -(-columns // self.width)
        blocks = (problem.left.rows + tile.block - 1) // tile.block
        self._divide_scratch()
        with f.loop(frame.begin, frame.end) as cell:
            many = frame.extent(blocks)
            top, panel = cell.index % many * tile.block, cell.index // many
            count = f.minimum(rows - top, tile.block)
            least, most = bounds(problem.left.rows)
            if least <= self.few:
                with f.when(rows <= self.few):
                    self._few_rows(panel, count)
            if most > self.few:
                with f.when(rows > self.few):
                    self._many_rows(panel, top, count)
            self._write(panel, top, count)
        return frame.finished(
            f"int{problem.bits} product",
            blocks * panels,
            flops=2 * problem.left.rows * columns * problem.depth + problem.epilogue.flops,
            formats=problem.formats,
        )

    def _divide_scratch(self) -> None:
        """Takes the sums, grouped by part of the panel, the slab, and widened rows."""
        tile = self.tile
        self.part = tile.block * tile.columns
        left, take = self.problem.left, self.frame.take
        many, widens = bounds(left.rows)[1] > self.few, left.dtype is not FLOAT
        self.sums = take(tile.block * self.width, F32)
        self.slab = take(tile.depth * self.width * many, F32)
        self.staged = take(tile.block * tile.depth * widens, F32)

    def _place(self, vector: int, row: Value | int) -> Value:
        """The address of a vector of a row's sums, of as many as a word has levels."""
        tile = self.tile
        part, rest = divmod(vector, tile.vectors)
        start = self.f.as_index(part * self.part + rest * tile.lanes)
        return self.f.element(self.sums, start + self.f.as_index(row) * tile.columns, F32)

    # A few rows.

    def _few_rows(self, panel: Value, count: Value) -> None:
        f = self.f
        lines = self._lines(f.as_index(0), f.as_index(0))
        for top, numbers in cut(count, strips(self.together, self.levels)):
            rows = [lines.moved(row, 0) for row in numbers]
            several = min(self.levels, self.most_sums // len(rows))
            for first in range(0, self.levels, several):
                self._strip(panel, top, rows, range(self.levels)[first : first + several])

    def _strip(self, panel: Value, top: Value, rows: Sequence[Matrix], levels: range) -> None:
        """The sums of some rows, from ``top`` on, for some levels of each word."""
        f, problem, some = self.f, self.problem, slice(levels.start, levels.stop)
        zeros = [f.const(self.vector, 0)] * (len(levels) * len(rows))

        def add(k: Value, weights: list[Value], sums: list[Value]) -> list[Value]:
            read = [f.load(row.at(0, k), memory_of(row.dtype)) for row in rows]
            ones = [f.splat(elements.loaded(f, x, problem.left.dtype), self.lanes) for x in read]
            pairs = [(w, one) for one in ones for w in weights[some]]
            return [f.muladd(*pair, s) for pair, s in zip(pairs, sums, strict=True)]

        first, last = f.as_index(0), f.as_index(-(-problem.depth // problem.right.block))
        with f.loop(first, last, carry=zeros) as block:
            scales = self._parameters(problem.right.scale, panel, block.index)[some]
            start = block.index * problem.right.block
            sums = self._unpacked(panel, block.index, start, self._end(start), zeros, add)
            totals = zip(sums, scales * len(rows), block.carried, strict=True)
            block.carry(*(f.muladd(s, by, t) for s, by, t in totals))
        for number, total in enumerate(block.carried):
            row, vector = divmod(number, len(levels))
            f.store(total, self._place(levels[vector], top + row))

    def _end(self, start: Value) -> Value:
        """The end of the block of the depth that begins here."""
        problem = self.problem
        end = start + problem.right.block
        whole = problem.depth % problem.right.block == 0
        return end if whole else self.f.minimum(end, problem.depth)

    # More rows.

    def _many_rows(self, panel: Value, top: Value, count: Value) -> None:
        f, problem, tile = self.f, self.problem, self.tile
        with f.loop(0, count) as row:
            for vector in range(self.levels):
                f.store(f.const(self.vector, 0), self._place(vector, row.index))
        with f.loop(0, problem.depth, tile.depth) as k:
            whole = problem.depth % tile.depth == 0
            deep = f.as_index(tile.depth)
            deep = deep if whole else f.minimum(problem.depth - k.index, tile.depth)
            self._unpack(panel, k.index, k.index + deep)
            left = self._left(self._lines(top, k.index), count, deep)
            for part in range(self.levels // tile.vectors):
                first = f.element(self.slab, part * tile.columns, F32)
                sums = f.element(self.sums, part * self.part, F32)
                right = Matrix.dense(first, self.width, FLOAT)
                heights = tile.strips(problem.left.rows)
                accumulate(tile, sums, left, right, count, deep, heights, fresh=False)

    def _unpack(self, panel: Value, begin: Value, end: Value) -> None:
        """Unpacks and scales a range of the depth of a panel into the slab."""
        f, problem = self.f, self.problem
        step = min(problem.right.block, self.tile.depth)
        with f.loop(begin, end, step) as start:
            number = start.index // problem.right.block
            scales = self._parameters(problem.right.scale, panel, number)

            def keep(k: Value, weights: list[Value], sums: list[Value]) -> list[Value]:
                line = f.element(self.slab, (k - begin) * self.width, F32)
                for t, (weight, scale) in enumerate(zip(weights, scales, strict=True)):
                    f.store(weight * scale, f.element(line, t * self.lanes, F32))
                return sums

            rest = f.minimum(start.index + step, end)
            self._unpacked(panel, number, start.index, rest, [], keep)

    def _lines(self, top: Value, k: Value) -> Matrix:
        """The rows on the left, from one on."""
        problem = self.problem
        whole = Matrix.of(self.frame, problem.left.operand, problem.left.steps, problem.left.dtype)
        return whole.moved(top, k)

    def _left(self, lines: Matrix, rows: Value, depth: Value) -> Matrix:
        """The rows in place, or as f32 in scratch."""
        if lines.dtype is FLOAT:
            return lines
        return staged(self.tile, lines, rows, depth, self.staged)

    # Levels, scales and zero points.

    def _unpacked(
        self,
        panel: Value,
        block: Value,
        begin: Value,
        end: Value,
        carry: list[Value],
        use: Callable[[Value, list[Value], list[Value]], list[Value]],
    ) -> list[Value]:
        """Loops over indices of the depth that share a scale; ``use`` gets each, its weights less
        the zero points, and the carried values, and gives the next carried values.
        """
        f, problem, lanes = self.f, self.problem, self.lanes
        real = problem.right.zero.dtype.is_float
        zeros = self._parameters(
            problem.right.zero, panel, block, problem.right.signed and not real
        )
        # A whole zero point is combined with the power; a fractional one would be rounded there.
        positions = self._positions(max(len(carry), self.levels), problem.right.signed)
        # Other loops need the registers.
        positions = [_Position(*map(f.reread, position)) for position in positions]
        powers = self._powers(positions)
        offsets = [p + (self.base if real else z) for p, z in zip(powers, zeros, strict=True)]
        start = panel * (problem.right.form.stored * self.width * problem.bits // 8)
        words = f.element(self.frame.operands[problem.weight], start, I8)
        with f.loop(begin, end, carry=carry) as k:
            place = f.element(words, k.index * lanes, I32)
            f.prefetch(f.element(place, weight_only_bytes.AHEAD, I8))
            word = f.load(place, I32.times(lanes))
            weights = self._levels(word, offsets, positions)
            if real:
                weights = [w - z for w, z in zip(weights, zeros, strict=True)]
            k.carry(*use(k.index, weights, k.carried))
        return k.carried

    def _positions(self, live: int, signed: bool) -> list[_Position]:
        """The positions that levels are shifted to, half of them at most, if so many registers have
        values: with more there are fewer shifts, but more constants. The sign of ``signed`` levels
        is inverted with the exponent, so that they start from 0.
        """
        f, bits, whole = self.f, self.problem.bits, I32.times(self.lanes)
        count, room = self.levels // 2, self.frame.machine.registers - WORKING - live
        while count > 1 and count * len(_Position._fields) > room:
            count //= 2
        made = []
        for place in range(0, count * bits, bits):
            mask, exponent = (1 << bits) - 1 << place, (127 + 23 - place) << 23
            exponent |= 1 << place + bits - 1 if signed else 0
            power = f.const(self.vector, float(2 ** (23 - place)))
            made.append(_Position(f.const(whole, mask), f.const(whole, exponent), power))
        return made

    def _powers(self, positions: Sequence[_Position]) -> list[Value]:
        """The powers of two in the floats made of the levels of a word."""
        return [positions[k % len(positions)].power for k in range(self.levels)]

    def _levels(
        self, word: Value, offsets: Sequence[Value], positions: Sequence[_Position]
    ) -> list[Value]:
        """The levels in words as floats, each less its offset."""
        f, made, bits, each = self.f, [], self.problem.bits, len(positions)
        shifts = range(0, WORD, bits * each)
        shifted = [word >> shift if shift else word for shift in shifts]
        for k in range(self.levels):
            mask, exponent, _ = positions[k % each]
            level = shifted[k // each] & mask
            made.append(f.bitcast(level ^ exponent, self.vector) - offsets[k])
        return made

    def _parameters(
        self, parameter: Parameter, panel: Value, block: Value, signed: bool = False
    ) -> list[Value]:
        """Scales or zero points for the vectors of a panel, in the order of levels; ``signed``
        levels, and their zero points, are biased to start from 0.
        """
        f, lanes = self.f, self.lanes
        base = self.base if signed else 0.0
        if parameter.operand is None:
            return [f.const(self.vector, parameter.number + base)] * self.levels
        if not parameter.by_column:
            one = f.splat(parameter.shared(self.frame, block, F32), lanes)
            return [one + base if base else one] * self.levels
        place = parameter.panel(panel, block)
        first = self.frame.operands[parameter.operand]
        if parameter.dtype.is_packed:
            word = f.load(f.element(first, place * lanes, I32), I32.times(lanes))
            positions = self._positions(self.levels, signed)
            return self._levels(word, self._powers(positions), positions)
        memory = memory_of(parameter.dtype)
        start = f.element(first, place * self.width, memory)
        wide = memory.times(lanes)
        places = (f.element(start, i * lanes, memory) for i in range(self.levels))
        vectors = [self._number(f.load(place, wide), parameter.dtype) for place in places]
        found = deinterleaved(f, vectors)
        return [v + base for v in found] if base else found

    def _number(self, value: Value, dtype: DType) -> Value:
        """A value read from memory, as f32."""
        return self.f.cast(elements.loaded(self.f, value, dtype), F32, signed=dtype.kind == "int")

    # Results.

    def _write(self, panel: Value, top: Value, count: Value) -> None:
        """Permutes sums into the order of columns, and writes the results."""
        f, tile = self.f, self.tile
        with f.loop(0, count) as row:
            places = [self._place(k, row.index) for k in range(self.levels)]
            vectors = interleaved(f, [f.load(place, self.vector) for place in places])
            for place, vector in zip(places, vectors, strict=True):
                f.store(vector, place)
        whole = self.problem.right.columns % tile.lanes == 0
        for part in range(self.levels // tile.vectors):
            column = panel * self.width + part * tile.columns
            there = f.minimum(self.problem.right.columns - column, tile.columns)
            sums = f.element(self.sums, part * self.part, F32)
            with f.when(there > 0):
                to = Destination(f.as_index(0), top, column, count)
                self.epilogue.write_lines(to, sums, tile.columns, there, whole=whole)
