"""Kernels that pick slices by index: ``gather`` and ``gathernd``.

A row of the result is a contiguous run of the data, copied by vectors. Indices are read where they
are needed; one out of range is an error of the run, and nothing is read there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from migx.dim import Extent, product
from migx.ir import Instruction
from migx.ops.indexing import Gather, Gathernd
from migx.planning import is_memory
from migx.shape import Shape, row_major
from migx.targets.cpu.emit import I64, Value
from migx.targets.cpu.kernel import Frame, Kernel, Rows, bits_of, memory_of, type_of
from migx.targets.cpu.machine import Machine

BYTES = 1 << 16
"""About how many bytes a tile copies."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of ``gather`` and ``gathernd``, for slices and indices of whole bytes."""
    if not isinstance(at.op, Gather | Gathernd):
        return None
    data, indices = (v.shape for v in at.inputs)
    whole = not data.dtype.is_packed or isinstance(at.op, Gather)
    if not is_memory(data) or not whole or type_of(indices.dtype) is None:
        return None
    if isinstance(at.op, Gathernd) and not isinstance(indices.dims[-1], int):
        return None
    axes = _axes(at)
    writer = _Across if _has_neighbours(at, axes) else _Writer
    return writer(at, machine, axes).kernel()


_Row = tuple[Extent, Extent, Extent, Extent]
"""An axis that counts rows: its extent, and the strides along it in data, indices and result."""


@dataclass(frozen=True)
class _Axes:
    """What is picked. ``rows`` are the axes before the indices, those of the indices, and the outer
    axes of a slice that is not one run; ``inner`` is the length of a run. ``axes`` are those of the
    data that indices select on, with the ``strides`` along them; ``step`` is the stride between the
    indices of one point. Packed elements are counted in bytes.
    """

    rows: tuple[_Row, ...]
    inner: Extent
    inner_steps: tuple[Extent, Extent]
    axes: tuple[int, ...]
    strides: tuple[Extent, ...]
    step: Extent = 0


def _of_packed(data: Shape, indices: Shape) -> _Axes:
    size = product(data.dims[1:]) * data.dtype.bits // 8
    steps = zip(indices.dims, indices.true_strides, row_major(indices.dims), strict=True)
    rows = tuple((extent, 0, stride, size * step) for extent, stride, step in steps)
    return _Axes(rows, size, (1, 1), (0,), (size,))


def _axes(at: Instruction) -> _Axes:
    data, indices, made = at.inputs[0].shape, at.inputs[1].shape, at.shape
    if data.dtype.is_packed:
        return _of_packed(data, indices)
    picked = list(zip(indices.dims, indices.true_strides, strict=True))
    before, batch = 0, 0
    axes: tuple[int, ...]
    step: Extent = 0
    if isinstance(at.op, Gather):
        before, axes = at.op.axis, (at.op.axis,)
    else:
        width, step = picked.pop()
        batch = at.op_as(Gathernd).batch_dims
        axes = tuple(range(batch, batch + int(width)))
    behind = axes[-1] + 1 if axes else batch
    strides = iter(made.true_strides)
    kept = list(zip(data.dims, data.true_strides, strict=True))
    rows: list[_Row] = [(extent, stride, 0, next(strides)) for extent, stride in kept[:before]]
    for number, (extent, stride) in enumerate(picked):
        shared = data.true_strides[number] if number < batch else 0
        rows.append((extent, shared, stride, next(strides)))
    rows += [(extent, stride, 0, next(strides)) for extent, stride in kept[behind:]]
    runs = len(kept) - behind
    inner: Extent = 1
    steps: tuple[Extent, Extent] = (1, 1)
    while runs and (inner == 1 or rows[-1][1::2] == (inner * steps[0], inner * steps[1])):
        extent, of_data, _, of_result = rows.pop()
        steps = (of_data, of_result) if inner == 1 else steps
        inner, runs = inner * extent, runs - 1
    chosen = tuple(data.true_strides[axis] for axis in axes)
    return _Axes(tuple(rows), inner, steps, axes, chosen, step)


def _has_neighbours(at: Instruction, axes: _Axes) -> bool:
    """Whether each index picks one element, of a size that can be gathered by vectors, and the
    indices are contiguous along the last axis of the result.
    """
    single = isinstance(at.op, Gather) and axes.inner == 1 and len(axes.rows) > 0
    return single and at.shape.dtype.bits in (32, 64) and axes.rows[-1][1:] == (0, 1, 1)


def index_at(
    frame: Frame, place: Value, extent: Extent, lanes: int = 0, operand: int = 1
) -> tuple[Value, Value]:
    """The index at an offset of an input, or a vector of those from there on, counted from the
    front of an axis of this extent, and whether it is in range.
    """
    f, dtype = frame.function, frame.at.inputs[operand].shape.dtype
    memory = memory_of(dtype)
    raw = f.load(f.element(frame.operands[operand], place, memory), memory.times(lanes))
    index, length = f.cast(raw, I64, signed=dtype.kind == "int"), frame.extent(extent)
    if dtype.kind == "int":
        index = f.select(index < 0, index + length, index)
    return index, f.compare("lt", index, length, signed=False)


