"""Kernels of linear resampling, over any axes.

For a row of the result, which runs along the last axis, the rows it lies between are mixed first,
into scratch and by vectors; then its elements are mixed from two neighbours each. Which these are,
and with what weights, is the same for all rows: a table has it, made once for the tiles of a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product as combinations

from migx.dim import Extent, bounds, maximum, product
from migx.ir import Instruction
from migx.ops.resize import Resize
from migx.targets.cpu import elements
from migx.targets.cpu.emit import F32, F64, I64, Value
from migx.targets.cpu.kernel import Frame, Kernel
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.tile import Matrix, memory_of

ELEMENTS = 1 << 13
"""About how many elements a tile makes."""
COORDINATES = frozenset(
    {
        "align_corners",
        "asymmetric",
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "tf_half_pixel_for_nn",
    }
)
"""The ways of counting that ``coordinate`` knows."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a linear ``resize`` of floats of 16 or 32 bits that has nothing unusual."""
    op = at.op
    if type(op) is not Resize or op.mode != "linear" or at.shape.rank == 0:
        return None
    if op.coordinate_transformation_mode not in COORDINATES or op.exclude_outside or op.antialias:
        return None
    dtype = at.shape.dtype
    half = machine.vector_bytes < 32 and not machine.has("neon") and dtype.name == "f16"
    if elements.computing(dtype) != F32 or half:
        return None
    return _Writer(at, machine).kernel()


def _given(at: Instruction) -> tuple[Extent, ...]:
    return at.inputs[0].shape.dims


def changes(at: Instruction, axis: int) -> bool:
    """Whether a resize does anything on an axis."""
    assert isinstance(at.op, Resize)
    if at.op.coordinate_transformation_mode == "tf_half_pixel_for_nn":
        return True
    same = _given(at)[axis] == at.op.sizes[axis]
    return not same or (bool(at.op.scales) and at.op.scales[axis] != 1)


def coordinate(frame: Frame, axis: int, index: Value) -> Value:
    """Where on an axis of what is resampled the elements of some indices lie, as f64: reckoned step
    by step as the operation's own meaning does, so that nothing is rounded another way.
    """
    f, op = frame.function, frame.at.op
    assert isinstance(op, Resize)
    length, size = (
        f.splat(f.cast(frame.extent(extent), F64), index.type.lanes)
        for extent in (_given(frame.at)[axis], op.sizes[axis])
    )
    scale = f.const(length.type, op.scales[axis]) if op.scales else size / length
    at, centre = f.cast(index, F64), 0.5
    match op.coordinate_transformation_mode:
        case "asymmetric":
            return at / scale
        case "tf_half_pixel_for_nn":
            return (at + centre) / scale
        case "align_corners":
            width = scale * length
            return f.select(width > 1.0, at * (length - 1.0) / (width - 1.0), at)
        case "half_pixel_symmetric":
            width = scale * length
            return length / 2.0 * (1.0 - size / width) + (at + centre) / scale - centre
    found = (at + centre) / scale - centre
    if op.coordinate_transformation_mode == "pytorch_half_pixel":
        found = f.select(f.compare("eq", size, 1.0), at, found)
    return found


