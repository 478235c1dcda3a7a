"""The kernel of ``nonmaxsuppression``: a program has the scores of one class.

It gathers the candidates whose score is high enough, then takes the best of them again and again,
and drops those that overlap it too much. A candidate is one number, by which they are ordered: its
score in the upper half, below it the index, counted down, as of equal scores the lower index goes
first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from migx.dim import Extent
from migx.ir import Instruction
from migx.ops.builtin import Literal
from migx.ops.detection import Nonmaxsuppression
from migx.shape import F32, I32, I64, OPTIONAL, Shape
from migx.targets.gpu.emit.expressions import Expr, expr
from migx.targets.gpu.emit.text import Kernel, Writer, operands
from migx.targets.gpu.emit.types import storable
from migx.targets.gpu.parts import elements
from migx.targets.gpu.parts.counts import NUMBER, Counts
from migx.targets.gpu.parts.line import WHOLE

SIZE = 1024
"""Candidates that are looked at together."""
GONE = -(1 << 63)
"""Less than any candidate."""
LAST = (1 << 31) - 1
"""Candidates have this less their index in the lower half."""
_NONE = f"tl.full([{SIZE}], {GONE}, tl.int64)"
MOST, OVERLAP, SCORE = 2, 3, 4
"""The inputs that are limits."""
CORNERS = 4


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of ``nonmaxsuppression`` on f32, if dims are equal whatever the sizes."""
    if not isinstance(at.op, Nonmaxsuppression):
        return None
    boxes, scores = (v.shape for v in at.inputs[:2])
    limits = [v.shape.dtype for v in at.inputs[MOST:] if v.shape.dtype is not OPTIONAL]
    if boxes.dtype is not F32 or not all(map(storable, limits)):
        return None
    if boxes.dims != (scores.dims[0], scores.dims[2], CORNERS):
        return None
    return _Writer(at).kernel()


