"""Kernels of elementwise arithmetic, of reductions, of both fused, and of copies between layouts.

A tile is some rows by some columns: columns run over the folded axes, rows over the others. A row
that fits a tile is read once and stays in registers for all stages; longer rows are read again for
each stage, in a loop. A few long rows are shared by programs, which take a turn for each stage:
each folds its part of the columns into scratch, and in the next turn all of them fold these parts.
If nothing is folded, a tile is a line of elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from migx.argument import Argument
from migx.dim import Extent, product
from migx.fusion.kernels import Access, FusedKernel, described, name_of
from migx.fusion.stages import Stage, below, is_folded, stages_of
from migx.ir import Instruction
from migx.ops.reduce import ReduceMean
from migx.shape import BOOL, F8E8M0, I32, I64, U32, U64, DType, Shape
from migx.targets.gpu import tiles as choose
from migx.targets.gpu.emit.expressions import BOTH, ROWS, Expr, Part, expr
from migx.targets.gpu.emit.text import Kernel, Writer
from migx.targets.gpu.emit.types import COMPUTING, summed
from migx.targets.gpu.parts import elements
from migx.targets.gpu.parts.nodes import (
    axis_across,
    computable,
    evaluated,
    write_block,
    write_line,
)
from migx.targets.gpu.tiles import tiles


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of what ``described`` describes, if Triton has all its element types."""
    fused = described(at)
    if fused is None or not computable(fused.nodes):
        return None
    if any(a.dtype is F8E8M0 for _, a in fused.outputs):  # which cannot be encoded here
        return None
    if any(n.folds for n in fused.nodes) and not any(fused.folded):
        fused = fused.with_axis(folded=True)
    return _Rows(at, fused).kernel() if any(fused.folded) else _line(at, fused)


def _line(at: Instruction, fused: FusedKernel) -> Kernel:
    """A kernel without reductions: each program has a line of elements, or a block of them where
    operands are contiguous along different axes.
    """
    writer = Writer(at)
    count = product(fused.dims)
    bits = [a.dtype.bits for a in fused.accesses if any(s != 0 for s in a.strides)]
    if (axis := axis_across(fused)) is not None:
        tile = choose.block(fused.dims[axis], fused.dims[-1], count, sum(bits))
        grid = write_block(writer, fused, axis, tile)
    else:
        tile = choose.line(count, max(bits, default=32), sum(bits))
        write_line(writer, fused, writer.program, tile.columns)
        grid = tiles(count, tile.columns)
    return writer.finished(name_of(at), grid, warps=tile.warps, flops=fused.flops)


