"""Several rows of a matrix in one vector, each in a group of lanes.

Reducing a single row waits for each step of the reduction, in which ever fewer lanes are active.
Rows abreast share these steps; if rows are short, they fill registers that one row would not; and
per-row scalars are computed for all rows at once. The lanes of a row are reduced in the same order
as for a row alone, so answers have the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from migx.dim import Extent
from migx.targets.cpu.emit import I32, I64, Function, Type, Value
from migx.targets.cpu.parts.matrix import apart


@dataclass(frozen=True)
class Abreast:
    """``rows`` rows of ``lanes`` lanes each, both powers of two. ``length`` is the elements of a
    row, which may take several iterations over its lanes; ``vector_bytes`` is the width of a
    register.

    A per-row scalar is a vector of ``rows`` lanes. For a single row it is a scalar, and so is an
    element if ``lanes`` is 0.
    """

    f: Function
    rows: int
    lanes: int
    length: Extent
    vector_bytes: int

    @property
    def across(self) -> int:
        """The lanes of a vector of per-row scalars."""
        return self.rows if self.rows > 1 else 0

    def spread(self, value: Value) -> Value:
        """Per-row scalars broadcast to the lanes of each row; any other value itself."""
        if not self.across or value.type.lanes != self.rows:
            return self.f.splat(value, self.rows * self.lanes)
        places = [row for row in range(self.rows) for _ in range(self.lanes)]
        return self.f.shuffle(value, value, places)

    def iota(self, one: Type) -> Value:
        """0, 1, 2, ... in the lanes of every row, as integers of a type."""
        return self.f.vector(one, [*range(self.lanes)] * self.rows)

    def mask(self, count: Value) -> Value:
        """A mask of the first ``count`` (an i64) lanes of every row."""
        return self.f.first_lanes(count, self.lanes, self.rows)

    # Memory: ``down`` is the stride between rows, ``along`` that between elements of a row.

    def read(
        self, first: Value, down: Value, along: Value, one: Type, mask: Value | None = None
    ) -> Value:
        """Elements of each row, from an address on; with a mask, those of each row that it has."""
        f, row = self.f, one.times(self.lanes)
        if self.rows == 1 or down.number == 0:
            found = apart(f, first, along, row, mask)
            return self._joined([found] * self.rows)
        together = self._together(down, along, one)
        starts = self._starts(first, down, one, together)
        if together == 1:
            return self._joined([apart(f, start, along, row, mask) for start in starts])
        there, apart_, _ = self._packing(together)
        packed = [f.load(start, one.times(len(apart_)), mask=there) for start in starts]
        return self._joined([self._moved(p, apart_) for p in packed])

    def write(
        self, value: Value, first: Value, down: Value, along: Value, mask: Value | None = None
    ) -> None:
        """Writes elements of each row, from an address on; with a mask, those of each row that it
        has.
        """
        f, one = self.f, value.type.one
        together = self._together(down, along, one)
        starts = self._starts(first, down, one, together)
        there, _, packed = self._packing(together)
        for number, start in enumerate(starts):
            many = together * self.lanes
            part = self._moved(value, range(number * many, (number + 1) * many))
            if together > 1:
                f.store(self._moved(part, packed), start, mask=there)
            elif not self.lanes or along.number == 1:
                f.store(part, start, mask=mask)
            else:
                f.scatter(part, start, f.iota(I64.times(self.lanes)) * along, mask)

    def read_each(self, first: Value, down: Value, one: Type) -> Value:
        """A scalar of each row; that of the first row is at an address."""
        return apart(self.f, first, down, one.times(self.across), None)

    def write_each(self, value: Value, first: Value, down: Value) -> None:
        """Writes a scalar of each row; that of the first row to an address."""
        f, lanes = self.f, self.across
        value = f.splat(value, lanes)
        if not lanes or down.number == 1:
            f.store(value, first)
        else:
            f.scatter(value, first, f.iota(I64.times(lanes)) * down)

    def _starts(self, first: Value, down: Value, one: Type, together: int) -> list[Value]:
        """The start of every ``together``-th row."""
        return [self.f.element(first, down * row, one) for row in range(0, self.rows, together)]

    def _together(self, down: Value, along: Value, one: Type) -> int:
        """How many rows one load reads: all if memory has the layout of the lanes, as many as fill
        a register if rows are adjacent, else one.
        """
        length = self.length
        close = isinstance(length, int) and down.number == length <= self.lanes
        if self.rows == 1 or not close or along.number != 1:
            return 1
        if length == self.lanes:
            return self.rows
        return max(1, min(self.rows, self.vector_bytes // one.nbytes // self.lanes))

    def _packing(self, together: int) -> tuple[Value | None, list[int], list[int]]:
        """For so many adjacent rows: the mask of the lanes that memory fills, the lane there of
        each lane of the rows, and the inverse; -1 is none.
        """
        count, length = together * self.lanes, self.length
        if not isinstance(length, int) or length >= self.lanes:
            return None, [*range(count)], [*range(count)]
        there = self.f.iota(I32.times(count)) < together * length
        rows = (divmod(lane, self.lanes) for lane in range(count))
        apart_ = [row * length + k if k < length else -1 for row, k in rows]
        return there, apart_, [apart_.index(n) if n in apart_ else -1 for n in range(count)]

    def _joined(self, parts: Sequence[Value]) -> Value:
        """A power of two of vectors, concatenated."""
        while len(parts) > 1:
            count = 2 * parts[0].type.lanes
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [self.f.shuffle(a, b, range(count)) for a, b in pairs]
        return parts[0]

    def _moved(self, value: Value, lanes: Sequence[int]) -> Value:
        """Some lanes of a vector; -1 is any."""
        if list(lanes) == list(range(value.type.lanes)):
            return value
        return self.f.shuffle(value, value, lanes)
