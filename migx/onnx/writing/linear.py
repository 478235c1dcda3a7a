"""Writes matrix products and convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np

from migx.argument import Argument
from migx.onnx.exporters import exporter
from migx.onnx.site import Site, Value
from migx.ops.builtin import Literal
from migx.ops.channels_last import to_first, to_last
from migx.shape import I8, I32, U8, DType


def matrix(site: Site, index: int) -> str:
    """An operand of a product, which broadcasts all axes except the last two by itself."""
    raw, whole = site.raw(index), site.at.inputs[index].shape
    kept = raw.shape.rank >= 2 and raw.shape.dims[-2:] == whole.dims[-2:]
    return site.graph.typed(raw, whole.dtype) if kept else site.input(index)


def full_lead(site: Site) -> bool:
    """Whether the leading dims of the result are those of one of the operands."""
    wanted = site.shape.dims[:-2]
    leads = [site.raw(i).shape.dims[:-2] for i in (0, 1)]
    padded = [(1,) * (len(wanted) - len(lead)) + lead for lead in leads]
    return all(dim in column for dim, column in zip(wanted, zip(*padded, strict=True), strict=True))


@exporter("dot")
def dot(site: Site) -> str:
    """A product of centred bytes is written as one of bytes with zero points."""
    if site.shape.dtype is I32 and (narrow := eight_bits(site)) is not None:
        return site.node("MatMulInteger", *narrow)
    names = [matrix(site, i) for i in (0, 1)] if full_lead(site) else site.inputs()
    return site.node("MatMul", *names)


@exporter("quant_dot")
def quantised_dot(site: Site) -> str:
    names = [matrix(site, i) for i in (0, 1)] if full_lead(site) else site.inputs()
    return site.node("MatMulInteger", *names)


def eight_bits(site: Site) -> list[str] | None:
    """The operands of an i32 product as bytes, and their zero points, if they are such."""
    values, wholes = [site.raw(i) for i in (0, 1)], [v.shape for v in site.at.inputs]
    axes, kept = ((-2, -1), -2) if site.op.name == "dot" else ((None, 0), None)
    same = all(
        v.shape.rank > 1 and v.shape.dims[kept:] == whole.dims[kept:]
        for v, whole in zip(values, wholes, strict=True)
    )
    if not same or (kept is not None and not full_lead(site)):
        return None
    found = [centred(site, value, axis) for value, axis in zip(values, axes, strict=True)]
    pairs = [pair for pair in found if pair is not None]
    if len(pairs) < 2:
        return None
    return [*(name for name, _ in pairs), *(zero for _, zero in pairs)]


def centred(site: Site, value: Value, axis: int | None) -> tuple[str, str] | None:
    """The bytes, and the zero point or those along an axis, whose difference an i32 value is; None
    if it is not one.
    """
    if (held := as_bytes(site, value)) is not None:
        return held[0], ""
    made = site.graph.model.makers.get(value.name)
    if made is None or made.at.op.name != "sub":
        return None
    x, point = made.inputs
    if x is None or point is None or x.shape.dims != value.shape.dims:
        return None
    flat = reshaped_of(site, point)
    held = as_bytes(site, x)
    zero = None if held is None else as_bytes(site, flat, held[1])
    alone = [i for i, extent in enumerate(point.shape.dims) if extent != 1]
    rank, behind = value.shape.rank, value.shape.rank - point.shape.rank
    if held is None or zero is None:
        return None
    if alone and (axis is None or alone != [axis % rank - behind]):
        return None
    return held[0], site.reshaped(zero[0], flat.shape, [point.shape.dims[i] for i in alone])


def reshaped_of(site: Site, value: Value) -> Value:
    """The source of a reshaped value."""
    made = site.graph.model.makers.get(value.name)
    while made is not None and made.at.op.name in RESHAPES and made.inputs[0] is not None:
        value = made.inputs[0]
        made = site.graph.model.makers.get(value.name)
    return value


RESHAPES = ("broadcast", "reshape", "unsqueeze", "squeeze")


def as_bytes(site: Site, value: Value, wanted: DType | None = None) -> tuple[str, DType] | None:
    """The name and type of the bytes an i32 value was converted from, or a literal fits."""
    types = (I8, U8) if wanted is None else (wanted,)
    made = site.graph.model.makers.get(value.name)
    if made is None or value.shape.dtype is not I32:
        return None
    if made.at.op.name == "convert":
        source = made.inputs[0]
        given = source is not None and source.shape.dims == value.shape.dims
        return (
            (source.name, source.shape.dtype)
            if source and given and source.shape.dtype in types
            else None
        )
    held = made.at.op
    if type(held) is not Literal or held.replaceable:
        return None
    array = held.value.array
    for dtype in types:
        limits = np.iinfo(dtype.numpy)
        if limits.min <= array.min(initial=0) and array.max(initial=0) <= limits.max:
            narrow = Argument.of(array.astype(dtype.numpy))
            return site.graph.model.initializer(narrow, held.label), dtype
    return None


@exporter("convolution", "quant_convolution")
def convolution(site: Site) -> str:
    if site.op.name == "quant_convolution":
        return convolved(site, "ConvInteger", *site.inputs())
    if site.shape.dtype is not I32:
        return convolved(site, "Conv", *site.inputs())
    narrow = eight_bits(site)
    if narrow is None:
        raise site.fail("ONNX convolves floats and bytes, and these are i32")
    return convolved(site, "ConvInteger", *narrow)


@exporter("add")
def add(site: Site) -> Value | str:
    """A number added to each channel of a convolution is written as its bias."""
    for i in (0, 1):
        made = site.graph.model.makers.get(site.raw(i).name)
        if made is None or made.at.op.name != "convolution" or not site.shape.dtype.is_float:
            continue
        given = zip(made.inputs, made.at.inputs, strict=True)
        names = [v.name for v, at in given if v is not None and v.shape.same_type(at.shape)]
        bias = per_channel(site, 1 - i) if len(names) == 2 else None
        if bias is not None:
            return convolved(Site(made.at, site.graph), "Conv", *names, bias)
    return site.elementwise("Add")


def per_channel(site: Site, index: int) -> str | None:
    """An operand as a list with one element per channel, if it is a broadcast of one."""
    value, channels = site.raw(index), site.shape.dims[1]
    dims = (1,) * (site.shape.rank - value.shape.rank) + value.shape.dims
    if [d for i, d in enumerate(dims) if i != 1] != [1] * (len(dims) - 1) or dims[1] != channels:
        return None
    spread = site.graph.model.makers.get(value.name)
    source = spread.inputs[0] if spread is not None and spread.at.op.name == "broadcast" else None
    if source is not None and source.shape.dims == (channels,):
        return site.graph.typed(source, site.shape.dtype)
    name = site.graph.typed(value, site.shape.dtype)
    return site.reshaped(name, value.shape, (channels,))


@exporter("convolution_channels_last", "quant_convolution_channels_last")
def channels_last(site: Site) -> str:
    rank = site.shape.rank
    names = (site.node("Transpose", name, perm=to_first(rank)) for name in site.inputs())
    kind = "ConvInteger" if site.op.name.startswith("quant_") else "Conv"
    return site.node("Transpose", convolved(site, kind, *names), perm=to_last(rank))


def convolved(site: Site, kind: str, *names: str) -> str:
    """A node that slides a kernel. Padding that depends on sizes becomes a Pad before it."""
    op = site.op
    attributes: dict[str, Any] = {"strides": op.stride, "dilations": op.dilation, "group": op.group}
    x, *rest = names
    if all(isinstance(p, int) for p in op.padding):
        return site.node(kind, x, *rest, pads=op.padding, **attributes)
    half = len(op.padding) // 2
    pads = (0, 0, *op.padding[:half], 0, 0, *op.padding[half:])
    zero = [rest[1]] if kind == "ConvInteger" and len(rest) > 1 and rest[1] else []
    return site.node(kind, site.node("Pad", x, site.dims(pads), *zero), *rest, **attributes)


@exporter("convolution_backwards")
def transposed_convolution(site: Site) -> str:
    """Padding that depends on sizes is cut off by a Slice after it."""
    op = site.op
    attributes = {"strides": op.stride, "dilations": op.dilation, "group": op.group}
    if not all(isinstance(p, int) for p in op.output_padding):
        raise site.fail(f"its output_padding {op.output_padding} is not known before the run")
    if all(isinstance(p, int) for p in op.padding):
        return site.node(
            "ConvTranspose",
            *site.inputs(),
            pads=op.padding,
            output_padding=op.output_padding,
            **attributes,
        )
    whole = site.node(
        "ConvTranspose", *site.inputs(), output_padding=op.output_padding, **attributes
    )
    begins = op.padding[: len(op.padding) // 2]
    ends = [b + d for b, d in zip(begins, site.shape.dims[2:], strict=True)]
    axes = site.constant(range(2, site.shape.rank))
    return site.node("Slice", whole, site.dims(begins), site.dims(ends), axes)
