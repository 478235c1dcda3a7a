"""Kernels of matrix products, with the arithmetic on their result and what makes their operands:
``dot``, ``quant_dot``, and groups of one of these with what is around it.

A program has a tile of rows by columns of one product of the batch; where all products share the
right operand, the batch is more rows. Operands are read place by place through whatever stands
between them and the inputs (``reader.py``): four-bit weights are unpacked and scaled there, in
registers. Sums are f32 for floats up to 32 bits, and those of f32 are exact products
(``input_precision="ieee"``); each is added up in the order of the depth by one program.

Products with few rows are read, not computed: then the tile is multiplied element by element and
summed along the depth, and the matrix units rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from migx.dim import Extent, bounds, product
from migx.ir import Instruction
from migx.kernels import FusedKernel, epilogue
from migx.ops.fused import Group
from migx.ops.linear import Dot, QuantDot
from migx.shape import BF16, F16, F32, I8, DType
from migx.targets.gpu.finish import finish
from migx.targets.gpu.kernels.fused import computable, name_of
from migx.targets.gpu.reader import Reader
from migx.targets.gpu.text import (
    COMPUTING,
    Expr,
    Kernel,
    Part,
    Writer,
    expr,
    storable,
    tiles,
    whole,
)

PRODUCTS = (Dot, QuantDot)
TAGS = ("gemm_epilogue", "int4_gemm")
FEW = 4
"""Rows up to which the elements of a tile are multiplied one by one."""


@dataclass(frozen=True)
class Cut:
    """Tiles of rows by columns, by so much of the depth at a time."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of a product of matrices, by itself or in a group."""
    dot = _product(at)
    if dot is None or not all(
        map(storable, (dot.shape.dtype, *(v.shape.dtype for v in dot.inputs)))
    ):
        return None
    rest = epilogue(at, dot, dot.shape.dims[-1])
    if rest is None or not computable(rest.nodes):
        return None
    writer = _Writer(at, dot, rest)
    return writer.kernel() if writer.readable() else None


def _product(at: Instruction) -> Instruction | None:
    """The product in an instruction."""
    if type(at.op) in PRODUCTS:
        return at
    if not isinstance(at.op, Group) or at.op.tag not in TAGS:
        return None
    return next((v for v in at.modules[0] if type(v.op) in PRODUCTS), None)


def cut_for(rows: Extent, columns: Extent, dtype: DType) -> Cut:
    """The tiles by which a product is cut; rows and columns that are not known count as many."""
    most, across = bounds(rows)[1], bounds(columns)[1]
    half = dtype in (F16, BF16, I8)
    if most <= FEW:
        return Cut(1, 32, 128, 4, 3)
    height = 16 if most <= 16 else 32 if most <= 32 else 64 if most <= 512 or not half else 128
    width = 16 if across <= 16 else 32 if across <= 32 else 64 if across <= 512 or not half else 128
    return Cut(height, width, 64 if half else 32, 8 if height * width >= 128 * 128 else 4, 3)


