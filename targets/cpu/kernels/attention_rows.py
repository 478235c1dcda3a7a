"""Attention of a few queries: lanes are features of keys and values, or keys.

A long cache is read once, in memory order, so bandwidth is the limit: rows with the same keys and
values are computed together, the queries of a head and the heads of a group. If the features of a
key are contiguous, as many keys as there are lanes are multiplied by each query, and the vectors of
products reduced to one of scores by a tree of shuffles and additions; if keys are contiguous,
vectors of them are accumulated over the features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from migx.dim import Extent
from migx.fusion.attention import Attention
from migx.fusion.kernels import PRODUCT, Access
from migx.shape import DType
from migx.targets.cpu.emit import F32, Value, reductions
from migx.targets.cpu.emit.vector_math import exp_to_zero
from migx.targets.cpu.kernel import memory_of
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.matrix import Matrix, apart
from migx.targets.cpu.parts.tile import Strip, cut
from migx.targets.cpu.parts.transpose import folded

if TYPE_CHECKING:
    from migx.targets.cpu.kernels.attention import Writer

LOWEST = -3.4028234663852886e38
"""Below all finite scores, and its difference from any of them is finite."""
QUERIES = 2
"""Queries that a key is multiplied by at a time, if they fit in half the registers."""
KEYS = 4
"""Vectors of keys accumulated at a time, if keys are contiguous."""
CHUNKS = 4
"""Vectors of values accumulated at a time, for each of some rows."""


def fits(attention: Attention) -> bool:
    """Whether queries can be computed this way: keys or their features are contiguous, and so are
    the features of values.
    """
    return attention.values.strides[-1] == 1 and 1 in attention.keys.strides[-2:]


def emit(writer: Writer, top: Value, rows: Value, heads: Value) -> None:
    """Computes some queries of each of some heads, which begin with the tile's and share keys and
    values: as many at a time as a vector has lanes.
    """
    with writer.f.loop(0, heads * rows, writer.blocking.lanes) as first:
        _Rows(writer, top, rows, heads * rows, first.index).emit()


class _Rows:
    """Writes the computation of some rows: queries of a head, then those of the next."""

    def __init__(self, writer: Writer, top: Value, rows: Value, end: Value, first: Value) -> None:
        self.writer, self.f = writer, writer.f
        self.attention, self.lanes = writer.attention, writer.blocking.lanes
        self.vector = F32.times(self.lanes)
        self.top, self.rows, self.first = top, rows, first
        self.count = self.f.minimum(end - first, self.lanes)
        self.room = self._room()
        self.keys = writer.matrix(self.attention.keys)
        self.values = writer.matrix(self.attention.values)
        # For each row: the greatest score, the sum, and the factor that rescales earlier sums.
        self.greatest, self.total, self.shrunk = (self.f.local(F32, self.lanes) for _ in range(3))

    def _room(self) -> Value:
        """The scores of a row there is room for, in whole vectors."""
        writer, lanes = self.writer, self.lanes
        keys = (writer.blocking.keys + lanes - 1) // lanes
        return writer.frame.extent(keys * writer.blocking.width) // self.count * lanes

    def emit(self) -> None:
        """The whole computation, in blocks of as many keys as there is room for scores."""
        f, keys = self.f, self.writer.keys
        with f.loop(0, self.count) as row:
            self._begin(row.index)
        with f.loop(0, keys, self.room) as block:
            many = f.minimum(keys - block.index, self.room)
            self._products(block.index, many)
            with f.loop(0, self.count) as row:
                self._softmax(row.index, block.index, many)
            self._weighted(block.index, many)
        with f.loop(0, self.count) as row:
            self._finish(row.index)

    def _begin(self, row: Value) -> None:
        """Copies a row's query into the panel, scaled, and clears its sums."""
        f, writer, depth = self.f, self.writer, int(self.attention.depth)
        given = self._of(self.attention.queries, row)
        for start in range(0, depth, self.lanes):
            vector = writer.scaled(self._vector(given, start, depth - start))
            f.store(vector, self._query(row, start))
        for start in range(0, int(self.attention.width), self.lanes):
            f.store(f.const(self.vector, 0), self._sums(row, start))
        begun = writer.begun(self._met_by(row, writer.met_first))
        for value, place in zip(begun, (self.greatest, self.total), strict=True):
            f.store(f.extract(value, 0), f.element(place, row, F32))

    def _finish(self, row: Value) -> None:
        """Writes the result of a row."""
        f, writer, lanes = self.f, self.writer, self.lanes
        output, width = self._of(self.attention.output, row), int(self.attention.width)
        read = self._met_by(row, writer.met_last)
        total = f.splat(f.load(f.element(self.total, row, F32), F32), lanes)
        for start in range(0, width, lanes):
            value = writer.finished(f.load(self._sums(row, start), self.vector), total, read)
            value = elements.stored(f, value, output.dtype)
            mask = None if width - start >= lanes else self._left(width - start)
            f.store(value, output.at(0, start), mask=mask)

    def _met_by(self, row: Value, every: Iterable[Access]) -> Callable[[Access], Value]:
        """A function that gives vectors of a row's operands that do not depend on the key."""
        met, step = {access: self._of(access, row) for access in every}, self.f.as_index(0)
        return lambda access: self._read(met[access].first, step, access.dtype, None)

    # Addresses.

    def _of(self, access: Access, row: Value) -> Matrix:
        """The line of an operand that belongs to a row."""
        number, head = self.first + row, None
        if self.attention.heads > 1:
            number, head = number % self.rows, number // self.rows
        return self.writer.matrix(access, head).moved(self.top + number, 0)

    def _query(self, row: Value, start: Value | int) -> Value:
        return self._line(self.writer.panel, self.attention.depth, row, start)

    def _sums(self, row: Value, start: Value | int) -> Value:
        return self._line(self.writer.sums, self.attention.width, row, start)

    def _line(self, area: Value, width: Extent, row: Value, start: Value | int) -> Value:
        """An address in an area that has whole vectors of features for each row."""
        step = -(-int(width) // self.lanes) * self.lanes
        return self.f.element(area, row * step + start, F32)

    def _score(self, row: Value, key: Value) -> Value:
        """The address of a product, which becomes the score, and then the weight."""
        return self.f.element(self.writer.scores, row * self.room + key, F32)

    def _left(self, many: int) -> Value:
        """A mask of the last features, fewer than there are lanes."""
        return self.f.first_lanes(self.f.as_index(many), self.lanes)

    def _vector(self, row: Matrix, start: int, left: int) -> Value:
        """A vector along a row; no more than ``left`` elements are read."""
        mask = None if left >= self.lanes else self._left(left)
        return self._read(row.at(0, start), row.column, row.dtype, mask)

    def _read(self, place: Value, step: Value, dtype: DType, mask: Value | None) -> Value:
        """A vector of elements at a stride, in their computing type."""
        f, lanes, memory = self.f, self.lanes, memory_of(dtype)
        if step.number == 0:
            return f.splat(elements.loaded(f, f.load(place, memory), dtype), lanes)
        return elements.loaded(f, apart(f, place, step, memory.times(lanes), mask), dtype)

    # Products of queries and keys.

    def _products(self, key: Value, many: Value) -> None:
        if self.attention.keys.strides[-1] == 1:
            self._by_features(self.keys.moved(key, 0), many)
        else:
            self._by_keys(self.keys.moved(key, 0), many)

    def _by_features(self, keys: Matrix, many: Value) -> None:
        """Several rows share each read of a key, which is soon read again for the next. A row that
        is alone stays in registers.
        """
        f, lanes = self.f, self.lanes
        vectors = -(-int(self.attention.depth) // lanes) or 1
        most = max(1, min(QUERIES, self.writer.machine.registers // (2 * vectors)))
        step = f.select(f.compare("eq", self.count, 1), self.room, lanes)
        with f.loop(0, many, step) as block:
            end = f.minimum(block.index + step, many)
            for rows in self._several(most):
                self._multiply(rows, keys, block.index, end)

    def _several(self, most: int) -> Iterator[list[Value]]:
        """Iterates over all rows, ``most`` at a time, then half as many, and so on."""
        heights = [most >> k for k in range(most.bit_length())]
        return (rows for _, rows in cut(self.count, [Strip(n, n) for n in heights]))

    def _multiply(self, rows: Sequence[Value], keys: Matrix, first: Value, end: Value) -> None:
        """Multiplies the queries of some rows by some keys."""
        f, lanes, starts = self.f, self.lanes, range(0, int(self.attention.depth), self.lanes)
        queries = [[f.load(self._query(r, k), self.vector) for k in starts] for r in rows]
        whole = end // lanes * lanes
        with f.loop(first, whole, lanes) as i:
            here = keys.moved(i.index, 0)
            sums = folded(f, lanes, lambda k: self._products_with(queries, here.moved(k, 0)))
            for row, sum_ in zip(rows, sums, strict=True):
                f.store(sum_, self._score(row, i.index))
        with f.loop(whole, end) as i:
            sums = self._products_with(queries, keys.moved(i.index, 0))
            for row, sum_ in zip(rows, sums, strict=True):
                f.store(reductions.fold(f, "add", sum_), self._score(row, i.index))

    def _products_with(self, queries: Sequence[Sequence[Value]], key: Matrix) -> list[Value]:
        """The products of queries with a key, as partial sums in lanes."""
        f, depth = self.f, int(self.attention.depth)
        sums = [f.const(self.vector, 0)] * len(queries)
        for start, *parts in zip(range(0, depth, self.lanes), *queries, strict=True):
            vector = self._vector(key, start, depth - start)
            sums = [f.fma(part, vector, sum_) for part, sum_ in zip(parts, sums, strict=True)]
        return sums

    def _by_keys(self, keys: Matrix, many: Value) -> None:
        f, lanes = self.f, self.lanes
        depth = int(self.attention.depth)
        with f.loop(0, many, KEYS * lanes) as i, f.loop(0, self.count) as row:
            starts = [i.index + j * lanes for j in range(KEYS)]
            masks = [f.first_lanes(many - start, lanes) for start in starts]
            with f.loop(0, depth, carry=[f.const(self.vector, 0)] * KEYS) as d:
                one = f.splat(f.load(self._query(row.index, d.index), F32), lanes)
                vectors = [
                    self._read(keys.at(start, d.index), keys.row, keys.dtype, mask)
                    for start, mask in zip(starts, masks, strict=True)
                ]
                d.carry(*(f.fma(one, v, c) for v, c in zip(vectors, d.carried, strict=True)))
            for start, mask, total in zip(starts, masks, d.carried, strict=True):
                f.store(total, self._score(row.index, start), mask=mask)

    # The softmax, by vectors of keys.

    def _softmax(self, row: Value, key: Value, many: Value) -> None:
        """Turns the products of a row with some keys into weights."""
        f = self.f
        best, sum_, shrunk = (
            f.element(each, row, F32) for each in (self.greatest, self.total, self.shrunk)
        )
        highest = f.load(best, F32)
        greatest = self._scores(row, key, many, highest)
        f.store(greatest, best)
        shrinks = exp_to_zero(f, highest - greatest)
        f.store(shrinks, shrunk)
        total = self._weights(row, many, greatest, f.load(sum_, F32) * shrinks)
        f.store(total, sum_)
        if not self.attention.by_row:
            self._change_weights(row, many, total)

    def _scores(self, row: Value, key: Value, many: Value, highest: Value) -> Value:
        """Turns products into scores; gives the greatest so far."""
        f, lanes, writer = self.f, self.lanes, self.writer
        met = {access: self._of(access, row).moved(0, key) for access in writer.met}
        with f.loop(0, many, lanes, carry=[f.const(self.vector, LOWEST)]) as i:
            mask = f.first_lanes(many - i.index, lanes)
            place = self._score(row, i.index)
            score = self._scored(f.load(place, self.vector), met, i.index, mask)
            score = f.select(mask, score, f.const(self.vector, -float("inf")))
            f.store(score, place)
            i.carry(f.select(score > i.carried[0], score, i.carried[0]))
        best = reductions.fold(f, "max", i.carried[0])
        return f.select(best > highest, best, highest)

    def _scored(self, product: Value, met: dict[Access, Matrix], key: Value, mask: Value) -> Value:
        def read(access: Access) -> Value:
            if access.operand == PRODUCT:
                return product
            there = met[access]
            return self._read(there.at(0, key), there.column, access.dtype, mask)

        return self.writer.evaluated(self.attention.score, read)

    def _weights(self, row: Value, many: Value, greatest: Value, total: Value) -> Value:
        """Turns scores into weights; gives ``total`` plus their sum."""
        f, lanes = self.f, self.lanes
        best = f.splat(greatest, lanes)
        with f.loop(0, many, lanes, carry=[f.const(self.vector, 0)]) as i:
            place = self._score(row, i.index)
            weight = exp_to_zero(f, f.load(place, self.vector) - best)
            f.store(weight, place)
            i.carry(i.carried[0] + weight)
        return total + reductions.fold(f, "add", i.carried[0])

    def _change_weights(self, row: Value, many: Value, total: Value) -> None:
        f, lanes = self.f, self.lanes
        with f.loop(0, many, lanes) as i:
            place = self._score(row, i.index)
            softmax = f.load(place, self.vector) / f.splat(total, lanes)
            f.store(self.writer.weight(softmax), place)

    # Weighted values.

    def _weighted(self, key: Value, many: Value) -> None:
        """Adds the values of some keys to the sums of all rows, as many at a time as fit in
        registers.
        """
        f, values, step = self.f, self.values.moved(key, 0), CHUNKS * self.lanes
        rest = int(self.attention.width) % step
        whole = f.as_index(int(self.attention.width) - rest)
        for rows in self._several(max(1, self.writer.machine.registers // (2 * CHUNKS))):
            with f.loop(0, whole, step) as start:
                self._add(rows, start.index, step, values, many)
            if rest:
                self._add(rows, whole, rest, values, many)

    def _add(
        self, rows: Sequence[Value], start: Value, features: int, values: Matrix, many: Value
    ) -> None:
        """Adds some features of values to the sums of some rows."""
        f, starts = self.f, range(0, features, self.lanes)
        zero = [f.const(self.vector, 0)] * (len(rows) * len(starts))
        with f.loop(0, many, carry=zero) as t:
            line = values.moved(t.index, start)
            vectors = [self._vector(line, k, features - k) for k in starts]
            read = [f.load(self._score(row, t.index), F32) for row in rows]
            weights = [f.splat(weight, self.lanes) for weight in read]
            terms = [(weight, vector) for weight in weights for vector in vectors]
            t.carry(*(f.fma(*term, sum_) for term, sum_ in zip(terms, t.carried, strict=True)))
        sums = iter(t.carried)
        for row in rows:
            by = f.splat(f.load(f.element(self.shrunk, row, F32), F32), self.lanes)
            for k in starts:
                place = self._sums(row, start + k)
                f.store(f.fma(f.load(place, self.vector), by, next(sums)), place)
