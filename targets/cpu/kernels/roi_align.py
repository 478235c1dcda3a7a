"""Kernels of ``roi_align`` by average.

The samples of a region are a grid, and a mean is linear: an element of the result is a sum over
rows of the image of sums over its columns. The weight of each row in each bin, for any number of
samples, is computed once for a region, and likewise for columns. For every channel and row of bins
the rows of the image are added up by vectors, and then the columns, with a lane for each bin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from migx.dim import Extent, maximum
from migx.ir import Instruction
from migx.ops.vision import RoiAlign
from migx.targets.cpu.emit import F64, I64, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, memory_of, type_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.matrix import Matrix, widened
from migx.targets.cpu.parts.resampling import end_of

CHANNELS = 64
"""The channels of a region that a tile computes."""
FURTHEST = 2.0**24
"""A bin of more elements than this along a side cannot be sampled at each of them."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of ``roi_align`` on floats, by average."""
    if not isinstance(at.op, RoiAlign) or at.op.mode != "avg":
        return None
    dtype, images = at.shape.dtype, at.inputs[2].shape.dtype
    if not dtype.is_float or not elements.computable(dtype, machine) or type_of(images) is None:
        return None
    return _Writer(at, machine).kernel()


@dataclass(frozen=True)
class _Side:
    """The ``weights`` in bins of the elements along an axis of the image, with strides ``bin`` and
    ``element``; the first and the last element with a weight in each bin, and in any.
    """

    extent: Extent
    bins: int
    bin: Extent
    element: Extent
    weights: Value
    firsts: Value
    lasts: Value
    first: Value
    last: Value


