"""Rules that turn scatters to known indices into concatenations, as of slices that are assigned to
one after another.
"""

from __future__ import annotations

import numpy as np

from migx import dim, ops
from migx.builders import concatenate
from migx.dim import Extent
from migx.ir import Instruction
from migx.match import on, skip, value, var
from migx.op import Array
from migx.ops.builtin import Literal
from migx.passes.simplify_reshapes.joins import agree_but_for, within
from migx.rewrite import Cursor, Declined, rule

Run = tuple[int, int]
"""Consecutive indices of an axis: the first, and the one after the last."""
EVERY = skip(ops.Multibroadcast)


@rule(on(ops.ScatterNone, var("x"), EVERY(value(name="held")), var("updates"), name="root"))
def scatter_elements(
    at: Cursor, x: Instruction, held: Instruction, updates: Instruction, root: Instruction
) -> Instruction | Declined:
    """scatter_none(x, u) to consecutive indices of an axis is concat(x[:a], u, x[b:])."""
    rank = x.shape.rank
    axis = root.op_as(ops.ScatterNone).axis % rank
    if not agree_but_for([x, updates], axis):
        return Declined("the updates do not span the other axes")
    places = held.op_as(Literal).value.array
    places = places.reshape((1,) * (rank - places.ndim) + places.shape)
    run = run_of(np.moveaxis(places, axis, -1), updates.shape.dims[axis], x.shape.dims[axis])
    return run if isinstance(run, Declined) else assigned(at, x, axis, run, updates)


@rule(on(ops.ScatterndNone, var("x"), value(name="held"), var("updates"), name="root"))
def scatter_slices(
    at: Cursor, x: Instruction, held: Instruction, updates: Instruction
) -> Instruction | Declined:
    """scatternd_none(x, u) to a box that spans all axes but one is concat(x[:a], u, x[b:])."""
    places = held.op_as(Literal).value.array
    if places.ndim - 1 != places.shape[-1]:
        return Declined("the tuples of indices are no grid of the first axes")
    partial: list[tuple[int, Run]] = []
    for axis, extent in enumerate(x.shape.dims[: places.shape[-1]]):
        along = np.moveaxis(places[..., axis], axis, -1)
        run = run_of(along, places.shape[axis], extent)
        if isinstance(run, Declined):
            return run
        partial += [(axis, run)] if run != (0, extent) else []
    if len(partial) != 1:
        return Declined("one axis must be updated in part, and the others whole")
    ((axis, run),) = partial
    if not agree_but_for([x, updates], axis):
        return Declined("the updates do not span the other axes")
    return assigned(at, x, axis, run, updates)


def run_of(places: Array, count: Extent, extent: Extent) -> Run | Declined:
    """The run that indices count along their last axis, alike for all others."""
    if not places.size or places.shape[-1] != count:
        return Declined("the indices along the axis are not consecutive")
    if isinstance(extent, int):
        places = np.where(places < 0, places + extent, places)
    begin = int(places.flat[0])
    end = begin + places.shape[-1]
    if np.any(places != np.arange(begin, end)):
        return Declined("the indices along the axis are not consecutive")
    there = begin >= 0 and dim.at_most(end, extent)
    return (begin, end) if there else Declined("an index may be out of range")


def assigned(at: Cursor, x: Instruction, axis: int, run: Run, updates: Instruction) -> Instruction:
    """A value, with a run of an axis replaced. Of a concatenation its parts are taken, so that a
    chain of assignments is a single one.
    """
    begin, end = run
    parts = list(x.inputs) if x.op == ops.Concat(axis) else [x]
    extents = [part.shape.dims[axis] for part in parts]
    if not all(isinstance(extent, int) for extent in extents):
        parts, extents = [x], [x.shape.dims[axis]]
    before: list[Instruction] = []
    after: list[Instruction] = []
    for part, extent, first in zip(parts, extents, dim.offsets(extents), strict=False):
        left = dim.minimum(extent, begin - first)
        if dim.at_most(1, left):
            before.append(within(at, part, {axis: (0, left)}))
        right = dim.maximum(end - first, 0)
        if not dim.at_most(extent, right):
            after.append(within(at, part, {axis: (right, extent)}))
    return concatenate(at, axis, [*before, updates, *after])


rules = scatter_elements + scatter_slices
