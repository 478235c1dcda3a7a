"""The kernel of ``couple_chances``: the iteration for one row after another, by numbers.

There are few classes, and each step needs all of the one before; so a row's matrix lies in scratch.
Sums are in the order of the classes, as on ``ref``.
"""

from __future__ import annotations

from migx.dim import Extent
from migx.ir import Instruction
from migx.ops.svm import NEAR, STEPS, CoupleChances
from migx.targets.cpu.emit import F32, F64, Value
from migx.targets.cpu.emit.vector_math import absolute
from migx.targets.cpu.kernel import Kernel, KernelWriter, Rows, memory_of, type_of
from migx.targets.cpu.machine import Machine

ELEMENTS = 1 << 8
"""About how many elements the matrices of a tile have: each is read in every step."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of ``couple_chances`` on floats that are computed as they are stored."""
    if not isinstance(at.op, CoupleChances) or type_of(at.shape.dtype) not in (F32, F64):
        return None
    return _Writer(at, machine).kernel()


class _Writer(KernelWriter):
    def __init__(self, at: Instruction, machine: Machine) -> None:
        super().__init__(at, machine)
        self.given = at.inputs[0].shape
        self.number = memory_of(self.given.dtype)
        self.count: Extent = self.given.dims[-1]
        self.size = self.frame.extent(self.count)
        self.matrix = self.frame.take(self.count * self.count, self.number)
        self.slopes = self.frame.take(self.count, self.number)

    def kernel(self) -> Kernel:
        f, frame = self.f, self.frame
        rows = Rows(self.given.dims[0], self.count * self.count, ELEMENTS)
        near = f.cast(NEAR / f.cast(self.size, F64), self.number)
        even = f.cast(1.0 / f.cast(self.size, F64), self.number)
        with frame.rows(rows) as row:
            self._couple(row)
            chances = f.element(frame.operands[1], row * self.size, self.number)
            with f.loop(0, self.size) as i:
                f.store(even, self._of(chances, i.index))
            with f.loop(0, STEPS) as step:
                total, error = self._found(chances)
                going = error >= near
                with f.when(going):
                    self._step(chances, total)
                step.end(~going)
        return frame.finished("couple_chances", rows.tiles)

    def _of(self, start: Value, index: Value) -> Value:
        return self.f.element(start, index, self.number)

    def _loaded(self, start: Value, index: Value) -> Value:
        return self.f.load(self._of(start, index), self.number)

    def _couple(self, row: Value) -> None:
        """Writes the matrix of a row: the negative product of the chances of each two, and on the
        diagonal the sum of the squares of the chances against one.
        """
        f, size = self.f, self.size
        with f.loop(0, size) as i:
            with f.loop(0, size, carry=[f.const(self.number, 0.0)]) as j:
                against = self._chance(row, j.index, i.index)
                f.store(
                    -against * self._chance(row, i.index, j.index),
                    self._of(self.matrix, i.index * size + j.index),
                )
                (total,) = j.carried
                other = f.compare("ne", i.index, j.index)
                j.carry(f.select(other, total + against * against, total))
            f.store(j.carried[0], self._of(self.matrix, i.index * size + i.index))

    def _chance(self, row: Value, i: Value, j: Value) -> Value:
        """The chance of a class given that it is one of two."""
        offset = self.frame.offset(self.given.true_strides, {0: row, 1: i, 2: j})
        return self._loaded(self.frame.operands[0], offset)

    def _found(self, chances: Value) -> tuple[Value, Value]:
        """Writes the slopes, and gives their mean and how far one is from it at most."""
        f, size, none = self.f, self.size, self.f.const(self.number, 0.0)
        with f.loop(0, size, carry=[none]) as i:
            with f.loop(0, size, carry=[none]) as j:
                weight = self._loaded(self.matrix, i.index * size + j.index)
                j.carry(j.carried[0] + weight * self._loaded(chances, j.index))
            (slope,) = j.carried
            f.store(slope, self._of(self.slopes, i.index))
            i.carry(i.carried[0] + self._loaded(chances, i.index) * slope)
        (total,) = i.carried
        with f.loop(0, size, carry=[none]) as i:
            error = absolute(f, self._loaded(self.slopes, i.index) - total)
            i.carry(f.select(error > i.carried[0], error, i.carried[0]))
        return total, i.carried[0]

    def _step(self, chances: Value, total: Value) -> None:
        """Moves each chance in turn to its optimum given the others."""
        f, size = self.f, self.size
        with f.loop(0, size, carry=[total]) as t:
            start = t.index * size
            own = self._loaded(self.matrix, start + t.index)
            slope, (mean,) = self._loaded(self.slopes, t.index), t.carried
            change = (mean - slope) / own
            f.store(self._loaded(chances, t.index) + change, self._of(chances, t.index))
            grown = change + 1.0
            with f.loop(0, size) as i:
                weight, there = self._loaded(self.matrix, start + i.index), i.index
                moved = self._loaded(self.slopes, there) + change * weight
                f.store(moved / grown, self._of(self.slopes, there))
                f.store(self._loaded(chances, there) / grown, self._of(chances, there))
            t.carry((mean + change * (change * own + slope * 2.0)) / (grown * grown))
