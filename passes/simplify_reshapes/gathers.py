"""Rules that make a gather of known places a view."""

from __future__ import annotations

import numpy as np

from migx import dim, ops
from migx.dim import Extent
from migx.ir import Instruction
from migx.match import attr, on, value, var
from migx.op import Array
from migx.ops.builtin import Literal
from migx.rewrite import Cursor, Declined, RuleSet, rule


@rule(on(ops.Gather, var("x"), value(name="indices"), axis=attr("axis"), name="root"))
def gather(
    at: Cursor, x: Instruction, indices: Instruction, axis: int, root: Instruction
) -> Instruction | Declined:
    """A gather of places at equal distances is a slice, or every so many places of one."""
    places = indices.op_as(Literal).value.array.reshape(-1)
    found = progression(places.astype(np.int64), x.shape.dims[axis])
    if found is None:
        return Declined("the places do not lie at equal distances, or may not be there")
    start, step = found
    end = start + (places.size - 1) * step + 1
    if start != 0 or end != x.shape.dims[axis]:
        x = at(ops.Slice((axis,), (start,), (end,)), x)
    if step != 1:
        x = at(ops.Step((axis,), (step,)), x)
    if not indices.shape.rank:
        return at(ops.Squeeze((axis,)), x)
    return x if x.shape.same_type(root.shape) else at(ops.Reshape(root.shape.dims), x)


rules = RuleSet((gather,))


def progression(places: Array, extent: Extent) -> tuple[Extent, int] | None:
    """The first of some places along an axis and the distance to the next; None where distances
    differ or a place may lie outside.
    """
    if not places.size:
        return None
    if isinstance(extent, int):
        places = np.where(places < 0, places + extent, places)
    distances = np.diff(places)
    distance = int(distances[0]) if distances.size else 1
    if distance < 1 or np.any(distances != distance):
        return None
    first: Extent = int(places[0])
    last: Extent = int(places[-1])
    if places[-1] < 0:
        first, last = extent + first, extent + last
    if dim.bounds(first)[0] < 0 or dim.bounds(extent - 1 - last)[0] < 0:
        return None
    return first, distance
