"""Moves reshapes out of the way of fusion: operations on both sides work on the same dims."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from migx import op as operations
from migx.builders import broadcast_to
from migx.fusion.index_map import map_of
from migx.fusion.outlining import BROADCASTS, keeps_order, parts
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import having, on
from migx.ops.builtin import GetTupleElem, Literal, Param, Return
from migx.ops.fused import FusedReduce, Pointwise
from migx.ops.layout import Reshape
from migx.ops.reduce import REDUCTIONS, Reduce
from migx.passes.fuse_pointwise import dims_of, is_by_element
from migx.passes.simplify_reshapes.views import nested_shape_transforms
from migx.rewrite import Cursor, rule
from migx.shape import Dims

FUSED = (Pointwise, FusedReduce)


@rule(on((*FUSED, *REDUCTIONS), name="root") | having("pointwise", name="root"))
def finer_dims(at: Cursor, root: Instruction) -> Instruction | tuple[Instruction, ...] | None:
    """f(reshape(g(x))) is reshape(f(g(reshape(x)))), of arithmetic and reductions: each works on
    the coarsest dims that refine those on both sides of the reshape.
    """
    here = space_of(root)
    if here is None:
        return None
    axes = next(wanted(root, here), None)
    return None if axes is None else Finer(at, here, axes).results(root)


@dataclass(frozen=True)
class Space:
    """The iteration space of an instruction: its dims, and the axes it reduces, if any."""

    dims: Dims
    folds: tuple[int, ...] = ()


Parts = tuple[Dims, ...]
"""The extents each axis is split into, outermost first; none for an axis of one element."""


def space_of(at: Instruction) -> Space | None:
    """The space of elementwise arithmetic, a reduction, or a fusion of these; None for other
    instructions.
    """
    op = at.op
    if isinstance(op, Reduce):
        return Space(at.inputs[0].shape.dims, tuple(op.axes))
    if not isinstance(op, FUSED):
        return Space(dims_of(at)) if operations.traits(op).pointwise and is_by_element(at) else None
    inside = [v for v in at.modules[0] if not isinstance(v.op, Param | Literal | Return)]
    if not all(v.op.name in BROADCASTS or space_of(v) for v in inside):
        return None
    if isinstance(op, Pointwise):
        return Space(dims_of(at))
    return next((space_of(v) for v in inside if isinstance(v.op, Reduce)), None)


def wanted(root: Instruction, here: Space) -> Iterator[Parts]:
    """How to split the axes of an instruction, for each one across a reshape that it may be fused
    with then.
    """
    for other, mine, theirs in chain(_above(root), _below(root)):
        there = space_of(other)
        if there is None or other.constant or root.constant:
            continue
        if (mine.shape.dims, theirs.shape.dims) != (here.dims, there.dims):
            continue
        both = in_common(here.dims, there.dims)
        if both is None or flat(both[0]) == here.dims:
            continue
        places = [folded(s.folds, p) for s, p in zip((here, there), both, strict=True) if s.folds]
        if len({*places}) < 2:
            yield both[0]


Meeting = tuple[Instruction, Instruction, Instruction]
"""Another instruction, and the value between them under the dims here and under those there."""


def _above(root: Instruction) -> Iterator[Meeting]:
    for seen in root.inputs:
        value = seen
        while keeps_order(value):
            value = value.inputs[0]
        if value is not seen:
            yield _owner(value), seen, value


def _below(root: Instruction) -> Iterator[Meeting]:
    for value in parts(root):
        work = [value]
        while work:
            seen = work.pop()
            for user in seen.users:
                if keeps_order(user) and user.module is root.module:
                    work.append(user)
                elif seen is not value and user.module is root.module:
                    yield user, value, seen


def _owner(value: Instruction) -> Instruction:
    """The instruction that gives a value, by itself or in a tuple."""
    return value.inputs[0] if isinstance(value.op, GetTupleElem) else value


def in_common(a: Dims, b: Dims) -> tuple[Parts, Parts] | None:
    """The coarsest common refinement of two dims, as a split of each; None if there is none."""
    index = map_of(a, (Reshape(b),))
    if index is None or any(len(group) > 1 for group in index.groups):
        return None
    factors = [f for axis in index.axes for f in axis]
    first = tuple(tuple(f.extent for f in factors if f.axis == i) for i in range(len(a)))
    return first, tuple(tuple(f.extent for f in axis) for axis in index.axes)


def flat(axes: Parts) -> Dims:
    """All parts one after another."""
    return tuple(extent for axis in axes for extent in axis)


def folded(folds: tuple[int, ...], axes: Parts) -> tuple[int, ...]:
    """The positions, among all parts, of the parts of reduced axes."""
    starts = [sum(map(len, axes[:i])) for i in range(len(axes))]
    return tuple(sorted(starts[i] + k for i in folds for k in range(len(axes[i]))))


class Finer:
    """Rebuilds an instruction on finer dims."""

    def __init__(self, at: Cursor, here: Space, axes: Parts) -> None:
        self.at, self.here, self.axes = at, here, axes

    def results(self, root: Instruction) -> Instruction | tuple[Instruction, ...] | None:
        """The replacement of an instruction; None if a value is not of its space."""
        inner = root.modules[0] if root.modules else [*root.inputs, root]
        values = [v for v in inner if not isinstance(v.op, Literal | Return)]
        whole = all(self.axes[i] for i in self.here.folds)
        if not whole or not all(self.dims(v) for v in values):
            return None
        given = [self.moved(v) for v in root.inputs]
        if not root.modules:
            known = dict(zip(root.inputs, given, strict=True))
            return self.at(Reshape(root.shape.dims), self.done(root, known))
        (body,) = root.modules
        inside = dict(zip(body.parameters.values(), given, strict=True))
        for each in body:
            if each not in inside and not isinstance(each.op, Return):
                inside[each] = self.done(each, inside)
        made = tuple(self.at(Reshape(v.shape.dims), inside[v]) for v in body.outputs)
        return made if root.shape.parts else made[0]

    def moved(self, value: Instruction) -> Instruction:
        """A value under finer dims; itself if it is not of the space, such as a scalar."""
        dims = self.dims(value)
        return value if dims is None else self.at(Reshape(dims), value)

    def dims(self, value: Instruction) -> Dims | None:
        """The finer dims of a value; None unless its dims are the space's, or 1 on some axes."""
        dims, whole = value.shape.dims, self.here.dims
        pairs = list(zip(dims, whole, strict=False))
        if len(dims) != len(whole) or any(d not in (1, w) for d, w in pairs):
            return None
        split = zip(pairs, self.axes, strict=True)
        return tuple(e if d == w else 1 for (d, w), axis in split for e in axis)

    def done(self, each: Instruction, known: dict[Instruction, Instruction]) -> Instruction:
        """An operation on finer dims."""
        op, inputs = each.op, [known[v] for v in each.inputs]
        if isinstance(op, Literal):
            return self.moved(self.at(op))
        if isinstance(op, Reduce):
            op = dataclasses.replace(op, axes=folded(tuple(op.axes), self.axes))
        if op.name in BROADCASTS:
            dims = self.dims(each)
            assert dims is not None
            return broadcast_to(self.at, inputs[0], dims)
        return self.at(op, *inputs)


class RewriteReshapes(Pass):
    """Gives arithmetic and reductions on both sides of a reshape the same dims, so that they fuse:
    the reshape is then only a view of memory, at no cost (MIGraphX rewrite_reshapes).
    """

    rules = finer_dims + nested_shape_transforms
