"""Kernels of ``max_pool_indices``: the index of the greatest element of each max pooling window.

Adjacent windows are processed together, one in each lane, which keeps the greatest element so far
and its index. Axes are visited from the last to the first, as in the operation's own meaning, so
that elements that are NaN give the same index.
"""

from __future__ import annotations

from collections.abc import Sequence

from migx.dim import product
from migx.ir import Instruction
from migx.ops._numeric import lowest
from migx.ops.pooling import MaxPoolIndices
from migx.targets.cpu.emit import I64, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, Rows, memory_of
from migx.targets.cpu.kernels.pooling import axes_known
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.windows import Axis

ELEMENTS = 1 << 13
"""About how many elements of windows a tile visits."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of one of these whose indices are row-major."""
    op = at.op
    if type(op) is not MaxPoolIndices or op.column_major or not at.shape.standard:
        return None
    axes = axes_known(at, op, machine)
    return None if axes is None else _Writer(at, machine, axes).kernel()


class _Writer(KernelWriter):
    def __init__(self, at: Instruction, machine: Machine, axes: Sequence[Axis]) -> None:
        super().__init__(at, machine)
        self.x, self.dtype = at.inputs[0].shape, at.inputs[0].shape.dtype
        self.depth, self.height, self.width = axes
        self.lanes = machine.lanes(I64)
        least = lowest(self.dtype.numpy)
        value = self.f.const(elements.computing(self.dtype).times(self.lanes), least)
        self.none = [value, self.f.const(I64.times(self.lanes), -1)]

    def kernel(self) -> Kernel:
        f, frame, width = self.f, self.frame, self.width
        dims = (*self.x.dims[:2], self.depth.made, self.height.made)
        taps = self.depth.length * self.height.length * width.length
        rows = Rows(product(dims), width.made * taps, ELEMENTS)
        with frame.rows(rows) as row:
            found = frame.places(row, dims, range(4))
            item, channel, z, y = (found[axis] for axis in range(4))
            image = item * frame.extent(dims[1]) + channel
            plane = product(axis.given for axis in (self.depth, self.height, width))
            steps = [frame.extent(s) for s in self.x.true_strides[:2]]
            start = f.element(
                frame.operands[0], item * steps[0] + channel * steps[1], memory_of(self.dtype)
            )
            many = frame.extent(width.made)
            with f.loop(0, many, self.lanes) as column:
                _, place = self._in_space(start, z, y, column.index)
                place = place + f.splat(image * frame.extent(plane), self.lanes)
                there = f.element(frame.operands[1], row * many + column.index, I64)
                f.store(place, there, mask=f.first_lanes(many - column.index, self.lanes))
        return frame.finished("places of max pooling", rows.tiles)

    def _in_space(self, start: Value, z: Value, y: Value, column: Value) -> Sequence[Value]:
        """The greatest elements of adjacent windows, and their indices in the image."""
        f, frame, depth, height = self.f, self.frame, self.depth, self.height
        with f.loop(*depth.taps(frame, z), carry=self.none) as plane:
            level = depth.place(frame, z, plane.index)
            with f.loop(*height.taps(frame, y), carry=self.none) as row:
                above = height.place(frame, y, row.index)
                offset = level * frame.extent(depth.step) + above * frame.extent(height.step)
                line = f.element(start, offset, memory_of(self.dtype))
                number = level * frame.extent(height.given) + above
                first = number * frame.extent(self.width.given)
                row.carry(*self._better(row.carried, self._in_row(line, first, column)))
            plane.carry(*self._better(plane.carried, row.carried))
        return plane.carried

    def _in_row(self, line: Value, number: Value, column: Value) -> Sequence[Value]:
        """The same for what windows see of one row, whose first element has index ``number``."""
        f, width = self.f, self.width
        found: Sequence[Value] = self.none
        limit = self.frame.extent(width.given)
        for tap in range(width.length):
            first = width.place(self.frame, column, tap)
            inside = width.inside(self.frame, first, limit, self.lanes)
            seen = width.vector(self.frame, line, first, limit, self.dtype, self.lanes)
            places = f.iota(I64.times(self.lanes)) * width.stride + f.splat(
                number + first, self.lanes
            )
            other = elements.loaded(f, seen, self.dtype), f.select(inside, places, -1)
            found = self._better(found, other, inside)
        return found

    def _better(
        self, one: Sequence[Value], other: Sequence[Value], known: Value | None = None
    ) -> list[Value]:
        """Of two elements and their indices the other if that is greater, or if there is none yet;
        where it is ``known`` to exist.
        """
        f = self.f
        greater = f.compare("gt", other[0], one[0], signed=self.dtype.kind != "uint")
        taken = greater | f.compare("lt", one[1], 0)
        taken = taken if known is None else taken & known
        return [f.select(taken, b, a) for a, b in zip(one, other, strict=True)]
