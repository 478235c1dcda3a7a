"""Kernels of products of bytes, with their epilogues.

They are those of ``gemm.py`` with the depth in groups of four bytes: an element of a row is four
bytes, and one instruction multiplies them by four of each column (``dot4.py``). Rows are read in
place if their stride and length are multiples of four and their bytes need no change; otherwise
they are copied to scratch first, filled up with zeros.

**Why it is fast.** As there, a tile of sums stays in registers; each instruction does four times
the arithmetic, and panels, packed four deep, take a quarter of the memory. Requantised results are
stored as bytes.
"""

from __future__ import annotations

from dataclasses import replace

from migx.dim import Extent
from migx.fusion.kernels import DOTS, core_of
from migx.ir import Instruction
from migx.ops.linear import QuantDot
from migx.shape import I32 as WORD
from migx.shape import DType
from migx.targets.cpu.emit import I8, I32, Function, Value
from migx.targets.cpu.emit.dot4 import BYTES, FLIP, ONES, Signs, dot4
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.kernels.gemm import Problem, Writer, described
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts.matrix import Matrix
from migx.targets.cpu.parts.tile import Tile


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a product of bytes, alone or in a group."""
    dot = core_of(at, DOTS)
    if dot is None or type(dot.op) is not QuantDot or machine.lanes(I32) < BYTES:
        return None
    problem = described(at)
    if problem is None or problem.right is None or not isinstance(problem.depth, int):
        return None
    if problem.left_steps[1] != 1 or not problem.depth or not problem.writable(machine):
        return None
    return _Writer(at, machine, problem).kernel()


class _Writer(Writer):
    """Writes the kernel of a product of bytes, with the depth in groups of four."""

    def __init__(self, at: Instruction, machine: Machine, problem: Problem) -> None:
        x, w = problem.types
        lanes = machine.lanes(I32)
        self.signs = Signs.chosen(machine, lanes, x=x.kind == "int", w=w.kind == "int")
        assert isinstance(problem.depth, int)
        self.bytes, self.stored, row = problem.depth, w, problem.left_steps[0]
        whole = isinstance(row, int) and row % BYTES == self.bytes % BYTES == 0
        self.direct, self.before = whole and not self.signs.flip, int(self.signs.flip)
        fours = -(-self.bytes // BYTES)
        made = replace(problem, depth=fours, types=(x, WORD), left_steps=(row, BYTES))
        super().__init__(at, machine, made)
        self.widens = not self.direct

    def kernel(self) -> Kernel:
        problem, made = self.problem, super().kernel()
        flops = 2 * self.items * problem.rows * problem.columns * self.bytes
        return replace(made, name=f"byte {made.name}", flops=flops + problem.epilogue.flops)

    def _tile(self, tile: Tile) -> Tile:
        """A tile of all the depth at once, if its end must be filled up."""
        return replace(tile, depth=-(-self.bytes // BYTES)) if self.bytes % BYTES else tile

    def _format(self) -> str | None:
        """The weight format of a literal: panels of columns, four deep."""
        if self.problem.literal is None:
            return None
        lead, depth, column = self.problem.literal
        panel = f"{self.tile.columns}{column}{BYTES}{depth}"
        return f"{lead}{column.upper()}{depth.upper()}{panel}"

    def _packed_step(self, step: Extent) -> Extent:
        """The stride between packed matrices, given that between the originals."""
        problem, width = self.problem, self.tile.columns
        panels = (problem.columns + width - 1) // width
        return step // (self.bytes * problem.columns) * panels * problem.depth * width

    def _divide_scratch(self) -> None:
        """Writes ones before the rows, if upper bits are inverted: their products are the sums of
        columns.
        """
        super()._divide_scratch()
        f = self.f
        with f.loop(0, self.before * self.tile.depth) as k:
            f.store(f.const(I32, ONES), f.element(self.staged, k.index, I32))

    def _left(self, lines: Matrix, rows: Value, depth: Value) -> Matrix:
        """The rows in groups of four bytes, in place or copied to scratch."""
        f, tile = self.f, self.tile
        if self.direct:
            return Matrix.dense(lines.first, lines.row // BYTES, WORD)
        made = Matrix.dense(self.staged, tile.depth, WORD)
        given, whole = replace(lines, column=f.as_index(1)), tile.lanes * BYTES
        count = f.as_index(self.bytes) if self.bytes % BYTES else depth * BYTES
        with f.loop(0, rows) as row:
            for k, mask in f.under_masks(count, whole):
                read = f.load(given.at(row.index, k), I8.times(whole), mask=mask)
                words = f.bitcast(read, tile.vector)
                words = words ^ FLIP if self.signs.flip else words
                there = None if mask is None else f.first_lanes(depth - k // BYTES, tile.lanes)
                f.store(words, made.at(row.index + self.before, k // BYTES), mask=there)
        return made

    @property
    def _right_type(self) -> DType:
        """A right operand that is not packed yet is read as bytes."""
        return super()._right_type if self.format is not None else self.stored

    def _may_be_direct(self) -> bool:
        """Never: an operand that is not packed has no groups of four bytes along columns."""
        return False

    def _pack(self, given: Matrix, made: Matrix, columns: Value) -> None:
        """Gathers four bytes of each column; those beyond the depth are multiplied by zeros."""
        f, tile = self.f, self.tile
        down, along = self.problem.right_steps
        if down == 1 and isinstance(along, int) and self.bytes % BYTES == along % BYTES == 0:
            step, one = f.as_index(along // BYTES), f.as_index(1)
            super()._pack(Matrix(given.first, one, step, WORD), made, columns)
            return
        with f.loop(0, self.depth) as k, f.loop(0, tile.columns, tile.lanes) as j:
            mask, word = f.first_lanes(columns - j.index, tile.lanes), f.const(tile.vector, 0)
            for place in range(BYTES):
                row = f.minimum(k.index * BYTES + place, self.bytes - 1)
                read = f.cast(given.vector(row, j.index, tile.lanes, mask), I32, signed=False)
                word = word | (read << 8 * place)
            f.store(word, made.at(k.index, j.index))

    def _multiply(self, f: Function, one: Value, vector: Value, total: Value) -> Value:
        """A total plus the products of four bytes of a row, broadcast, and four of each column."""
        return dot4(f, total, one, vector, self.signs)

    def _complete(self, rows: Value) -> None:
        """Subtracts what inverted upper bits of rows have added."""
        if not self.signs.flip:
            return
        f, tile = self.f, self.tile
        places = range(0, tile.columns, tile.lanes)
        sums = (f.load(f.element(self.all_sums, j, I32), tile.vector) for j in places)
        surplus = [total * self.signs.surplus for total in sums]
        with f.loop(0, rows) as row:
            for j, more in zip(places, surplus, strict=True):
                at = f.element(self.sums, row.index * tile.columns + j, I32)
                f.store(f.load(at, tile.vector) - more, at)
