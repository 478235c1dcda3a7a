"""Turns nearest resizing into broadcasts and gathers."""

from __future__ import annotations

import numpy as np

from migx.dim import Extent
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on, var
from migx.ops.indexing import Gather
from migx.ops.layout import Multibroadcast, Reshape, Unsqueeze
from migx.ops.resize import Resize, nearest_places
from migx.rewrite import Cursor, Declined, rule

REPEATS = frozenset(
    {
        ("asymmetric", "floor"),
        ("tf_half_pixel_for_nn", "floor"),
        *(
            (coordinates, rounding)
            for coordinates in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")
            for rounding in ("round_prefer_floor", "round_prefer_ceil")
        ),
    }
)
"""The modes for which element i of an axis k times as long is element i // k of the input."""


@rule(on(Resize, var("x"), name="resize"))
def same_size(x: Instruction, resize: Instruction) -> Instruction | None:
    """Resampling that changes no axis is x."""
    op = resize.op_as(Resize)
    changed = any(op.changes(axis, length) for axis, length in enumerate(x.shape.dims))
    return None if changed else x


@rule(on(Resize, var("x"), name="resize", mode="nearest"))
def repeat(at: Cursor, x: Instruction, resize: Instruction) -> Instruction | Declined:
    """Axes that become k times as long are broadcast along a new axis of k and merged with it."""
    op = resize.op_as(Resize)
    times = [repeats(op, axis, extent) for axis, extent in enumerate(x.shape.dims)]
    if 0 in times:
        return Declined("some axis does not repeat each element a whole number of times")
    new = [axis for axis, k in enumerate(times) if k != 1]
    places = tuple(axis + i + 1 for i, axis in enumerate(new))
    dims: list[Extent] = list(x.shape.dims)
    for axis in reversed(new):
        dims.insert(axis + 1, times[axis])
    if not new:
        return x
    wide = at(Multibroadcast(tuple(dims)), at(Unsqueeze(places), x))
    return at(Reshape(resize.shape.dims), wide)


@rule(on(Resize, var("x"), name="resize", mode="nearest"))
def pick(at: Cursor, x: Instruction, resize: Instruction) -> Instruction | Declined:
    """Axes of known size are gathered, one after another, at the nearest indices."""
    op = resize.op_as(Resize)
    if op.coordinate_transformation_mode == "tf_crop_and_resize":
        return Declined("values outside the crop are not elements of the input")
    pairs = list(zip(x.shape.dims, op.sizes, strict=True))
    if not all(isinstance(e, int) for pair in pairs for e in pair) or 0 in x.shape.dims:
        return Declined("the sizes of the axes are not known")
    result = x
    for axis, extent in enumerate(x.shape.dims):
        places = nearest_places(op, axis, int(extent))
        if not np.array_equal(places, np.arange(int(extent))):
            result = at(Gather(axis), result, at.literal(places.astype(np.int64)))
    return result


def repeats(op: Resize, axis: int, extent: Extent) -> int:
    """How often each element of an axis is repeated, in order; 0 if resizing does not do that."""
    size, counting = op.sizes[axis], op.coordinate_transformation_mode
    k = size // extent if extent != 0 else 0
    if not isinstance(k, int) or k < 1 or k * extent != size or counting == "tf_crop_and_resize":
        return 0
    if isinstance(extent, int):
        same = np.array_equal(nearest_places(op, axis, extent), np.arange(k * extent) // k)
    else:
        unmoved = k == 1 and counting != "tf_half_pixel_for_nn"
        same = unmoved or (counting, op.nearest_mode) in REPEATS
        same &= not op.scales or op.scales[axis] == k
    return k if same else 0


class RewriteResize(Pass):
    """Turns nearest resizing into broadcasts where elements repeat, else into gathers; drops what
    changes no axis (MIGraphX rewrite_resize).
    """

    rules = same_size + repeat + pick
