"""What kernels of products and of convolutions share: each program has a tile of sums of products
along a depth, which goes through the epilogue and becomes the result.
"""

from __future__ import annotations

from collections.abc import Sequence

from migx.dim import Extent, product
from migx.fusion.kernels import PRODUCT, Access, FusedKernel, epilogue, name_of, row_and_column_axes
from migx.ir import Instruction
from migx.targets.gpu.cost_model import Tile
from migx.targets.gpu.emit.expressions import BOTH, Expr, Part, expr
from migx.targets.gpu.emit.text import Kernel, Writer
from migx.targets.gpu.emit.types import COMPUTING, storable, summed
from migx.targets.gpu.kernels.fused import computable, evaluated
from migx.targets.gpu.parts.reader import Reader
from migx.targets.gpu.parts.split_k import Corner, Parts, Product


class Tiled(Product):
    """Writes the kernel of an instruction that multiplies, ``inner``, with the ``rest`` of its
    group as epilogue. Each item has ``rows`` by ``columns`` sums, along a ``depth``.
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
        w = self.writer
        self.parts = Parts(
            w, self.tile, self.depth, (self.items, self.rows, self.columns), self.dtype
        )
        cell, number = self.parts.cell, expr(0)
        if self.items != 1:
            cells = w.extent(self.parts.cells)
            cell, number = w.let(cell % cells), w.let(cell // cells)
        self.begin(number)
        self.parts.write(self, number, cell)
        flops = 2 * product(self.inner.shape.dims) * self.depth + self.rest.flops
        return self.parts.finished(name_of(self.at), flops)

    def begin(self, number: Expr) -> None:
        """Sets the item of a program's tile."""
        self.item = number

    def places(self, corner: Corner, tile: tuple[int, int]) -> tuple[Expr, Expr]:
        w, (down, across), (height, width) = self.writer, corner, tile
        row, column = self.numbers(down, height), w.numbers(1, 2, width, across)
        w.masks = {
            0: w.there(row, self.rows, self.tile.rows),
            1: w.there(column, self.columns, self.tile.columns),
        }
        return row, column

    def numbers(self, begin: Expr, height: int) -> Expr:
        """The rows of a tile."""
        return self.writer.numbers(0, 2, height, begin)

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
        """Writes the results of a tile of sums, with rows counted over all items."""
        w, rest, tile = self.writer, self.rest, self.parts.piece
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
        evaluated(w, rest.nodes, range(len(rest.nodes)), found, place)
        for number, access in rest.outputs:
            value, where = (w.spread(e, tile) for e in (found[number], place[access]))
            w.store(access.operand, where, value, access.dtype)
