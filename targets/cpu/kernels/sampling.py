"""Kernels that sample images between their elements: ``grid_sample``.

A vector holds adjacent points of a grid, one in each lane. The offsets and weights of the elements
around each are the same for all channels and computed once; then each channel is a gather and a
multiply-add for each of these taps, and its results are stored contiguously.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as combinations

from migx.dim import maximum, product
from migx.fusion.kernels import fewest
from migx.ir import Instruction
from migx.ops.vision import GridSample
from migx.targets.cpu.emit import I64, Type, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, memory_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.matrix import apart
from migx.targets.cpu.parts.resampling import cubic, end_of

ELEMENTS = 1 << 12
"""About how many elements a tile computes."""
MOST = 64
"""More taps than these are a long text for a rare kernel."""
TAPS = {"nearest": 1, "linear": 2, "cubic": 4}
"""The elements around a point that have weights along one axis."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of ``grid_sample`` of floats."""
    if not isinstance(at.op, GridSample) or TAPS[at.op.mode] ** (at.shape.rank - 2) > MOST:
        return None
    types = [v.shape.dtype for v in at.inputs]
    if not all(t.is_float and elements.computable(t, machine) for t in types):
        return None
    return _Writer(at, machine).kernel()


@dataclass(frozen=True)
class _Tap:
    """The offset in the image of an element along an axis, in each lane, and its weight, None if
    that is 1.
    """

    offset: Value
    weight: Value | None


