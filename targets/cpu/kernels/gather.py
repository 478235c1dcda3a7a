"""Kernels that pick slices by index: ``gather`` and ``gathernd``.

A row of the result is a contiguous run of the data, copied by vectors. Indices are read where they
are needed; one out of range is an error of the run, and nothing is read there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from migx.dim import Extent, product
from migx.ir import Instruction
from migx.ops.indexing import Gather, Gathernd
from migx.planning import is_memory
from migx.shape import Shape, row_major
from migx.targets.cpu.emit import Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, Rows, bits_of, type_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts.indices import fail_outside, index_at

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


class _Row(NamedTuple):
    """An axis that counts rows, and the strides along it in data, indices and result."""

    extent: Extent
    data: Extent
    indices: Extent
    result: Extent

    @property
    def strides(self) -> tuple[Extent, Extent]:
        """The strides in data and result."""
        return self.data, self.result


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
    rows = tuple(_Row(extent, 0, stride, size * step) for extent, stride, step in steps)
    return _Axes(rows, size, (1, 1), (0,), (size,))


def _axes(at: Instruction) -> _Axes:
    data, indices, made = at.inputs[0].shape, at.inputs[1].shape, at.shape
    if data.dtype.is_packed:
        return _of_packed(data, indices)
    kept = list(zip(data.dims, data.true_strides, strict=True))
    picked = list(zip(indices.dims, indices.true_strides, strict=True))
    before, batch = 0, 0
    step: Extent = 0
    axes: tuple[int, ...]
    if isinstance(at.op, Gather):
        before, axes = at.op.axis, (at.op.axis,)
    else:
        width, step = picked.pop()
        batch = at.op_as(Gathernd).batch_dims
        axes = tuple(range(batch, batch + int(width)))
    behind = kept[axes[-1] + 1 if axes else batch :]
    shared = [data.true_strides[n] if n < batch else 0 for n in range(len(picked))]
    steps = [
        *((extent, stride, 0) for extent, stride in kept[:before]),
        *((extent, by, stride) for (extent, stride), by in zip(picked, shared, strict=True)),
        *((extent, stride, 0) for extent, stride in behind),
    ]
    rows = [_Row(*row, to) for row, to in zip(steps, made.true_strides, strict=True)]
    inner, inner_steps = _run(rows, len(behind))
    chosen = tuple(data.true_strides[axis] for axis in axes)
    return _Axes(tuple(rows), inner, inner_steps, axes, chosen, step)


def _run(rows: list[_Row], most: int) -> tuple[Extent, tuple[Extent, Extent]]:
    """Removes the last axes, at most so many, that are contiguous: their extent and strides."""
    inner: Extent = 1
    steps: tuple[Extent, Extent] = (1, 1)
    while most and (inner == 1 or rows[-1].strides == (inner * steps[0], inner * steps[1])):
        last = rows.pop()
        steps = last.strides if inner == 1 else steps
        inner, most = inner * last.extent, most - 1
    return inner, steps


def _has_neighbours(at: Instruction, axes: _Axes) -> bool:
    """Whether each index picks one element, of a size that can be gathered by vectors, and the
    indices are contiguous along the last axis of the result.
    """
    if not isinstance(at.op, Gather) or axes.inner != 1 or not axes.rows:
        return False
    return at.shape.dtype.bits in (32, 64) and axes.rows[-1][1:] == (0, 1, 1)


class _Writer(KernelWriter):
    def __init__(self, at: Instruction, machine: Machine, axes: _Axes) -> None:
        super().__init__(at, machine)
        self.axes = axes
        self.memory = bits_of(at.shape.dtype)
        self.lanes = machine.lanes(self.memory)
        if isinstance(self.axes.inner, int):
            while self.lanes > 1 and self.lanes // 2 >= self.axes.inner:
                self.lanes //= 2

    def kernel(self) -> Kernel:
        count = product(row.extent for row in self.axes.rows)
        rows = Rows(count, self.axes.inner * self.memory.nbytes, BYTES)
        with self.frame.rows(rows) as row:
            self._row(row)
        return self.frame.finished(self.at.name, rows.tiles)

    def _row(self, row: Value) -> None:
        f, frame = self.f, self.frame
        starts, rows = [f.as_index(0)] * 3, self.axes.rows
        extents = tuple(row.extent for row in rows)
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
        *rows, last = axes.rows
        super().__init__(at, machine, replace(axes, rows=tuple(rows), inner=last.extent))

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
