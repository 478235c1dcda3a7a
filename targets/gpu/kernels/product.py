"""Kernels of matrix products, with their epilogues and the arithmetic on their operands: ``dot``,
``quant_dot``, and groups of one of these with what is around it.

A program has a tile of rows by columns of one product of the batch; if all products share the right
operand, the batch counts as rows. Operands are read element by element through the operations
between them and the inputs (``reader.py``): four-bit weights are unpacked and scaled there, in
registers. Sums are f32 for floats up to 32 bits, and products of f32 keep all bits (``sums.py``),
unless ``fast_math`` rounds the factors to tf32; each sum is accumulated in the order of the depth
by one program, or by a few that take a part of the depth each (``tiled.py``).

Products with few rows are memory-bound: then the tile is multiplied elementwise and summed along
the depth, without matrix units.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from migx.dim import Extent, bounds, product
from migx.fusion.kernels import DOTS, FusedKernel, core_of
from migx.ir import Instruction
from migx.targets.gpu import tiles as choose
from migx.targets.gpu.cost_model import Tile
from migx.targets.gpu.emit.expressions import BOTH, Expr, Part, by_axis, expr
from migx.targets.gpu.emit.text import Kernel
from migx.targets.gpu.emit.types import COMPUTING
from migx.targets.gpu.parts.sums import Sums
from migx.targets.gpu.parts.tiled import Corner, Tiled
from migx.targets.gpu.parts.words import PER, Words, joined, words_of
from migx.targets.gpu.tiles import whole

BLOCKS = (32, 64, 128)
"""The lengths of blocks whose scale can be read once for the whole block."""


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of a product of matrices, alone or in a group."""
    dot = core_of(at, DOTS)
    return None if dot is None else _Writer.kernel_of(at, dot, dot.shape.dims[-1])


