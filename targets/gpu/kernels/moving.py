"""Kernels that move elements: ``gather``, ``gathernd``, ``gather_elements``, ``pad``,
``reverse``, ``reverse_sequence``, ``trilu``, ``onehot``, ``dynamic_range``, sizes as tensors, and
values of four bits or with blocks of scales that are not part of a product. A program has a line of
elements of the result, and reads each from where it comes from.

An index that lies outside is taken for the nearest one that does not, for a kernel has no way to
raise: memory of others is never read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from migx.dim import Extent, bounds, product
from migx.ir import Instruction
from migx.ops.dims import DimLiteral, DynamicRange
from migx.ops.indexing import (
    Gather,
    GatherElements,
    Gathernd,
    Onehot,
    ReverseSequence,
    Trilu,
)
from migx.ops.layout import Pad, Reverse
from migx.ops.packing import Unpack
from migx.ops.quantization import DequantizeLinear
from migx.shape import U8
from migx.targets.gpu import elements
from migx.targets.gpu import tiles as choose
from migx.targets.gpu.narrow import is_narrow
from migx.targets.gpu.reader import Reader
from migx.targets.gpu.text import (
    COMPUTING,
    STORED,
    Expr,
    Kernel,
    Part,
    Writer,
    expr,
    storable,
    tiles,
    whole,
)

MOST = 64
"""The most numbers of a ``dim_literal``."""


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of an operation that moves elements."""
    if isinstance(at.op, (Unpack, DequantizeLinear)):
        return Line(at).kernel(_read) if Reader(Writer(at), at).readable(at) else None
    find, moves = KINDS.get(type(at.op)), type(at.op) not in MADE
    types = [v.shape.dtype for v in (*at.inputs, at)]
    if find is None or not all(storable(t) or (moves and is_narrow(t)) for t in types):
        return None
    return Line(at).kernel(find) if _fits(at) else None


def _fits(at: Instruction) -> bool:
    """Whether the operation's attributes are such as are written here."""
    op = at.op
    if isinstance(op, Pad) and op.mode != "constant":
        return all(bounds(p)[0] >= 0 for p in op.pads)
    if isinstance(op, DimLiteral):
        return len(op.values) <= MOST
    if isinstance(op, Gathernd):
        return isinstance(at.inputs[1].shape.dims[-1], int)
    return True


BEYOND = {
    "edge": "tl.minimum(tl.maximum({i}, 0), {n} - 1)",
    "reflect": (
        "tl.minimum(tl.abs({i}) % tl.maximum(2 * ({n}) - 2, 1), "
        "2 * ({n}) - 2 - tl.abs({i}) % tl.maximum(2 * ({n}) - 2, 1))"
    ),
    "wrap": "((({i}) % ({n}) + ({n})) % ({n}))",
}
"""Which place of ``n`` stands at place ``i`` beside them."""


class Line:
    """A kernel whose programs write lines of a result, ``places`` of it by axis."""

    def __init__(self, at: Instruction) -> None:
        self.at, self.writer = at, Writer(at)
        w, self.count = self.writer, product(at.shape.dims)
        self.tile = choose.line(self.count, at.shape.dtype.bits)
        self.size = self.tile.columns
        self.index = w.numbers(0, 1, self.size, w.let(w.program * self.size))
        if not whole(self.count, self.size):
            w.masks[0] = w.let(self.index.below(w.extent(self.count)))
        self.places = w.split(Part(self.index, at.shape.dims))

    def kernel(self, find: Callable[[Line, Any], Expr]) -> Kernel:
        """The whole of it."""
        w, at = self.writer, self.at
        value, dtype = w.spread(find(self, at.op), [self.size]), at.shape.dtype
        where = w.offset([Part(self.index, at.shape.dims)], at.shape.true_strides)
        dtype = U8 if is_narrow(dtype) else dtype  # its bytes, as they were
        w.store(len(at.inputs), w.spread(where, [self.size]), value, dtype)
        return w.finished(at.name, tiles(self.count, self.size), warps=self.tile.warps)

    def read(self, number: int, places: Sequence[Expr], also: Expr | None = None) -> Expr:
        """The element of an input at some places, as it lies."""
        w, shape = self.writer, self.at.inputs[number].shape
        parts = [Part(p, (d,)) for p, d in zip(places, shape.dims, strict=True)]
        where = w.offset(parts, shape.true_strides)
        if also is not None:
            where, also = w.spread(where, [self.size]), w.spread(also, [self.size])
        return w.load(number, where, shape.dtype, raw=True, also=also)

    def index_at(self, number: int, places: Sequence[Expr], extent: Extent) -> Expr:
        """An index that an input holds, counted from the start and within an axis."""
        found = self.read(number, places)
        return self.within(found, extent)

    def within(self, index: Expr, extent: Extent) -> Expr:
        """An index, counted from the start and within an axis."""
        w, size = self.writer, self.writer.extent(extent)
        wide = w.let(Expr(f"{index.text}.to(tl.int64)", index.over))
        counted = f"tl.where({wide.text} < 0, {wide.text} + {size.text}, {wide.text})"
        text = f"tl.minimum(tl.maximum({counted}, 0), {size.text} - 1)"
        return w.let(Expr(text, wide.over))


def _gather(line: Line, op: Gather) -> Expr:
    data, indices = line.at.inputs
    after = op.axis + indices.shape.rank
    index = line.index_at(1, line.places[op.axis : after], data.shape.dims[op.axis])
    return line.read(0, [*line.places[: op.axis], index, *line.places[after:]])


