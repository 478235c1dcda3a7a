"""The kernel of ``nonzero``: a program has a line of elements, in order, and writes the indices of
those that are not zero after those of the programs before it.
"""

from __future__ import annotations

from migx.dim import bounds, product
from migx.ir import Instruction
from migx.ops.indexing import Nonzero
from migx.shape import I64, Shape
from migx.targets.gpu.emit.expressions import Part, both
from migx.targets.gpu.emit.text import MOST, Kernel, Writer
from migx.targets.gpu.emit.types import COMPUTING
from migx.targets.gpu.parts.counts import NUMBER, Counts
from migx.targets.gpu.parts.line import WHOLE
from migx.targets.gpu.tiles import tiles

SIZE = 2048
"""Elements of a line."""


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of ``nonzero`` on elements of rank 1 or more that kernels can read."""
    if not isinstance(at.op, Nonzero):
        return None
    given = at.inputs[0].shape
    if given.rank == 0 or given.dtype.name not in COMPUTING:
        return None
    count = product(given.dims)
    if bounds(count)[0] * given.rank >= MOST:
        return None
    room = Shape(I64, (given.rank, count))
    w, programs = Writer(at, writes=(room, NUMBER)), tiles(count, SIZE)
    counts = Counts(w, programs)
    index = w.numbers(0, 1, SIZE, w.let(w.program * SIZE))
    w.masks = {0: w.there(index, count, SIZE)}
    places = w.split(Part(index, given.dims))
    offset = w.offset([Part(index, given.dims)], given.true_strides)
    hit = w.let(f"({w.load(0, w.spread(offset, [SIZE]), given.dtype).text} != 0)", WHOLE)
    hit = w.let(both(w.masks[0], hit))
    with w.block("if turn == 0:"):
        counts.tell(w.let(f"tl.sum({hit.text}.to(tl.int32))"))
    with w.block("else:"):
        before, total = counts.known()
        pitch = w.let(f"{total.text}.to(tl.int64)")
        first = w.let(f"({before.text} + tl.cumsum({hit.text}.to(tl.int32), 0) - 1)", WHOLE)
        for axis, place in enumerate(places):
            where = w.let(first + pitch * axis)
            w.store(1, where, w.spread(place, [SIZE]), I64, hit)
    return w.finished("nonzero", programs, flops=count, turns=2)
