"""Rows abreast: some rows of a matrix in one vector, each in as many of its lanes.

A row that is folded alone waits for each step of the fold, in which ever fewer lanes do anything.
Rows abreast take these steps together; where rows are short they fill registers, which one alone
does not; and what is one number for each row is computed for all of them at once. The lanes of a
row are folded as they are if it is alone, so answers are the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from migx.dim import Extent
from migx.targets.cpu.emit import I32, I64, Function, Type, Value
from migx.targets.cpu.parts.matrix import apart


@dataclass(frozen=True)
class Abreast:
    """Some ``rows`` of so many ``lanes`` each, both powers of two. ``length`` is how many elements
    a row has, which may be several turns of its lanes; ``vector_bytes`` is the width of a register.

    What is one number for each row is a vector of ``rows`` lanes. Of a single row it is a scalar,
    and its elements are a scalar, too, where it has 0 lanes.
    """

    f: Function
    rows: int
    lanes: int
    length: Extent
    vector_bytes: int

    @property
    def across(self) -> int:
        """The lanes of what is one number for each row."""
        return self.rows if self.rows > 1 else 0

    def spread(self, value: Value) -> Value:
        """What is one number for each row, in all lanes of its row; else itself."""
        if not self.across or value.type.lanes != self.rows:
            return self.f.splat(value, self.rows * self.lanes)
        places = [row for row in range(self.rows) for _ in range(self.lanes)]
        return self.f.shuffle(value, value, places)

    def iota(self, one: Type) -> Value:
        """0, 1, 2, ... in the lanes of every row, integers of a type."""
        return self.f.vector(one, [*range(self.lanes)] * self.rows)

    def mask(self, count: Value) -> Value:
        """The first lanes of every row, as many as an i64 says."""
        return self.f.first_lanes(count, self.lanes, self.rows)

    # Memory: from row to row a step ``down``, and from element to element of a row one ``along``.

    def read(
        self, first: Value, down: Value, along: Value, one: Type, mask: Value | None = None
    ) -> Value:
        """Elements of each row, from that at an address on; of a row those of a mask."""
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
        """Writes elements of each row, from that at an address on; of a row those of a mask."""
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
        """One number of each row, that of the first at an address."""
        return apart(self.f, first, down, one.times(self.across), None)

    def write_each(self, value: Value, first: Value, down: Value) -> None:
        """Writes one number of each row, that of the first at an address."""
        f, lanes = self.f, self.across
        value = f.splat(value, lanes)
        if not lanes or down.number == 1:
            f.store(value, first)
        else:
            f.scatter(value, first, f.iota(I64.times(lanes)) * down)

    def _starts(self, first: Value, down: Value, one: Type, together: int) -> list[Value]:
        """Where every so many rows begin."""
        return [self.f.element(first, down * row, one) for row in range(0, self.rows, together)]

    def _together(self, down: Value, along: Value, one: Type) -> int:
        """How many rows are read in one go: all where they lie in memory as they do in lanes, those
        of a register where they lie close, and where they do not each by itself.
        """
        length = self.length
        close = isinstance(length, int) and down.number == length <= self.lanes
        if self.rows == 1 or not close or along.number != 1:
            return 1
        if length == self.lanes:
            return self.rows
        return max(1, min(self.rows, self.vector_bytes // one.nbytes // self.lanes))

    def _packing(self, together: int) -> tuple[Value | None, list[int], list[int]]:
        """Of so many rows that lie close: the mask of those lanes that memory fills, and where in
        these each lane of the rows is, and the reverse; -1 is nowhere.
        """
        count, length = together * self.lanes, self.length
        if not isinstance(length, int) or length >= self.lanes:
            return None, [*range(count)], [*range(count)]
        there = self.f.iota(I32.times(count)) < together * length
        rows = (divmod(lane, self.lanes) for lane in range(count))
        apart_ = [row * length + k if k < length else -1 for row, k in rows]
        return there, apart_, [apart_.index(n) if n in apart_ else -1 for n in range(count)]

    def _joined(self, parts: Sequence[Value]) -> Value:
        """Vectors as one, a power of two of them."""
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