def _gathernd(line: Line, op: Gathernd) -> Expr:
    data, indices = line.at.inputs
    lead = indices.shape.rank - 1
    tuples = [
        line.index_at(1, [*line.places[:lead], expr(k)], data.shape.dims[op.batch_dims + k])
        for k in range(int(indices.shape.dims[-1]))
    ]
    return line.read(0, [*line.places[: op.batch_dims], *tuples, *line.places[lead:]])


def _gather_elements(line: Line, op: GatherElements) -> Expr:
    index = line.index_at(1, line.places, line.at.inputs[0].shape.dims[op.axis])
    return line.read(0, [index if i == op.axis else p for i, p in enumerate(line.places)])


def _pad(line: Line, op: Pad) -> Expr:
    w, dims = line.writer, line.at.inputs[0].shape.dims
    there: Expr | None = None
    places = []
    for place, before, after, extent in zip(
        line.places, op.pads[: len(dims)], op.pads[len(dims) :], dims, strict=True
    ):
        if before == 0 and after == 0:
            places.append(place)
            continue
        size = w.extent(extent)
        moved = w.let(place - w.extent(before))
        if op.mode == "constant":
            inside = Expr(f"(({moved.text} >= 0) & ({moved.text} < {size.text}))", moved.over)
            there = inside if there is None else there & inside
        else:
            moved = w.let(Expr(BEYOND[op.mode].format(i=moved.text, n=size.text), moved.over))
        places.append(moved)
    if there is None:
        return line.read(0, places)
    there = w.let(there)
    found = line.read(0, places, there)
    zero = Expr(elements.number_of(0, line.at.shape.dtype))
    fill = zero
    if len(line.at.inputs) == 2:
        fill = line.read(1, [expr(0)] * line.at.inputs[1].shape.rank)
    kind = STORED[line.at.shape.dtype.name]
    text = f"tl.where({there.text}, {found.text}.to({kind}), {fill.text}.to({kind}))"
    return w.let(Expr(text, found.over | there.over))


def _reverse(line: Line, op: Reverse) -> Expr:
    w, dims = line.writer, line.at.shape.dims
    places = [
        w.let(w.extent(d) - 1 - p) if i in op.axes else p
        for i, (p, d) in enumerate(zip(line.places, dims, strict=True))
    ]
    return line.read(0, places)


def _reverse_sequence(line: Line, op: ReverseSequence) -> Expr:
    w, dims = line.writer, line.at.shape.dims
    time, size = line.places[op.time_axis], w.extent(dims[op.time_axis])
    found = line.read(1, [line.places[op.batch_axis]])
    kind = f"tl.minimum(tl.maximum({found.text}.to(tl.int64), 0), {size.text}).to(tl.int32)"
    count = w.let(Expr(kind, found.over))
    turned = f"tl.where({time.text} < {count.text}, {count.text} - 1 - {time.text}, {time.text})"
    places = list(line.places)
    places[op.time_axis] = w.let(Expr(turned, time.over | count.over))
    return line.read(0, places)


def _trilu(line: Line, op: Trilu) -> Expr:
    w, (row, column) = line.writer, line.places[-2:]
    diagonal: Expr = expr(0)
    if len(line.at.inputs) == 2:
        diagonal = line.read(1, [expr(0)] * line.at.inputs[1].shape.rank)
    above = w.spread(w.let(column - row), [line.size])
    sign = ">=" if op.upper else "<="
    there = w.let(Expr(f"({above.text} {sign} {diagonal.text})", above.over))
    return line.read(0, line.places, there)


def _onehot(line: Line, op: Onehot) -> Expr:
    w, axis = line.writer, op.axis
    index = line.read(0, [*line.places[:axis], *line.places[axis + 1 :]])
    size, place = w.extent(op.depth), line.places[axis]
    wide = w.let(Expr(f"{index.text}.to(tl.int64)", index.over))
    counted = f"tl.where({wide.text} < 0, {wide.text} + {size.text}, {wide.text})"
    off, on = (line.read(1, [expr(k)]) for k in (0, 1))
    text = f"tl.where({counted} == {place.text}, {on.text}, {off.text})"
    return w.let(Expr(text, index.over | place.over))


def _read(line: Line, op: Unpack | DequantizeLinear) -> Expr:
    dims = line.at.shape.dims
    parts = [Part(p, (d,)) for p, d in zip(line.places, dims, strict=True)]
    return Reader(line.writer, line.at).value(line.at, parts)


def _dynamic_range(line: Line, op: DynamicRange) -> Expr:
    w, dtype = line.writer, line.at.shape.dtype
    start, _, delta = (w.load(i, expr(0), dtype) for i in range(3))
    kind = COMPUTING[dtype.name]
    text = f"{line.index.text}.to({kind}) * {delta.text} + {start.text}"
    return w.let(Expr(text, line.index.over))


def _dim_literal(line: Line, op: DimLiteral) -> Expr:
    w = line.writer
    text = "0"
    for number, value in enumerate(op.values):
        text = f"tl.where({line.index.text} == {number}, {w.extent(value).text}, {text})"
    return w.let(Expr(text, line.index.over))


MADE = (DimLiteral, DynamicRange, Onehot)
"""Operations that make elements; the others move what there is, whatever its type."""
KINDS: dict[type, Callable[[Line, Any], Expr]] = {
    DimLiteral: _dim_literal,
    DynamicRange: _dynamic_range,
    Gather: _gather,
    GatherElements: _gather_elements,
    Gathernd: _gathernd,
    Onehot: _onehot,
    Pad: _pad,
    Reverse: _reverse,
    ReverseSequence: _reverse_sequence,
    Trilu: _trilu,
}
