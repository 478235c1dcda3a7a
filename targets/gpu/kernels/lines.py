"""Kernels along one axis: ``argmax`` and ``argmin``, running sums and products, ``topk``.

A line is all elements along the axis at one index of the others. A program has some lines, and
takes each at once or, if it is long, part by part: running results carry a total, and extremes are
kept per column of the tile, and compared at the end.

``topk`` ranks instead of sorting: an element's place among the best is the number of elements of
its line that come before it. So ranks are distinct, equals keep their order, and each element is
moved once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np

from migx import op as operations
from migx.dim import Extent, bounds, product
from migx.ir import Instruction
from migx.ops._numeric import highest, lowest
from migx.ops.reduce import Argmax, Argmin, PrefixScan, PrefixScanProd, PrefixScanSum, Topk
from migx.shape import DType
from migx.targets.gpu.emit.expressions import BOTH, ROWS, Expr, Part, expr
from migx.targets.gpu.emit.text import Kernel, Writer
from migx.targets.gpu.emit.types import COMPUTING, storable, summed
from migx.targets.gpu.parts import elements
from migx.targets.gpu.tiles import power_of_two, tiles

TILE = 4096
"""Elements of a tile, and the most of a line in it."""
UNKNOWN = 1024
"""Elements of a line in a tile if its length is unknown."""
CANDIDATES = 64
"""Elements that one program ranks, and those they are compared with at a time."""


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of one of these, for elements that Triton has a type for."""
    if not isinstance(at.op, Argmax | PrefixScanSum | PrefixScanProd | Topk):
        return None
    given = at.inputs[0].shape
    if not storable(given.dtype) or len(at.inputs) != 1 or given.elements == 0:
        return None
    match at.op:
        case Argmax():
            return _Extreme(at).kernel()
        case PrefixScan():
            return _Scan(at).kernel()
    return _Best(at).kernel()


