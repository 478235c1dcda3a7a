"""Kernels of the scatters, seen from the result: a program has a line of its elements, and asks of
one update after another whether it goes to any of them.

So nobody writes where another does: updates of one element are combined in their order, whatever
runs first, and results are those of the operation's own meaning. Every element looks at all
updates that might be its own: of a scatter along an axis those of its line, else all tuples.
"""

from __future__ import annotations

from migx.dim import Extent, product
from migx.ir import Instruction
from migx.ops import indexing
from migx.ops.indexing import Scatter, ScatterElements
from migx.targets.gpu import elements
from migx.targets.gpu.kernels.moving import Line
from migx.targets.gpu.text import COMPUTING, STORED, Expr, Kernel, Part, storable

ADDS = indexing.ScatterAdd | indexing.ScatterndAdd
MULTIPLIES = indexing.ScatterMul | indexing.ScatterndMul
GREATER = indexing.ScatterMax | indexing.ScatterndMax


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of a scatter of elements that Triton has a type for."""
    if not isinstance(at.op, Scatter) or at.shape.rank == 0:
        return None
    if not all(storable(v.shape.dtype) for v in at.inputs):
        return None
    if isinstance(at.op, ScatterElements):
        return Line(at).kernel(_along_axis)
    return Line(at).kernel(_by_tuples)


def _along_axis(line: Line, op: ScatterElements) -> Expr:
    """The elements when each has been combined with those updates of its line that are its own."""
    w, dims = line.writer, line.at.inputs[1].shape.dims
    there: Expr | None = None
    for axis, (place, extent) in enumerate(zip(line.places, dims, strict=True)):
        if axis != op.axis and extent != line.at.shape.dims[axis]:
            inside = place.below(w.extent(extent))
            there = inside if there is None else there & inside
    if there is not None:
        there = w.spread(w.let(there), [line.size])
    total = _start(line, op)
    with w.loop(dims[op.axis], 1) as turn:
        at = [turn if axis == op.axis else place for axis, place in enumerate(line.places)]
        found = line.read(1, at, there)
        index = line.within(found, line.at.shape.dims[op.axis])
        hit = Expr(f"({index.text} == {line.places[op.axis].text})", index.over | {0})
        hit = w.let(hit if there is None else hit & there)
        _combine(line, op, total, at, hit)
    return total


def _by_tuples(line: Line, op: Scatter) -> Expr:
    """The elements when each has been combined with those updates whose tuple of indices is where
    it lies.
    """
    w, data, indices = line.writer, line.at.shape, line.at.inputs[1].shape
    counted, width = indices.dims[:-1], int(indices.dims[-1])
    total = _start(line, op)
    with w.loop(product(counted), 1) as turn:
        lead = w.split(Part(turn, counted))
        hit: Expr | None = None
        for axis in range(width):
            index = line.index_at(1, [*lead, Expr(str(axis), number=axis)], data.dims[axis])
            place = line.places[axis]
            here = Expr(f"({index.text} == {place.text})", index.over | place.over)
            hit = here if hit is None else hit & here
        assert hit is not None
        _combine(line, op, total, [*lead, *line.places[width:]], w.let(hit))
    return total


def _start(line: Line, op: Scatter) -> Expr:
    """The elements of the data: as they lie where they are only replaced, else to be computed."""
    w, shape = line.writer, line.at.inputs[0].shape
    parts = [Part(p, (d,)) for p, d in zip(line.places, shape.dims, strict=True)]
    where = w.spread(w.offset(parts, shape.true_strides), [line.size])
    value = w.load(0, where, shape.dtype, raw=op.combine is None)
    kind = (STORED if op.combine is None else COMPUTING)[shape.dtype.name]
    return w.variable(f"{value.text}.to({kind})", frozenset({0}))


def _combine(line: Line, op: Scatter, total: Expr, at: list[Expr], hit: Expr) -> None:
    """Combines elements with their updates, at some places, where these hit."""
    w, shape = line.writer, line.at.inputs[2].shape
    dims: tuple[Extent, ...] = shape.dims
    parts = [Part(p, (d,)) for p, d in zip(at, dims, strict=True)]
    where = w.offset(parts, shape.true_strides)
    raw = op.combine is None
    update = w.load(2, where, shape.dtype, raw=raw, also=hit).text
    old, kind = total.text, (STORED if raw else COMPUTING)[shape.dtype.name]
    match op:
        case _ if isinstance(op, ADDS):
            update = f"{old} + {update}"
        case _ if isinstance(op, MULTIPLIES):
            update = f"{old} * {update}"
        case _ if not raw:
            update = elements.extreme(isinstance(op, GREATER), old, update, shape.dtype)
    w.line(f"{old} = tl.where({hit.text}, {update}, {old}).to({kind})")