class _Writer:
    """Writes the kernel of one instruction."""

    def __init__(self, at: Instruction, machine: Machine) -> None:
        self.at, self.frame = at, Frame(at, machine)
        self.f = self.frame.function
        self.given = at.inputs[0].shape
        self.last = at.shape.rank - 1
        self.lanes = machine.lanes(F32)
        self.mixed = [i for i in range(self.last) if changes(at, i)]
        self.length, self.size = self.given.dims[-1], at.shape.dims[-1]

    def kernel(self) -> Kernel:
        """The whole of it."""
        f, frame, dims = self.f, self.frame, self.at.shape.dims
        room = [(n + 15) // 16 * 16 for n in (self.length, self.size)]
        scratch = room[0] * 4 + room[1] * 20
        self.row = frame.scratch
        self.weights = f.element(self.row, frame.extent(room[0]), F32)
        self.firsts = f.element(self.weights, frame.extent(room[1]), F32)
        self.seconds = f.element(self.firsts, frame.extent(room[1]), I64)
        rows = product(dims[: self.last])
        height = maximum(ELEMENTS // maximum(self.size, 1), 1)
        end = self._end()
        with f.when(frame.begin < end):
            self._tabulate()
        with f.loop(frame.begin, end) as tile:
            top = tile.index * frame.extent(height)
            bottom = f.minimum(top + frame.extent(height), frame.extent(rows))
            with f.loop(top, bottom) as row:
                self._row(row.index)
        count = (rows + height - 1) // height
        return frame.finished("resize", count, scratch=scratch, flops=4 * self.at.shape.elements)

    def _end(self) -> Value:
        """The tile before which to stop: the first, where there is nothing to make elements of."""
        f, frame = self.f, self.frame
        if bounds(self.given.elements)[0] > 0:
            return frame.end
        nothing = f.compare("eq", frame.extent(self.given.elements), 0)
        some = frame.extent(self.at.shape.elements) > 0
        frame.fails(nothing & some, f"resize: {self.given.text} has no elements")
        return f.select(nothing, frame.begin, frame.end)

    def _between(self, axis: int, index: Value) -> tuple[Value, Value, Value]:
        """The two places that elements lie between, and the weight of the second."""
        f = self.f
        at = coordinate(self.frame, axis, index)
        below = f.intrinsic("floor", at)
        last = self.frame.extent(self.given.dims[axis]) - 1
        first = f.cast(below, I64)
        places = [f.minimum(f.maximum(p, 0), last) for p in (first, first + 1)]
        return places[0], places[1], f.cast(at - below, F32)

    def _tabulate(self) -> None:
        """Makes the table of the last axis."""
        f = self.f
        with f.loop(0, self.frame.extent(self.size)) as k:
            first, second, weight = self._between(self.last, k.index)
            f.store(weight, f.element(self.weights, k.index, F32))
            f.store(first, f.element(self.firsts, k.index, I64))
            f.store(second, f.element(self.seconds, k.index, I64))

    def _row(self, row: Value) -> None:
        f, frame, dims = self.f, self.frame, self.at.shape.dims
        start = row * frame.extent(dims[self.last])
        fixed, taps = f.as_index(0), []
        for axis in reversed(range(self.last)):
            place = row % frame.extent(dims[axis]) if axis else row
            row = row // frame.extent(dims[axis]) if axis else row
            step = frame.extent(self.given.true_strides[axis])
            if axis in self.mixed:
                first, second, weight = self._between(axis, place)
                taps.append(((first * step, 1.0 - weight), (second * step, weight)))
            else:
                fixed = fixed + place * step
        self._mix(fixed, list(combinations(*taps)))
        memory = memory_of(self.at.shape.dtype)
        made = f.element(frame.operands[1], start, memory)
        self._spread(made)

    def _mix(self, fixed: Value, rows: Sequence[tuple[tuple[Value, Value], ...]]) -> None:
        """The rows of some places and weights as one, in scratch."""
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
                value = elements.loaded(f, line.vector(0, k.index, self.lanes, mask), dtype)
                value = f.splat(value, self.lanes)
                value = value if weight is None else value * weight
                total = value if total is None else total + value
            assert total is not None
            f.store(total, f.element(self.row, k.index, F32))

    def _spread(self, made: Value) -> None:
        """Makes a row of the result of the one in scratch."""
        f, lanes, dtype = self.f, self.lanes, self.at.shape.dtype
        size = self.frame.extent(self.size)
        with f.loop(0, size, lanes) as k:
            mask = f.first_lanes(size - k.index, lanes)
            to = f.element(made, k.index, memory_of(dtype))
            if not changes(self.at, self.last):
                value = f.load(f.element(self.row, k.index, F32), F32.times(lanes))
            else:
                weight = f.load(f.element(self.weights, k.index, F32), F32.times(lanes))
                first, second = (
                    f.gather(
                        self.row,
                        f.load(f.element(table, k.index, I64), I64.times(lanes), mask=mask),
                        F32,
                        mask,
                    )
                    for table in (self.firsts, self.seconds)
                )
                value = first * (1.0 - weight) + second * weight
            f.store(elements.stored(f, value, dtype), to, mask=mask)
