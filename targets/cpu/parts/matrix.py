"""The layout of matrices, and reading them by vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from migx.dim import Extent
from migx.shape import DType
from migx.targets.cpu.emit import I64, Function, Type, Value
from migx.targets.cpu.kernel import Frame, memory_of
from migx.targets.cpu.parts import elements


@dataclass(frozen=True)
class Matrix:
    """A matrix in memory: the address of its first element, and the strides between rows and
    columns.
    """

    first: Value
    row: Value
    column: Value
    dtype: DType

    @classmethod
    def of(
        cls,
        frame: Frame,
        number: int,
        steps: Sequence[Extent],
        dtype: DType,
        offset: Value | None = None,
    ) -> Matrix:
        """An operand of a kernel, from an offset on, with the strides of rows and columns."""
        first = frame.operands[number]
        if offset is not None:
            first = frame.function.element(first, offset, memory_of(dtype))
        row, column = map(frame.extent, steps)
        return cls(first, row, column, dtype)

    @classmethod
    def dense(cls, first: Value, width: Value | int, dtype: DType) -> Matrix:
        """Contiguous rows of so many elements."""
        f = first.into
        return cls(first, f.as_index(width), f.as_index(1), dtype)

    @property
    def into(self) -> Function:
        """The function that its addresses are values of."""
        return self.first.into

    def at(self, row: Value | int, column: Value | int) -> Value:
        """The address of an element."""
        f = self.into
        return f.element(self.first, self.row * row + self.column * column, memory_of(self.dtype))

    def moved(self, row: Value | int, column: Value | int) -> Matrix:
        """The matrix that begins at another element."""
        return Matrix(self.at(row, column), self.row, self.column, self.dtype)

    @property
    def turned(self) -> Matrix:
        """The transposed matrix."""
        return Matrix(self.first, self.column, self.row, self.dtype)

    def vector(
        self, row: Value | int, column: Value | int, lanes: int, mask: Value | None
    ) -> Value:
        """Elements of a row from a column on, of their type in memory; with a mask, only its
        lanes.
        """
        f, memory = self.into, memory_of(self.dtype)
        return apart(f, self.at(row, column), self.column, memory.times(lanes), mask)

    def loaded(
        self, row: Value | int, column: Value | int, lanes: int, mask: Value | None
    ) -> Value:
        """``vector`` in the type elements are computed in."""
        return elements.loaded(self.into, self.vector(row, column, lanes, mask), self.dtype)


def apart(f: Function, first: Value, step: Value, vector: Type, mask: Value | None) -> Value:
    """Elements at a stride, from an address on; with a mask, only its lanes. Contiguous ones, in
    either direction, are read by one load; an unknown stride is tested at run time. Without lanes
    it is one element.
    """
    if step.number == 0:
        return f.splat(f.load(first, vector.one), vector.lanes)
    if step.number == 1 or not vector.lanes:
        return f.load(first, vector, mask=mask)
    if step.number == -1:
        order = range(vector.lanes)[::-1]
        turned = None if mask is None else f.shuffle(mask, mask, order)
        many = f.load(f.element(first, 1 - vector.lanes, vector.one), vector, mask=turned)
        return f.shuffle(many, many, order)
    places = f.iota(I64.times(vector.lanes)) * step
    if step.number is not None:
        return f.gather(first, places, vector.one, mask)
    near = f.compare("eq", step, 1)
    with f.when(near, [f.poison(vector)]) as neighbours:
        neighbours.carry(f.load(first, vector, mask=mask))
    with f.unless(near, neighbours.carried) as others:
        others.carry(f.gather(first, places, vector.one, mask))
    return others.carried[0]


def widened(f: Function, value: Value, dtype: DType, to: Type) -> Value:
    """A value read from memory, in the type of sums."""
    return f.cast(elements.loaded(f, value, dtype), to, signed=dtype.kind == "int")
