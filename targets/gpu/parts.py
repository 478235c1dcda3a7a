"""Sums along a depth that is cut into parts, for products with fewer tiles than the device has
units.

Such a kernel takes two turns. In the first each program adds up its part of the depth and leaves
the sums in scratch; in the second as many of them as divide the tile add up the sums of all parts,
in their order, each for a piece of the tile that is its own. So nobody waits for another within a
launch, and bits do not depend on who is done first.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from migx.dim import Extent
from migx.shape import F32, F64, I32, I64, DType, Shape
from migx.targets.gpu.text import Expr, Writer
from migx.targets.gpu.tiles import Tile

SUMS: dict[str, DType] = {"tl.float32": F32, "tl.float64": F64, "tl.int32": I32, "tl.int64": I64}
"""What sums are kept in, by what they are computed in."""


class Parts:
    """The parts that a tile's depth is cut into, of a product of so many items, rows and columns.
    ``number`` is the part of this program, and ``cell`` its number among those of the same part.
    """

    def __init__(
        self, writer: Writer, tile: Tile, depth: Extent, cells: Extent, dims: tuple[Extent, ...]
    ) -> None:
        self.writer, self.count, self.dims = writer, tile.parts, dims
        self.turns = 2 if self.count > 1 else 0
        self.depth, self.step = depth, tile.depth
        self._pieces = 1 << (self.count.bit_length() - 1)
        down = min(self._pieces, tile.rows)
        self.across = self._pieces // down
        self.piece = tile.rows // down, tile.columns // self.across
        self.cell, self.number = writer.program, Expr("0", number=0)
        if self.count > 1:
            many = writer.extent(cells)
            self.cell = writer.let(writer.program % many)
            self.number = writer.let(writer.program // many)

    def loop(self) -> AbstractContextManager[Expr]:
        """A loop along the part of this program, a step of the tile at a time."""
        w, depth = self.writer, self.depth
        if self.count == 1 or not isinstance(depth, int):
            return w.loop(depth, self.step)
        steps = -(-depth // self.step)
        length = -(-steps // self.count) * self.step
        begin = w.let(self.number * length)
        end = w.let(Expr(f"tl.minimum({(begin + length).text}, {depth})"))
        return w.loop(end, self.step, begin)

    def second(self) -> AbstractContextManager[None]:
        """What follows the block of the first turn: the second, of programs that have a piece."""
        all_have = self._pieces == self.count
        return self.writer.block(
            "else:" if all_have else f"elif {self.number.text} < {self._pieces}:"
        )

    def corner(self, row: Expr, column: Expr) -> tuple[Expr, Expr]:
        """Where the piece of this program begins, of a tile that begins at a row and a column."""
        w, (height, width) = self.writer, self.piece
        down, across = self.number // self.across, self.number % self.across
        return w.let(row + w.let(down * height)), w.let(column + w.let(across * width))

    def keep(self, total: Expr, kind: str, *place: Expr) -> None:
        """Leaves the sums of a part, for a place: item, row and column."""
        scratch = self._scratch(kind)
        self.writer.store(scratch, self._offset(self.number, place), total, SUMS[kind])

    def total(self, kind: str, *place: Expr) -> Expr:
        """The sums of all parts for a place."""
        w, scratch = self.writer, self._scratch(kind)
        found = w.load(scratch, self._offset(Expr("0", number=0), place), SUMS[kind])
        for number in range(1, self.count):
            part = Expr(str(number), number=number)
            found = w.let(found + w.load(scratch, self._offset(part, place), SUMS[kind]))
        return found

    def _scratch(self, kind: str) -> int:
        """The operand that sums are in."""
        shape = Shape(SUMS[kind], (self.count, *self.dims))
        return self.writer.operand_of_scratch(shape)

    def _offset(self, part: Expr, place: tuple[Expr, ...]) -> Expr:
        w, offset = self.writer, part
        for index, extent in zip(place, self.dims, strict=True):
            offset = w.let(w.let(offset * w.extent(extent)) + index)
        return offset
