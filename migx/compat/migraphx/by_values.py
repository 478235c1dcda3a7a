"""MIGraphX operations that are given as inputs what others take as attributes, or that return as
many results as there could be; most are ONNX operators. They join the table of ``forms``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from migx import dim, ops
from migx.builders import astype, broadcast_to, folded
from migx.compat.migraphx.forms import FORMS, Ints, Site, axes_of, axis_of, form
from migx.compat.migraphx.imported import read
from migx.compat.migraphx.shapes import DTYPES, type_t
from migx.dim import Extent
from migx.errors import ShapeError
from migx.ir import Instruction


@form("slice")
def slice_(
    at: Site,
    x: Instruction,
    *given: Instruction,
    axes: Ints = (),
    starts: Ints = (),
    ends: Ints = (),
) -> Instruction:
    """Negative positions count from the end; those beyond an end are clamped. What is not an
    attribute is an input, in the order starts, ends, axes.
    """
    if not given:
        axes = axes_of(axes, x.shape.rank)
        places = [
            tuple(_place(p, x.shape.dims[a]) for a, p in zip(axes, each, strict=True))
            for each in (starts, ends)
        ]
        return at(ops.Slice(axes, *places), x)
    attributes = starts, ends, axes
    if len(given) != attributes.count(()):
        raise ShapeError(
            "slice takes each of starts, ends and axes once: by an attribute, or by an input "
            f"behind the first; given are {3 - attributes.count(())} and {len(given)}"
        )
    rest = iter(given)
    told = [_numbers(at, each) if each else next(rest) for each in attributes]
    return read(at.module, "Slice", [x, *told])


def _place(place: int, extent: Extent) -> Extent:
    return dim.maximum(extent + place, 0) if place < 0 else dim.minimum(place, extent)


def _numbers(at: Site, values: Sequence[int]) -> Instruction:
    return at.literal(np.array(values, np.int64))


@form("resize")
def resize(
    at: Site,
    x: Instruction,
    given: Instruction | None = None,
    *,
    sizes: Ints = (),
    scales: tuple[float, ...] = (),
    nearest_mode: str = "floor",
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
) -> Instruction:
    """Resizes to sizes or by scales; a second input is either, as its type tells."""
    if given is not None:
        told = {"mode": mode, "nearest_mode": nearest_mode}
        told["coordinate_transformation_mode"] = coordinate_transformation_mode
        by = (given, None) if given.shape.dtype.is_float else (None, given)
        return read(at.module, "Resize", [x, None, *by], told)
    known = x.shape.bind({}).dims
    dims = sizes or tuple(int(int(d) * s) for d, s in zip(known, scales, strict=True))
    scales = () if sizes else scales
    return at(ops.Resize(dims, scales, mode, coordinate_transformation_mode, nearest_mode), x)


@form("onehot")
def onehot(
    at: Site, indices: Instruction, *given: Instruction, axis: int = -1, depth: int | None = None
) -> Instruction:
    """The depth may be an input, before the two values."""
    *depths, values = given
    if (depth is None) is not bool(depths):
        raise ShapeError(
            "onehot takes a depth once: by its attribute, or by the second of 3 inputs"
        )
    count = depths[0] if depths else _numbers(at, [depth or 0])
    return read(at.module, "OneHot", [indices, count, values], {"axis": axis})


@form("broadcast_with_dims")
def broadcast_with_dims(at: Site, x: Instruction, dims: Instruction) -> Instruction:
    return read(at.module, "Expand", [x, dims])


@form("dynamic_range")
def dynamic_range(
    at: Site, start: Instruction, limit: Instruction, delta: Instruction
) -> Instruction:
    """Each operand is one number, with or without a dim."""
    numbers = [v if v.shape.rank == 0 else _one(at, v) for v in (start, limit, delta)]
    return read(at.module, "Range", numbers)


def _one(at: Site, value: Instruction) -> Instruction:
    return at(ops.Reshape(()), value)


@form("fixed_pad")
def fixed_pad(at: Site, x: Instruction) -> Instruction:
    """Zeros at the end of each axis, up to its largest possible size."""
    tops = [dim.bounds(d)[1] for d in x.shape.dims]
    if np.isinf(tops).any():
        raise ShapeError(f"fixed_pad: the dims of {x.shape.text} have no upper bound")
    return _padded(at, x, [int(top) for top in tops])


def _padded(at: Site, x: Instruction, dims: Sequence[Extent]) -> Instruction:
    """Zeros at the end of each axis, up to dims."""
    behind = [wanted - d for wanted, d in zip(dims, x.shape.dims, strict=True)]
    return at(ops.Pad((*(0,) * len(behind), *behind)), x)


@form("scan_slice")
def scan_slice(
    at: Site, x: Instruction, index: Instruction, *, axis: int = 0, direction: int = 0
) -> Instruction:
    """One slice along an axis, which is kept; ``direction`` 1 counts from the end."""
    axis, place = axis_of(axis, x.shape.rank), at(ops.Reshape((1,)), index)
    if direction:
        numbers = place.shape.dtype
        place = at(ops.Neg(), at(ops.Add(), place, at.literal([1], numbers)))
    return at(ops.Gather(axis), x, place)


@form("nonzero")
def nonzero(at: Site, x: Instruction) -> Instruction:
    """As many indices as there are elements: padded with zeros."""
    found = read(at.module, "NonZero", [x])
    return _padded(at, found, (found.shape.dims[0], x.shape.elements))


@form("nonmaxsuppression")
def nonmaxsuppression(
    at: Site,
    boxes: Instruction,
    scores: Instruction,
    *limits: Instruction,
    center_point_box: bool = False,
    use_dyn_output: bool = False,
) -> Instruction:
    """As many boxes as there could be, padded with zeros, unless ``use_dyn_output``."""
    told = {"center_point_box": int(center_point_box)}
    found = read(at.module, "NonMaxSuppression", [boxes, scores, *limits], told)
    most = scores.shape.elements  # one box of each class, in each image
    return found if use_dyn_output else _padded(at, found, (most, 3))


@form("unique")
def unique(
    at: Site, x: Instruction, *, axis: int | None = None, sorted: bool = True
) -> Instruction:
    """Over all elements if there is no axis; a tuple, for ``get_tuple_elem``."""
    told = {"sorted": int(sorted)} | ({} if axis is None else {"axis": axis})
    return read(at.module, "Unique", [x], told).inputs[0]


@form("multinomial")
def multinomial(
    at: Site, sums: Instruction, drawn: Instruction, *, dtype: int = int(type_t.int32_type)
) -> Instruction:
    """The class of each number drawn from 0 to 1, by the running sums of probabilities."""
    (batch, classes), samples = sums.shape.dims, drawn.shape.dims[-1]
    dims = (batch, samples, classes)
    total = at(ops.Slice((1,), (classes - 1,), (classes,)), sums)
    scaled = at(ops.Mul(), drawn, broadcast_to(at, total, drawn.shape.dims))
    below = [at(ops.Unsqueeze((place,)), v) for place, v in ((1, sums), (2, scaled))]
    passed = at(ops.LessOrEqual(), *(broadcast_to(at, v, dims) for v in below))
    return folded(at, ops.ReduceSum((2,)), astype(at, passed, DTYPES[type_t(dtype)]))


__all__ = ["FORMS"]
