"""Rules about concat, its inputs and its users."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from migx import dim, ops
from migx.builders import concatenate, sliced
from migx.dim import Extent
from migx.ir import Instruction
from migx.match import on, var
from migx.ops.layout import Concat, Transpose
from migx.rewrite import Cursor, Declined, rule

Inputs = list[Instruction]
RESHAPES = (ops.Reshape, ops.Squeeze, ops.Unsqueeze)


@rule(on(ops.Concat, name="root").some(on(ops.Concat).once()))
def nested_concat(at: Cursor, root: Instruction) -> Instruction | None:
    """concat(concat(a, b), c) along one axis is concat(a, b, c)."""
    inner = [v for v in root.inputs if v.op == root.op and v.use_count == 1]
    if not inner:
        return None
    parts = (v.inputs if v in inner else (v,) for v in root.inputs)
    return at(root.op, *(part for group in parts for part in group))


@rule(on(ops.Slice, on(ops.Concat, name="joined"), name="cut"))
def concat_slice(
    at: Cursor, joined: Instruction, cut: Instruction
) -> Instruction | Declined | None:
    """slice(concat(a, b)) that lies within b is slice(b)."""
    axis = axis_of(joined)
    if axis not in cut_axes(cut):
        return None
    start, end = cut_axes(cut)[axis]
    places = pairwise(dim.offsets(part.shape.dims[axis] for part in joined.inputs))
    for part, (offset, last) in zip(joined.inputs, places, strict=True):
        if dim.at_most(offset, start) and dim.at_most(end, last):
            if not agree_but_for([joined, part], axis):
                return Declined("its other dims have other names than those of the result")
            bounds = {**cut_axes(cut), axis: (start - offset, end - offset)}
            return part if cut.shape.same_type(part.shape) else within(at, part, bounds)
    return Declined("it does not lie within one part")


@rule(on(ops.Concat, name="root").some(on(ops.Slice)))
def slice_concat(at: Cursor, root: Instruction) -> Instruction | None:
    """concat(slice(x, a, b), slice(x, b, c)) is slice(x, a, c)."""
    axis = axis_of(root)
    runs: list[Inputs] = []
    for part in root.inputs:
        if runs and follows(runs[-1][-1], part, axis):
            runs[-1].append(part)
        else:
            runs.append([part])
    if len(runs) == len(root.inputs):
        return None
    made = [run[0] if len(run) == 1 else united(at, run, axis) for run in runs]
    return concatenate(at, axis, made)


@rule(on(ops.Concat, name="root").every(on(ops.Transpose, var()).once()))
def concat_transpose(at: Cursor, root: Instruction) -> Instruction | None:
    """concat(transpose(a), transpose(b)) is transpose(concat(a, b))."""
    first = root.inputs[0].op_as(Transpose)
    if len(root.inputs) < 2 or any(v.op != first for v in root.inputs):
        return None
    axis = first.permutation[axis_of(root)]
    return at(first, at(ops.Concat(axis), *sources(root)))


@rule(on(ops.Concat, name="root").every(on(RESHAPES, var()).once()))
def concat_reshape(at: Cursor, root: Instruction) -> Instruction | Declined | None:
    """concat(reshape(a), reshape(b)) is reshape(concat(a, b)) where elements stay in order."""
    if len(root.inputs) < 2:
        return None
    axis, parts = axis_of(root), sources(root)
    before = dim.product(root.shape.dims[:axis])
    for i in range(parts[0].shape.rank):
        if dim.product(parts[0].shape.dims[:i]) == before and agree_but_for(parts, i):
            return at(ops.Reshape(root.shape.dims), at(ops.Concat(i), *parts))
    return Declined("no axis of the sources joins the parts in order")


@rule(
    on(ops.Concat, name="root").every(on(ops.Multibroadcast, var()).once())
    | on(ops.Concat, name="root").every(on(ops.Broadcast, var()).once())
)
def concat_multibroadcasts(at: Cursor, root: Instruction) -> Instruction | Declined | None:
    """concat(broadcast(a), broadcast(b)) is broadcast(concat(a, b)) along an axis of their own."""
    if len(root.inputs) < 2:
        return None
    first: Any = root.inputs[0].op
    parts = sources(root)
    shift = getattr(first, "axis", root.shape.rank - parts[0].shape.rank)
    axis = axis_of(root) - shift
    own = all(
        getattr(v.op, "axis", shift) == shift
        and 0 <= axis < part.shape.rank
        and part.shape.dims[axis] == v.shape.dims[axis + shift]
        for v, part in zip(root.inputs, parts, strict=True)
    )
    if not own or not agree_but_for(parts, axis):
        return Declined("the parts repeat along the axis, or differ in how they repeat")
    return at(dataclasses.replace(first, out_lens=root.shape.dims), at(ops.Concat(axis), *parts))


rules = (
    nested_concat
    + concat_slice
    + slice_concat
    + concat_transpose
    + concat_reshape
    + concat_multibroadcasts
)

Bounds = dict[int, tuple[Extent, Extent]]


def axis_of(concat: Instruction) -> int:
    """The axis of a concat."""
    return concat.op_as(Concat).axis


def cut_axes(at: Instruction) -> Bounds:
    """Where a slice starts and ends, by axis."""
    op = at.op_as(ops.Slice)
    return {a: (s, e) for a, s, e in zip(op.axes, op.starts, op.ends, strict=True)}


def within(at: Cursor, x: Instruction, bounds: Bounds) -> Instruction:
    """A slice, without the axes that it takes whole."""
    kept = [(a, s, e) for a, (s, e) in sorted(bounds.items()) if (s, e) != (0, x.shape.dims[a])]
    return sliced(at, x, kept)


def follows(first: Instruction, second: Instruction, axis: int) -> bool:
    """Whether two slices of one tensor differ only in that one begins where the other ends."""
    if not first.op.name == second.op.name == "slice" or first.inputs != second.inputs:
        return False
    a, b = cut_axes(first), cut_axes(second)
    alike = {k: v for k, v in a.items() if k != axis} == {k: v for k, v in b.items() if k != axis}
    return alike and axis in a and axis in b and a[axis][1] == b[axis][0]


def united(at: Cursor, run: Inputs, axis: int) -> Instruction:
    """Adjacent slices as one."""
    first, last = cut_axes(run[0]), cut_axes(run[-1])
    return within(at, run[0].inputs[0], {**first, axis: (first[axis][0], last[axis][1])})


def sources(concat: Instruction) -> Inputs:
    """The first input of each part."""
    return [v.inputs[0] for v in concat.inputs]


def agree_but_for(parts: Iterable[Instruction], axis: int) -> bool:
    """Whether tensors have equal dims but for one axis, which all of them have."""
    rest = {(v.shape.rank, *v.shape.dims[:axis], *v.shape.dims[axis + 1 :]) for v in parts}
    return len(rest) == 1
