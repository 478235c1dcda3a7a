"""Writes operations that move, repeat, slice or concatenate elements, or make tensors from dims."""

from __future__ import annotations

from migx.onnx.exporters import exporter
from migx.onnx.site import Site, Value
from migx.shape import F32, I64, Shape

LAST, FIRST = 2**63 - 1, -(2**63)
"""The bounds of a slice that runs to the end of an axis, or back to its front."""


@exporter("transpose")
def transpose(site: Site) -> str:
    return site.node("Transpose", site.input(0), perm=list(site.op.permutation) or None)


@exporter("reshape")
def reshape(site: Site) -> str:
    if len(site.at.inputs) == 1:
        return site.reshaped(site.input(0), site.at.inputs[0].shape, site.op.dims)
    target = site.input(1, I64)
    zeros = 1 if site.op.allowzero else None
    return site.node("Reshape", site.input(0), target, allowzero=zeros)


@exporter("squeeze", "unsqueeze")
def squeeze(site: Site) -> str:
    if not site.op.axes:
        return site.input(0)
    return site.node(site.op.name.title(), site.input(0), site.constant(site.op.axes))


@exporter("multibroadcast")
def multibroadcast(site: Site) -> Value | str:
    """Nothing, because most operators broadcast by themselves; an Expand if the run decides."""
    if len(site.at.inputs) == 1:
        return site.raw(0)
    target = site.input(1, I64)
    return site.node("Expand", site.input(0), target)


@exporter("broadcast")
def broadcast(site: Site) -> Value:
    """Trailing new axes of size 1; the rest is left to the users' own broadcasting."""
    name, shape = site.input(0), site.at.inputs[0].shape
    behind = len(site.op.out_lens) - site.op.axis - shape.rank
    dims = (*shape.dims, *[1] * behind)
    if behind:
        places = site.constant(range(shape.rank, shape.rank + behind))
        name = site.node("Unsqueeze", name, places)
    return Value(name, Shape(shape.dtype, dims))


@exporter("slice")
def slice_(site: Site) -> str:
    return sliced(site, site.dims(site.op.starts), site.dims(site.op.ends))


@exporter("step")
def step(site: Site) -> str:
    starts, ends = (site.constant([end] * len(site.op.axes)) for end in (0, LAST))
    return sliced(site, starts, ends, site.constant(site.op.steps))


@exporter("reverse")
def reverse(site: Site) -> str:
    starts, ends = (site.constant([end] * len(site.op.axes)) for end in (-1, FIRST))
    return sliced(site, starts, ends, starts)


def sliced(site: Site, starts: str, ends: str, *steps: str) -> str:
    """A slice on the axes of an operation."""
    if not site.op.axes:
        return site.input(0)
    return site.node("Slice", site.input(0), starts, ends, site.constant(site.op.axes), *steps)


@exporter("dynamic_slice")
def dynamic_slice(site: Site) -> str:
    starts, ends, steps = (site.input(i, I64) for i in (1, 2, 3))
    return site.node("Slice", site.input(0), starts, ends, site.constant(site.op.axes), steps)


@exporter("concat")
def concat(site: Site) -> str:
    return site.node("Concat", *site.inputs(), axis=site.op.axis)


@exporter("pad")
def pad(site: Site) -> str:
    value = [site.scalar(1)] if len(site.at.inputs) == 2 else []
    return site.node("Pad", site.input(0), site.dims(site.op.pads), *value, mode=site.op.mode)


@exporter("dynamic_pad")
def dynamic_pad(site: Site) -> str:
    pads = site.input(1, I64)
    value = [site.scalar(2)] if len(site.at.inputs) == 3 else []
    return site.node("Pad", site.input(0), pads, *value, mode=site.op.mode)


@exporter("dynamic_transpose")
def dynamic_transpose(site: Site) -> str:
    """ONNX has no Transpose with an operand: each element is gathered from its linear index, the
    sum of its indices times the strides of the axes they come from.
    """
    x, rank = site.input(0), site.shape.rank
    order = site.input(1, I64)
    dims = site.node("Shape", x)
    after = site.node(
        "Concat",
        site.node("Slice", dims, *map(site.constant, ([1], [LAST]))),
        site.constant([1]),
        axis=0,
    )
    strides = _products(site, after, rank)
    sizes, steps = (site.node("Gather", v, order, axis=0) for v in (dims, strides))
    place = site.constant(0)
    for axis in range(rank):
        size, by = (site.node("Gather", v, site.constant(axis), axis=0) for v in (sizes, steps))
        ramp = site.node("Range", site.constant(0), size, site.constant(1))
        apart = (
            site.node("Unsqueeze", ramp, site.constant(range(1, rank - axis)))
            if axis < rank - 1
            else ramp
        )
        place = site.node("Add", place, site.node("Mul", apart, by))
    flat = site.node("Reshape", x, site.constant([-1]))
    return site.node("Gather", flat, place, axis=0)


def _products(site: Site, values: str, count: int) -> str:
    """The product of each number and all that follow it."""
    parts: list[str] = []
    for i in range(count):
        rest = site.node("Slice", values, site.constant([i]), site.constant([LAST]))
        parts.append(site.node("ReduceProd", rest, site.constant([0]), keepdims=1))
    return site.node("Concat", *parts, axis=0) if parts else values


@exporter("dim_literal")
def dim_literal(site: Site) -> str:
    flat = Shape(I64, (len(site.op.values),))
    name = site.reshaped(site.dims(site.op.values), flat, site.op.lens)
    return site.cast(name, I64, site.op.to)


@exporter("dimensions_of")
def dimensions_of(site: Site) -> str:
    return site.node("Shape", site.input(0), start=site.op.start, end=site.op.end)


@exporter("dynamic_range")
def dynamic_range(site: Site) -> str:
    """ONNX supports five types; others are computed in the widest of their kind among these."""
    dtype = site.shape.dtype
    direct = dtype.name in ("f32", "f64", "i16", "i32", "i64")
    wide = dtype if direct else F32 if dtype.is_float else I64
    counted = site.node("Range", *(site.scalar(i, wide) for i in range(3)))
    return site.cast(counted, wide, dtype)
