"""Horizontal fusion: sibling products, operations on slices, and inputs of a concat join."""

from __future__ import annotations

from collections.abc import Sequence

from migx import op as operations
from migx.builders import broadcast_to, parted
from migx.dim import Extent
from migx.ir import Instruction
from migx.match import attr, constant, having, on, var, varying
from migx.ops.layout import Concat, Multibroadcast, Slice
from migx.ops.linear import Convolution, Dot
from migx.ops.pointwise import Add
from migx.passes.simplify_algebra.broadcasts import trailing
from migx.passes.simplify_algebra.terms import (
    is_light,
    is_movable,
    laid_along,
    repeated,
    varies_along,
)
from migx.rewrite import Cursor, Declined, rule
from migx.shape import Dims

MANY = 64
"""The most users of a value among which siblings are looked for."""


@rule(on((Dot, Convolution), varying("x"), constant("w", is_light), name="root"))
def conv_dot_horiz_fusion(
    at: Cursor, x: Instruction, w: Instruction, root: Instruction
) -> dict[Instruction, Instruction] | Declined | None:
    """dot(x, a) and dot(x, b) are slices of dot(x, concat(a, b)), and so with convolutions."""
    if not 1 < len(x.users) <= MANY or (isinstance(root.op, Convolution) and root.op.group > 1):
        return None
    out, along = (root.shape.rank - 1,) * 2 if isinstance(root.op, Dot) else (1, 0)
    siblings = [u for u in x.users if u.module is at.module and is_sibling(u, root, along)]
    if root not in siblings or len(siblings) < 2 or not is_movable(w):
        return None
    wholes = [repeated(s.inputs[1]) for s in siblings]
    pairs = zip(wholes, siblings, strict=True)
    if any(r.source.shape.dims[along - r.first] != s.inputs[1].shape.dims[along] for r, s in pairs):
        return Declined("weights are repeated along the axis they would be joined along")
    at.together(siblings)
    sources = [at.bring(r.source) for r in wholes]
    joined = at(Concat(along - wholes[0].first), *sources)
    extents = [s.shape.dims[out] for s in siblings]
    dims = (*w.shape.dims[:along], sum(extents), *w.shape.dims[along + 1 :])
    weights = broadcast_to(at, joined, dims)
    return dict(zip(siblings, parted(at, at(root.op, x, weights), extents, out), strict=True))


def is_sibling(other: Instruction, root: Instruction, axis: int) -> bool:
    """Whether another product has the same left side, and weights to concatenate along an axis."""
    if other.op != root.op or other.inputs[0] is not root.inputs[0] or is_summed(other):
        return False
    if other is root:
        return True
    mine, theirs = (repeated(i.inputs[1]) for i in (root, other))
    place = axis - mine.first
    rest = [(*d[:place], *d[place + 1 :]) for d in (r.source.shape.dims for r in (mine, theirs))]
    return (
        mine.first == theirs.first
        and mine.end == theirs.end == root.shape.rank
        and place >= 0
        and rest[0] == rest[1]
        and is_light(theirs.source)
        and theirs.source.constant
        and is_movable(other.inputs[1])
    )


def is_summed(at: Instruction) -> bool:
    """Whether the only user of a product adds it to another of the same left side: then
    ``add_convs`` adds their weights instead.
    """
    return len(at.users) == 1 and all(
        isinstance(reader.op, Add)
        and all(v.op == at.op and v.inputs[0] is at.inputs[0] for v in reader.inputs)
        for reader in at.users
    )


def one_axis(axes: tuple[int, ...]) -> bool:
    """Whether there is exactly one axis."""
    return len(axes) == 1


@rule(
    having("pointwise", name="root").some(
        on(Slice, varying(), axes=attr("axes", one_axis), name="cut")
    )
)
def splits(
    at: Cursor, root: Instruction, cut: Instruction, axes: tuple[int]
) -> dict[Instruction, Instruction] | None:
    """op(slice(x)) for all of the slices that partition x are slices of op(x). Constant operands
    are concatenated likewise.
    """
    if len(cut.inputs[0].users) > MANY:
        return None
    (axis,), parts = axes, tiles(cut)
    rows = [root if part is cut else twin(root, cut, part) for part in parts]
    found = [row for row in rows if row is not None]
    if len(parts) < 2 or len(found) < len(parts):
        return None
    dims, extents = cut.inputs[0].shape.dims, [p.shape.dims[axis] for p in parts]
    at.together(found)
    columns = []
    for column in zip(*(row.inputs for row in found), strict=True):
        pairs, whole = zip(column, parts, strict=True), column[0].inputs
        cuts = all(v.op == part.op and v.inputs == whole for v, part in pairs)
        joined = column[0].inputs[0] if cuts else joined_constants(at, column, axis, dims)
        if joined is None:
            return None
        columns.append(joined)
    return dict(zip(found, parted(at, at(root.op, *columns), extents, axis), strict=True))


