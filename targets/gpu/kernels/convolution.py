"""Kernels of convolutions, with their epilogues and the arithmetic on their operands.

A convolution is a product of matrices that are never made: outputs by the depth, which runs over
input channels and the taps of a window, and the depth by pixels. A tile of windows is read from the
image in place, with 0 for padding. If filters have their channels last (by ``layout_weights``), the
depth runs tap by tap: a step takes some channels of one tap, so the address of each pixel, and
whether it is in the image, are computed once.

If the channels of images are last (by ``layout_convolution``), rows are the pixels of all items,
and columns the outputs: a thread then reads as many channels at a time as memory gives. In images
with channels first it reads one pixel at a time, as windows begin anywhere.

If a group has few output channels, as in depthwise convolutions, taps are multiplied one by one
instead.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar

from migx.dim import product
from migx.fusion.kernels import CONVOLUTIONS, FusedKernel, core_of
from migx.ir import Instruction
from migx.ops._windows import split
from migx.ops.channels_last import CHANNELS_LAST
from migx.ops.linear import Convolution
from migx.targets.gpu import tiles as choose
from migx.targets.gpu.cost_model import Tile
from migx.targets.gpu.emit.expressions import Expr, Part, both, by_axis
from migx.targets.gpu.emit.text import Kernel
from migx.targets.gpu.parts.sums import Sums
from migx.targets.gpu.parts.tiled import Corner, Tiled

T = TypeVar("T")

FEW = 8
"""The most output channels of a group for which taps are multiplied one by one."""


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of a convolution, alone or in a group, whose windows have static sizes."""
    inner = core_of(at, (*CONVOLUTIONS, *CHANNELS_LAST))
    if inner is None or not all(isinstance(d, int) for d in inner.inputs[1].shape.dims):
        return None
    if isinstance(inner.op, CHANNELS_LAST):
        return _ChannelsLast.kernel_of(at, inner, inner.shape.dims[-1])
    return _ChannelsFirst.kernel_of(at, inner, product(inner.shape.dims[2:]))