class _Writer(KernelWriter):
    def __init__(self, at: Instruction, machine: Machine) -> None:
        super().__init__(at, machine)
        self.op = op = at.op_as(RoiAlign)
        self.image, self.regions, self.images = (v.shape for v in at.inputs)
        self.number = elements.computing(at.shape.dtype)
        self.memory = memory_of(at.shape.dtype)
        self.lanes = machine.lanes(self.number)
        self.across = self.lanes
        while self.across > 1 and self.across // 2 >= op.dims[1]:
            self.across //= 2
        self.fault = (
            f"roi_align: a region is of no image in {self.image.text}, "
            "of one without elements, or too large to be sampled"
        )

    def kernel(self) -> Kernel:
        f, frame, channels = self.f, self.frame, self.image.dims[1]
        blocks = (channels + CHANNELS - 1) // CHANNELS
        with f.loop(frame.begin, end_of(frame, self.image.elements)) as tile:
            region = tile.index // frame.extent(blocks)
            first = tile.index % frame.extent(blocks) * CHANNELS
            last = f.minimum(first + CHANNELS, frame.extent(channels))
            self._region(region, first, last)
        tiles = self.regions.dims[0] * blocks
        flops = 8 * self.at.shape.elements
        return frame.finished("roi_align", tiles, flops=flops)

    def _region(self, region: Value, begin: Value, end: Value) -> None:
        """Some channels of a region."""
        f, frame, images = self.f, self.frame, memory_of(self.images.dtype)
        place = region * frame.extent(self.images.true_strides[0])
        raw = f.load(f.element(frame.operands[2], place, images), images)
        image = f.cast(raw, I64, signed=self.images.dtype.kind == "int")
        inside = f.compare("lt", image, frame.extent(self.image.dims[0]), signed=False)
        frame.fails(~inside, self.fault)
        rows, columns = (self._memory(axis) for axis in (0, 1))
        line = self.frame.take(self.image.dims[3] + self.lanes, self.number)
        with f.when(inside):
            rows, columns = (
                self._weighed(axis, region, s) for axis, s in ((0, rows), (1, columns))
            )
            with f.loop(begin, end) as channel:
                strides = [frame.extent(s) for s in self.image.true_strides]
                offset = image * strides[0] + channel.index * strides[1]
                first = f.element(frame.operands[0], offset, self.memory)
                plane = Matrix(first, strides[2], strides[3], self.image.dtype)
                made = region * frame.extent(self.image.dims[1]) + channel.index
                with f.loop(0, rows.bins) as row:
                    self._mix(plane, rows, columns, row.index, line)
                    to = (made * rows.bins + row.index) * columns.bins
                    self._spread(columns, line, f.element(frame.operands[3], to, self.memory))

    # Tables.

    def _memory(self, axis: int) -> _Side:
        """Takes the memory of an axis's table: for columns, all bins of an element are contiguous,
        in whole vectors.
        """
        bins, extent, none = self.op.dims[axis], self.image.dims[2 + axis], self.f.as_index(0)
        room = -(-bins // self.across) * self.across if axis else bins
        weights = self.frame.take(room * extent, self.number)
        steps: tuple[Extent, Extent] = (1, room) if axis else (extent, 1)
        tables = self.frame.take(bins, I64), self.frame.take(bins, I64)
        return _Side(extent, bins, *steps, weights, *tables, none, none)

    def _weighed(self, axis: int, region: Value, side: _Side) -> _Side:
        """The table of an axis for a region."""
        f = self.f
        extent, by = (self.frame.extent(e) for e in (side.extent, side.bin))
        low, step = self._bins(axis, region)
        count = self._samples(step)
        everything = self.frame.extent(maximum(side.bin * side.bins, side.element * side.extent))
        with f.loop(0, everything) as k:
            f.store(f.const(self.number, 0), f.element(side.weights, k.index, self.number))
        with f.loop(0, side.bins, carry=[extent - 1, f.as_index(0)]) as bin_:
            weights = f.element(side.weights, bin_.index * by, self.number)
            begin = low + f.cast(bin_.index, F64) * step
            with f.loop(0, count, carry=[extent - 1, f.as_index(0)]) as sample:
                place = begin + (f.cast(sample.index, F64) + 0.5) * step / f.cast(count, F64)
                first, second = self._sample(side, place, count, weights)
                least, most = sample.carried
                sample.carry(f.minimum(least, first), f.maximum(most, second))
            first, last = sample.carried
            f.store(first, f.element(side.firsts, bin_.index, I64))
            f.store(last, f.element(side.lasts, bin_.index, I64))
            least, most = bin_.carried
            bin_.carry(f.minimum(least, first), f.maximum(most, last))
        return replace(side, first=bin_.carried[0], last=bin_.carried[1])

    def _bins(self, axis: int, region: Value) -> tuple[Value, Value]:
        """The start of a region's bins along an axis, and their size, in f64."""
        f, op, dtype = self.f, self.op, self.regions.dtype
        strides = [self.frame.extent(s) for s in self.regions.true_strides]
        ends = []
        for number in (1 - axis, 3 - axis):
            offset = region * strides[0] + strides[1] * number
            raw = f.load(f.element(self.frame.operands[1], offset, self.memory), self.memory)
            scaled = elements.loaded(f, raw, dtype) * op.spatial_scale
            ends.append(f.cast(scaled - (0.5 if op.half_pixel else 0.0), F64))
        size = ends[1] - ends[0]
        size = size if op.half_pixel else f.maximum(size, 1.0)
        return ends[0], size / float(op.dims[axis])

    def _samples(self, step: Value) -> Value:
        """The samples of a bin along an axis."""
        f = self.f
        if self.op.sampling_ratio:
            return f.as_index(self.op.sampling_ratio)
        fits = step <= FURTHEST
        self.frame.fails(~fits, self.fault)
        return f.select(fits, f.maximum(f.cast(f.intrinsic("ceil", step), I64), 1), 1)

    def _sample(
        self, side: _Side, place: Value, count: Value, weights: Value
    ) -> tuple[Value, Value]:
        """Adds a sample to the weights of the two elements around it, and gives their indices."""
        f = self.f
        extent, step = (self.frame.extent(e) for e in (side.extent, side.element))
        length = f.cast(extent, F64)
        share = f.select((place >= -1.0) & (place <= length), 1.0 / f.cast(count, F64), 0.0)
        place = f.minimum(f.maximum(place, 0.0), length - 1.0)
        first = f.minimum(f.cast(f.intrinsic("floor", place), I64), f.maximum(extent - 2, 0))
        second = f.minimum(first + 1, extent - 1)
        part = place - f.cast(first, F64)
        for index, weight in ((first, 1.0 - part), (second, part)):
            at = f.element(weights, index * step, self.number)
            f.store(f.load(at, self.number) + f.cast(weight * share, self.number), at)
        return first, second

    # Sums.

    def _mix(self, plane: Matrix, rows: _Side, columns: _Side, row: Value, line: Value) -> None:
        """Adds up the rows of the image with weights in a row of bins, over the columns that have
        weights.
        """
        f, vector = self.f, self.number.times(self.lanes)
        first, last = (
            f.load(f.element(table, row, I64), I64) for table in (rows.firsts, rows.lasts)
        )
        weights = f.element(rows.weights, row * self.frame.extent(rows.extent), self.number)
        end = columns.last + 1
        with f.loop(columns.first, end, self.lanes) as k:
            mask = f.first_lanes(end - k.index, self.lanes)
            with f.loop(first, last + 1, carry=[f.const(vector, 0)]) as y:
                raw = plane.vector(y.index, k.index, self.lanes, mask)
                value = f.splat(widened(f, raw, plane.dtype, self.number), self.lanes)
                weight = f.load(f.element(weights, y.index, self.number), self.number)
                y.carry(f.fma(value, weight, y.carried[0]))
            f.store(y.carried[0], f.element(line, k.index, self.number))

    def _spread(self, columns: _Side, line: Value, made: Value) -> None:
        """Adds up the columns with weights in a row of bins, each into all bins."""
        f, lanes = self.f, self.across
        vector, step = self.number.times(lanes), self.frame.extent(columns.element)
        with f.loop(0, columns.bins, lanes) as k:
            start = f.element(columns.weights, k.index, self.number)
            with f.loop(columns.first, columns.last + 1, carry=[f.const(vector, 0)]) as x:
                value = f.load(f.element(line, x.index, self.number), self.number)
                weight = f.load(f.element(start, x.index * step, self.number), vector)
                x.carry(f.fma(value, weight, x.carried[0]))
            mask = f.first_lanes(f.as_index(columns.bins) - k.index, lanes)
            to = f.element(made, k.index, self.memory)
            f.store(elements.stored(f, x.carried[0], self.at.shape.dtype), to, mask=mask)
