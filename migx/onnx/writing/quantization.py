"""Writes quantisation, and packed elements.

Unpacked values stay packed in the file as long as their users accept that.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from migx import dim
from migx import op as operations
from migx.argument import Argument
from migx.onnx import tensors
from migx.onnx.exporters import exporter
from migx.onnx.packed import packing
from migx.onnx.site import Site, Value
from migx.op import Array
from migx.ops.builtin import Literal
from migx.ops.packing import FLAT
from migx.shape import F4, F32, I32, U8, DType, Shape, integers


@exporter("unpack_int4", "unpack_int2", "unpack_fp4")
def unpack(site: Site) -> Value | str:
    """Nothing, because the file holds elements of the packed types; bytes along an axis are
    unpacked by a table of 256.
    """
    axis, rank = site.op.axis, site.shape.rank
    if axis == FLAT:
        return site.raw(0)
    given = site.at.inputs[0].shape.dtype
    values = element_table(site.op, given)
    places = site.cast(site.input(0, U8), U8, I32)
    found = site.node("Gather", site.constant(values, site.shape.dtype), places, axis=0)
    order = [*range(axis + 1), rank, *range(axis + 1, rank)]
    apart = site.node("Transpose", found, perm=order)
    dims = list(site.at.inputs[0].shape.dims)
    dims[axis] = dims[axis] * values.shape[1]
    whole = site.node("Reshape", apart, site.dims(dims), allowzero=1)
    ends = site.dims([site.shape.dims[axis]])
    return site.node("Slice", whole, site.constant([0]), ends, site.constant([axis]))


def element_table(op: Any, given: DType) -> Array:
    """The elements in each of a type's 256 bytes, in order, by the operation's own meaning."""
    flat = operations.with_attributes(op, axis=0, length=0)
    held = Argument(Shape(given, (256,)), np.arange(256, dtype=np.uint8).view(given.numpy))
    shape = flat.compute_shape([held.shape], ())
    made = operations.result_of(flat, shape, [held])
    return made.array.reshape(256, -1)


@exporter("pack_int4", "pack_int2")
def pack(site: Site) -> Value:
    """The elements clipped and cast to the packed type; an unpacked value is still there packed."""
    if site.op.axis != FLAT:
        return Value(packed_bytes(site), site.shape)
    packed, x = site.shape.dtype, site.raw(0)
    if x.shape.dtype is packed and x.shape.dims == site.shape.dims:
        return x
    given = site.at.inputs[0].shape.dtype
    low, high = (site.constant(limit, given) for limit in integers(packed))
    clipped = site.node("Clip", site.input(0), low, high)
    return Value(site.cast(clipped, given, packed), site.shape)


def packed_bytes(site: Site) -> str:
    """Bytes of elements packed along an axis: each clipped, shifted to its place, and added."""
    axis, x = site.op.axis, site.at.inputs[0].shape
    packed = site.op.packed[x.dtype]
    low, high = (site.constant(limit, x.dtype) for limit in integers(packed))
    wide = site.cast(site.node("Clip", site.input(0), low, high), x.dtype, I32)
    codes = site.node("BitwiseAnd", wide, site.constant(2**packed.bits - 1, I32))
    per, dims = 8 // packed.bits, list(site.shape.dims)
    whole = dims[axis] * per
    rank = len(dims)
    pads: list[dim.Extent] = [0] * (2 * rank)
    pads[rank + axis] = whole - x.dims[axis]
    dims[axis : axis + 1] = [dims[axis], per]
    apart = site.node(
        "Reshape", site.node("Pad", codes, site.dims(pads)), site.dims(dims), allowzero=1
    )
    weights = site.constant([2 ** (packed.bits * lane) for lane in range(per)], I32)
    weights = (
        site.node("Unsqueeze", weights, site.constant(range(1, rank - axis)))
        if axis < rank - 1
        else weights
    )
    total = site.node(
        "ReduceSum", site.node("Mul", apart, weights), site.constant([axis + 1]), keepdims=0
    )
    return site.cast(site.cast(total, I32, U8), U8, site.shape.dtype)


@exporter("pack_fp4")
def pack_floats(site: Site) -> Value:
    if site.op.axis != FLAT:
        raise site.fail("it packs floats along an axis, whose bits ONNX has no access to")
    made = site.at.inputs[0]
    if made.op.name == "quantizelinear":
        return Value(quantized(Site(made, site.graph), F4), site.shape)
    return Value(site.input(0, F4), site.shape)


@exporter("quantizelinear")
def quantize(site: Site) -> Value | str:
    """What is quantised to f4 is written where it is packed."""
    if site.op.to is not F32:
        return quantized(site, site.op.to)
    if all(user.op.name == "pack_fp4" for user in site.at.users):
        return Value("", site.shape)
    raise site.fail("ONNX quantises to no f32")


def quantized(site: Site, to: DType) -> str:
    """A value quantised by its scale. ONNX 21 requires it to have the type of the scale."""
    site.graph.model.require_type(to)
    x, scale = (v.shape.dtype for v in site.at.inputs[:2])
    whole = x is I32
    common = F32 if whole or {x.bits, scale.bits} == {16, 32} else x
    names, attributes = steps(site, to)
    names[0] = site.cast(names[0], x, x if whole else common)
    names[1] = site.cast(names[1], scale, common)
    code = None
    if len(names) == 2 and (zeros := site.at.inputs[1].shape).static and not to.is_packed:
        names.append(site.constant(np.zeros(zeros.dims if attributes else (), np.int8), to))
    elif len(names) == 2:
        code = tensors.code_of(to)
    rounds = {"saturate": int(site.op.saturate)} if to.is_float and to.bits == 8 else {}
    return site.node("QuantizeLinear", *names, output_dtype=code, **rounds, **attributes)


@exporter("dequantizelinear")
def dequantize(site: Site) -> str:
    """Packed elements are read as they are if the zero points are packed, too, or omitted."""
    stored, given = site.raw(0).shape, site.at.inputs[0].shape
    zero = packed_zero(site, stored.dtype) if stored.dtype.is_packed else None
    alike = all(site.raw(i).shape.dtype is stored.dtype for i in range(2, len(site.at.inputs)))
    whole = stored.dims == given.dims
    dtype = stored.dtype if whole and (alike or zero) else given.dtype
    names, attributes = steps(site, given.dtype if zero else dtype)
    names[0] = site.graph.typed(site.raw(0), dtype) if whole else site.input(0)
    if zero and whole:
        names[2] = zero
    return site.node("DequantizeLinear", *names, **attributes)


def packed_zero(site: Site, dtype: DType) -> str | None:
    """The zero points in a packed type, if they are a literal that it can hold."""
    point = site.at.inputs[2] if len(site.at.inputs) > 2 else None
    source = point
    while source is not None and source.op.name == "multibroadcast":
        source = source.inputs[0]
    if point is None or source is None or type(source.op) is not Literal or dtype.is_float:
        return None
    held, (low, high) = source.op.value, integers(dtype)
    if source.op.replaceable or not point.shape.static or point.shape.elements == 1:
        return None
    values = np.broadcast_to(held.array, [int(d) for d in point.shape.dims])
    if held.shape.dtype.is_packed or values.min() < low or values.max() > high:
        return None
    _, op = packing(dtype)
    shape = point.shape.with_type(dtype)
    given = Argument.of(np.ascontiguousarray(values))
    made = operations.result_of(op, shape, [given])
    return site.graph.model.initializer(made, source.op.label or "zero_point")


def steps(site: Site, dtype: DType) -> tuple[list[str], dict[str, Any]]:
    """The operands, with scale and zero points for the tensor, an axis or its blocks; and the
    attributes that tell which.
    """
    rest = range(1, len(site.at.inputs))
    types = [site.at.inputs[1].shape.dtype, dtype]
    names = [site.input(0)]
    if all(dim.product(site.raw(i).shape.dims) == 1 for i in rest):
        for i, wanted in zip(rest, types, strict=False):
            value = site.raw(i)
            names.append(site.reshaped(site.graph.typed(value, wanted), value.shape, ()))
        return names, {}
    for i, wanted in zip(rest, types, strict=False):
        value, whole = site.raw(i), site.at.inputs[i].shape
        same = value.shape.dims == whole.dims
        names.append(
            site.graph.typed(value, wanted)
            if same
            else site.graph.typed(Value(site.input(i), whole), wanted)
        )
    block = {"block_size": site.op.block} if site.op.block else {}
    return names, {"axis": site.op.axis, **block}
