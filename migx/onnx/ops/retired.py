"""Operators that ONNX withdrew while experimental, and that old exporters write."""

from __future__ import annotations

from migx import ops
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops._common import delegated
from migx.onnx.ops.linear import per_channel, scaled


@importer("Affine")
def affine(node: Node) -> Instruction:
    """The value times alpha, plus beta."""
    x = scaled(node, node.input(0), node.number("alpha", 1.0))
    return node.add(ops.Add(), x, node.number("beta", 0.0))


@importer("Scale")
def scale(node: Node) -> Instruction:
    return scaled(node, node.input(0), node.number("scale", 1.0))


@importer("ImageScaler")
def image_scaler(node: Node) -> Instruction:
    """An image times a scale, plus a bias for each channel."""
    x = scaled(node, node.input(0), node.number("scale", 1.0))
    bias = node.literal(node.numbers("bias"), x.shape.dtype)
    return node.add(ops.Add(), x, per_channel(node, bias, x))


@importer("ScaledTanh")
def scaled_tanh(node: Node) -> Instruction:
    """The product alpha * tanh(beta * x)."""
    x = node.add(ops.Tanh(), scaled(node, node.input(0), node.number("beta")))
    return scaled(node, x, node.number("alpha"))


@importer("ParametricSoftplus")
def parametric_softplus(node: Node) -> Instruction:
    """The product alpha * softplus(beta * x)."""
    x = delegated(node, "Softplus", scaled(node, node.input(0), node.number("beta")))
    return scaled(node, x, node.number("alpha"))


@importer("Crop")
def crop(node: Node) -> Instruction:
    """An image without its border (left, top, right, bottom); or a region of a given height and
    width, whose start is the first two.
    """
    x = node.input(0)
    left, top, right, bottom = node.integers("border")
    height, width = x.shape.dims[2:]
    ends = height - bottom, width - right
    if node.has("scale"):
        rows, columns = node.integers("scale")
        ends = top + rows, left + columns
    return node.add(ops.Slice((2, 3), (top, left), ends), x)


@importer("DynamicSlice")
def dynamic_slice(node: Node) -> Instruction:
    """A slice, as the current Slice."""
    return delegated(node, "Slice", *node.inputs)
