"""Kernels of convolutions, with the arithmetic on their result and what makes their operands.

It is a product of matrices that are never made: rows are output channels, columns are pixels of one
item, and the depth counts input channels and the taps of a window. A tile of windows is read where
the image lies, 0 beside it. Where a group has few output channels, as when each channel has a
filter of its own, taps are multiplied one by one instead.
"""

from __future__ import annotations

from migx.dim import product
from migx.fusion.kernels import CONVOLUTIONS, FusedKernel, core_of, epilogue, name_of
from migx.ir import Instruction
from migx.ops._windows import split
from migx.ops.linear import Convolution
from migx.shape import BF16, F16, F32, DType
from migx.targets.gpu import tiles as choose
from migx.targets.gpu.finish import finish
from migx.targets.gpu.kernels.fused import computable
from migx.targets.gpu.parts import Parts
from migx.targets.gpu.reader import Reader
from migx.targets.gpu.text import (
    COMPUTING,
    Expr,
    Kernel,
    Part,
    Writer,
    power_of_two,
    storable,
    tiles,
    whole,
)
from migx.targets.gpu.tiles import Tile

TAGS = ("conv_epilogue", "int4_gemm")
FEW = 8
"""Output channels of a group up to which taps are multiplied one by one."""


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of a convolution, by itself or in a group, whose windows have known sizes."""
    inner = core_of(at, CONVOLUTIONS, TAGS)
    if inner is None or not all(isinstance(d, int) for d in inner.inputs[1].shape.dims):
        return None
    if not all(map(storable, (inner.shape.dtype, *(v.shape.dtype for v in inner.inputs)))):
        return None
    rest = epilogue(at, inner, product(inner.shape.dims[2:]))
    if rest is None or not computable(rest.nodes):
        return None
    writer = _Writer(at, inner, rest)
    return writer.kernel() if writer.readable() else None


class _Writer:
    """Writes the kernel of one convolution."""

    def __init__(self, at: Instruction, inner: Instruction, rest: FusedKernel) -> None:
        assert isinstance(inner.op, Convolution)
        self.at, self.inner, self.rest, self.op = at, inner, rest, inner.op
        self.image, self.weights = inner.inputs
        self.writer = Writer(at)
        self.reader = Reader(self.writer, at)
        self.outputs = int(self.weights.shape.dims[0]) // self.op.group
        self.window = tuple(int(d) for d in self.weights.shape.dims[1:])
        self.depth, self.pixels = product(self.window), product(inner.shape.dims[2:])
        kinds = [v.shape.dtype for v in inner.inputs]
        fit = kinds[0] in (F16, BF16, F32) or all(k.bits == 8 for k in kinds)
        self.units = fit and self.outputs > FEW
        self.tile = self._tile(kinds[0])
        self.height, self.width, self.step = self.tile.rows, self.tile.columns, self.tile.depth

    def _tile(self, kind: DType) -> Tile:
        """Output channels by pixels of a tile."""
        items = self.op.group * self.inner.shape.dims[0]
        if not self.units:
            height = power_of_two(self.outputs)
            return Tile(height if self.outputs <= FEW else 16, 256, 1, 4, 3)
        return choose.product(self.outputs, self.pixels, self.depth, items, kind.bits)

    def readable(self) -> bool:
        """Whether both operands can be read."""
        return all(map(self.reader.readable, self.inner.inputs))

    def kernel(self) -> Kernel:
        """The whole of it."""
        w = self.writer
        down, across = tiles(self.outputs, self.height), tiles(self.pixels, self.width)
        items = self.op.group * self.inner.shape.dims[0]
        grid = down * across * items
        self.parts = Parts(w, self.tile, self.depth, grid, (items, self.outputs, self.pixels))
        cells = w.extent(down * across)
        cell, rest = w.let(self.parts.cell % cells), w.let(self.parts.cell // cells)
        groups = w.extent(self.op.group)
        self.group, self.item = w.let(rest % groups), w.let(rest // groups)
        height = w.extent(down)
        corner = w.let(cell % height * self.height), w.let(cell // height * self.width)
        if self.tile.parts == 1:
            self._begin(*corner, self.height, self.width)
            self._finish(self._sums())
        else:
            self._in_turns(rest, corner)
        name = self.inner.name if self.at is self.inner else name_of(self.at)
        flops = 2 * product(self.inner.shape.dims) * self.depth + self.rest.flops
        return w.finished(
            name,
            grid * self.tile.parts,
            warps=self.tile.warps,
            stages=self.tile.stages,
            flops=flops,
            turns=self.parts.turns,
        )

    def _in_turns(self, item: Expr, corner: tuple[Expr, Expr]) -> None:
        """Parts of the sums first, then all of them."""
        w, parts = self.writer, self.parts
        with w.block("if turn == 0:"):
            row = self._begin(*corner, self.height, self.width)
            parts.keep(self._sums(), self._kind, item, row, self.pixel)
        with parts.second():
            row = self._begin(*parts.corner(*corner), *parts.piece)
            self._finish(parts.total(self._kind, item, row, self.pixel))

    def _begin(self, down: Expr, across: Expr, height: int, width: int) -> Expr:
        """Says which output channels of the group and which pixels a tile has; gives the former."""
        w = self.writer
        row, self.pixel = w.numbers(0, 2, height, down), w.numbers(1, 2, width, across)
        w.masks = {}
        if not whole(self.outputs, self.height):
            w.masks[0] = w.let(row.below(self.outputs))
        if not whole(self.pixels, self.width):
            w.masks[1] = w.let(self.pixel.below(w.extent(self.pixels)))
        self.places = w.split(Part(self.pixel, self.inner.shape.dims[2:]))
        self.output = w.let(self.group * self.outputs + row)
        return row

    def _finish(self, total: Expr) -> None:
        """Goes on with the sums of a tile, or of the piece of it that is a program's own."""
        w = self.writer
        counted = w.let(self.item * w.extent(self.outputs * self.op.group) + self.output)
        finish(w, self.rest, total, counted, self.pixel, self.parts.piece)

    @property
    def _kind(self) -> str:
        """The type that sums are added up in."""
        dtype = self.inner.shape.dtype
        if dtype.is_float:
            return COMPUTING[dtype.name]
        return "tl.int64" if dtype.bits == 64 else "tl.int32"

    def _sums(self) -> Expr:
        """The sums of a tile, along its part of the depth."""
        w, kind = self.writer, self._kind
        tile = [self.height, self.width]
        total = w.variable(f"tl.zeros({tile}, {kind})", frozenset({0, 1}))
        rows, columns = w.masks.get(0), w.masks.get(1)
        with self.parts.loop() as begin:
            left = w.numbers(1, 2, self.step, begin) if self.units else begin
            right = w.numbers(0, 2, self.step, begin) if self.units else begin
            x = self._filters(left, rows)
            y = self._windows(right, columns)
            w.masks = {i: m for i, m in ((0, rows), (1, columns)) if m is not None}
            w.line(f"{total.text} = {self._added(total, x, y, kind)}")
        return total

    def _added(self, total: Expr, x: Expr, y: Expr, kind: str) -> str:
        if not self.units:
            return f"{total.text} + {x.text}.to({kind}) * {y.text}.to({kind})"
        if self.inner.shape.dtype.is_integer:
            x_half, y_half = f"{x.text}.to(tl.float16)", f"{y.text}.to(tl.float16)"
            return f"{total.text} + tl.dot({x_half}, {y_half}).to({kind})"
        precision = choose.precision(self.inner.shape.dtype)
        return f"tl.dot({x.text}, {y.text}, {total.text}{precision})"

    def _filters(self, deep: Expr, rows: Expr | None) -> Expr:
        """A tile of filters: output channels by depth."""
        w = self.writer
        w.masks = {} if rows is None else {0: rows}
        if not whole(self.depth, self.step):
            w.masks[1] = w.let(deep.below(w.extent(self.depth)))
        dims = self.weights.shape.dims
        found = self.reader.raw(self.weights, [Part(self.output, dims[:1]), Part(deep, dims[1:])])
        read_whole = self.weights not in self.reader.operands or 1 not in found.over
        if (mask := w.masks.get(1)) is not None and read_whole:
            found = w.only(mask, found)
        return w.spread(found, (self.height, self.step)) if self.units else found

    def _windows(self, deep: Expr, columns: Expr | None) -> Expr:
        """A tile of windows: depth by pixels, 0 where a window reaches beyond the image."""
        w, dims = self.writer, self.image.shape.dims
        channel, *taps = w.split(Part(deep, self.window))
        begins, ends = split(self.op.padding)
        places, there = [], columns
        if not whole(self.depth, self.step):
            inside = w.let(deep.below(w.extent(self.depth)))
            there = inside if there is None else w.let(there & inside)
        geometry = zip(
            self.places, taps, begins, ends, self.op.stride, self.op.dilation, dims[2:], strict=True
        )
        for pixel, tap, begin, end, stride, dilation, extent in geometry:
            place = w.let(pixel * stride + tap * dilation - w.extent(begin))
            if begin != 0 or end != 0:
                limit = w.extent(extent)
                inside = Expr(f"(({place.text} >= 0) & ({place.text} < {limit.text}))", place.over)
                there = inside if there is None else there & inside
            places.append(place)
        if there is not None:
            there = w.let(there)
        w.masks = {} if there is None else {0: there, 1: there}
        per_group = self.window[0]
        channel = w.let(self.group * per_group + channel)
        parts = [Part(e, (d,)) for e, d in zip((self.item, channel, *places), dims, strict=True)]
        found = self._masked(parts, there)
        return w.spread(found, (self.step, self.width)) if self.units else found

    def _masked(self, parts: list[Part], there: Expr | None) -> Expr:
        """The image at some places, 0 where it is not there."""
        w = self.writer
        w.masks = {}
        if self.image in self.reader.operands:
            number = self.reader.operands[self.image]
            shape = self.reader.shape(self.image)
            where = w.offset(parts, shape.true_strides)
            return w.load(number, where, shape.dtype, raw=True, also=there)
        clamped = (
            parts
            if there is None
            else [
                Part(
                    w.let(
                        Expr(
                            f"tl.where({there.text}, {p.index.text}, 0)", p.index.over | there.over
                        )
                    ),
                    p.dims,
                )
                for p in parts
            ]
        )
        found = self.reader.raw(self.image, clamped)
        return found if there is None else w.only(there, found)