def fail_outside(frame: Frame, inside: Value, axes: Iterable[int]) -> None:
    """Ends the run if an index is out of range on some axes of the first input."""
    shape, which = frame.at.inputs[0].shape, ", ".join(map(str, axes))
    outside = frame.function.any_of(~inside)
    frame.fails(outside, f"{frame.at.name}: an index is outside axis {which} of {shape.text}")


class _Writer:
    """Writes the kernel of one instruction."""

    def __init__(self, at: Instruction, machine: Machine, axes: _Axes) -> None:
        self.at, self.axes = at, axes
        self.frame = Frame(at, machine)
        self.f = self.frame.function
        self.memory = bits_of(at.shape.dtype)
        self.lanes = machine.lanes(self.memory)
        if isinstance(self.axes.inner, int):
            while self.lanes > 1 and self.lanes // 2 >= self.axes.inner:
                self.lanes //= 2

    def kernel(self) -> Kernel:
        """The kernel."""
        count = product(extent for extent, *_ in self.axes.rows)
        rows = Rows(count, self.axes.inner * self.memory.nbytes, BYTES)
        with self.frame.rows(rows) as row:
            self._row(row)
        return self.frame.finished(self.at.name, rows.tiles)

    def _row(self, row: Value) -> None:
        f, frame = self.f, self.frame
        starts, rows = [f.as_index(0)] * 3, self.axes.rows
        extents = tuple(extent for extent, *_ in rows)
        for axis, place in frame.places(row, extents, range(len(rows))).items():
            steps = map(frame.extent, rows[axis][1:])
            starts = [s + place * by for s, by in zip(starts, steps, strict=True)]
        self._run(*starts)

    def _run(self, from_: Value, index: Value, to: Value) -> None:
        """Writes one run of the result, from an offset of the data plus what indices add."""
        f, frame = self.f, self.frame
        inside: Value | None = None
        shape = self.at.inputs[0].shape
        for number, axis in enumerate(self.axes.axes):
            place = index + frame.extent(number * self.axes.step)
            chosen, fits = index_at(frame, place, shape.dims[axis])
            from_ = from_ + chosen * frame.extent(self.axes.strides[number])
            inside = fits if inside is None else inside & fits
        given = f.element(frame.operands[0], from_, self.memory)
        made = f.element(frame.operands[2], to, self.memory)
        if inside is None:
            self._copy(given, made)
            return
        fail_outside(frame, inside, self.axes.axes)
        with f.when(inside):
            self._copy(given, made)

    def _copy(self, given: Value, made: Value) -> None:
        """Copies one run."""
        f, lanes = self.f, self.lanes
        inner = self.frame.extent(self.axes.inner)
        steps = [self.frame.extent(s) for s in self.axes.inner_steps]
        if lanes < 2 or [s.number for s in steps] != [1, 1]:
            with f.loop(0, inner) as k:
                one = f.load(f.element(given, k.index * steps[0], self.memory), self.memory)
                f.store(one, f.element(made, k.index * steps[1], self.memory))
            return
        for at, many, mask in self.frame.by_vectors(inner, lanes):
            some = f.load(f.element(given, at, self.memory), self.memory.times(many), mask=mask)
            f.store(some, f.element(made, at, self.memory), mask=mask)


class _Across(_Writer):
    """Writes the kernel for runs of one element: as many at a time as indices are loaded."""

    def __init__(self, at: Instruction, machine: Machine, axes: _Axes) -> None:
        *rows, (extent, *_) = axes.rows
        super().__init__(at, machine, replace(axes, rows=tuple(rows), inner=extent))

    def _run(self, from_: Value, index: Value, to: Value) -> None:
        f, extent = self.f, self.frame.extent(self.axes.inner)
        given = f.element(self.frame.operands[0], from_, self.memory)
        made = f.element(self.frame.operands[2], to, self.memory)
        for at, lanes in f.by_vectors(0, extent, self.lanes):
            self._pick(given, index + at, f.element(made, at, self.memory), lanes)

    def _pick(self, given: Value, place: Value, made: Value, lanes: int) -> None:
        """Fetches one element, or a vector of them."""
        f, shape, (axis,) = self.f, self.at.inputs[0].shape, self.axes.axes
        index, inside = index_at(self.frame, place, shape.dims[axis], lanes)
        fail_outside(self.frame, inside, self.axes.axes)
        offset = index * self.frame.extent(shape.true_strides[axis])
        if lanes:
            f.store(f.gather(given, offset, self.memory, inside), made)
            return
        with f.when(inside):
            f.store(f.load(f.element(given, offset, self.memory), self.memory), made)