class _Writer:
    def __init__(self, at: Instruction) -> None:
        self.at = at
        batch, classes, self.each = at.inputs[1].shape.dims
        self.programs = batch * classes
        self.room = _room(at, self.each)
        writes = Shape(I64, (self.programs * self.room, 3)), NUMBER
        self.writer = w = Writer(at, writes=writes)
        self.result = len(w.shapes) - len(writes)
        self.counts = Counts(w, self.programs)
        self._candidates = w.operand_of_scratch(Shape(I64, (self.programs, self.each)))
        self._kept = w.operand_of_scratch(Shape(I32, (self.programs, self.room)))
        self.batch = w.let(w.program // w.extent(classes))
        self.kind = w.let(w.program % w.extent(classes))

    def kernel(self) -> Kernel:
        """The kernel."""
        w = self.writer
        with w.block("if turn == 0:"):
            self._keep()
        with w.block("else:"):
            self._write()
        many = self.programs * self.each
        return w.finished("nonmaxsuppression", self.programs, turns=2, flops=many)

    def _keep(self) -> None:
        """Stores the boxes that are kept, best first, and their number."""
        w, most = self.writer, self._limit(MOST, "tl.int64")
        size = w.extent(self.each)
        most = w.let(f"tl.minimum({most.text}, {size.text})")
        count, best = self._gathered()
        kept = w.variable("0")
        with w.block(f"while ({kept.text} < {most.text}) & ({best.text} != {GONE}):"):
            # What other threads of the program have stored is read.
            w.line("tl.debug_barrier()")
            index = self._index(best)
            w.store(self._kept, self._place(kept, self.room), index, I32)
            w.line(f"{kept.text} += 1")
            w.line(f"{best.text} = {self._next(best, index, count).text}")
        self.counts.tell(kept)

    def _gathered(self) -> tuple[Expr, Expr]:
        """Stores the candidates; gives their number, and the best."""
        w = self.writer
        count, best = w.variable("0"), w.variable(_NONE, WHOLE)
        with w.loop(self.each, SIZE) as start, self._tile(start, self.each) as (index, high):
            where = w.place(1, [self.batch, self.kind, index])
            score = w.load(1, where, F32).text
            if self._is_given(SCORE):
                least = self._limit(SCORE, "tl.float32").text
                high = w.let(high & Expr(f"({score} > {least})", WHOLE))
            # The bits of floats, with those of negative ones inverted, are ordered as integers.
            bits = w.let(f"tl.where({score} == 0, 0.0, {score}).to(tl.int32, bitcast=True)", WHOLE)
            key = f"({bits.text} ^ (({bits.text} >> 31) & {LAST}))"
            key = w.let(f"tl.where({score} == {score}, {key}, {-LAST - 1})", WHOLE).text
            made = w.let(f"(({key}.to(tl.int64) << 32) | ({LAST} - {index.text}))", WHOLE)
            cell = w.let(f"({count.text} + tl.cumsum({high.text}.to(tl.int32), 0) - 1)", WHOLE)
            w.store(self._candidates, self._place(cell, self.each), made, I64, high)
            better = f"tl.where({high.text}, {made.text}, {GONE})"
            w.line(f"{best.text} = tl.maximum({best.text}, {better})")
            w.line(f"{count.text} += tl.sum({high.text}.to(tl.int32))")
        return count, w.variable(f"tl.max({best.text}, axis=0)")

    def _next(self, best: Expr, index: Expr, count: Expr) -> Expr:
        """Drops the best candidate, and those that overlap it too much; gives the next."""
        w = self.writer
        box = self._box(index)
        found = w.variable(_NONE, WHOLE)
        with w.loop(count, SIZE) as start, self._tile(start, count) as (number, there):
            where = self._place(number, self.each)
            given = w.load(self._candidates, where, I64)
            there = w.let(there & Expr(f"({given.text} != {GONE})", WHOLE))
            other = self._box(self._index(given), there)
            near = self._shares(box, other)
            drop = w.let(f"({there.text} & ({near} | ({given.text} == {best.text})))", WHOLE)
            w.store(self._candidates, where, w.let(_NONE, WHOLE), I64, drop)
            left = f"tl.where({there.text} & ({drop.text} == 0), {given.text}, {GONE})"
            w.line(f"{found.text} = tl.maximum({found.text}, {left})")
        return w.let(f"tl.max({found.text}, axis=0)")

    def _write(self) -> None:
        """Writes the boxes that are kept after those of the classes before."""
        w = self.writer
        before, _ = self.counts.known()
        mine = self.counts.own
        with w.loop(mine, SIZE) as start, self._tile(start, mine) as (number, _):
            index = w.load(self._kept, self._place(number, self.room), I32)
            row = w.let(w.let(before + number) * 3)
            for column, value in enumerate((self.batch, self.kind, index)):
                w.store(self.result, w.let(row + column), w.spread(value, [SIZE]), I64)

    # Parts.

    @contextmanager
    def _tile(self, start: Expr, end: Extent | Expr) -> Iterator[tuple[Expr, Expr]]:
        """Some numbers from a start, and the mask of those before an end."""
        w = self.writer
        number = w.numbers(0, 1, SIZE, start)
        there = w.let(number.below(end if isinstance(end, Expr) else w.extent(end)))
        with w.masked({0: there}):
            yield number, there

    def _place(self, number: Expr, room: Extent) -> Expr:
        """Where this program's scratch, with room for so many numbers, has one of them."""
        w = self.writer
        return w.let(w.let(w.program * w.distance(room)) + number)

    def _index(self, candidate: Expr) -> Expr:
        """The box of a candidate."""
        text = f"({LAST} - ({candidate.text} & {LAST}).to(tl.int32))"
        return self.writer.let(text, candidate.over)

    def _is_given(self, limit: int) -> bool:
        inputs = self.at.inputs
        return limit < len(inputs) and inputs[limit].shape.dtype is not OPTIONAL

    def _limit(self, limit: int, kind: str) -> Expr:
        """A limit, 0 unless it is given."""
        if not self._is_given(limit):
            return self.writer.let(f"tl.full([], 0, {kind})")
        operand = operands(self.at).index(self.at.inputs[limit])
        return self.writer.let(f"tl.load(p{operand}).to({kind})")

    def _box(self, index: Expr, there: Expr | None = None) -> _Box:
        """Boxes: their lower corners, and their upper ones."""
        w = self.writer
        given = [
            w.load(0, w.place(0, [self.batch, index, expr(i)]), F32, also=there).text
            for i in range(CORNERS)
        ]
        if self.at.op_as(Nonmaxsuppression).center_point_box:
            pairs = list(zip(given[:2], given[2:], strict=True))
            given = [f"({place} - {size} * 0.5)" for place, size in pairs]
            given += [f"({place} + {size} * 0.5)" for place, size in pairs]
        low, high = (
            [
                w.let(elements.combined(ufunc, given[i], given[i + 2], F32), index.over)
                for i in range(2)
            ]
            for ufunc in (np.minimum, np.maximum)
        )
        return _Box(low, high)

    def _shares(self, box: _Box, other: _Box) -> str:
        """Whether the intersection of two boxes over their union is above the limit."""
        w = self.writer
        sides = [
            elements.combined(np.maximum, f"({high} - {low})", "0.0", F32)
            for low, high in (
                (
                    elements.combined(np.maximum, box.low[i].text, other.low[i].text, F32),
                    elements.combined(np.minimum, box.high[i].text, other.high[i].text, F32),
                )
                for i in range(2)
            )
        ]
        shared = w.let(_product(*sides), WHOLE).text
        union = w.let(f"({box.area} + {other.area} - {shared})", WHOLE).text
        ratio = elements.quotient(shared, union, F32)
        limit = self._limit(OVERLAP, "tl.float32").text
        return f"((tl.where({shared} > 0, {ratio}, 0.0) <= {limit}) == 0)"


@dataclass(frozen=True)
class _Box:
    """A box, or many: the lower edges and the upper ones."""

    low: list[Expr]
    high: list[Expr]

    @property
    def area(self) -> str:
        """The product of the sides."""
        edges = zip(self.low, self.high, strict=True)
        return _product(*(f"({high.text} - {low.text})" for low, high in edges))


def _product(x: str, y: str) -> str:
    """A product that is rounded before anything is added to it, as it is where boxes are compared
    on the host.
    """
    return f"tl.fma({x}, {y}, 0.0)"


def _room(at: Instruction, each: Extent) -> Extent:
    """How many boxes of a class may be kept."""
    most = at.inputs[MOST].op if len(at.inputs) > MOST else None
    if not isinstance(most, Literal) or not isinstance(each, int):
        return each
    return max(0, min(each, int(most.value.array.item())))