class _Lines:
    """Writes a kernel whose programs have some lines each."""

    def __init__(self, at: Instruction) -> None:
        self.at, self.writer, self.given = at, Writer(at), at.inputs[0].shape
        self.dtype = self.given.dtype
        self.axis = int(operations.attributes(at.op)["axis"]) % self.given.rank
        self.dims = self._others(self.given.dims)
        self.rows, self.length = product(self.dims), self.given.dims[self.axis]
        self.height, self.width = self._tile()
        self.tile = f"[{self.height}, {self.width}]"

    def _tile(self) -> tuple[int, int]:
        """As wide as lines are; if their elements are not contiguous, many lines at once."""
        most = bounds(self.rows)[1]
        width = UNKNOWN
        if isinstance(self.length, int):
            width = min(TILE, power_of_two(self.length))
        if self.given.true_strides[self.axis] != 1:
            width = min(width, 32)
        height = min(TILE // width, 128)
        return (height if most > height else power_of_two(max(1, int(most)))), width

    def _others(self, values: tuple[Extent, ...]) -> tuple[Extent, ...]:
        """All values except the axis's own."""
        return (*values[: self.axis], *values[self.axis + 1 :])

    def begin(self) -> None:
        """Sets the program's lines, and their offsets in the operands."""
        w = self.writer
        row = w.numbers(0, 2, self.height, w.let(w.program * self.height))
        w.masks = {0: w.there(row, self.rows, self.height)}
        self.set_lines(row)

    def set_lines(self, line: Expr) -> None:
        """Sets the offsets of some lines."""
        w, part = self.writer, Part(line, self.dims)
        self.base = [w.offset([part], self._others(s.true_strides)) for s in w.shapes]

    @contextmanager
    def parts(self) -> Iterator[Expr]:
        """The elements of each line, part by part."""
        w, at_once = self.writer, isinstance(self.length, int) and self.length <= self.width
        with nullcontext(expr(0)) if at_once else w.loop(self.length, self.width) as start:
            column = w.numbers(1, 2, self.width, start)
            with w.masked({**w.masks, 1: w.there(column, self.length, self.width)}):
                yield column

    def offset(self, operand: int, place: Expr) -> Expr:
        """The offset in an operand of an element of each line."""
        step = self.writer.distance(self.writer.shapes[operand].true_strides[self.axis])
        return self.writer.let(self.base[operand] + self.writer.let(place * step))

    def load(self, place: Expr) -> Expr:
        """An element of each line."""
        w = self.writer
        return w.load(0, w.spread(self.offset(0, place), (self.height, self.width)), self.dtype)

    def store(self, operand: int, where: Expr, value: Expr, also: Expr | None = None) -> None:
        """Stores one element of each line."""
        cell = Expr(f"(tl.zeros([{self.height}, 1], tl.int32) + {where.text})", ROWS)
        self.writer.store(operand, cell, value, self.writer.shapes[operand].dtype, also)

    def finished(self) -> Kernel:
        """The kernel, once its text is written."""
        grid = tiles(self.rows, self.height)
        return self.writer.finished(self.at.name, grid, flops=self.given.elements)


class _Extreme(_Lines):
    """The index of the greatest or the least of each line. Each column of the tile keeps the best
    it has seen, and its index.
    """

    def kernel(self) -> Kernel:
        """The kernel."""
        w, op = self.writer, self.at.op_as(Argmax)
        self.begin()
        best = w.variable(f"tl.zeros({self.tile}, {COMPUTING[self.dtype.name]})", BOTH)
        index = w.variable(f"tl.full({self.tile}, -1, tl.int32)", BOTH)
        greatest, equal = not isinstance(op, Argmin), op.select_last_index
        with self.parts() as column:
            x = self.load(column)
            better = before(x.text, best.text, self.dtype, greatest=greatest, equal=equal)
            take = f"({better}) | ({index.text} < 0)"
            if (mask := w.masks.get(1)) is not None:
                take = f"({take}) & {mask.text}"
            take = w.let(f"({take})", BOTH).text
            w.line(f"{best.text} = tl.where({take}, {x.text}, {best.text})")
            w.line(f"{index.text} = tl.where({take}, {column.text}, {index.text})")
        place = self._place(best.text, index.text, greatest=greatest, last=equal)
        self.store(1, self.base[1], place)
        return self.finished()

    def _place(self, best: str, index: str, *, greatest: bool, last: bool) -> Expr:
        """The index of the best of all columns of a tile: of equals the first, or the last."""
        w = self.writer
        ufunc, worst_of = (np.maximum, lowest) if greatest else (np.minimum, highest)
        worst = elements.number_of(worst_of(self.dtype.numpy), self.dtype)
        found = f"tl.where({index} >= 0, {best}, {worst})"
        reduced = f"tl.{'max' if greatest else 'min'}({found}, axis=1, keep_dims=True)"
        nan = "False"
        if self.dtype.is_float:  # with a NaN, the extreme is NaN, and equal to nothing
            combined = elements.combined(ufunc, "a", "b", self.dtype)
            combine = w.function("extreme", "a, b", combined)
            reduced = f"tl.reduce({found}, 1, {combine}, keep_dims=True)"
            nan = f"({best} != {best})"
        extreme = w.let(reduced, ROWS)
        hit = f"({index} >= 0) & (({best} == {extreme.text}) | {nan})"
        if last:
            text = f"tl.max(tl.where({hit}, {index}, -1), axis=1, keep_dims=True)"
        else:
            text = f"tl.min(tl.where({hit}, {index}, 2147483647), axis=1, keep_dims=True)"
        return w.let(text, ROWS)


class _Scan(_Lines):
    """Running results of each line."""

    def kernel(self) -> Kernel:
        """The kernel."""
        w, op = self.writer, self.at.op_as(PrefixScan)
        self.begin()
        multiplies = isinstance(op, PrefixScanProd)
        sign, scan, identity = ("*", "cumprod", 1) if multiplies else ("+", "cumsum", 0)
        kind = COMPUTING[summed(self.dtype).name]
        carry = w.variable(f"tl.full([{self.height}, 1], {identity}, {kind})", ROWS)
        if op.exclusive:
            self._first(carry)
        with self.parts() as column:
            x = f"{self.load(self._place(column)).text}.to({kind})"
            if multiplies and (mask := w.masks.get(1)) is not None:
                x = f"tl.where({mask.text}, {x}, 1)"
            total = w.let(f"{carry.text} {sign} tl.{scan}({x}, axis=1)", BOTH)
            self._write(column, total)
            last = f"tl.arange(0, {self.width})[None, :] == {self.width - 1}"
            carried = f"tl.sum(tl.where({last}, {total.text}, 0), axis=1, keep_dims=True)"
            w.line(f"{carry.text} = {carried}.to({kind})")
        return self.finished()

    def _place(self, column: Expr) -> Expr:
        """The index on the axis of the element that is visited at this position."""
        w = self.writer
        if not self.at.op_as(PrefixScan).reverse:
            return column
        return w.let(w.let(w.extent(self.length) - 1) - column)

    def _first(self, identity: Expr) -> None:
        """Writes the identity, the first of exclusive results."""
        w = self.writer
        place = self._place(expr(0))
        there = w.let(f"({w.extent(self.length).text} > 0)")
        always = isinstance(self.length, int) and self.length > 0
        self.store(1, self.offset(1, place), identity, None if always else there)

    def _write(self, column: Expr, total: Expr) -> None:
        w, also = self.writer, None
        if self.at.op_as(PrefixScan).exclusive:
            column = w.let(column + 1)
            also = w.let(column.below(w.extent(self.length)))
        where = w.spread(self.offset(1, self._place(column)), (self.height, self.width))
        w.store(1, where, total, self.dtype, also)


class _Best(_Lines):
    """The first of each line by rank, and their indices."""

    def _tile(self) -> tuple[int, int]:
        size = CANDIDATES
        if isinstance(self.length, int):
            size = min(size, power_of_two(max(1, self.length)))
        return size, size

    def kernel(self) -> Kernel:
        """The kernel."""
        w, op, size = self.writer, self.at.op_as(Topk), self.width
        count = tiles(self.length, size)
        cells = w.extent(count)
        line, start = w.let(w.program // cells), w.let(w.let(w.program % cells) * size)
        self.set_lines(line)
        mine = w.numbers(0, 2, size, start)
        w.masks = {0: w.there(mine, self.length, size)}
        x = w.load(0, self.offset(0, mine), self.dtype)
        rank = w.variable(f"tl.zeros([{size}, 1], tl.int32)", ROWS)
        with self.parts() as column:
            y = w.load(0, self.offset(0, column), self.dtype)
            first = before(y.text, x.text, self.dtype, greatest=op.largest, nan_first=op.largest)
            same = f"(({y.text} == {x.text}) & ({column.text} < {mine.text}))"
            if self.dtype.is_float:
                nans = f"(({y.text} != {y.text}) & ({x.text} != {x.text}))"
                same = f"({same} | ({nans} & ({column.text} < {mine.text})))"
            there = f"({first}) | {same}"
            if (mask := w.masks.get(1)) is not None:
                there = f"({there}) & {mask.text}"
            w.line(f"{rank.text} += tl.sum(({there}).to(tl.int32), axis=1, keep_dims=True)")
        also = w.let(f"({rank.text} < {w.extent(op.k).text})", ROWS)
        for operand, value in ((1, x), (2, mine)):
            where = self.offset(operand, rank)
            w.store(operand, where, value, w.shapes[operand].dtype, also)
        compared = self.given.elements * self.length
        return w.finished(self.at.name, self.rows * count, flops=compared)


def before(
    x: str, y: str, dtype: DType, *, greatest: bool, equal: bool = False, nan_first: bool = True
) -> str:
    """Whether x is greater (or less) than y, or ``equal`` if so asked. NaN comes first, or last."""
    text = f"({x} {'>' if greatest else '<'}{'=' if equal else ''} {y})"
    if not dtype.is_float:
        return text
    if equal:
        return f"{text} | ({x} != {x})"
    nan, number = (x, y) if nan_first else (y, x)
    return f"{text} | (({nan} != {nan}) & ({number} == {number}))"