class _Rows:
    """Writes a kernel with reductions."""

    def __init__(self, at: Instruction, fused: FusedKernel) -> None:
        self.at, self.fused, self.nodes = at, fused, fused.nodes
        self.row_dims, self.column_dims = (
            tuple(d for d, f in zip(fused.dims, fused.folded, strict=True) if f is folded)
            for folded in (False, True)
        )
        self.rows, self.length = product(self.row_dims), product(self.column_dims)
        along = self._lies_along_rows()
        longest = choose.LONGEST // (choose.BESIDE if along else 1)
        self.at_once = isinstance(self.length, int) and self.length <= longest
        self.stages, _ = stages_of(fused)
        self.lasting = [o for n, o in enumerate(fused.outputs) if is_folded(fused, n)]
        bits = sum(a.dtype.bits for a in fused.accesses if any(s != 0 for s in self._steps(a)[1]))
        self.tile = choose.fold(
            self.rows, self.length, longest, bits, len(self.stages), along_rows=along
        )
        self.height, self.width = self.tile.rows, self.tile.columns
        self.writer = Writer(at)
        self.cells, self.part = tiles(self.rows, self.height), expr(0)

    def _lies_along_rows(self) -> bool:
        """Whether adjacent elements in memory are in different rows."""
        steps = [self._steps(a)[1] for a in self.fused.accesses]
        return not any(s and s[-1] == 1 for s in steps)

    def kernel(self) -> Kernel:
        """The kernel."""
        writer, fused, cell = self.writer, self.fused, self.writer.program
        if self.tile.parts > 1:
            many = writer.extent(self.cells)
            cell, self.part = writer.let(cell % many), writer.let(cell // many)
        row = writer.numbers(0, 2, self.height, writer.let(cell * self.height))
        writer.masks = {0: writer.there(row, self.rows, self.height)}
        self.row = Part(row, self.row_dims)
        self.base = {a: writer.offset([self.row], self._steps(a)[0]) for a in fused.accesses}
        self.found: dict[int, Expr] = {}
        if self.at_once:
            self._columns(writer.numbers(1, 2, self.width))
        turns = self._in_turns() if self.tile.parts > 1 else 0
        if turns == 0:
            for stage in self.stages:
                self._stage(stage)
            self._last()
        grid, name = self.cells * self.tile.parts, name_of(self.at)
        return writer.finished(name, grid, warps=self.tile.warps, flops=fused.flops, turns=turns)

    def _in_turns(self) -> int:
        """Writes a turn for each stage and, if the last one folds, one for the results with one
        value for all columns; gives their number.
        """
        writer, begun, more = self.writer, self.found, self.stages[-1].folds
        stages = [*self.stages, Stage()] if more else self.stages
        for turn, stage in enumerate(stages):
            with writer.block(f"if turn == {turn}:"):
                self.found = dict(begun)
                for number in (n for before in stages[:turn] for n in before.folds):
                    self.found[number] = self._of_parts(number)
                if stage.folds or stage.outputs:
                    self._stage(stage)
                if turn == len(stages) - 1 and self.lasting:
                    with writer.block(f"if {self.part.text} == 0:"):
                        self._last()
        return len(stages)

    def _keep(self, number: int, value: Expr) -> None:
        """Stores in scratch what a program has folded of its part."""
        operand, where = self._of_scratch(number, self.part, 1)
        self.writer.store(operand, where, self._fold(number, value), self._summing(number))

    def _of_parts(self, number: int) -> Expr:
        """The result of a reduction, from the parts of all programs."""
        many = self.tile.parts
        operand, where = self._of_scratch(number, self.writer.numbers(1, 2, many), many)
        return self._folded(number, self.writer.load(operand, where, self._summing(number)))

    def _of_scratch(self, number: int, part: Expr, width: int) -> tuple[int, Expr]:
        """The scratch operand with the folded parts, and the offset of some of them."""
        writer, dtype = self.writer, self._summing(number)
        alike = [n for s in self.stages for n in s.folds if self._summing(n) is dtype]
        operand = writer.operand_of_scratch(Shape(dtype, (len(alike), self.rows, self.tile.parts)))
        where = writer.place(operand, (expr(alike.index(number)), self.row.index, part))
        return operand, replace(writer.spread(where, (self.height, width)), over=ROWS)

    def _steps(self, access: Access) -> tuple[list[Extent], list[Extent]]:
        pairs = list(zip(access.strides, self.fused.folded, strict=True))
        return [s for s, f in pairs if not f], [s for s, f in pairs if f]

    def _columns(self, column: Expr, *, there: bool = False) -> None:
        """Sets the offsets of operands at some columns, which may be known to exist."""
        writer = self.writer
        writer.masks[1] = None if there else writer.there(column, self.length, self.width)
        part = Part(column, self.column_dims)
        self.place = {
            a: writer.let(self.base[a] + writer.offset([part], self._steps(a)[1]))
            for a in self.fused.accesses
        }

    def _stage(self, stage: Stage) -> None:
        """Writes the reductions of a stage and its outputs."""
        written = [self.fused.outputs[o][0] for o in stage.outputs]
        fixed = [
            n
            for n in below(self.nodes, [*stage.nodes, *stage.folds, *written], self.found)
            if self.nodes[n].folded and not self.nodes[n].folds
        ]
        evaluated(self.writer, self.nodes, fixed, self.found, self.base)
        if self.at_once:
            values = self.found
            evaluated(self.writer, self.nodes, stage.nodes, values, self.place)
            self._write(stage, values)
            for number in stage.folds:
                value = self._summand(number, values)
                self.found[number] = self._folded(number, value)
            return
        totals = [self._start(number) for number in stage.folds]
        for _ in self._parts():
            values = dict(self.found)
            again = below(self.nodes, stage.nodes, values)
            evaluated(self.writer, self.nodes, again, values, self.place)
            self._write(stage, values)
            for number, total in zip(stage.folds, totals, strict=True):
                combined = self._combined(number, total.text, self._summand(number, values).text)
                self.writer.line(f"{total.text} = {combined}")
        for number, total in zip(stage.folds, totals, strict=True):
            if self.tile.parts > 1:
                self._keep(number, total)
            else:
                self.found[number] = self._folded(number, total)

    def _parts(self) -> Iterator[None]:
        """The columns part by part: in a loop of full parts, then the rest if the length is known;
        so only partial parts are masked. Programs that share a row take a part each.
        """
        writer = self.writer
        if (many := self.tile.parts) > 1 and isinstance(self.length, int):
            first, end = writer.share(self.length, self.width, self.part, many)
            with writer.loop(end, self.width, first) as begin:
                self._columns(writer.numbers(1, 2, self.width, begin))
                yield
            return
        known = isinstance(self.length, int)
        rest = self.length % self.width if known else 0
        with writer.loop(self.length - rest, self.width) as begin:
            self._columns(writer.numbers(1, 2, self.width, begin), there=known)
            yield
        if rest != 0:
            self._columns(writer.numbers(1, 2, self.width, writer.extent(self.length - rest)))
            yield

    def _write(self, stage: Stage, values: dict[int, Expr]) -> None:
        for output in stage.outputs:
            number, access = self.fused.outputs[output]
            self._store(access, values[number], self.place[access], self.width)

    def _last(self) -> None:
        """Writes the results that have one value for all columns."""
        writer = self.writer
        for number, access in self.lasting:
            wanted = below(self.nodes, [number], self.found)
            evaluated(writer, self.nodes, wanted, self.found, self.base)
            self._store(access, self.found[number], self.base[access])

    def _store(self, access: Access, value: Expr, where: Expr, width: int | None = None) -> None:
        """Stores a value, broadcast to a tile of ``width`` columns, or of one column if it is the
        same for all.
        """
        folded, dims = width is None, (self.height, width or 1)
        if folded:
            value, where = (Expr(e.text, e.over | {1}, e.number) for e in (value, where))
            if value.over == {1} or where.over == {1}:
                value, where = (Expr(e.text, e.over - {1}, e.number) for e in (value, where))
        value, where = self.writer.spread(value, dims), self.writer.spread(where, dims)
        if folded:
            where = Expr(where.text, where.over - {1})
        self.writer.store(access.operand, where, value, access.dtype)

    # Reductions.

    def _summing(self, number: int) -> DType:
        """The type in which a reduction accumulates."""
        node = self.nodes[number]
        if node.dtype.is_float:
            return summed(node.dtype)
        if isinstance(node.of, ReduceMean) or node.dtype.bits == 64:
            return U64 if node.dtype.kind == "uint" else I64
        return U32 if node.dtype.kind == "uint" and node.dtype.bits == 32 else I32

    def _computing(self, number: int) -> str:
        """The name of that type in Triton."""
        return COMPUTING[self._summing(number).name]

    def _identity(self, number: int) -> str:
        node = self.nodes[number]
        return elements.literal(node.reduction.start(node.dtype.numpy))

    def _start(self, number: int) -> Expr:
        tile = f"[{self.height}, {self.width}]"
        text = f"tl.full({tile}, {self._identity(number)}, {self._computing(number)})"
        return self.writer.variable(text, BOTH)

    def _summand(self, number: int, values: dict[int, Expr]) -> Expr:
        """The tile that a reduction reads, with its identity for missing elements."""
        writer = self.writer
        (source,) = self.nodes[number].inputs
        value = values[source]
        text = f"{value.text}.to({self._computing(number)})"
        if 1 not in value.over:
            text = f"tl.broadcast_to({text}, [{self.height}, {self.width}])"
        if (mask := writer.masks.get(1)) is not None:
            text = f"tl.where({mask.text}, {text}, {self._identity(number)})"
        return writer.let(text, BOTH)

    def _combined(self, number: int, total: str, value: str) -> str:
        node = self.nodes[number]
        return elements.combined(node.reduction.ufunc, total, value, node.dtype)

    def _fold(self, number: int, value: Expr) -> Expr:
        """The columns of a tile, folded into one."""
        node, writer = self.nodes[number], self.writer
        if (combined := self._combined(number, "a", "b")) == "a + b":
            return Expr(f"tl.sum({value.text}, axis=1, keep_dims=True)", ROWS)
        assert not isinstance(node.of, (Access, Argument))  # tl.max and tl.min ignore NaN
        function = writer.function(f"{node.of.name}_{node.dtype.name}", "a, b", combined)
        return Expr(f"tl.reduce({value.text}, 1, {function}, keep_dims=True)", ROWS)

    def _folded(self, number: int, value: Expr) -> Expr:
        """The result of a reduction over a tile."""
        node, writer, found = self.nodes[number], self.writer, self._fold(number, value)
        total = found.text
        if isinstance(node.of, ReduceMean):
            total = self._mean(writer.let(found), node.dtype, number)
        text = f"{total}.to({COMPUTING[node.dtype.name]})"
        if node.dtype is BOOL:
            text = f"({total} != 0)"
        return writer.let(text, ROWS)

    def _mean(self, total: Expr, dtype: DType, number: int) -> str:
        """A sum divided by the number of elements."""
        count, kind = self.writer.extent(self.length), self._computing(number)
        if count.number and dtype.is_float:
            return f"({total.text} * {1 / count.number!r})"
        many = f"tl.full([], {count.text}, {kind})"
        if count.number is None:
            many = f"{count.text}.to({kind})"
        spread = self.writer.let(f"tl.broadcast_to({many}, [{self.height}, 1])")
        return elements.quotient(total.text, spread.text, dtype)
