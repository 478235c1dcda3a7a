"""Static forms of operations that take sizes as inputs, once these are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from migx import dim, ops
from migx.dim import Extent
from migx.errors import DimError, ShapeError
from migx.ir import Instruction
from migx.op import Operation
from migx.shape import F64, Shape
from migx.weights import looked_at, value_of

Known = Sequence[Any]
"""The elements of the inputs that give sizes: extents, or floats."""
Form = Callable[[Instruction, Known], list[Operation]]
"""From an instruction and its known sizes to the operations that replace it."""
FAR = 2**31 - 1
"""Bounds from here on mean the end of the axis, whatever its size."""


def static_slice(at: Instruction, known: Known) -> list[Operation]:
    """A dynamic_slice of known bounds as a slice, a reverse and a step."""
    op = at.op_as(ops.DynamicSlice)
    cuts, back, by = {}, [], {}
    for axis, start, end, step in zip(op.axes, *known, strict=True):
        extent = at.inputs[0].shape.dims[axis]
        first, last = bounds_of(start, end, step, extent)
        if (first, last) != (0, extent):
            cuts[axis] = first, last
        back += [axis] if step < 0 else []
        if abs(step) != 1:
            by[axis] = abs(step)
    made: list[Operation] = []
    if cuts:
        made.append(ops.Slice(tuple(cuts), *zip(*cuts.values(), strict=True)))
    made += [ops.Reverse(tuple(back))] if back else []
    return made + ([ops.Step(tuple(by), tuple(by.values()))] if by else [])


def bounds_of(start: Extent, end: Extent, step: Extent, extent: Extent) -> tuple[Extent, Extent]:
    """The lowest index that ONNX Slice selects along an axis, and one past the highest."""
    if not isinstance(step, int) or step == 0:
        raise DimError(f"a step of {step}")
    if step > 0:
        first, last = (from_front(v, extent) for v in (start, end))
        return first, dim.maximum(first, last)
    if not all(isinstance(v, int) for v in (start, end, extent)):
        raise DimError("an axis of unknown size is sliced backwards")
    first = max(start + extent * (start < 0), 0)
    stop = max(end + extent * (end < 0), -1)
    places = range(min(first, extent - 1), stop, step)
    return (places[-1], places[0] + 1) if places else (0, 0)


def from_front(place: Extent, extent: Extent) -> Extent:
    """An index counted from the front and clamped to the axis."""
    if isinstance(place, int) and abs(place) >= FAR:
        return extent if place > 0 else 0
    return dim.maximum(place + extent, 0) if place < 0 else dim.minimum(place, extent)


def static_reshape(at: Instruction, known: Known) -> list[Operation]:
    """A reshape to known dims."""
    op = at.op_as(ops.Reshape)
    x, dims = at.inputs[0].shape, list(known[0])
    if not op.allowzero:
        if 0 in dims[x.rank :]:
            raise DimError("0 stands for a dim that is not there")
        dims = [x.dims[i] if d == 0 else d for i, d in enumerate(dims)]
    if -1 in dims:
        left = dim.product(d for d in dims if d != -1)
        dims[dims.index(-1)] = x.elements // left
    return [ops.Reshape(tuple(dims))]


def static_broadcast(at: Instruction, known: Known) -> list[Operation]:
    """A multibroadcast with known dims."""
    x, dims = at.inputs[0].shape.dims, known[0]
    rank = max(len(x), len(dims))
    wide = ((1,) * (rank - len(d)) + tuple(d) for d in (x, dims))
    return [ops.Multibroadcast(tuple(map(dim.broadcast, *wide)))]


def static_onehot(at: Instruction, known: Known) -> list[Operation]:
    """A onehot of known depth."""
    op = at.op_as(ops.Onehot)
    return [ops.Onehot(op.axis, *known[0])]


def static_topk(at: Instruction, known: Known) -> list[Operation]:
    """A topk of known k."""
    op = at.op_as(ops.Topk)
    return [ops.Topk(*known[0], op.axis, op.largest, op.sorted)]


def static_transpose(at: Instruction, known: Known) -> list[Operation]:
    """A transpose by a known permutation."""
    if not all(isinstance(axis, int) for axis in known[0]):
        raise DimError("axes are not known")
    return [ops.Transpose(tuple(known[0]))]


def static_pad(at: Instruction, known: Known) -> list[Operation]:
    """A pad by known widths."""
    return [ops.Pad(tuple(known[0]), at.op_as(ops.DynamicPad).mode)]


def static_resize(at: Instruction, known: Known) -> list[Operation]:
    """A resize to known sizes by known scales."""
    return [at.op_as(ops.DynamicResize).told(*map(tuple, known))]


FORMS: dict[str, tuple[slice, Form]] = {
    "dynamic_slice": (slice(1, None), static_slice),
    "dynamic_transpose": (slice(1, None), static_transpose),
    "dynamic_pad": (slice(1, 2), static_pad),
    "dynamic_resize": (slice(1, None), static_resize),
    "reshape": (slice(1, None), static_reshape),
    "multibroadcast": (slice(1, None), static_broadcast),
    "onehot": (slice(2, None), static_onehot),
    "topk": (slice(1, None), static_topk),
}
"""The inputs that give sizes, and the form of the operation once these are known."""


def static_form(at: Instruction, asks: str) -> tuple[list[Operation], Shape] | None:
    """The operations that do the same with sizes as attributes, and their result's shape; None
    where the sizes are not known. ``asks`` is the pass that reads them.
    """
    said, form = FORMS.get(at.op.name, (slice(0), None))
    if form is None or not at.inputs[said]:
        return None
    known = [numbers_of(v, asks) for v in at.inputs[said]]
    if any(v is None for v in known):
        return None
    shapes = [v.shape for v in kept(at)]
    try:
        made = form(at, [v for v in known if v is not None])
        for op in made:
            shapes = [op.compute_shape(shapes, ())]
    except (DimError, ShapeError):
        return None  # it fails when it runs, and says so then
    return made, shapes[0]


def rely_on(at: Instruction, relied_on_by: str) -> None:
    """Records that a pass relies on the values of an operation's sizes."""
    for value in at.inputs:
        value_of(value, relied_on_by=relied_on_by)


def kept(at: Instruction) -> tuple[Instruction, ...]:
    """The inputs of an operation that give no sizes."""
    said, _ = FORMS[at.op.name]
    left = {*range(len(at.inputs))} - {*range(len(at.inputs))[said]}
    return tuple(at.inputs[i] for i in sorted(left))


def numbers_of(at: Instruction, asks: str) -> Sequence[Extent | float] | None:
    """The elements of a tensor, integers as extents; None where they are not known."""
    if isinstance(at.op, ops.DimLiteral):
        return tuple(at.op.values)
    found = looked_at(at, relied_on_by=asks)
    if found is None or not (found.shape.dtype.is_integer or found.shape.dtype is F64):
        return None
    held: list[float] = np.asarray(found.array).reshape(-1).tolist()
    return held
