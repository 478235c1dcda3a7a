"""Attention of a query by itself: lanes are features of keys and values, or keys.

A long cache is read once, in the order it lies, so memory is the limit. Where the features of a
key are neighbours, as many keys as there are lanes are multiplied by the query at a time, and the
vectors of products folded into one of scores by a tree of shuffles and additions; where keys are,
vectors of these are added up over the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from migx.fusion.attention import Attention
from migx.fusion.kernels import PRODUCT, Access
from migx.shape import DType
from migx.targets.cpu import elements
from migx.targets.cpu.emit import F32, Value
from migx.targets.cpu.kernel import memory_of
from migx.targets.cpu.tile import Matrix, apart
from migx.targets.cpu.transpose import folded
from migx.targets.cpu.vector_math import exp_to_zero

if TYPE_CHECKING:
    from migx.targets.cpu.kernels.attention import Writer

LOWEST = -3.4028234663852886e38
"""Stands below all scores that are numbers; a difference of it and a number is one too."""
KEYS = 4
"""Vectors of keys that are added up at a time, where keys are neighbours."""
CHUNKS = 4
"""Vectors of values that are added up at a time."""


def fits(attention: Attention) -> bool:
    """Whether queries can be computed so: keys or their features are neighbours, and the features
    of values are.
    """
    return attention.values.strides[-1] == 1 and 1 in attention.keys.strides[-2:]


def emit(writer: Writer, top: Value, rows: Value) -> None:
    """Computes some queries, one after another."""
    with writer.f.loop(0, rows) as row:
        _Row(writer, top + row.index).emit()


class _Row:
    """Writes the computation of one query."""

    def __init__(self, writer: Writer, query: Value) -> None:
        self.writer, self.f, self.query = writer, writer.f, query
        self.attention, self.lanes = writer.attention, writer.blocking.lanes
        self.vector = F32.times(self.lanes)
        self.keys = writer.matrix(self.attention.keys)
        self.values = writer.matrix(self.attention.values)

    def emit(self) -> None:
        """All of it: keys in blocks as large as there is room for their scores."""
        f, writer, attention = self.f, self.writer, self.attention
        room = writer.frame.extent(writer.blocking.keys) * writer.blocking.width
        query = self._query()
        width, lanes = writer.frame.extent(attention.width), self.lanes
        with f.loop(0, width, lanes) as k:
            f.store(f.const(self.vector, 0), f.element(writer.sums, k.index, F32))
        start = [f.const(F32, LOWEST), f.const(F32, 0)]
        with f.loop(0, writer.keys, room, carry=start) as block:
            many = f.intrinsic("smin", writer.keys - block.index, room)
            highest, total = block.carried
            self._products(query, block.index, many)
            greatest = self._scores(block.index, many, highest)
            shrunk = exp_to_zero(f, highest - greatest)
            total = self._weights(many, greatest, total * shrunk)
            if not attention.by_row:
                self._change_weights(many, total)
            self._weighted(block.index, many, shrunk)
            block.carry(greatest, total)
        output = writer.matrix(attention.output).moved(self.query, 0)
        met = {access: writer.matrix(access).moved(self.query, 0) for access in writer.met_last}

        def read(access: Access) -> Value:
            return self._read(met[access].first, f.as_index(0), access.dtype, None)

        with f.loop(0, width, lanes) as k:
            value = f.load(f.element(writer.sums, k.index, F32), self.vector)
            value = writer.finished(value, f.splat(block.carried[1], lanes), read)
            value = elements.stored(f, value, output.dtype)
            f.store(value, output.at(0, k.index), mask=f.first_lanes(width - k.index, lanes))

    def _query(self) -> list[Value]:
        """The query scaled: in vectors, and as a row of the panel."""
        f, writer, lanes = self.f, self.writer, self.lanes
        depth = self.attention.depth
        assert isinstance(depth, int)
        given = writer.matrix(self.attention.queries).moved(self.query, 0)
        made = []
        for start in range(0, depth, lanes):
            made.append(writer.scaled(self._vector(given, start, depth - start)))
            f.store(made[-1], f.element(writer.panel, start, F32))
        return made

    def _vector(self, row: Matrix, start: int, left: int) -> Value:
        """A vector along a row, of which no more than what is left is read."""
        mask = None if left >= self.lanes else self.f.first_lanes(self.f.as_index(left), self.lanes)
        return self._read(row.at(0, start), row.column, row.dtype, mask)

    def _read(self, place: Value, step: Value, dtype: DType, mask: Value | None) -> Value:
        """A vector of elements a step apart, in the type they are computed in."""
        f, lanes, memory = self.f, self.lanes, memory_of(dtype)
        if step.number == 0:
            return f.splat(elements.loaded(f, f.load(place, memory), dtype), lanes)
        return elements.loaded(f, apart(f, place, step, memory.times(lanes), mask), dtype)

    # Products of the query and keys.

    def _products(self, query: Sequence[Value], key: Value, many: Value) -> None:
        if self.attention.keys.strides[-1] == 1:
            self._by_features(query, self.keys.moved(key, 0), many)
        else:
            self._by_keys(self.keys.moved(key, 0), many)

    def _by_features(self, query: Sequence[Value], keys: Matrix, many: Value) -> None:
        f, lanes, scores = self.f, self.lanes, self.writer.scores
        whole = many // lanes * lanes
        with f.loop(0, whole, lanes) as i:
            sums = [self._products_with(query, keys.moved(i.index + k, 0)) for k in range(lanes)]
            f.store(folded(f, sums), f.element(scores, i.index, F32))
        with f.loop(whole, many) as i:
            one = f.fold("add", self._products_with(query, keys.moved(i.index, 0)))
            f.store(one, f.element(scores, i.index, F32))

    def _products_with(self, query: Sequence[Value], key: Matrix) -> Value:
        """The products with a key, added up lane by lane."""
        depth = self.attention.depth
        assert isinstance(depth, int)
        total: Value | None = None
        for number, part in enumerate(query):
            start = number * self.lanes
            vector = self._vector(key, start, depth - start)
            total = part * vector if total is None else self.f.fma(part, vector, total)
        assert total is not None
        return total

    def _by_keys(self, keys: Matrix, many: Value) -> None:
        f, lanes, writer = self.f, self.lanes, self.writer
        depth = writer.frame.extent(self.attention.depth)
        with f.loop(0, many, KEYS * lanes) as i:
            starts = [i.index + j * lanes for j in range(KEYS)]
            masks = [f.first_lanes(many - start, lanes) for start in starts]
            with f.loop(0, depth, carry=[f.const(self.vector, 0)] * KEYS) as d:
                one = f.splat(f.load(f.element(writer.panel, d.index, F32), F32), lanes)
                vectors = [
                    self._read(keys.at(start, d.index), keys.row, keys.dtype, mask)
                    for start, mask in zip(starts, masks, strict=True)
                ]
                d.carry(*(f.fma(one, v, c) for v, c in zip(vectors, d.carried, strict=True)))
            for start, mask, total in zip(starts, masks, d.carried, strict=True):
                f.store(total, f.element(writer.scores, start, F32), mask=mask)

    # The softmax, by vectors of keys.

    def _scores(self, key: Value, many: Value, highest: Value) -> Value:
        """Makes scores of products; the greatest there is."""
        f, lanes, writer = self.f, self.lanes, self.writer
        met = {access: writer.matrix(access).moved(self.query, key) for access in writer.met}
        with f.loop(0, many, lanes, carry=[f.const(self.vector, LOWEST)]) as i:
            mask = f.first_lanes(many - i.index, lanes)
            place = f.element(writer.scores, i.index, F32)
            score = self._scored(f.load(place, self.vector), met, i.index, mask)
            score = f.select(mask, score, f.const(self.vector, -float("inf")))
            f.store(score, place)
            i.carry(f.select(score > i.carried[0], score, i.carried[0]))
        best = f.fold("max", i.carried[0])
        return f.select(best > highest, best, highest)

    def _scored(self, product: Value, met: dict[Access, Matrix], key: Value, mask: Value) -> Value:
        def read(access: Access) -> Value:
            if access.operand == PRODUCT:
                return product
            there = met[access]
            return self._read(there.at(0, key), there.column, access.dtype, mask)

        return self.writer.evaluated(self.attention.score, read)

    def _weights(self, many: Value, greatest: Value, total: Value) -> Value:
        """Makes weights of scores; their sum, with what it was."""
        f, lanes = self.f, self.lanes
        best = f.splat(greatest, lanes)
        with f.loop(0, many, lanes, carry=[f.const(self.vector, 0)]) as i:
            place = f.element(self.writer.scores, i.index, F32)
            weight = exp_to_zero(f, f.load(place, self.vector) - best)
            f.store(weight, place)
            i.carry(i.carried[0] + weight)
        return total + f.fold("add", i.carried[0])

    def _change_weights(self, many: Value, total: Value) -> None:
        f, lanes = self.f, self.lanes
        with f.loop(0, many, lanes) as i:
            place = f.element(self.writer.scores, i.index, F32)
            softmax = f.load(place, self.vector) / f.splat(total, lanes)
            f.store(self.writer.weight(softmax), place)

    # Weighted values.

    def _weighted(self, key: Value, many: Value, shrunk: Value) -> None:
        """Adds the values of some keys to the sums, by vectors of features."""
        f, lanes, writer = self.f, self.lanes, self.writer
        width = self.attention.width
        assert isinstance(width, int)
        by = f.splat(shrunk, lanes)
        chunks = list(range(0, width, lanes))
        for first in range(0, len(chunks), CHUNKS):
            group = chunks[first : first + CHUNKS]
            zero = [f.const(self.vector, 0)] * len(group)
            with f.loop(0, many, carry=zero) as t:
                weight = f.load(f.element(writer.scores, t.index, F32), F32)
                line = self.values.moved(key + t.index, 0)
                vectors = [self._vector(line, k, width - k) for k in group]
                one = f.splat(weight, lanes)
                t.carry(*(f.fma(one, v, c) for v, c in zip(vectors, t.carried, strict=True)))
            for k, total in zip(group, t.carried, strict=True):
                place = f.element(writer.sums, k, F32)
                f.store(f.fma(f.load(place, self.vector), by, total), place)
