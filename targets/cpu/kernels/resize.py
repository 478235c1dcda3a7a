"""Kernels of resampling by weights, linear or cubic, over any axes.

For a row of the result, which runs along the last axis, the surrounding input rows are interpolated
first, by vectors, into scratch; then its elements are interpolated from their neighbours there. The
indices and weights of these are the same for all rows, so they are tabulated once for the tiles of
a call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product as combinations

from migx.dim import Extent, product
from migx.ir import Instruction
from migx.ops.resize import Resize
from migx.targets.cpu.emit import F64, I64, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, Rows, memory_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.matrix import Matrix, widened
from migx.targets.cpu.parts.resampling import COORDINATES, coordinate, cubic, end_of

ELEMENTS = 1 << 13
"""About how many elements a tile computes."""
MOST = 64
"""More taps than these are a long text for a rare kernel."""
DIGITS = 1e6
"""Integers are truncated after rounding to multiples of one over this."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a linear or cubic ``resize`` with constant sizes and a known coordinate
    transformation.
    """
    op = at.op
    if type(op) is not Resize or op.mode == "nearest" or at.shape.rank == 0:
        return None
    if op.coordinate_transformation_mode not in COORDINATES:
        return None
    if not elements.computable(at.shape.dtype, machine):
        return None
    *mixed, last = (
        taps_of(at, op, axis) if op.changes(axis, given) else 1
        for axis, given in enumerate(_given(at))
    )
    if not 0 < math.prod(mixed) <= MOST or not 0 < last <= MOST:
        return None
    return _Writer(at, machine).kernel()


def taps_of(at: Instruction, op: Resize, axis: int) -> int:
    """The number of taps along an axis; 0 if it is unknown."""
    reach = 1 if op.mode == "linear" else 2
    if (shrink := _shrink(at, op, axis)) is None:
        return 0
    return 2 * math.ceil(reach / shrink)


def _shrink(at: Instruction, op: Resize, axis: int) -> float | None:
    """The factor of distances, at most 1; None if it is unknown."""
    if not op.antialias:
        return 1.0
    if op.scales:
        return min(1.0, op.scales[axis])
    length, size = _given(at)[axis], op.sizes[axis]
    if not (isinstance(length, int) and isinstance(size, int) and length and size):
        return None
    return min(1.0, size / length)


def _given(at: Instruction) -> tuple[Extent, ...]:
    return at.inputs[0].shape.dims


Taps = list[tuple[Value, Value]]
"""The indices of taps on an axis, and their weights."""


class _Writer(KernelWriter):
    def __init__(self, at: Instruction, machine: Machine) -> None:
        super().__init__(at, machine)
        self.op = op = at.op_as(Resize)
        self.given = at.inputs[0].shape
        self.last = at.shape.rank - 1
        dtype = at.shape.dtype
        self.number = F64 if dtype.is_integer else elements.computing(dtype)
        self.lanes = machine.lanes(self.number)
        self.length, self.size = self.given.dims[-1], at.shape.dims[-1]
        *mixed, last = (op.changes(axis, given) for axis, given in enumerate(self.given.dims))
        self.mixed = [axis for axis, changes in enumerate(mixed) if changes]
        self.taps = taps_of(at, op, self.last) if last else 0

    def kernel(self) -> Kernel:
        f, frame, dims = self.f, self.frame, self.at.shape.dims
        room = (self.size + 15) // 16 * 16
        self.row = frame.take(self.length, self.number)
        self.weights = frame.take(room * self.taps, self.number)
        self.places = frame.take(room * self.taps, I64)
        self.room = frame.extent(room)
        rows = Rows(product(dims[: self.last]), self.size, ELEMENTS)
        end = end_of(frame, self.given.elements)
        with f.when(frame.begin < end):
            self._tabulate()
        with frame.rows(rows, end) as row:
            self._row(row)
        flops = 2 * max(self.taps, 2) * self.at.shape.elements
        return frame.finished("resize", rows.tiles, flops=flops)

    def _around(self, axis: int, index: Value) -> Taps:
        """The taps of the elements at some indices on an axis."""
        f, op = self.f, self.op
        at = coordinate(self.frame, axis, index)
        below = f.intrinsic("floor", at)
        last = f.cast(self.frame.extent(self.given.dims[axis]) - 1, F64)
        reach = taps_of(self.at, op, axis) // 2
        found: Taps = []
        for step in range(1 - reach, reach + 1):
            place = below + float(step)
            distance = f.intrinsic("fabs", place - at) * (_shrink(self.at, op, axis) or 1.0)
            if op.mode == "linear":
                weight = f.maximum(1.0 - distance, 0.0)
            else:
                weight = cubic(distance, op.cubic_coeff_a)
            if op.exclude_outside:
                weight = f.select((place >= 0.0) & (place <= last), weight, 0.0)
            found.append((f.cast(f.minimum(f.maximum(place, 0.0), last), I64), weight))
        total = found[0][1]
        for _, weight in found[1:]:
            total = total + weight
        return [(place, f.cast(weight / total, self.number)) for place, weight in found]

    def _tabulate(self) -> None:
        """Tabulates the last axis."""
        f = self.f
        if not self.taps:
            return
        with f.loop(0, self.frame.extent(self.size)) as k:
            for number, (place, weight) in enumerate(self._around(self.last, k.index)):
                at = k.index + self.room * number
                f.store(weight, f.element(self.weights, at, self.number))
                f.store(place, f.element(self.places, at, I64))

    def _row(self, row: Value) -> None:
        f, frame, dims = self.f, self.frame, self.at.shape.dims
        start = row * frame.extent(dims[self.last])
        fixed, taps = f.as_index(0), []
        for axis, place in frame.places(row, dims, range(self.last)).items():
            step = frame.extent(self.given.true_strides[axis])
            if axis in self.mixed:
                taps.append([(at * step, weight) for at, weight in self._around(axis, place)])
            else:
                fixed = fixed + place * step
        self._mix(fixed, list(combinations(*taps)))
        memory = memory_of(self.at.shape.dtype)
        made = f.element(frame.operands[1], start, memory)
        self._spread(made)

    def _mix(self, fixed: Value, rows: Sequence[tuple[tuple[Value, Value], ...]]) -> None:
        """Interpolates rows of the input to one in scratch."""
        f = self.f
        dtype = self.given.dtype
        length = self.frame.extent(self.length)
        step = self.frame.extent(self.given.true_strides[self.last])
        first = self.frame.operands[0]
        sources: list[tuple[Matrix, Value | None]] = []
        for row in rows:
            offset, weight = fixed, None
            for place, by in row:
                offset = offset + place
                weight = by if weight is None else weight * by
            start = f.element(first, offset, memory_of(dtype))
            sources.append((Matrix(start, f.as_index(0), step, dtype), weight))
        with f.loop(0, length, self.lanes) as k:
            mask = f.first_lanes(length - k.index, self.lanes)
            total: Value | None = None
            for line, weight in sources:
                value = widened(f, line.vector(0, k.index, self.lanes, mask), dtype, self.number)
                value = f.splat(value, self.lanes)
                value = value if weight is None else value * weight
                total = value if total is None else total + value
            assert total is not None
            f.store(total, f.element(self.row, k.index, self.number))

    def _spread(self, made: Value) -> None:
        """Interpolates a row of the result from the one in scratch."""
        f, lanes = self.f, self.lanes
        size, vector = self.frame.extent(self.size), self.number.times(lanes)
        with f.loop(0, size, lanes) as k:
            mask = f.first_lanes(size - k.index, lanes)
            total = f.load(f.element(self.row, k.index, self.number), vector)
            if self.taps:
                total = f.const(vector, 0.0)
            for number in range(self.taps):
                at = k.index + self.room * number
                weight = f.load(f.element(self.weights, at, self.number), vector)
                place = f.load(f.element(self.places, at, I64), I64.times(lanes), mask=mask)
                total = f.fma(f.gather(self.row, place, self.number, mask), weight, total)
            to = f.element(made, k.index, memory_of(self.at.shape.dtype))
            f.store(self._stored(total), to, mask=mask)

    def _stored(self, value: Value) -> Value:
        """A result in its type in memory: integers are truncated, after rounding away errors that
        would cost a whole unit.
        """
        f, dtype = self.f, self.at.shape.dtype
        if dtype.is_float:
            return elements.stored(f, value, dtype)
        rounded = f.intrinsic("rint", value * DIGITS) / DIGITS
        return f.cast(rounded, memory_of(dtype), signed=dtype.kind == "int")