class _Writer(KernelWriter):
    def __init__(self, at: Instruction, machine: Machine) -> None:
        super().__init__(at, machine)
        self.op = at.op_as(GridSample)
        self.image, self.grid = (v.shape for v in at.inputs)
        self.number, self.memory = elements.computing(self.image.dtype), memory_of(self.image.dtype)
        self.lanes = machine.lanes(self.number)
        first, *inner = zip(self.grid.dims[:-1], self.grid.true_strides[:-1], strict=True)
        rows = fewest((extent, (step,)) for extent, step in inner) or [(1, (0,))]
        self.line, (self.step,) = rows.pop()
        self.counted = (first[0], *(extent for extent, _ in rows))
        self.steps = [first[1], *(step for _, (step,) in rows)]

    def kernel(self) -> Kernel:
        f, frame, channels = self.f, self.frame, self.image.dims[1]
        share = maximum(ELEMENTS // maximum(channels, 1) // self.lanes, 1) * self.lanes
        blocks = (self.line + share - 1) // share
        end = end_of(frame, self.image.elements)
        with f.loop(frame.begin, end) as tile:
            row = tile.index // frame.extent(blocks)
            begin = tile.index % frame.extent(blocks) * frame.extent(share)
            last = f.minimum(begin + frame.extent(share), frame.extent(self.line))
            places = frame.places(row, self.counted, range(len(self.counted)))
            self._row(places, row, begin, last)
        taps = TAPS[self.op.mode] ** (self.image.rank - 2)
        flops = 2 * taps * self.at.shape.elements
        return frame.finished("grid_sample", product(self.counted) * blocks, flops=flops)

    def _row(self, places: dict[int, Value], row: Value, begin: Value, last: Value) -> None:
        """Some adjacent points, of one image, in all channels."""
        f, frame = self.f, self.frame
        image = places[0]
        at = frame.offset(self.steps, places)
        each = frame.extent(product(self.grid.dims[1:-1]))
        inside = row * frame.extent(self.line) - image * each
        start = image * frame.extent(self.image.true_strides[0])
        given = f.element(frame.operands[0], start, self.memory)
        start = image * frame.extent(self.image.dims[1]) * each + inside
        made = f.element(frame.operands[2], start, self.memory)
        with f.loop(begin, last, self.lanes) as k:
            mask = f.first_lanes(last - k.index, self.lanes)
            axes = [self._taps(axis, at, k.index, mask) for axis in range(self.image.rank - 2)]
            to = f.element(made, k.index, self.memory)
            self._channels(given, [*combinations(*axes)], to, each, mask)

    def _channels(
        self, given: Value, taps: Sequence[Sequence[_Tap]], made: Value, step: Value, mask: Value
    ) -> None:
        """The sum over the taps in each channel; ``step`` is the channel stride."""
        f, frame, dtype = self.f, self.frame, self.image.dtype
        memory, vector = self.memory, self.number.times(self.lanes)
        found: list[tuple[Value, Value]] = []
        for tap in taps:
            offset, weight = f.const(I64.times(self.lanes), 0), f.const(vector, 1.0)
            for part in tap:
                offset = offset + part.offset
                weight = weight if part.weight is None else weight * part.weight
            found.append((offset, weight))
        with f.loop(0, frame.extent(self.image.dims[1])) as channel:
            on = channel.index * frame.extent(self.image.true_strides[1])
            plane = f.element(given, on, memory)
            total = f.const(vector, 0.0)
            for offset, weight in found:
                value = elements.loaded(f, f.gather(plane, offset, memory, mask), dtype)
                total = f.fma(value, weight, total)
            to = f.element(made, channel.index * step, memory)
            f.store(elements.stored(f, total, dtype), to, mask=mask)

    # The elements along one axis.

    def _taps(self, axis: int, at: Value, first: Value, mask: Value) -> list[_Tap]:
        """The taps of some points on an axis of the image."""
        f, op = self.f, self.op
        extent = f.cast(self.frame.extent(self.image.dims[2 + axis]), self.number)
        place = self._place(axis, at, first, mask)
        if op.mode == "nearest":
            place = f.intrinsic("rint", place)
        if op.padding_mode == "reflection":
            place = self._reflected(place, extent)
        finite = f.intrinsic("fabs", place) < float("inf")
        place = f.select(finite, place, -1.0 if op.mode == "nearest" else -10.0)
        step = self.frame.extent(self.image.true_strides[2 + axis])
        return [self._tap(i, weight, extent, step) for i, weight in self._around(place)]

    def _place(self, axis: int, at: Value, first: Value, mask: Value) -> Value:
        """Coordinates on an axis of the image, in elements; the grid has the last axis first."""
        f, grid = self.f, self.grid
        step, apart_by = (self.frame.extent(s) for s in (self.step, grid.true_strides[-1]))
        offset = at + first * step + apart_by * (self.image.rank - 3 - axis)
        start = f.element(self.frame.operands[1], offset, memory_of(grid.dtype))
        raw = apart(f, start, step, memory_of(grid.dtype).times(self.lanes), mask)
        value = elements.loaded(f, raw, grid.dtype)
        extent = f.cast(self.frame.extent(self.image.dims[2 + axis]), value.type.one)
        value = (value + 1.0) / 2.0
        value = value * (extent - 1.0) if self.op.align_corners else value * extent - 0.5
        return f.cast(value, self.number)

    def _around(self, place: Value) -> list[tuple[Value, Value | None]]:
        """The elements around a point, inside the image or not, and their weights."""
        f = self.f
        if self.op.mode == "nearest":
            return [(place, None)]
        below = f.intrinsic("floor", place)
        part = place - below
        if self.op.mode == "linear":
            return [(below, 1.0 - part), (below + 1.0, part)]
        return [
            (below + float(k), cubic(f.intrinsic("fabs", part - float(k)))) for k in range(-1, 3)
        ]

    def _tap(self, index: Value, weight: Value | None, extent: Value, step: Value) -> _Tap:
        """A tap, with the padding applied to what lies outside."""
        f = self.f
        inside = (index >= 0.0) & (index < extent)
        if self.op.padding_mode == "zeros":
            weight = f.const(index.type, 1.0) if weight is None else weight
            weight = f.select(inside, weight, 0.0)
        elif self.op.padding_mode == "reflection":
            folded = f.intrinsic("trunc", self._reflected(index, extent))
            index = f.select(inside, index, folded)
        index = f.minimum(f.maximum(index, 0.0), extent - 1.0)
        return _Tap(f.cast(_whole(index), I64) * step, weight)

    def _reflected(self, place: Value, extent: Value) -> Value:
        """Coordinates reflected at the bounds of the image, as often as needed."""
        f = self.f
        low = 0.0 if self.op.align_corners else -0.5
        high = extent - (1.0 + low)
        span = high - low
        away = f.intrinsic("fabs", place - low)
        period = f.splat(span * 2.0, self.lanes)
        rest = f.fma(-f.intrinsic("trunc", away / period), period, away)
        rest = f.select(rest < 0.0, rest + period, rest)  # if the quotient was rounded up
        folded = f.select(rest > span, period - rest, rest) + low
        stays = (place >= low) & (place <= high)
        folded = f.select(stays, place, folded)
        return f.select(f.splat(span > 0.0, self.lanes), folded, 0.0)


def _whole(x: Value) -> Value:
    """A whole number in a float as an integer of as many bits."""
    return x.into.toward_zero(x, Type(f"i{x.type.bits}"))