class _Writer:
    """Writes the kernel of one product."""

    def __init__(self, at: Instruction, dot: Instruction, rest: FusedKernel) -> None:
        self.at, self.dot, self.rest = at, dot, rest
        self.writer = Writer(at)
        self.reader = Reader(self.writer, at)
        left, right = dot.inputs
        self.lead = dot.shape.dims[:-2]
        self.shared = not self.reader.varies(right, range(len(self.lead)))
        self.rows: Extent = dot.shape.dims[-2] * (product(self.lead) if self.shared else 1)
        self.columns, self.depth = dot.shape.dims[-1], left.shape.dims[-1]
        self.cut = cut_for(self.rows, self.columns, left.shape.dtype)
        kinds = [v.shape.dtype for v in dot.inputs]
        self.units = kinds[0] in (F16, BF16, F32) or all(k.bits == 8 for k in kinds)
        self.step = self.cut.depth if self.units else 1

    def readable(self) -> bool:
        """Whether both operands can be read."""
        return all(map(self.reader.readable, self.dot.inputs))

    def kernel(self) -> Kernel:
        """The whole of it."""
        w, cut = self.writer, self.cut
        down, across = tiles(self.rows, cut.rows), tiles(self.columns, cut.columns)
        items = 1 if self.shared else product(self.lead)
        cell = w.program
        item = expr(0)
        if items != 1:
            cells = w.extent(down * across)
            cell, item = w.let(w.program % cells), w.let(w.program // cells)
        height = w.extent(down)
        down_at, across_at = w.let(cell % height), w.let(cell // height * cut.columns)
        row = down_at if cut.rows == 1 else w.numbers(0, 2, cut.rows, w.let(down_at * cut.rows))
        column = w.numbers(1, 2, cut.columns, across_at)
        if not whole(self.rows, cut.rows):
            w.masks[0] = w.let(row.below(w.extent(self.rows)))
        if not whole(self.columns, cut.columns):
            w.masks[1] = w.let(column.below(w.extent(self.columns)))
        if cut.rows == 1:
            total = self._row(item, row, across_at, _sum_of(self.dot.shape.dtype))
        else:
            total = self._sums(item, row, column)
        counted = row if self.shared else w.let(item * w.extent(self.rows) + row)
        finish(w, self.rest, total, counted, column, (cut.rows, cut.columns))
        name = "dot" if self.at is self.dot else name_of(self.at)
        return w.finished(
            name,
            down * across * items,
            warps=cut.warps,
            stages=cut.stages,
            flops=2 * product(self.dot.shape.dims) * self.depth + self.rest.flops,
        )

    def _sums(self, item: Expr, row: Expr, column: Expr) -> Expr:
        """The sums of a tile, in the type they are added up in."""
        w, tile = self.writer, [self.cut.rows, self.cut.columns]
        kinds = [v.shape.dtype for v in self.dot.inputs]
        kind, step = _sum_of(self.dot.shape.dtype), self.step
        total = w.variable(f"tl.zeros({tile}, {kind})", frozenset({0, 1}))
        with w.loop(self.depth, step) as begin:
            x = self._read(0, item, row, w.numbers(1, 2, step, begin), 1)
            y = self._read(1, item, column, w.numbers(0, 2, step, begin), 0)
            if not self.units:
                text = f"{total.text} + {x.text}.to({kind}) * {y.text}.to({kind})"
            elif self.dot.shape.dtype.is_integer:
                text = f"{total.text} + {_exact(x, y, kinds)}"
            else:
                precision = ', input_precision="ieee"' if kinds[0] is F32 else ""
                text = f"tl.dot({x.text}, {y.text}, {total.text}{precision})"
            w.line(f"{total.text} = {text}")
        return total

    def _read(self, side: int, item: Expr, line: Expr, deep: Expr, depth_axis: int) -> Expr:
        """A tile of an operand, as the matrix units take it."""
        value = self.dot.inputs[side]
        with self._masked(depth_axis, deep):
            found = self.reader.raw(value, self._parts(side, item, line, deep))
            mask = self.writer.masks.get(depth_axis)
            read_whole = value not in self.reader.operands or depth_axis not in found.over
            if mask is not None and read_whole:
                found = self.writer.only(mask, found)
            tile = (self.cut.rows, self.step) if side == 0 else (self.step, self.cut.columns)
            return self.writer.spread(found, tile)

    def _masked(self, axis: int, deep: Expr) -> _Masks:
        """The masks while an operand is read: along the depth its own."""
        kept = dict(self.writer.masks)
        kept.pop(axis, None)
        if not whole(self.depth, self.step):
            kept[axis] = self.writer.let(deep.below(self.writer.extent(self.depth)))
        return _Masks(self.writer, kept)

    def _row(self, item: Expr, row: Expr, across: Expr, kind: str) -> Expr:
        """The sums of one row: tiles of columns by depth, multiplied and added up along it."""
        w, cut = self.writer, self.cut
        tile = [cut.columns, cut.depth]
        total = w.variable(f"tl.zeros({tile}, {kind})", frozenset({0, 1}))
        column = w.numbers(0, 2, cut.columns, across)
        masks = {}
        if not whole(self.columns, cut.columns):
            masks[0] = w.let(column.below(w.extent(self.columns)))
        with _Masks(w, masks), w.loop(self.depth, cut.depth) as begin:
            deep = w.numbers(1, 2, cut.depth, begin)
            if not whole(self.depth, cut.depth):
                w.masks[1] = w.let(deep.below(w.extent(self.depth)))
            x, y = (
                w.let(self.reader.value(v, self._parts(side, item, line, deep)))
                for side, (v, line) in enumerate(zip(self.dot.inputs, (row, column), strict=True))
            )
            text = f"{x.text}.to({kind}) * {y.text}.to({kind})"
            if not whole(self.depth, cut.depth):
                text = f"tl.where({w.masks[1].text}, {text}, 0)"
            w.line(f"{total.text} += {text}")
        text = f"tl.reshape(tl.sum({total.text}, axis=1), [1, {cut.columns}])"
        return w.let(Expr(text, frozenset({0, 1})))

    def _parts(self, side: int, item: Expr, line: Expr, deep: Expr) -> list[Part]:
        """The places of an operand: of the batch, and along its last two axes."""
        dims = self.dot.inputs[side].shape.dims
        if side == 0 and self.shared:
            return [Part(line, dims[:-1]), Part(deep, dims[-1:])]
        lead = [Part(item, self.lead)] if self.lead else []
        if self.shared:
            lead = [Part(expr(0), (1,)) for _ in self.lead]
        ends = (line, deep) if side == 0 else (deep, line)
        return [*lead, *(Part(e, (d,)) for e, d in zip(ends, dims[-2:], strict=True))]


class _Masks:
    """Other masks for a while."""

    def __init__(self, writer: Writer, masks: dict[int, Expr]) -> None:
        self.writer, self.masks = writer, masks

    def __enter__(self) -> None:
        self.masks, self.writer.masks = self.writer.masks, self.masks

    def __exit__(self, *_: object) -> None:
        self.writer.masks = self.masks


def _sum_of(dtype: DType) -> str:
    """What products of this type are added up in: integers modulo the width."""
    if dtype.is_float:
        return COMPUTING[dtype.name]
    return "tl.int64" if dtype.bits == 64 else "tl.int32"


def _exact(x: Expr, y: Expr, kinds: list[DType]) -> str:
    """The product of tiles of bytes. Those of different signs are multiplied as f16, of which
    sums of so few are exact in f32.
    """
    if all(k is I8 for k in kinds):
        return f"tl.dot({x.text}, {y.text}, out_dtype=tl.int32)"
    return f"tl.dot({x.text}.to(tl.float16), {y.text}.to(tl.float16)).to(tl.int32)"
