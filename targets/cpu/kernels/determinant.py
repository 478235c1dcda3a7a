"""The kernel of ``determinant``: elimination with partial pivoting, a row by vectors.

A matrix is copied into scratch, with room for a whole vector after each row, so that the end of a
row needs no mask: what is there is computed, and never read.
"""

from __future__ import annotations

from migx.dim import Extent, product
from migx.ir import Instruction
from migx.ops.linear import Determinant
from migx.targets.cpu.emit import F32, F64, Value
from migx.targets.cpu.emit.vector_math import absolute
from migx.targets.cpu.kernel import Kernel, KernelWriter, Rows, memory_of, type_of
from migx.targets.cpu.machine import Machine

ELEMENTS = 1 << 10
"""About how many elements the matrices of a tile have."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of ``determinant`` on floats that are computed as they are stored."""
    if not isinstance(at.op, Determinant) or type_of(at.shape.dtype) not in (F32, F64):
        return None
    return _Writer(at, machine).kernel()


class _Writer(KernelWriter):
    def __init__(self, at: Instruction, machine: Machine) -> None:
        super().__init__(at, machine)
        self.given = at.inputs[0].shape
        self.number = memory_of(self.given.dtype)
        self.lanes = machine.lanes(self.number)
        self.extent: Extent = self.given.dims[-1]
        self.size = self.frame.extent(self.extent)
        room = self.extent + self.lanes
        self.pitch = self.frame.extent(room)
        self.matrix = self.frame.take(self.extent * room, self.number)

    def kernel(self) -> Kernel:
        f, frame, size = self.f, self.frame, self.extent
        matrices = Rows(product(self.given.dims[:-2]), size * size, ELEMENTS)
        with frame.rows(matrices) as number:
            self._copy(number)
            one = f.const(self.number, 1.0)
            with f.loop(0, self.size, carry=[one]) as k:
                k.carry(self._eliminated(k.index, k.carried[0]))
            f.store(k.carried[0], f.element(frame.operands[1], number, self.number))
        return frame.finished("determinant", matrices.tiles)

    def _at(self, row: Value, column: Value) -> Value:
        return self.f.element(self.matrix, row * self.pitch + column, self.number)

    def _copy(self, number: Value) -> None:
        """Copies a matrix into scratch."""
        f, frame, rank = self.f, self.frame, self.given.rank
        places = frame.places(number, self.given.dims, range(rank - 2))
        start = frame.offset(self.given.true_strides, places)
        down, across = (frame.extent(stride) for stride in self.given.true_strides[-2:])
        with f.loop(0, self.size) as row, f.loop(0, self.size) as column:
            offset = start + row.index * down + column.index * across
            value = f.load(f.element(frame.operands[0], offset, self.number), self.number)
            f.store(value, self._at(row.index, column.index))

    def _eliminated(self, k: Value, so_far: Value) -> Value:
        """Eliminates column k below its pivot; gives the product of the pivots with that one."""
        f = self.f
        top = f.load(self._at(k, k), self.number)
        with f.loop(k + 1, self.size, carry=[k, absolute(f, top)]) as row:
            size = absolute(f, f.load(self._at(row.index, k), self.number))
            more = size > row.carried[1]
            row.carry(
                f.select(more, row.index, row.carried[0]), f.select(more, size, row.carried[1])
            )
        best = row.carried[0]
        other = f.compare("ne", best, k)
        with f.when(other):
            self._swap(k, best)
        pivot = f.load(self._at(k, k), self.number)
        none = f.compare("eq", pivot, 0.0)
        with f.loop(k + 1, self.size) as row:
            below = f.load(self._at(row.index, k), self.number)
            self._subtract(k, row.index, f.select(none, below, below / pivot))
        return so_far * f.select(other, -pivot, pivot)

    def _swap(self, k: Value, other: Value) -> None:
        """Exchanges two rows from column k on."""
        f, vector = self.f, self.number.times(self.lanes)
        with f.loop(k, self.size, self.lanes) as column:
            here, there = self._at(k, column.index), self._at(other, column.index)
            one, two = f.load(here, vector), f.load(there, vector)
            f.store(two, here)
            f.store(one, there)

    def _subtract(self, k: Value, row: Value, factor: Value) -> None:
        """Subtracts a multiple of row k from another, after column k."""
        f, vector = self.f, self.number.times(self.lanes)
        with f.loop(k + 1, self.size, self.lanes) as column:
            there = self._at(row, column.index)
            pivots = f.load(self._at(k, column.index), vector)
            f.store(f.fma(-f.splat(factor, self.lanes), pivots, f.load(there, vector)), there)
