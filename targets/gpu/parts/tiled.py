"""What kernels of products and of convolutions share: each program has a tile of sums of products
along a depth, which goes through the epilogue and becomes the result.

If there are fewer tiles than the device has units, the depth is cut into parts (split-K), and the
kernel takes two turns. In the first each program sums its part of the depth and stores the sums in
scratch; in the second as many programs as divide the tile add up the sums of all parts, in order,
each for its own piece of the tile. So no program waits for another within a launch, and bits do not
depend on who is done first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager

from migx.dim import Extent, product
from migx.fusion.kernels import PRODUCT, Access, FusedKernel, epilogue, name_of, row_and_column_axes
from migx.ir import Instruction
from migx.shape import BF16, F16, F32, Shape
from migx.targets.gpu.cost_model import Tile
from migx.targets.gpu.emit.expressions import BOTH, Expr, Part, expr
from migx.targets.gpu.emit.text import Kernel, Writer
from migx.targets.gpu.emit.types import COMPUTING, storable, summed
from migx.targets.gpu.parts.nodes import computable, write_all
from migx.targets.gpu.parts.reader import Reader
from migx.targets.gpu.tiles import tiles

PIECE = 4
"""The fewest sums that a program adds up in the second turn."""
Corner = tuple[Expr, Expr]
"""The row and the column at which a tile begins."""


class Tiled(ABC):
    """Writes the kernel of an instruction that multiplies, ``inner``, with the ``rest`` of its
    group as epilogue. Each item has ``rows`` by ``columns`` sums, along a ``depth``. A program
    writes a ``piece`` of a tile, all of it unless the depth is cut into parts; ``part`` is the
    number of its own.
    """

    items: Extent
    rows: Extent
    columns: Extent
    depth: Extent
    tile: Tile

    def __init__(self, at: Instruction, inner: Instruction, rest: FusedKernel) -> None:
        self.at, self.inner, self.rest = at, inner, rest
        self.writer = Writer(at)
        self.reader = Reader(self.writer, at)
        self.dtype = summed(inner.shape.dtype)
        self.kinds = [v.shape.dtype for v in inner.inputs]
        self.fits_units = self.kinds[0] in (F16, BF16, F32) or all(k.bits == 8 for k in self.kinds)

    @classmethod
    def kernel_of(cls, at: Instruction, inner: Instruction, columns: Extent) -> Kernel | None:
        """The kernel of the multiplication in an instruction, whose rows have so many columns; None
        if there is no text for its arithmetic or its operands.
        """
        rest = epilogue(at, inner, columns)
        types = (v.shape.dtype for v in (inner, *inner.inputs))
        if rest is None or not all(map(storable, types)) or not computable(rest.nodes):
            return None
        made = cls(at, inner, rest)
        return made.kernel() if all(map(made.reader.readable, inner.inputs)) else None

    def kernel(self) -> Kernel:
        """The kernel."""
        w, tile = self.writer, self.tile
        down = tiles(self.rows, tile.rows)
        each = down * tiles(self.columns, tile.columns)
        cell, self.part, number = w.program, expr(0), expr(0)
        if tile.parts > 1:
            many = w.extent(each * self.items)
            cell, self.part = w.let(w.program % many), w.let(w.program // many)
        if self.items != 1:
            cells = w.extent(each)
            cell, number = w.let(cell % cells), w.let(cell // cells)
        self.begin(number)
        high = w.extent(down)
        corner = w.let(cell % high * tile.rows), w.let(cell // high * tile.columns)
        self.piece = tile.rows, tile.columns
        if tile.parts == 1:
            row, column = self.places(corner)
            self.finish(self.sums(row, corner), row, column)
        else:
            self._in_turns(corner, number)
        return w.finished(
            name_of(self.at),
            each * self.items * tile.parts,
            warps=tile.warps,
            stages=tile.stages,
            flops=2 * product(self.inner.shape.dims) * self.depth + self.rest.flops,
            turns=2 if tile.parts > 1 else 0,
        )

    # What the kernels differ in.

    def begin(self, number: Expr) -> None:
        """Sets the item of a program's tile."""
        self.item = number

    def places(self, corner: Corner) -> tuple[Expr, Expr]:
        """The rows and the columns of a piece; sets their masks."""
        w, (down, across), (height, width) = self.writer, corner, self.piece
        row, column = self.numbers(down, height), w.numbers(1, 2, width, across)
        w.masks = {
            0: w.there(row, self.rows, self.tile.rows),
            1: w.there(column, self.columns, self.tile.columns),
        }
        return row, column

    def numbers(self, begin: Expr, height: int) -> Expr:
        """The rows of a piece."""
        return self.writer.numbers(0, 2, height, begin)

    @abstractmethod
    def sums(self, row: Expr, corner: Corner) -> Expr:
        """The sums of a tile along the part of the depth that ``loop`` visits."""

    @abstractmethod
    def finish(self, total: Expr, row: Expr, column: Expr) -> None:
        """Writes the results of a piece for sums along all of the depth."""

    # What they are made of.

    def loop(self, *, one_by_one: bool = False) -> AbstractContextManager[Expr]:
        """A loop along this program's part, a step of the tile at a time; or one by one, unrolled
        by a step.
        """
        w, depth, size, many = self.writer, self.depth, self.tile.depth, self.tile.parts
        step, ahead = (1, size) if one_by_one else (size, 1)
        if many == 1 or not isinstance(depth, int):
            return w.loop(depth, step, ahead=ahead)
        begin, end = w.share(depth, size, self.part, many)
        return w.loop(end, step, begin, ahead=ahead)

    def operand(
        self, value: Instruction, parts: Sequence[Part], axis: int, tile: Sequence[int] | None
    ) -> Expr:
        """A tile of an operand, 0 beyond the end of the depth, which is this axis; broadcast to
        ``tile``, if given.
        """
        w, found = self.writer, self.reader.raw(value, parts)
        read_whole = value not in self.reader.operands or axis not in found.over
        if (mask := w.masks.get(axis)) is not None and read_whole:
            found = w.only(mask, found)
        return found if tile is None else w.spread(found, tile)

    def write(self, total: Expr, row: Expr, column: Expr) -> None:
        """Writes the results of a piece of sums, with rows counted over all items."""
        w, rest = self.writer, self.rest
        down, across = row_and_column_axes(rest)
        pairs = ((row, down), (column, across))
        parts = [Part(e, tuple(rest.dims[i] for i in axes)) for e, axes in pairs]
        place: dict[Access, Expr] = {}
        found: dict[int, Expr] = {}
        for number, node in enumerate(rest.nodes):
            if node.reads(PRODUCT):
                text = f"{total.text}.to({COMPUTING[node.dtype.name]})"
                found[number] = w.let(text, BOTH)
        for access in rest.accesses:
            if access.operand != PRODUCT:
                strides = [access.strides[i] for i in (*down, *across)]
                place[access] = w.offset(parts, strides)
        write_all(w, rest, found, place, self.piece)

    # A depth in parts.

    def _in_turns(self, corner: Corner, item: Expr) -> None:
        """Writes a tile of an item in two turns: first partial sums, and then totals."""
        w, tile, sums = self.writer, self.tile, (self.items, self.rows, self.columns)
        with w.block("if turn == 0:"):
            row, column = self.places(corner)
            found = self.sums(row, corner)
            scratch = w.operand_of_scratch(Shape(self.dtype, (tile.parts, *sums)))
            where = w.spread(self._of_part(self.part, item, row, column), self.piece)
            w.store(scratch, where, found, self.dtype)
        pieces = min(1 << (tile.parts.bit_length() - 1), max(1, tile.rows * tile.columns // PIECE))
        down = min(pieces, tile.rows)
        across = pieces // down
        self.piece = height, width = tile.rows // down, tile.columns // across
        few = f"elif {self.part.text} < {pieces}:"
        with w.block("else:" if pieces == tile.parts else few):
            below, beside = self.part // across, self.part % across
            row, column = self.places(
                (
                    w.let(corner[0] + w.let(below * height)),
                    w.let(corner[1] + w.let(beside * width)),
                )
            )
            places = (self._of_part(expr(n), item, row, column) for n in range(tile.parts))
            parts = (w.load(scratch, place, self.dtype) for place in places)
            total = next(parts)
            for part in parts:
                total = w.let(total + part)
            self.finish(total, row, column)

    def _of_part(self, part: Expr, item: Expr, row: Expr, column: Expr) -> Expr:
        """The offset in scratch of the sums of a part."""
        w, offset = self.writer, part
        for index, extent in ((item, self.items), (row, self.rows), (column, self.columns)):
            offset = w.let(w.let(offset * w.extent(extent)) + index)
        return offset
