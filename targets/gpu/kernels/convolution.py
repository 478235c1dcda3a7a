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
from migx.targets.gpu.emit.expressions import Expr, Part, both, by_axis
from migx.targets.gpu.emit.text import Kernel, Writer
from migx.targets.gpu.emit.types import storable, summed
from migx.targets.gpu.kernels.finish import finish
from migx.targets.gpu.kernels.fused import computable
from migx.targets.gpu.parts.reader import Reader
from migx.targets.gpu.parts.split_k import Corner, Parts
from migx.targets.gpu.parts.sums import Sums
from migx.targets.gpu.tiles import Tile, power_of_two

TAGS = ("conv_epilogue", "conv_quantized", "int4_gemm")
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
    return writer.kernel() if all(map(writer.reader.readable, inner.inputs)) else None


class _Writer:
    """Writes the kernel of one convolution, whose sums ``Parts`` asks for."""

    def __init__(self, at: Instruction, inner: Instruction, rest: FusedKernel) -> None:
        assert isinstance(inner.op, Convolution)
        self.at, self.inner, self.rest, self.op = at, inner, rest, inner.op
        self.image, self.weights = inner.inputs
        self.writer = Writer(at)
        self.reader = Reader(self.writer, at)
        self.outputs = int(self.weights.shape.dims[0]) // self.op.group
        self.window = tuple(int(d) for d in self.weights.shape.dims[1:])
        self.depth, self.pixels = product(self.window), product(inner.shape.dims[2:])
        self.items = self.op.group * inner.shape.dims[0]
        kinds = [v.shape.dtype for v in inner.inputs]
        fit = kinds[0] in (F16, BF16, F32) or all(k.bits == 8 for k in kinds)
        self.units = fit and self.outputs > FEW
        self.tile = self._tile(kinds[0])
        self.size, self.step = (self.tile.rows, self.tile.columns), self.tile.depth

    def _tile(self, kind: DType) -> Tile:
        """Output channels by pixels of a tile."""
        if not self.units:
            height = power_of_two(self.outputs)
            return Tile(height if self.outputs <= FEW else 16, 256, 1, 4, 3)
        return choose.product(self.outputs, self.pixels, self.depth, self.items, kind.bits)

    def kernel(self) -> Kernel:
        """The whole of it."""
        w, dims = self.writer, (self.items, self.outputs, self.pixels)
        dtype = summed(self.inner.shape.dtype)
        self.parts = Parts(w, self.tile, self.depth, dims, dtype)
        cells = w.extent(self.parts.cells)
        cell, rest = w.let(self.parts.cell % cells), w.let(self.parts.cell // cells)
        groups = w.extent(self.op.group)
        self.group, self.item = w.let(rest % groups), w.let(rest // groups)
        self.parts.write(self, rest, cell)
        name = self.inner.name if self.at is self.inner else name_of(self.at)
        flops = 2 * product(self.inner.shape.dims) * self.depth + self.rest.flops
        return self.parts.finished(name, flops)

    def places(self, corner: Corner, tile: tuple[int, int]) -> tuple[Expr, Expr]:
        w, (down, across), (height, width) = self.writer, corner, tile
        row, pixel = w.numbers(0, 2, height, down), w.numbers(1, 2, width, across)
        w.masks = {
            0: w.there(row, self.outputs, self.size[0]),
            1: w.there(pixel, self.pixels, self.size[1]),
        }
        self.pixel = w.split(Part(pixel, self.inner.shape.dims[2:]))
        self.output = w.let(self.group * self.outputs + row)
        return row, pixel

    def sums(self, row: Expr, corner: Corner) -> Expr:
        w, kinds = self.writer, [v.shape.dtype for v in (self.weights, self.image)]
        sums = Sums(w, self.size, kinds, summed(self.inner.shape.dtype), units=self.units)
        with self.parts.loop() as begin:
            left = w.numbers(1, 2, self.step, begin) if self.units else begin
            right = w.numbers(0, 2, self.step, begin) if self.units else begin
            sums.add(self._filters(left), self._windows(right))
        return sums.total()

    def finish(self, total: Expr, row: Expr, column: Expr) -> None:
        w = self.writer
        counted = w.let(self.item * w.extent(self.outputs * self.op.group) + self.output)
        finish(w, self.rest, total, counted, column, self.parts.piece)

    def _filters(self, deep: Expr) -> Expr:
        """A tile of filters: output channels by depth."""
        w, dims = self.writer, self.weights.shape.dims
        inside = w.there(deep, self.depth, self.step)
        with w.masked({0: w.masks[0], 1: inside}):
            parts = [Part(self.output, dims[:1]), Part(deep, dims[1:])]
            found = self.reader.raw(self.weights, parts)
            read_whole = self.weights not in self.reader.operands or 1 not in found.over
            if inside is not None and read_whole:
                found = w.only(inside, found)
            return w.spread(found, (self.size[0], self.step)) if self.units else found

    def _windows(self, deep: Expr) -> Expr:
        """A tile of windows: depth by pixels, 0 where a window reaches beyond the image."""
        w, dims = self.writer, self.image.shape.dims
        channel, *taps = w.split(Part(deep, self.window))
        begins, ends = split(self.op.padding)
        places, there = [], w.masks[1]
        if (inside := w.there(deep, self.depth, self.step)) is not None:
            there = w.let(both(there, inside))
        geometry = zip(
            self.pixel, taps, begins, ends, self.op.stride, self.op.dilation, dims[2:], strict=True
        )
        for pixel, tap, begin, end, stride, dilation, extent in geometry:
            place = w.let(pixel * stride + tap * dilation - w.extent(begin))
            if begin != 0 or end != 0:
                limit = w.extent(extent)
                inside = Expr(f"(({place.text} >= 0) & ({place.text} < {limit.text}))", place.over)
                there = both(there, inside)
            places.append(place)
        there = w.let(there) if there is not None else None
        channel = w.let(self.group * self.window[0] + channel)
        with w.masked({}):
            found = self._seen([self.item, channel, *places], there)
        return w.spread(found, (self.step, self.size[1])) if self.units else found

    def _seen(self, places: list[Expr], there: Expr | None) -> Expr:
        """The image at some places, 0 where it is not there."""
        w, dims = self.writer, self.image.shape.dims
        if self.image in self.reader.operands:
            number = self.reader.operands[self.image]
            return w.load(
                number, w.place(number, places), w.shapes[number].dtype, raw=True, also=there
            )
        if there is None:
            return self.reader.raw(self.image, by_axis(places, dims))
        inside = [
            w.let(Expr(f"tl.where({there.text}, {p.text}, 0)", p.over | there.over)) for p in places
        ]
        return w.only(there, self.reader.raw(self.image, by_axis(inside, dims)))