class _Writer(Tiled):
    """Writes the kernel of one convolution. In its tiles ``across`` is the axis of pixels, the
    other one that of output channels; ``window`` is the extents of a filter. A piece of a tile has
    a ``group`` and an ``item``, which may vary, places of each ``pixel`` by axis, and outputs.
    """

    across: int
    group: Expr
    pixel: list[Expr]
    output: Expr

    def __init__(self, at: Instruction, inner: Instruction, rest: FusedKernel) -> None:
        super().__init__(at, inner, rest)
        self.op, (self.image, self.weights) = inner.op_as(Convolution), inner.inputs
        filters, *window = (int(d) for d in self.weights.shape.dims)
        self.outputs, self.window = filters // self.op.group, tuple(window)
        self.channels, self.taps = self.apart(self.window)
        self.depth = math.prod(self.window)
        _, self.pixels = self.apart(inner.shape.dims[1:])
        self.units = self.fits_units and self.outputs > FEW
        self.by_tap = self._steps_of_taps() if self.units else ()
        self.tile = self.chosen_tile()
        self.size, self.step = (self.tile.rows, self.tile.columns), self.tile.depth

    # What the layouts differ in.

    @abstractmethod
    def apart(self, along: Sequence[T]) -> tuple[T, Sequence[T]]:
        """What belongs to the channels, and what to the spatial axes, of what belongs to all axes
        but the first.
        """

    @abstractmethod
    def joined(self, channels: T, spatial: Sequence[T]) -> list[T]:
        """The same in the order of the axes."""

    @abstractmethod
    def chosen_tile(self) -> Tile:
        """The tile; sets the extents of the sums."""

    # What they share.

    def _steps_of_taps(self) -> tuple[int, ...]:
        """How many channels a step may take if the depth runs tap by tap; empty if it does not."""
        beside, _ = self.apart(self.reader.shape(self.weights).true_strides[1:])
        if self.weights not in self.reader.operands or beside != 1 or product(self.taps) == 1:
            return ()
        least = 256 // max(self.kinds[0].bits, 8)
        return tuple(k for k in (16, *choose.STEPS) if self.channels % k == 0 and k >= least)

    def sums(self, row: Expr, corner: Corner) -> Expr:
        w, turned = self.writer, self.across == 1
        kinds = self.kinds[::-1] if turned else self.kinds
        sums = Sums(w, self.size, kinds, self.dtype, self.depth, units=self.units)
        with self.loop(one_by_one=not self.units) as begin:
            filters, windows = self._filters(begin), self._windows(begin)
            sums.add(*((filters, windows) if turned else (windows, filters)))
        return sums.total()

    def _deep(self, axis: int, begin: Expr) -> tuple[list[Part], Expr | None]:
        """The channels and taps of a step, along an axis of a tile, and which of them exist; None
        if all do.
        """
        w, channels = self.writer, self.channels
        if not self.units:
            return [Part(begin, self.window)], None
        if not self.by_tap:
            deep = w.numbers(axis, 2, self.step, begin)
            return [Part(deep, self.window)], w.there(deep, self.depth, self.step)
        channel = w.numbers(axis, 2, self.step, w.let(begin % channels))
        tap = Part(w.let(begin // channels), tuple(self.taps))
        return self.joined(Part(channel, (channels,)), [tap]), None

    def _filters(self, begin: Expr) -> Expr:
        """A tile of filters: output channels and depth."""
        w, beside, dims = self.writer, 1 - self.across, self.weights.shape.dims
        deep, inside = self._deep(self.across, begin)
        with w.masked({beside: w.masks[beside], self.across: inside}):
            parts = [Part(self.output, dims[:1]), *deep]
            tile = self._tile(beside) if self.units else None
            return self.operand(self.weights, parts, self.across, tile)

    def _windows(self, begin: Expr) -> Expr:
        """A tile of windows: pixels and depth, 0 where a window extends beyond the image."""
        w, beside = self.writer, 1 - self.across
        deep, inside = self._deep(beside, begin)
        channel, taps = self.apart([place for part in deep for place in w.split(part)])
        there = w.masks[self.across]
        if inside is not None:
            there = w.let(both(there, inside))
        geometry = zip(self.pixel, taps, self.op.stride, self.op.dilation, strict=True)
        seen = (pixel * stride + tap * dilation for pixel, tap, stride, dilation in geometry)
        _, extents = self.apart(self.image.shape.dims[1:])
        padded, there = w.beside(seen, split(self.op.padding), tuple(extents), there)
        places = [w.let(place) for place in padded]
        channel = w.let(self.group * self.channels + channel)
        with w.masked({} if self.units else {beside: w.masks[beside]}):
            found = self._seen([self.item, *self.joined(channel, places)], there)
        return w.spread(found, self._tile(self.across)) if self.units else found

    def _tile(self, axis: int) -> tuple[int, int]:
        """The extents of a tile of an operand, which has this axis of the sums, and the depth."""
        size = self.size[axis]
        return (size, self.step) if axis == 0 else (self.step, size)

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


class _ChannelsFirst(_Writer):
    """Rows are the output channels of a group, columns the pixels of one item."""

    across = 1

    def apart(self, along: Sequence[T]) -> tuple[T, Sequence[T]]:
        return along[0], along[1:]

    def joined(self, channels: T, spatial: Sequence[T]) -> list[T]:
        return [channels, *spatial]

    def chosen_tile(self) -> Tile:
        self.rows, self.columns = self.outputs, product(self.pixels)
        self.items = self.op.group * self.inner.shape.dims[0]
        sizes = self.rows, self.columns, self.depth, self.items, self.kinds[0].bits
        if self.units:
            return choose.product(*sizes, self.by_tap or choose.STEPS)
        return choose.taps(*sizes)

    def begin(self, number: Expr) -> None:
        w, groups = self.writer, self.writer.extent(self.op.group)
        self.group, self.item = w.let(number % groups), w.let(number // groups)

    def places(self, corner: Corner) -> tuple[Expr, Expr]:
        w, (row, pixel) = self.writer, super().places(corner)
        self.pixel = w.split(Part(pixel, tuple(self.pixels)))
        self.output = w.let(self.group * self.outputs + row)
        return row, pixel

    def finish(self, total: Expr, row: Expr, column: Expr) -> None:
        w = self.writer
        counted = w.let(self.item * w.extent(self.outputs * self.op.group) + self.output)
        self.write(total, counted, column)


class _ChannelsLast(_Writer):
    """Rows are the pixels of all items, columns the output channels of a group; of all groups if
    taps are multiplied one by one.
    """

    across = 0

    def apart(self, along: Sequence[T]) -> tuple[T, Sequence[T]]:
        return along[-1], along[:-1]

    def joined(self, channels: T, spatial: Sequence[T]) -> list[T]:
        return [*spatial, channels]

    def chosen_tile(self) -> Tile:
        items, many, bits = self.inner.shape.dims[0], self.op.group, self.kinds[0].bits
        self.rows = items * product(self.pixels)
        self.columns = self.outputs * (1 if self.units else many)
        self.items = many if self.units else 1
        if self.units:
            sizes = self.rows, self.columns, self.depth, self.items, bits
            return choose.product(*sizes, self.by_tap or choose.STEPS)
        return choose.taps_beside(self.rows, self.columns, math.prod(self.window), bits)

    def begin(self, number: Expr) -> None:
        self.group = number

    def places(self, corner: Corner) -> tuple[Expr, Expr]:
        w, (row, column) = self.writer, super().places(corner)
        dims = (self.inner.shape.dims[0], *self.pixels)
        self.item, *self.pixel = w.split(Part(row, dims))
        self.output = w.let(self.group * self.outputs + column)
        if not self.units and self.op.group > 1:
            self.group = w.let(column // self.outputs)
        return row, column

    def finish(self, total: Expr, row: Expr, column: Expr) -> None:
        self.write(total, row, self.output)
