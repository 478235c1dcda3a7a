"""Kernels of the scatters. No two programs write the same element: updates of one element are
combined in order, whatever runs first, and results are those of the operation's own meaning.

A scatter along an axis, or of few tuples, is a gather: a program has a line of elements of the
result, and tests for each update in turn whether it goes to any of them. Of many tuples each
program has a share of the rows they point at. It looks at the tuples of many updates at once, and
takes those that point into its share one by one.
"""

from __future__ import annotations

import numpy as np

from migx import dim
from migx.dim import product
from migx.fusion.kernels import name_of
from migx.ir import Instruction
from migx.ops.indexing import Scatter, ScatterElements
from migx.shape import BF16, F16, F32, Shape
from migx.targets.gpu.emit.expressions import Expr, Part, both, expr
from migx.targets.gpu.emit.text import MOST, Kernel, Writer
from migx.targets.gpu.emit.types import COMPUTING, STORED, storable
from migx.targets.gpu.parts import elements
from migx.targets.gpu.parts.line import WHOLE, Line
from migx.targets.gpu.tiles import AHEAD, power_of_two, tiles

FEW = 32
"""Tuples that every element tests."""
SHARES = 1024
"""The most programs that have a share of the rows each."""
AT_ONCE = 1024
"""Tuples that are looked at together, and elements that are copied together."""
COLUMNS = 1024
"""The most elements of a row that a program has; others have the rest."""
UNKNOWN = 256
"""The same if the length of rows is unknown."""


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of a scatter of elements that Triton has a type for."""
    if not isinstance(at.op, Scatter) or at.shape.rank == 0:
        return None
    if at.op.combine not in (None, *elements.FOLDS):
        return None
    if not all(storable(v.shape.dtype) for v in at.inputs):
        return None
    if isinstance(at.op, ScatterElements):
        return Line(at).kernel(_along_axis)
    updates = product(at.inputs[1].shape.dims[:-1])
    few = isinstance(updates, int) and updates <= FEW
    return Line(at).kernel(_by_tuples) if few else _Shares(at, at.op).kernel()


def _along_axis(line: Line, op: ScatterElements) -> Expr:
    """The elements, each combined with the updates of its line that are its own."""
    w, dims = line.writer, line.at.inputs[1].shape.dims
    there: Expr | None = None
    for axis, (place, extent) in enumerate(zip(line.places, dims, strict=True)):
        if axis != op.axis and extent != line.at.shape.dims[axis]:
            there = both(there, place.below(w.extent(extent)))
    if there is not None:
        there = w.spread(w.let(there), [line.size])
    total = _start(line, op)
    with w.loop(dims[op.axis], 1, ahead=AHEAD) as turn:
        at = [turn if axis == op.axis else place for axis, place in enumerate(line.places)]
        found = line.read(1, at, there)
        index = line.writer.within(found, line.at.shape.dims[op.axis])
        hit = Expr(f"({index.text} == {line.places[op.axis].text})", WHOLE)
        _combine(line, op, total, at, w.let(hit if there is None else hit & there))
    return total


def _by_tuples(line: Line, op: Scatter) -> Expr:
    """The elements, each combined with the updates whose tuple of indices is its own."""
    w, data, indices = line.writer, line.at.shape, line.at.inputs[1].shape
    counted, width = indices.dims[:-1], int(indices.dims[-1])
    total = _start(line, op)
    with w.loop(product(counted), 1, ahead=AHEAD) as turn:
        lead = w.split(Part(turn, counted))
        hit: Expr | None = None
        for axis in range(width):
            index = line.index_at(1, [*lead, expr(axis)], data.dims[axis])
            place = line.places[axis]
            here = Expr(f"({index.text} == {place.text})", index.over | place.over)
            hit = both(hit, here)
        assert hit is not None
        _combine(line, op, total, [*lead, *line.places[width:]], w.let(hit))
    return total


def _start(line: Line, op: Scatter) -> Expr:
    """The elements of the data: ``raw`` if they are only replaced, else in their computing type."""
    w, dtype = line.writer, line.at.inputs[0].shape.dtype
    where = w.spread(w.place(0, line.places), [line.size])
    value = w.load(0, where, dtype, raw=op.combine is None)
    kind = (STORED if op.combine is None else COMPUTING)[dtype.name]
    return w.variable(f"{value.text}.to({kind})", WHOLE)


def _combine(line: Line, op: Scatter, total: Expr, at: list[Expr], hit: Expr) -> None:
    """Combines elements with the updates at some indices, where these hit."""
    w, dtype, raw = line.writer, line.at.inputs[2].shape.dtype, op.combine is None
    update = w.load(2, w.place(2, at), dtype, raw=raw, also=hit).text
    old, kind = total.text, (STORED if raw else COMPUTING)[dtype.name]
    if op.combine is not None:
        update = elements.combined(op.combine, old, update, dtype)
    w.line(f"{old} = tl.where({hit.text}, {update}, {old}).to({kind})")


class _Shares:
    """Writes the kernel for many tuples. Its first turn copies the data, the second combines them
    with the updates; floats of 16 bits are added up in f32, in scratch, which a third turn rounds.
    """

    def __init__(self, at: Instruction, op: Scatter) -> None:
        self.at, self.op, self.writer = at, op, Writer(at)
        self.data, self.tuples = (v.shape for v in at.inputs[:2])
        self.width = int(self.tuples.dims[-1])
        self.rows, self.inner = product(self.data.dims[: self.width]), self.data.dims[self.width :]
        self.length, self.count = product(self.inner), product(self.tuples.dims[:-1])
        known = isinstance(self.length, int)
        self.columns = min(COLUMNS, power_of_two(max(1, int(self.length)))) if known else UNKNOWN
        self.across = tiles(self.length, self.columns)
        self.shares = dim.minimum(self.rows, SHARES)
        rounds = op.combine in (np.add, np.multiply) and self.data.dtype in (F16, BF16)
        self.result = self.sums = len(at.inputs)
        if rounds:
            self.sums = self.writer.operand_of_scratch(Shape(F32, self.data.dims))

    def kernel(self) -> Kernel:
        """The kernel."""
        w, rounds = self.writer, self.sums != self.result
        with w.block("if turn == 0:"):
            self._copy(0, self.sums)
        with w.block("elif turn == 1:"):
            self._update()
        if rounds:
            with w.block("else:"):
                self._copy(self.sums, self.result)
        grid, flops = self.across * self.shares, self.count * self.length
        return w.finished(name_of(self.at), grid, turns=2 + rounds, flops=flops)

    def _copy(self, source: int, to: int) -> None:
        """Copies all elements from one operand to another, each program every so many."""
        w, count = self.writer, self.rows * self.length
        step = w.let(w.extent(self.across * self.shares) * AT_ONCE)
        with w.loop(count, step, w.let(w.program * AT_ONCE), ahead=AHEAD // 4) as start:
            index = w.numbers(0, 1, AT_ONCE, start)
            with w.masked({0: w.there(index, count, AT_ONCE)}):
                given = w.place(source, w.split(Part(index, self.data.dims)))
                value = w.load(source, w.spread(given, [AT_ONCE]), w.shapes[source].dtype)
                w.store(to, index, value, w.shapes[to].dtype)

    def _update(self) -> None:
        """Combines the rows of this program's share with their updates, in order."""
        w, each = self.writer, tiles(self.rows, SHARES)
        begin = w.let(w.let(w.program // w.extent(self.across)) * w.extent(each))
        end = w.let(begin + w.extent(each))
        with w.loop(self.count, AT_ONCE) as start:
            number = w.numbers(0, 1, AT_ONCE, start)
            with w.masked({0: w.there(number, self.count, AT_ONCE)}):
                row = self._row(number)
                hit = w.let(f"(({row.text} >= {begin.text}) & ({row.text} < {end.text}))", WHOLE)
                hit = w.let(both(w.masks[0], hit))
            left = w.variable(f"tl.sum({hit.text}.to(tl.int32))")
            last = w.variable(f"{start.text} - 1")
            with w.block(f"while {left.text} > 0:"):
                w.line(f"{left.text} -= 1")
                later = f"{hit.text} & ({number.text} > {last.text})"
                w.line(f"{last.text} = tl.min(tl.where({later}, {number.text}, {MOST}))")
                mine = f"tl.where({number.text} == {last.text}, {row.text}, 0)"
                self._combine(last, w.let(f"tl.sum({mine})"))

    def _row(self, number: Expr) -> Expr:
        """The rows that tuples point at."""
        w, row = self.writer, expr(0)
        lead = w.split(Part(number, self.tuples.dims[:-1]))
        for axis in range(self.width):
            where = w.spread(w.place(1, [*lead, expr(axis)]), [AT_ONCE])
            given = w.load(1, where, self.tuples.dtype, raw=True)
            extent = self.data.dims[axis]
            row = w.let(w.let(row * w.extent(extent)) + w.within(given, extent))
        return w.let(f"{row.text} + tl.zeros([{AT_ONCE}], tl.int64)", WHOLE)

    def _combine(self, number: Expr, row: Expr) -> None:
        """Combines a row with an update."""
        w, dtype = self.writer, self.data.dtype
        tile = w.let(w.program % w.extent(self.across))
        column = w.numbers(0, 1, self.columns, w.let(tile * self.columns))
        with w.masked({0: w.there(column, self.length, self.columns)}):
            lead = w.split(Part(number, self.tuples.dims[:-1]))
            given = w.place(2, [*lead, *w.split(Part(column, self.inner))])
            update = w.load(2, w.spread(given, [self.columns]), dtype).text
            where = w.let(w.let(row * w.extent(self.length)) + column)
            kind = w.shapes[self.sums].dtype
            if self.op.combine is not None:
                w.line("tl.debug_barrier()")  # other threads may have stored what is there
                there = w.load(self.sums, where, kind).text
                update = elements.combined(self.op.combine, there, update, kind)
            w.store(self.sums, where, Expr(f"({update})", WHOLE), kind)
