"""Sums along a depth that is cut into parts (split-K), for products with fewer tiles than the
device has units.

Such a kernel takes two turns. In the first each program sums its part of the depth and stores the
sums in scratch; in the second as many programs as divide the tile add up the sums of all parts, in
order, each for its own piece of the tile. So no program waits for another within a launch, and bits
do not depend on who is done first.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from migx.dim import Extent
from migx.shape import DType, Shape
from migx.targets.gpu.cost_model import Tile
from migx.targets.gpu.emit.expressions import Expr, expr
from migx.targets.gpu.emit.text import Kernel, Writer
from migx.targets.gpu.tiles import tiles

PIECE = 4
"""The fewest sums that a program adds up in the second turn."""
Corner = tuple[Expr, Expr]
"""The row and the column at which a tile begins."""


class Product(Protocol):
    """A computation that adds up products along a depth, for a tile of results."""

    def places(self, corner: Corner, tile: tuple[int, int]) -> tuple[Expr, Expr]:
        """The rows and the columns of a tile; sets their masks."""
        ...

    def sums(self, row: Expr, corner: Corner) -> Expr:
        """The sums of a tile along the part of the depth that ``Parts.loop`` covers."""
        ...

    def finish(self, total: Expr, row: Expr, column: Expr) -> None:
        """Writes the results for sums along all of the depth."""
        ...


class Parts:
    """The parts that a tile's depth is cut into, for a product of these items, rows and columns,
    with sums of type ``dtype``. ``cell`` is the number of a program among those of the same part;
    each item has ``cells`` of them. ``piece`` is the share of a tile that a program writes.
    """

    def __init__(
        self,
        writer: Writer,
        tile: Tile,
        depth: Extent,
        dims: tuple[Extent, Extent, Extent],
        dtype: DType,
    ) -> None:
        self.writer, self.tile, self.depth = writer, tile, depth
        self._count, self._dims, self._dtype = tile.parts, dims, dtype
        items, rows, columns = dims
        self._down = tiles(rows, tile.rows)
        self.cells = self._down * tiles(columns, tile.columns)
        self._grid = self.cells * items
        most = max(1, tile.rows * tile.columns // PIECE)
        self._pieces = min(1 << (self._count.bit_length() - 1), most)
        down = min(self._pieces, tile.rows)
        self._across = self._pieces // down
        self.piece = tile.rows // down, tile.columns // self._across
        self.cell, self._number = writer.program, expr(0)
        if self._count > 1:
            many = writer.extent(self._grid)
            self.cell = writer.let(writer.program % many)
            self._number = writer.let(writer.program // many)

    def loop(self, *, one_by_one: bool = False) -> AbstractContextManager[Expr]:
        """A loop along this program's part, a step of the tile at a time; or one by one, unrolled
        by a step.
        """
        w, depth, size = self.writer, self.depth, self.tile.depth
        step, ahead = (1, size) if one_by_one else (size, 1)
        if self._count == 1 or not isinstance(depth, int):
            return w.loop(depth, step, ahead=ahead)
        begin, end = w.share(depth, size, self._number, self._count)
        return w.loop(end, step, begin, ahead=ahead)

    def write(self, product: Product, item: Expr, cell: Expr) -> None:
        """Writes one of the cells of an item: at once or in two turns, first partial sums and then
        totals.
        """
        w, tile, down = self.writer, self.tile, self.writer.extent(self._down)
        corner = w.let(cell % down * tile.rows), w.let(cell // down * tile.columns)
        whole = tile.rows, tile.columns
        if self._count == 1:
            row, column = product.places(corner, whole)
            product.finish(product.sums(row, corner), row, column)
            return
        with w.block("if turn == 0:"):
            row, column = product.places(corner, whole)
            self._keep(product.sums(row, corner), item, row, column)
        all_have = self._pieces == self._count
        with w.block("else:" if all_have else f"elif {self._number.text} < {self._pieces}:"):
            row, column = product.places(self._corner(corner), self.piece)
            product.finish(self._total(item, row, column), row, column)

    def finished(self, name: str, flops: Extent) -> Kernel:
        """The kernel, once its text is written."""
        tile, turns = self.tile, 2 if self._count > 1 else 0
        grid, warps = self._grid * self._count, tile.warps
        return self.writer.finished(
            name, grid, warps=warps, stages=tile.stages, flops=flops, turns=turns
        )

    def _corner(self, of_tile: Corner) -> Corner:
        """The corner of this program's piece of a tile."""
        w, (row, column), (height, width) = self.writer, of_tile, self.piece
        down, across = self._number // self._across, self._number % self._across
        return w.let(row + w.let(down * height)), w.let(column + w.let(across * width))

    def _keep(self, total: Expr, *place: Expr) -> None:
        """Stores the sums of a part, for an item, row and column."""
        w, scratch, whole = self.writer, self._scratch(), (self.tile.rows, self.tile.columns)
        w.store(scratch, w.spread(self._offset(self._number, place), whole), total, self._dtype)

    def _total(self, *place: Expr) -> Expr:
        """The sums of all parts, for an item, row and column."""
        w, scratch = self.writer, self._scratch()
        found = w.load(scratch, self._offset(expr(0), place), self._dtype)
        for number in range(1, self._count):
            part = w.load(scratch, self._offset(expr(number), place), self._dtype)
            found = w.let(found + part)
        return found

    def _scratch(self) -> int:
        """The operand of scratch that has the sums."""
        return self.writer.operand_of_scratch(Shape(self._dtype, (self._count, *self._dims)))

    def _offset(self, part: Expr, place: tuple[Expr, ...]) -> Expr:
        w, offset = self.writer, part
        for index, extent in zip(place, self._dims, strict=True):
            offset = w.let(w.let(offset * w.extent(extent)) + index)
        return offset
