"""Operations on broadcasts move before them, onto fewer elements."""

from __future__ import annotations

from collections.abc import Sequence

from migx.builders import broadcast_to
from migx.ir import Instruction
from migx.match import having, on
from migx.ops.layout import Broadcast, Multibroadcast, Unsqueeze
from migx.ops.linear import Dot
from migx.passes.simplify_algebra.terms import BROADCASTS, Repeated, repeated
from migx.rewrite import Cursor, rule
from migx.shape import Dims


@rule(having("pointwise", name="root").every(on(BROADCASTS)))
def inner_broadcast(at: Cursor, root: Instruction) -> Instruction | None:
    """op(broadcast(a), broadcast(b), ...) is broadcast(op(a, b, ...))."""
    wholes = [repeated(v) for v in root.inputs]
    narrow = common_dims(wholes, root.shape.dims)
    if narrow == root.shape.dims:
        return None
    first = min(w.first for w in wholes)
    if len({(w.source.shape.dims, w.first) for w in wholes}) == 1:
        made = at(root.op, *(w.source for w in wholes))
        own = root.shape.dims[first : wholes[0].end]
        if wholes[0].end < root.shape.rank and made.shape.dims == own:
            return at(Broadcast(first, root.shape.dims), made)
    else:
        made = at(root.op, *(widened(at, w, narrow[first:]) for w in wholes))
    return at(Multibroadcast(root.shape.dims), trailing(at, made, root.shape.rank - first))


def common_dims(wholes: Sequence[Repeated], dims: Dims) -> Dims:
    """The dims, with 1 on each axis along which no broadcast varies."""
    kept = {axis for w in wholes for axis in w.axes}
    return tuple(extent if i in kept else 1 for i, extent in enumerate(dims))


def widened(at: Cursor, whole: Repeated, dims: Dims) -> Instruction:
    """The source of a broadcast, repeated to dims that replace those of the value's last axes."""
    before = whole.first - (whole.rank - len(dims))
    return broadcast_to(at, trailing(at, whole.source, len(dims) - before), dims)


def trailing(at: Cursor, x: Instruction, rank: int) -> Instruction:
    """A value with axes of extent 1 appended up to a rank."""
    more = tuple(range(x.shape.rank, rank))
    return at(Unsqueeze(more), x) if more else x


@rule(on(Dot, on(BROADCASTS, name="x"), on(BROADCASTS, name="y"), name="root"))
def dot_broadcast(
    at: Cursor, x: Instruction, y: Instruction, root: Instruction
) -> Instruction | None:
    """dot(broadcast(a), broadcast(b)) along leading axes is broadcast(dot(a, b))."""
    wholes, lead = [repeated(v) for v in (x, y)], root.shape.rank - 2
    first = min(lead, *(w.first for w in wholes))
    narrow = common_dims(wholes, root.shape.dims)[first:lead]
    if first == 0 and narrow == root.shape.dims[:lead]:
        return None
    sides = [
        widened(at, w, (*narrow, *v.shape.dims[-2:])) for w, v in zip(wholes, (x, y), strict=True)
    ]
    return at(Multibroadcast(root.shape.dims), at(Dot(), *sides))


broadcasts = inner_broadcast + dot_broadcast
