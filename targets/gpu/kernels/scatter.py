"""Kernels of the scatters as gathers: a program has a line of elements of the result, and tests for
each update in turn whether it goes to any of them.

So no two programs write the same element: updates of one element are combined in order, whatever
runs first, and results are those of the operation's own meaning. Every element tests all updates
that may be its own: for a scatter along an axis those of its line, else all tuples.
"""

from __future__ import annotations

from migx.dim import product
from migx.ir import Instruction
from migx.ops.indexing import Scatter, ScatterElements
from migx.targets.gpu.emit.expressions import Expr, Part, both, expr
from migx.targets.gpu.emit.text import Kernel
from migx.targets.gpu.emit.types import COMPUTING, STORED, storable
from migx.targets.gpu.parts import elements
from migx.targets.gpu.parts.line import WHOLE, Line
from migx.targets.gpu.tiles import AHEAD


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
    return Line(at).kernel(_by_tuples)


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
