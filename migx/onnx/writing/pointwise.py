"""Writes elementwise operations. ONNX broadcasts their operands by itself."""

from __future__ import annotations

import numpy as np

from migx.onnx import tensors
from migx.onnx.alike import ELEMENTWISE, names
from migx.onnx.exporters import exporter
from migx.onnx.site import Site, Value
from migx.shape import BOOL, F64, I64, DType

SAME = names(*(name for name in ELEMENTWISE if name not in ("Add", "Identity", "PRelu", "Relu")))


@exporter(*SAME)
def same(site: Site) -> Value:
    return site.elementwise(SAME[site.op.name])


@exporter("relu")
def relu(site: Site) -> Value:
    """For integers, as a Clip: onnxruntime has no Relu of 64 bits, which is what sizes are."""
    if site.shape.dtype.is_float:
        return site.elementwise("Relu")
    (x,), shape = site.aligned()
    return Value(site.node("Clip", x, site.constant(0, site.shape.dtype)), shape)


@exporter("elu")
def elu(site: Site) -> Value:
    return site.elementwise("Elu", alpha=site.op.alpha)


@exporter("leaky_relu")
def leaky_relu(site: Site) -> Value:
    """ONNX has the slope as f32, which may be inexact for wider types."""
    alpha, dtype = site.op.alpha, site.shape.dtype
    if dtype is not F64 or float(np.float32(alpha)) == alpha:
        return site.elementwise("LeakyRelu", alpha=alpha)
    (x,), shape = site.aligned()
    below = site.node("Less", x, site.constant(0, dtype))
    scaled = site.node("Mul", x, site.constant(alpha, dtype))
    return Value(site.node("Where", below, scaled, x), shape)


@exporter("isinf")
def isinf(site: Site) -> Value:
    signs = {"detect_negative": site.op.detect_negative, "detect_positive": site.op.detect_positive}
    return site.elementwise("IsInf", **{name: int(value) for name, value in signs.items()})


@exporter("rsqrt")
def rsqrt(site: Site) -> Value:
    root = site.elementwise("Sqrt")
    return Value(site.node("Reciprocal", root.name), root.shape)


@exporter("sqdiff")
def squared_difference(site: Site) -> Value:
    apart = site.elementwise("Sub")
    return Value(site.node("Mul", apart.name, apart.name), apart.shape)


@exporter("fmod")
def fmod(site: Site) -> Value:
    return site.elementwise("Mod", fmod=1)


@exporter("mod")
def mod(site: Site) -> Value:
    """For floats, ONNX only has the remainder with the sign of x; the divisor is added to it."""
    if not site.shape.dtype.is_float:
        return site.elementwise("Mod")
    rest = site.elementwise("Mod", fmod=1)
    (_, divisor), _ = site.aligned()
    zero = site.constant(0, site.shape.dtype)
    below = (site.node("Less", name, zero) for name in (rest.name, divisor))
    other = site.node("Xor", *below)
    moved = site.node("And", other, site.node("Not", site.node("Equal", rest.name, zero)))
    whole = site.node("Add", rest.name, divisor)
    return Value(site.node("Where", moved, whole, rest.name), rest.shape)


@exporter("prelu")
def prelu(site: Site) -> str:
    """ONNX broadcasts the slope to x, but not x."""
    slope = site.raw(1)
    return site.node("PRelu", site.input(0), site.graph.typed(slope, site.shape.dtype))


@exporter("clip")
def clip(site: Site) -> Value:
    """ONNX clips between two scalars; between tensors, it is a minimum of a maximum."""
    bounds = [site.raw(i) for i in (1, 2)]
    if all(bound.shape.elements == 1 for bound in bounds):
        names = (site.reshaped(b.name, b.shape, ()) for b in bounds)
        x = site.raw(0)
        return Value(site.node("Clip", site.graph.typed(x, site.shape.dtype), *names), x.shape)
    (x_name, low, high), shape = site.aligned()
    return Value(site.node("Min", site.node("Max", x_name, low), high), shape)


@exporter("convert")
def convert(site: Site) -> Value:
    """A value that is not broadcast yet stays so."""
    op, x = site.op, site.raw(0)
    name = site.graph.typed(x, site.at.inputs[0].shape.dtype)
    narrow = op.to.is_float and op.to.bits == 8
    attributes = {"saturate": int(op.saturate)} if narrow and op.to.name != "f8e8m0" else {}
    if op.to.name == "f8e8m0":
        attributes = {"saturate": int(op.saturate), "round_mode": op.round_mode}
    given = site.at.inputs[0].shape.dtype
    return Value(site.cast(name, given, op.to, **attributes), x.shape.with_type(op.to))


@exporter("bit_cast")
def bit_cast(site: Site) -> Value:
    site.graph.model.require(26)
    return site.elementwise("BitCast", to=tensors.code_of(site.op.to))


@exporter("shift_left", "shift_right")
def shift(site: Site) -> Value:
    """Early versions do not shift signed integers. A left shift is that of their bits; a right
    shift that of a non-negative number: for a negative x, of ~x, complemented again.
    """
    dtype = site.shape.dtype
    direction = site.op.name.removeprefix("shift_").upper()
    if dtype.kind == "uint":
        return site.elementwise("BitShift", direction=direction)
    (x, by), shape = site.aligned()
    bits = DType.of(f"u{dtype.bits}")
    negative = site.node("Less", x, site.constant(0, dtype))
    if direction == "RIGHT":
        x = site.node("Where", negative, site.node("BitwiseNot", x), x)
    moved = (site.cast(name, dtype, bits) for name in (x, by))
    shifted = site.cast(site.node("BitShift", *moved, direction=direction), bits, dtype)
    if direction == "RIGHT":
        shifted = site.node("Where", negative, site.node("BitwiseNot", shifted), shifted)
    return Value(shifted, shape)


@exporter("assume")
def assume(site: Site) -> str:
    """A Gather of x's dims uses an index that is out of range unless the condition is as expected;
    so such a run fails there, and nothing is copied.
    """
    wrong = site.scalar(1)
    if site.op.expected:
        wrong = site.node("Not", wrong)
    place = site.cast(wrong, BOOL, I64)
    name = site.input(0)
    dims = site.node("Unsqueeze", site.node("Shape", name), site.constant([0]))
    return site.node("Reshape", name, site.node("Gather", dims, place, axis=0), allowzero=1)
