"""The kernel of ``col2im``: columns added up where windows have read them.

A row of the image begins as zeros. Each element of a window that reaches the row has a line of the
columns for it, with one number for each window along the row; these are added by vectors if the
windows are adjacent. Elements are visited in order, so sums have the same bits as on ``ref``.
"""

from __future__ import annotations

from math import prod

from migx.dim import product
from migx.ir import Instruction
from migx.ops._windows import split
from migx.ops.vision import Col2im
from migx.targets.cpu.emit import I64, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, Rows, memory_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements

ELEMENTS = 1 << 12
"""About how many elements of the image a tile has."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of ``col2im`` on elements that are computed as they are stored."""
    if not isinstance(at.op, Col2im) or at.shape.rank != len(at.op.stride) + 2:
        return None
    if not elements.is_computed_as_stored(at.shape.dtype):
        return None
    return _Writer(at, machine).kernel()


class _Writer(KernelWriter):
    def __init__(self, at: Instruction, machine: Machine) -> None:
        super().__init__(at, machine)
        self.op = op = at.op_as(Col2im)
        self.number = memory_of(at.shape.dtype)
        self.lanes = machine.lanes(self.number)
        self.columns = at.inputs[0].shape
        self.begins, ends = split(op.padding)
        self.lengths = [self._length(axis) for axis in range(len(op.stride))]
        self.counts: list[Value] = []
        for axis, length in enumerate(self.lengths):
            whole = self.frame.extent(op.dims[axis + 1] + self.begins[axis] + ends[axis])
            left = whole - (length - 1) * op.dilation[axis] - 1
            self.counts.append(left // op.stride[axis] + 1)

    def _length(self, axis: int) -> Value:
        """The length of windows along an axis."""
        shape = self.at.inputs[2].shape
        place = self.frame.extent(shape.true_strides[0] * axis)
        memory = memory_of(shape.dtype)
        raw = self.f.load(self.f.element(self.frame.operands[2], place, memory), memory)
        return self.f.cast(raw, I64)

    def kernel(self) -> Kernel:
        f, frame, dims = self.f, self.frame, self.at.shape.dims
        rows = Rows(product(dims[:-1]), dims[-1], ELEMENTS)
        taps = prod(self.lengths, start=frame.extent(dims[1]))
        windows = prod(self.counts, start=f.as_index(1))
        given = [frame.extent(d) for d in self.columns.dims[1:]]
        other = f.compare("ne", given[0], taps) | f.compare("ne", given[1], windows)
        frame.fails(other, f"{self.at.name}: columns do not come from such windows of the image")
        with f.unless(other), frame.rows(rows) as row:
            self._row(row)
        return frame.finished(self.at.name, rows.tiles)

    def _row(self, row: Value) -> None:
        """Adds up one row of the image."""
        f, frame, dims = self.f, self.frame, self.at.shape.dims
        width = frame.extent(dims[-1])
        self.to = f.element(frame.operands[3], row * width, self.number)
        for at, lanes in f.by_vectors(0, width, self.lanes):
            f.store(f.const(self.number.times(lanes), 0), f.element(self.to, at, self.number))
        self.places = frame.places(row, dims, range(len(dims) - 1))
        item = self.places[0] * frame.extent(self.columns.true_strides[0])
        self.given = f.element(frame.operands[0], item, self.number)
        self._elements(0, self.places[1], f.as_index(0))

    def _elements(self, axis: int, element: Value, window: Value) -> None:
        """Adds the numbers of all window elements, from an axis on; ``element`` and ``window``
        count along the axes before it.
        """
        f, op = self.f, self.op
        with f.loop(0, self.lengths[axis]) as k:
            number = element * self.lengths[axis] + k.index
            before = self.begins[axis] - k.index * op.dilation[axis]
            windows = window * self.counts[axis]
            if axis == len(self.lengths) - 1:
                self._line(number, windows, -before)
            else:
                at = self.places[axis + 2] + before
                place = at // op.stride[axis]
                reached = (at >= 0) & (place < self.counts[axis])
                with f.when(reached & f.compare("eq", place * op.stride[axis], at)):
                    self._elements(axis + 1, number, windows + place)

    def _line(self, element: Value, window: Value, begin: Value) -> None:
        """Adds the numbers of the windows along the row; the first belongs to index ``begin``."""
        f, frame, stride = self.f, self.frame, self.op.stride[-1]
        by, step = (frame.extent(s) for s in self.columns.true_strides[1:])
        line = f.element(self.given, element * by + window * step, self.number)
        width = frame.extent(self.at.shape.dims[-1])
        ahead = f.maximum(width - begin, 0) + (stride - 1)
        first = (f.maximum(-begin, 0) + (stride - 1)) // stride
        last = f.minimum(self.counts[-1], ahead // stride)
        lanes = self.lanes if stride == 1 and step.number == 1 else 0
        for at, many in f.by_vectors(first, last, lanes):
            vector = self.number.times(many)
            there = f.element(self.to, begin + at * stride, self.number)
            more = f.load(f.element(line, at * step, self.number), vector)
            f.store(f.load(there, vector) + more, there)
