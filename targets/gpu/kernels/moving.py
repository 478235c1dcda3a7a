"""Kernels that move elements: ``gather``, ``gathernd``, ``gather_elements``, ``pad``, ``reverse``,
``reverse_sequence``, ``trilu``, ``onehot``, ``dynamic_range``, and dequantising values of four bits
or with blocks of scales outside of products, all of them or what a ``gather`` picks. A program has
a line of elements of the result, and reads each from its source.

An index out of range is clamped, as a kernel cannot raise: it never reads out of bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from migx.dim import bounds
from migx.fusion.narrow_floats import is_narrow
from migx.ir import Instruction
from migx.ops._windows import split
from migx.ops.dims import DynamicRange
from migx.ops.fused import Group
from migx.ops.indexing import Gather, GatherElements, Gathernd, Onehot, ReverseSequence, Trilu
from migx.ops.layout import Pad, Reverse
from migx.ops.packing import Unpack
from migx.ops.quantization import DequantizeLinear
from migx.targets.gpu.emit.expressions import Expr, by_axis, expr
from migx.targets.gpu.emit.text import Kernel, Writer
from migx.targets.gpu.emit.types import COMPUTING, STORED, storable
from migx.targets.gpu.parts import elements
from migx.targets.gpu.parts.line import Line
from migx.targets.gpu.parts.reader import Reader


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of an operation that moves elements."""
    picks = isinstance(at.op, Group) and at.op.tag == "int4_gather"
    if picks or isinstance(at.op, (Unpack, DequantizeLinear)):
        return Line(at).kernel(_read) if Reader(Writer(at), at).readable(_made(at)) else None
    find, moves = KINDS.get(type(at.op)), type(at.op) not in MADE
    types = [v.shape.dtype for v in (*at.inputs, at)]
    if find is None or not all(storable(t) or (moves and is_narrow(t)) for t in types):
        return None
    return Line(at).kernel(find) if _fits(at) else None


def _fits(at: Instruction) -> bool:
    """Whether the operation's attributes are supported here."""
    op = at.op
    if isinstance(op, Pad) and op.mode != "constant":
        return all(bounds(p)[0] >= 0 for p in op.pads)
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
"""The index, among ``n``, that padding at index ``i`` repeats."""


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
    if op.mode != "constant":
        return _repeated(line, op)
    places, there = w.beside(line.places, split(op.pads), dims)
    if there is None:
        return line.read(0, places)
    found = line.read(0, places, there)
    fill = Expr(elements.number_of(0, line.at.shape.dtype))
    if len(line.at.inputs) == 2:
        fill = line.read(1, [expr(0)] * line.at.inputs[1].shape.rank)
    kind = STORED[line.at.shape.dtype.name]
    text = f"tl.where({there.text}, {found.text}.to({kind}), {fill.text}.to({kind}))"
    return w.let(text, found.over | there.over)


def _repeated(line: Line, op: Pad) -> Expr:
    """Padding that repeats elements of what is padded."""
    w, dims, places = line.writer, line.at.inputs[0].shape.dims, list(line.places)
    for axis, (begin, end) in enumerate(zip(*split(op.pads), strict=True)):
        if begin != 0 or end != 0:
            size, moved = w.extent(dims[axis]), w.let(places[axis] - w.extent(begin))
            text = BEYOND[op.mode].format(i=moved.text, n=size.text)
            places[axis] = w.let(text, moved.over)
    return line.read(0, places)


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
    count = w.let(kind, found.over)
    turned = f"tl.where({time.text} < {count.text}, {count.text} - 1 - {time.text}, {time.text})"
    places = list(line.places)
    places[op.time_axis] = w.let(turned, time.over | count.over)
    return line.read(0, places)


def _trilu(line: Line, op: Trilu) -> Expr:
    w, (row, column) = line.writer, line.places[-2:]
    diagonal = expr(0)
    if len(line.at.inputs) == 2:
        diagonal = line.read(1, [expr(0)] * line.at.inputs[1].shape.rank)
    above = w.spread(w.let(column - row), [line.size])
    sign = ">=" if op.upper else "<="
    there = w.let(f"({above.text} {sign} {diagonal.text})", above.over)
    return line.read(0, line.places, there)


def _onehot(line: Line, op: Onehot) -> Expr:
    w, axis = line.writer, op.axis
    index = line.read(0, [*line.places[:axis], *line.places[axis + 1 :]])
    place, counted = line.places[axis], line.writer.from_start(index, op.depth)
    off, on = (line.read(1, [expr(k)]) for k in (0, 1))
    text = f"tl.where({counted} == {place.text}, {on.text}, {off.text})"
    return w.let(text, index.over | place.over)


def _read(line: Line, op: Unpack | DequantizeLinear | Group) -> Expr:
    parts = by_axis(line.places, line.at.shape.dims)
    return Reader(line.writer, line.at).value(_made(line.at), parts)


def _made(at: Instruction) -> Instruction:
    """The instruction that makes the result: itself, or the last one of a group."""
    return at.modules[0].outputs[0] if at.modules else at


def _dynamic_range(line: Line, op: DynamicRange) -> Expr:
    w, dtype = line.writer, line.at.shape.dtype
    start, _, delta = (w.load(i, expr(0), dtype) for i in range(3))
    kind = COMPUTING[dtype.name]
    text = f"{line.index.text}.to({kind}) * {delta.text} + {start.text}"
    return w.let(text, line.index.over)


MADE = (DynamicRange, Onehot)
"""Operations that compute elements; the others move them, whatever their type."""
KINDS: dict[type, Callable[[Line, Any], Expr]] = {
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