def is_cut(at: Instruction) -> bool:
    """Whether a value is a slice along one axis."""
    return one_axis(cut_along(at))


def cut_along(at: Instruction) -> tuple[int, ...]:
    """The axes a value is a slice along; none if it is no slice."""
    return at.op.axes if isinstance(at.op, Slice) else ()


def tiles(cut: Instruction) -> list[Instruction]:
    """The slices along one axis, this one among them, that partition its source, in order; none if
    a part is missing.
    """
    (source,), (axis,) = cut.inputs, cut_along(cut)
    like = [u for u in source.users if cut_along(u) == (axis,) and u.module is cut.module]
    by_start = {_span(u)[0]: u for u in (*like, cut)}
    found = list[Instruction]()
    place: Extent = 0
    while place != source.shape.dims[axis]:
        part = by_start.pop(place, None)
        if part is None:
            return []
        found.append(part)
        place = _span(part)[1]
    return found


def _span(cut: Instruction) -> tuple[Extent, Extent]:
    op = cut.op_as(Slice)
    return op.starts[0], op.ends[0]


def twin(root: Instruction, cut: Instruction, part: Instruction) -> Instruction | None:
    """The instruction that does to ``part`` what ``root`` does to ``cut``."""
    others = (u for u in part.users if u is not root)
    return next((u for u in others if is_twin(root, cut, u, part)), None)


def is_twin(root: Instruction, cut: Instruction, other: Instruction, part: Instruction) -> bool:
    """Whether two instructions are the same operation, ``root`` on slices like ``cut``, ``other``
    on slices like ``part``, each also on constants.
    """
    if other.module is not root.module or operations.key(other.op) != operations.key(root.op):
        return False
    return all(
        (is_cut(v) and is_cut(u) and v.inputs == u.inputs and (v.op, u.op) == (cut.op, part.op))
        or (v.constant and u.constant)
        for v, u in zip(root.inputs, other.inputs, strict=True)
    )


def joined_constants(
    at: Cursor, parts: Sequence[Instruction], axis: int, dims: Dims
) -> Instruction | None:
    """The constant operands of slices along an axis as one operand of the whole value."""
    wholes = [repeated(p) for p in parts]
    first = wholes[0]
    same = all(w.source is first.source and w.first == first.first for w in wholes)
    if same and axis not in first.axes:
        source = at.bring(first.source)
        return at(Multibroadcast(dims), trailing(at, source, len(dims) - first.first))
    if not all(varies_along(p, axis) for p in parts):
        return None
    vectors = [laid_along(at, at.bring(p), 0, (p.shape.dims[axis],)) for p in parts]
    return laid_along(at, at(Concat(0), *vectors), axis, dims)


@rule(on(Concat, name="root").every(having("pointwise", var()).once()))
def concat_op(at: Cursor, root: Instruction) -> Instruction | None:
    """concat(op(x), op(y)) is op(concat(x, y)), where no producer of x or y could have absorbed the
    operation.
    """
    first, *others = root.inputs
    same = others and all(
        operations.key(v.op) == operations.key(first.op)
        and v.inputs[0].shape.dtype is first.inputs[0].shape.dtype
        and v.module is at.module
        and not v.modules
        for v in root.inputs
    )
    inner = [v.inputs[0] for v in root.inputs]
    if not same or any(map(works, inner)):
        return None
    return at(first.op, at(root.op, *inner))


def works(at: Instruction) -> bool:
    """Whether the operation that computes a value may be fused with pointwise users."""
    traits = operations.traits(at.op)
    return traits.pointwise or traits.reduction or isinstance(at.op, (Dot, Convolution))


horizontal = conv_dot_horiz_fusion + splits + concat_op