class _Writer(Tiled):
    """Writes the kernel of one product."""

    def __init__(self, at: Instruction, dot: Instruction, rest: FusedKernel) -> None:
        super().__init__(at, dot, rest)
        left, right = dot.inputs
        self.lead = dot.shape.dims[:-2]
        self.shared = not self.reader.varies(right, range(len(self.lead)))
        self.rows: Extent = dot.shape.dims[-2] * (product(self.lead) if self.shared else 1)
        self.items: Extent = 1 if self.shared else product(self.lead)
        self.columns, self.depth = dot.shape.dims[-1], left.shape.dims[-1]
        self.kind, kinds = COMPUTING[self.dtype.name], self.kinds
        pairs = self._pairs(right) if self.fits_units else None
        block = self.reader.block_of(right) if pairs else 0
        self.words = self._words(right) if pairs else None
        self.tile = self._tile(4 if pairs else kinds[1].bits, block)
        self.step = self.tile.depth
        self.pairs = pairs
        fits = pairs and block in BLOCKS and whole(self.depth, max(block, self.step))
        self.block = block if fits else 0

    def _tile(self, stored: int, block: int) -> Tile:
        """The tile; elements of the right operand are stored in so many bits."""
        if self.words is not None:
            each, along_depth = self.words.block, self.words.along_depth
            return choose.words(self.columns, self.depth, self.rows, each, along_depth=along_depth)
        if bounds(self.rows)[1] <= choose.FEW:
            return choose.row(self.columns, self.depth, self.items * self.rows, stored)
        fixed = block in BLOCKS and whole(self.depth, block)
        steps = ((block,) if fixed else choose.STEPS) if self.fits_units else (1,)
        sizes = self.rows, self.columns, self.depth, self.items, self.kinds[0].bits
        return choose.product(*sizes, steps, stored=stored)

    def _words(self, right: Instruction) -> Words | None:
        """How the right operand is stored in words, if it is read so."""
        words = words_of(self.reader, right) if bounds(self.rows)[1] <= choose.FEW else None
        fits = words and whole(self.depth, words.block * choose.BLOCKS[0])
        return words if fits and self.inner.shape.dtype.bits <= 32 else None

    def _pairs(self, right: Instruction) -> str | None:
        """The axis, if any, along which pairs of the right operand's elements share a byte."""
        axis = self.reader.pairs_along(right)
        if axis is None or axis < right.shape.rank - 2:
            return None
        return "columns" if axis == right.shape.rank - 1 else "depth"

    def numbers(self, begin: Expr, height: int) -> Expr:
        """The rows of a tile; a single row has no axis in it."""
        return begin if self.tile.rows == 1 else super().numbers(begin, height)

    def sums(self, row: Expr, corner: Corner) -> Expr:
        return (self._row if self.tile.rows == 1 else self._sums)(row, corner[1])

    def finish(self, total: Expr, row: Expr, column: Expr) -> None:
        w = self.writer
        counted = row if self.shared else w.let(self.item * w.extent(self.rows) + row)
        self.write(total, counted, column)

    def _sums(self, row: Expr, across: Expr) -> Expr:
        """The sums of a tile of several rows. Of weights with pairs along the depth, the tile is
        read with the depth last, and then transposed: so the pairs stay in place.
        """
        w, tile = self.writer, [self.tile.rows, self.tile.columns]
        axis = 1 if self.pairs == "depth" else 0
        column = self._numbers(1 - axis, self.tile.columns, across, "columns")
        sums = Sums(w, tile, self.kinds, self.dtype, self.depth, units=self.fits_units)
        with self.loop() as begin:
            x = self._read(0, row, w.numbers(1, 2, self.step, begin), 1)
            y = self._read(1, column, self._numbers(axis, self.step, begin, "depth"), axis)
            sums.add(x, w.let(f"tl.trans({y.text})", BOTH) if axis else y)
        return sums.total()

    def _numbers(self, axis: int, size: int, begin: Expr, along: str, of: int = 2) -> Expr:
        """The indices of a tile of weights along the depth or the columns."""
        return self.writer.numbers(axis, of, size, begin, pairs=self.pairs == along)

    def _read(self, side: int, line: Expr, deep: Expr, axis: int) -> Expr:
        """A tile of an operand, as the matrix units take it, whose depth is this ``axis``."""
        lines = self.tile.columns if side else self.tile.rows
        tile = (lines, self.step) if axis == 1 else (self.step, lines)
        with self._masked(side, line, deep, (1 - axis, axis)):
            parts = self._operand(side, line, deep)
            return self.operand(self.inner.inputs[side], parts, axis, tile)

    def _masked(
        self, side: int, line: Expr, deep: Expr, axes: tuple[int, int]
    ) -> AbstractContextManager[None]:
        """Masks an operand's rows or columns, and its depth, which are these axes of the tile."""
        w, lines = self.writer, (self.rows, self.tile.rows)
        if side == 1:
            lines = self.columns, self.tile.columns
        there = w.there(line, *lines), w.there(deep, self.depth, self.step)
        return w.masked(dict(zip(axes, there, strict=True)))

    def _row(self, row: Expr, across: Expr) -> Expr:
        """The sums of one row: tiles of columns by depth, multiplied and summed along the depth."""
        if self.words is not None:
            return self._row_of_words(self.words, row, across)
        w, width = self.writer, self.tile.columns
        column = self._numbers(0, width, across, "columns", of=3 if self.block else 2)
        blocks = [self.step // self.block, self.block] if self.block else [self.step]
        total = w.variable(f"tl.zeros({[width, *blocks]}, {self.kind})", BOTH)
        with self.loop() as begin:
            deep = self._deep(begin)
            with self._masked(1, column, deep, (0, 1)):
                self._add_row(row, column, deep, total)
        text = f"tl.sum({total.text}, axis=2)" if self.block else total.text
        return w.let(f"tl.reshape(tl.sum({text}, axis=1), [1, {width}])", BOTH)

    def _row_of_words(self, words: Words, row: Expr, across: Expr) -> Expr:
        """The sums of one row, with weights that are read eight at a time."""
        w, left, many = self.writer, self.inner.inputs[0], self.tile.columns
        w.kinds[words.operand] = "u32"
        count = self.step // words.block

        def element(deep: Expr) -> Expr:
            return self.reader.value(left, self._operand(0, row, deep))

        if words.along_depth:
            column = w.numbers(0, 3, many, across)
            total = w.variable(f"tl.zeros([{many}, {count}, 1], tl.float32)", BOTH)
            there = w.there(column, self.columns, many)
            with w.masked({0: there}), self.loop() as at:
                words.sums_along_depth(self.reader, (at, count), column, element, total)
            text = f"tl.sum(tl.sum({total.text}, axis=2), axis=1)"
            return w.let(f"tl.reshape({text}, [1, {many}])", BOTH)
        many = many // PER
        word = w.numbers(0, 2, many, w.let(across // PER))
        totals = [w.variable(f"tl.zeros([{many}, {count}], tl.float32)", BOTH) for _ in range(PER)]
        there = w.there(word, self.columns // PER, many)
        with w.masked({0: there}), self.loop() as at:
            words.sums(self.reader, (at, count), word, element, totals)
        sums = [w.let(f"tl.sum({t.text}, axis=1)", BOTH) for t in totals]
        text = f"tl.reshape({joined(w, sums).text}, [1, {self.tile.columns}])"
        return w.let(text, BOTH)

    def _deep(self, begin: Expr) -> Expr:
        """The indices of a step along the depth; if scales have blocks, as blocks and elements in
        them, so that each scale is read once.
        """
        if not self.block:
            return self._numbers(1, self.step, begin, "depth")
        return self.writer.blocks(begin, self.step, self.block, pairs=self.pairs == "depth")

    def _add_row(self, row: Expr, column: Expr, deep: Expr, total: Expr) -> None:
        """Adds the products of a row's elements with a tile of columns by depth."""
        w, kind, (left, right) = self.writer, self.kind, self.inner.inputs
        x = self.reader.value(left, self._operand(0, row, deep))
        y = self.reader.value(right, self._operand(1, column, deep))
        text = f"{x.text}.to({kind}) * {y.text}.to({kind})"
        if (mask := w.masks.get(1)) is not None:
            text = f"tl.where({mask.text}, {text}, 0)"
        w.line(f"{total.text} += {text}")

    def _operand(self, side: int, line: Expr, deep: Expr) -> list[Part]:
        """The indices of an operand: of the batch, and along its last two axes."""
        dims = self.inner.inputs[side].shape.dims
        if side == 0 and self.shared:
            return [Part(line, dims[:-1]), Part(deep, dims[-1:])]
        lead = [Part(self.item, self.lead)] if self.lead else []
        if self.shared:
            lead = [Part(expr(0), (1,)) for _ in self.lead]
        ends = (line, deep) if side == 0 else (deep, line)
        return [*lead, *by_axis(ends, dims[-2:])]
