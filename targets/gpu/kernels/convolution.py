"""Kernels of convolutions, with their epilogues and the arithmetic on their operands.

A convolution is a product of matrices that are never made: rows are output channels, columns are
pixels of one item, and the depth runs over input channels and the taps of a window. A tile of
windows is read from the image in place, with 0 for padding. If filters have their channels last
(by ``layout_weights``), the depth runs tap by tap: a step takes some channels of one tap, so the
address of each pixel, and whether it is in the image, are computed once. If a group has few output
channels, as in depthwise convolutions, taps are multiplied one by one instead.
"""

from __future__ import annotations

from migx.dim import product
from migx.fusion.kernels import CONVOLUTIONS, FusedKernel, core_of
from migx.ir import Instruction
from migx.ops._windows import split
from migx.ops.linear import Convolution
from migx.targets.gpu import tiles as choose
from migx.targets.gpu.emit.expressions import Expr, Part, both, by_axis
from migx.targets.gpu.emit.text import Kernel
from migx.targets.gpu.parts.sums import Sums
from migx.targets.gpu.parts.tiled import Corner, Tiled

FEW = 8
"""The most output channels of a group for which taps are multiplied one by one."""


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of a convolution, alone or in a group, whose windows have static sizes."""
    inner = core_of(at, CONVOLUTIONS)
    if inner is None or not all(isinstance(d, int) for d in inner.inputs[1].shape.dims):
        return None
    return _Writer.kernel_of(at, inner, product(inner.shape.dims[2:]))


class _Writer(Tiled):
    """Writes the kernel of one convolution: rows are the output channels of a group, columns
    pixels.
    """

    def __init__(self, at: Instruction, inner: Instruction, rest: FusedKernel) -> None:
        super().__init__(at, inner, rest)
        self.op, (self.image, self.weights) = inner.op_as(Convolution), inner.inputs
        self.rows = self.outputs = int(self.weights.shape.dims[0]) // self.op.group
        self.window = tuple(int(d) for d in self.weights.shape.dims[1:])
        self.depth, self.columns = product(self.window), product(inner.shape.dims[2:])
        self.items = self.op.group * inner.shape.dims[0]
        self.units = self.fits_units and self.outputs > FEW
        self.by_tap = self._steps_of_taps() if self.units else ()
        sizes = self.outputs, self.columns, self.depth, self.items, self.kinds[0].bits
        steps = self.by_tap or choose.STEPS
        self.tile = choose.product(*sizes, steps) if self.units else choose.taps(*sizes)
        self.size, self.step = (self.tile.rows, self.tile.columns), self.tile.depth

    def _steps_of_taps(self) -> tuple[int, ...]:
        """How many channels a step may take if the depth runs tap by tap; empty if it does not."""
        channels, *taps = self.window
        beside = self.reader.shape(self.weights).true_strides[1] == 1
        if self.weights not in self.reader.operands or not beside or product(taps) == 1:
            return ()
        least = 256 // max(self.kinds[0].bits, 8)
        return tuple(k for k in (16, *choose.STEPS) if channels % k == 0 and k >= least)

    def begin(self, number: Expr) -> None:
        w, groups = self.writer, self.writer.extent(self.op.group)
        self.group, self.item = w.let(number % groups), w.let(number // groups)

    def places(self, corner: Corner) -> tuple[Expr, Expr]:
        w, (row, pixel) = self.writer, super().places(corner)
        self.pixel = w.split(Part(pixel, self.inner.shape.dims[2:]))
        self.output = w.let(self.group * self.outputs + row)
        return row, pixel

    def sums(self, row: Expr, corner: Corner) -> Expr:
        w = self.writer
        kinds = self.kinds[::-1]
        sums = Sums(w, self.size, kinds, self.dtype, self.depth, units=self.units)
        with self.loop(one_by_one=not self.units) as begin:
            sums.add(self._filters(begin), self._windows(begin))
        return sums.total()

    def finish(self, total: Expr, row: Expr, column: Expr) -> None:
        w = self.writer
        counted = w.let(self.item * w.extent(self.outputs * self.op.group) + self.output)
        self.write(total, counted, column)

    def _deep(self, axis: int, begin: Expr) -> tuple[list[Part], Expr | None]:
        """The channels and taps of a step, along an axis of a tile, and which of them exist; None
        if all do.
        """
        w, channels = self.writer, self.window[:1]
        if not self.units:
            return [Part(begin, self.window)], None
        if not self.by_tap:
            deep = w.numbers(axis, 2, self.step, begin)
            return [Part(deep, self.window)], w.there(deep, self.depth, self.step)
        channel = w.numbers(axis, 2, self.step, w.let(begin % channels[0]))
        return [Part(channel, channels), Part(w.let(begin // channels[0]), self.window[1:])], None

    def _filters(self, begin: Expr) -> Expr:
        """A tile of filters: output channels by depth."""
        w, dims = self.writer, self.weights.shape.dims
        deep, inside = self._deep(1, begin)
        with w.masked({0: w.masks[0], 1: inside}):
            parts = [Part(self.output, dims[:1]), *deep]
            tile = (self.size[0], self.step) if self.units else None
            return self.operand(self.weights, parts, 1, tile)

    def _windows(self, begin: Expr) -> Expr:
        """A tile of windows: depth by pixels, 0 where a window extends beyond the image."""
        w, dims = self.writer, self.image.shape.dims
        deep, inside = self._deep(0, begin)
        channel, *taps = (place for part in deep for place in w.split(part))
        there = w.masks[1]
        if inside is not None:
            there = w.let(both(there, inside))
        geometry = zip(self.pixel, taps, self.op.stride, self.op.dilation, strict=True)
        seen = (pixel * stride + tap * dilation for pixel, tap, stride, dilation in geometry)
        padded, there = w.beside(seen, split(self.op.padding), dims[2:], there)
        places = [w.let(place) for place in padded]
        channel = w.let(self.group * self.window[0] + channel)
        with w.masked({}):
            found = self._seen([self.item, channel, *places], there)
        return w.spread(found, (self.step, self.size[1])) if self.units else found

    def _seen(self, places: list[Expr], there: Expr | None) -> Expr:
        """The image at some indices, 0 where it does not exist."""
        w, dims = self.writer, self.image.shape.dims
        if self.image in self.reader.operands:
            number = self.reader.operands[self.image]
            return w.load(
                number, w.place(number, places), w.shapes[number].dtype, raw=True, also=there
            )
        if there is None:
            return self.reader.raw(self.image, by_axis(places, dims))
        inside = by_axis(w.where(there, places), dims)
        return w.only(there, self.reader.raw(self.image, inside))
