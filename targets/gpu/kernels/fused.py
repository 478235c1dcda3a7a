"""Kernels of arithmetic on elements, of reductions, and of both fused; of copies between layouts.

A tile is some rows by some columns: columns are the places of the folded axes, rows those of the
others. Where a row fits a tile, it is read once and stays in registers for all stages; longer rows
are read again for each stage, in a loop. Where nothing is folded, a tile is a line of elements.
"""

from __future__ import annotations

from collections.abc import Sequence

from migx.argument import Argument
from migx.dim import Extent, product
from migx.fusion.kernels import Access, FusedKernel, Node, described, name_of
from migx.fusion.stages import Stage, below, is_folded, stages_of
from migx.ir import Instruction
from migx.ops.reduce import ReduceAll, ReduceAny, ReduceMax, ReduceMean, ReduceMin, ReduceProd
from migx.shape import BOOL, F8E8M0, I32, DType
from migx.targets.gpu import elements
from migx.targets.gpu import tiles as choose
from migx.targets.gpu.text import (
    COMPUTING,
    Expr,
    Kernel,
    Part,
    Writer,
    storable,
    tiles,
    whole,
)

LONGEST = 16384
"""The longest row that stays in registers."""


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of what ``described`` describes, where Triton has all its element types."""
    fused = described(at)
    if fused is None or not computable(fused.nodes):
        return None
    if any(a.dtype is F8E8M0 for _, a in fused.outputs):  # of which there is no encoding here
        return None
    if any(n.folds for n in fused.nodes) and not any(fused.folded):
        fused = fused.with_axis(folded=True)
    return _Rows(at, fused).kernel() if any(fused.folded) else _line(at, fused)


def computable(nodes: Sequence[Node]) -> bool:
    """Whether all element types and operations have a text."""
    return all(_has_text(n, [nodes[i].dtype for i in n.inputs]) for n in nodes)


def _has_text(node: Node, given: Sequence[DType]) -> bool:
    if node.folds:
        return storable(node.dtype)
    if isinstance(node.of, (Access, Argument)):
        return node.dtype.name in COMPUTING
    return elements.has(node.of, given, node.dtype)


def evaluated(
    writer: Writer,
    nodes: Sequence[Node],
    wanted: Sequence[int],
    found: dict[int, Expr],
    place: dict[Access, Expr],
) -> None:
    """Adds to what has been found the nodes wanted, in order; operands lie at their places."""
    for number in wanted:
        if number not in found:
            found[number] = writer.let(_node(writer, nodes, number, found, place))


def _node(
    writer: Writer,
    nodes: Sequence[Node],
    number: int,
    found: dict[int, Expr],
    place: dict[Access, Expr],
) -> Expr:
    node = nodes[number]
    if isinstance(node.of, Access):
        return writer.load(node.of.operand, place[node.of], node.of.dtype)
    if isinstance(node.of, Argument):
        return Expr(elements.constant(node.of))
    given = [found[i] for i in node.inputs]
    text = elements.apply(
        node.of, [v.text for v in given], [nodes[i].dtype for i in node.inputs], node.dtype
    )
    return Expr(text, frozenset().union(*(v.over for v in given)))


def _line(at: Instruction, fused: FusedKernel) -> Kernel:
    """A kernel that folds nothing: each program has a line of elements."""
    writer = Writer(at)
    count = product(fused.dims)
    bits = min((a.dtype.bits for a in fused.accesses), default=32)
    tile = choose.line(count, bits)
    size = tile.columns
    index = writer.numbers(0, 1, size, writer.let(writer.program * size))
    if not whole(count, size):
        writer.masks[0] = writer.let(index.below(writer.extent(count)))
    part = Part(index, tuple(fused.dims))
    place = {a: writer.offset([part], a.strides) for a in fused.accesses}
    found: dict[int, Expr] = {}
    evaluated(writer, fused.nodes, range(len(fused.nodes)), found, place)
    for number, access in fused.outputs:
        value, where = (writer.spread(e, [size]) for e in (found[number], place[access]))
        writer.store(access.operand, where, value, access.dtype)
    grid = tiles(count, size)
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
        self.at_once = isinstance(self.length, int) and self.length <= LONGEST
        along = self._lies_along_rows()
        self.tile = choose.fold(self.rows, self.length, LONGEST, along_rows=along)
        self.height, self.width = self.tile.rows, self.tile.columns
        self.writer = Writer(at)

    def _lies_along_rows(self) -> bool:
        """Whether neighbours in memory are in different rows."""
        steps = [self._steps(a)[1] for a in self.fused.accesses]
        return not any(s and s[-1] == 1 for s in steps)

    def kernel(self) -> Kernel:
        """The whole of it."""
        writer, fused = self.writer, self.fused
        row = writer.numbers(0, 2, self.height, writer.let(writer.program * self.height))
        if not whole(self.rows, self.height):
            writer.masks[0] = writer.let(row.below(writer.extent(self.rows)))
        self.row = Part(row, self.row_dims)
        self.base = {a: writer.offset([self.row], self._steps(a)[0]) for a in fused.accesses}
        self.found: dict[int, Expr] = {}
        if self.at_once:
            self._columns(writer.numbers(1, 2, self.width))
        stages, _ = stages_of(fused)
        for stage in stages:
            self._stage(stage)
        self._last()
        grid = tiles(self.rows, self.height)
        return writer.finished(name_of(self.at), grid, warps=self.tile.warps, flops=fused.flops)

    def _steps(self, access: Access) -> tuple[list[Extent], list[Extent]]:
        pairs = list(zip(access.strides, self.fused.folded, strict=True))
        return [s for s, f in pairs if not f], [s for s, f in pairs if f]

    def _columns(self, column: Expr) -> None:
        """Says where operands are for some columns."""
        writer = self.writer
        writer.masks.pop(1, None)
        if not whole(self.length, self.width):
            writer.masks[1] = writer.let(column.below(writer.extent(self.length)))
        part = Part(column, self.column_dims)
        self.place = {
            a: writer.let(self.base[a] + writer.offset([part], self._steps(a)[1]))
            for a in self.fused.accesses
        }

    def _stage(self, stage: Stage) -> None:
        """The reductions of a stage and what is written in it."""
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
        with self.writer.loop(self.length, self.width) as begin:
            self._columns(self.writer.numbers(1, 2, self.width, begin))
            values = dict(self.found)
            again = below(self.nodes, stage.nodes, values)
            evaluated(self.writer, self.nodes, again, values, self.place)
            self._write(stage, values)
            for number, total in zip(stage.folds, totals, strict=True):
                combined = self._combined(number, total.text, self._summand(number, values).text)
                self.writer.line(f"{total.text} = {combined}")
        for number, total in zip(stage.folds, totals, strict=True):
            self.found[number] = self._folded(number, total)

    def _write(self, stage: Stage, values: dict[int, Expr]) -> None:
        for output in stage.outputs:
            number, access = self.fused.outputs[output]
            self._store(access, values[number], (self.height, self.width), self.place[access])

    def _last(self) -> None:
        """Writes the results that have one value for all columns."""
        writer = self.writer
        for output, (number, access) in enumerate(self.fused.outputs):
            if is_folded(self.fused, output):
                evaluated(
                    writer,
                    self.nodes,
                    below(self.nodes, [number], self.found),
                    self.found,
                    self.base,
                )
                self._store(access, self.found[number], (self.height, 1), self.base[access])

    def _store(self, access: Access, value: Expr, dims: tuple[int, int], where: Expr) -> None:
        """Writes a value, spread to the whole of a tile where it is smaller."""
        if dims[1] == 1:
            value, where = (Expr(e.text, e.over | {1}, e.number) for e in (value, where))
            if value.over == {1} or where.over == {1}:
                value, where = (Expr(e.text, e.over - {1}, e.number) for e in (value, where))
        value, where = self.writer.spread(value, dims), self.writer.spread(where, dims)
        if dims[1] == 1:
            where = Expr(where.text, where.over - {1})
        self.writer.store(access.operand, where, value, access.dtype)

    # Reductions.

    def _computing(self, number: int) -> str:
        """What a reduction adds up in."""
        node = self.nodes[number]
        if node.dtype.is_float:
            return COMPUTING[node.dtype.name]
        if isinstance(node.of, ReduceMean) or node.dtype.bits == 64:
            return "tl.uint64" if node.dtype.kind == "uint" else "tl.int64"
        return "tl.uint32" if node.dtype.kind == "uint" and node.dtype.bits == 32 else "tl.int32"

    def _identity(self, number: int) -> str:
        node = self.nodes[number]
        low, high = elements.limits(node.dtype)
        value: float = 0
        match node.of:
            case ReduceMax():
                value = low
            case ReduceMin():
                value = high
            case ReduceAll() | ReduceProd():
                value = 1
        if value in (float("inf"), -float("inf")):
            return f'float("{value}")'
        return repr(value)

    def _start(self, number: int) -> Expr:
        tile = f"[{self.height}, {self.width}]"
        text = f"tl.full({tile}, {self._identity(number)}, {self._computing(number)})"
        return self.writer.variable(text, frozenset({0, 1}))

    def _summand(self, number: int, values: dict[int, Expr]) -> Expr:
        """What a reduction takes of a tile: all of it, its identity where nothing is."""
        writer = self.writer
        (source,) = self.nodes[number].inputs
        value = values[source]
        text = f"{value.text}.to({self._computing(number)})"
        if 1 not in value.over:
            text = f"tl.broadcast_to({text}, [{self.height}, {self.width}])"
        if (mask := writer.masks.get(1)) is not None:
            text = f"tl.where({mask.text}, {text}, {self._identity(number)})"
        return writer.let(Expr(text, frozenset({0, 1})))

    def _combined(self, number: int, total: str, value: str) -> str:
        node = self.nodes[number]
        match node.of:
            case ReduceMax() | ReduceAny():
                return elements.extreme(True, total, value, _no_bool(node))
            case ReduceMin() | ReduceAll():
                return elements.extreme(False, total, value, _no_bool(node))
            case ReduceProd():
                return f"{total} * {value}"
        return f"{total} + {value}"

    def _folded(self, number: int, value: Expr) -> Expr:
        """The result of a reduction, of a tile of what it takes."""
        node, writer = self.nodes[number], self.writer
        name = "sum"
        if isinstance(node.of, (ReduceMax, ReduceAny)):
            name = "max"
        elif isinstance(node.of, (ReduceMin, ReduceAll)):
            name = "min"
        total = f"tl.{name}({value.text}, axis=1, keep_dims=True)"
        if isinstance(node.of, ReduceProd):  # the last of the running products
            last = f"tl.arange(0, {self.width})[None, :] == {self.width - 1}"
            running = f"tl.where({last}, tl.cumprod({value.text}, axis=1), 0)"
            total = f"tl.sum({running}, axis=1, keep_dims=True)"
        if name != "sum" and node.dtype.is_float:  # tl.max and tl.min pass NaN over
            nans = f"tl.sum(({value.text} != {value.text}).to(tl.int32), axis=1, keep_dims=True)"
            total = f"tl.where({nans} > 0, float('nan'), {total})"
        if isinstance(node.of, ReduceMean):
            count = writer.extent(self.length)
            whole_ = writer.let(Expr(total, frozenset({0})))
            many = f"tl.full([], {count.text}, {self._computing(number)})"
            if count.number is None:
                many = f"{count.text}.to({self._computing(number)})"
            spread = writer.let(Expr(f"tl.broadcast_to({many}, [{self.height}, 1])"))
            total = elements.quotient(whole_.text, spread.text, node.dtype)
        text = (
            f"({total} != 0)" if node.dtype is BOOL else f"{total}.to({COMPUTING[node.dtype.name]})"
        )
        return writer.let(Expr(text, frozenset({0})))


def _no_bool(node: Node) -> DType:
    """The element type, for bools that of the integers they are folded as."""
    return I32 if node.dtype is BOOL else node.dtype
