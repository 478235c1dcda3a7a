"""Crops of images resized to one size, an operator of ``com.microsoft``."""

from __future__ import annotations

from dataclasses import dataclass

from migx import dim, ops
from migx.builders import arange, number
from migx.dim import Extent
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops.contrib import DOMAIN
from migx.onnx.ops.linear import scaled
from migx.op import Operation
from migx.shape import F32, I64


@dataclass(frozen=True)
class Places:
    """The sample positions along one axis of boxes, [boxes, positions]: real coordinates on the
    axis of the image, and whether they are inside it.
    """

    node: Node
    at: Instruction
    inside: Instruction
    length: Extent

    def whole(self, op: Operation, add: float = 0.0) -> Instruction:
        """The positions, plus a number, rounded by an operation; those outside are clamped."""
        node = self.node
        x = self.at if not add else node.add(ops.Add(), self.at, add)
        x = node.convert(node.add(op, x), I64)
        return node.add(ops.Clip(), x, 0, number(node, self.length - 1))


@importer("CropAndResize", domain=DOMAIN)
def crop_and_resize(node: Node) -> Instruction:
    """Boxes [boxes, (top, left, bottom, right)], from 0 to 1 along each axis of an image, are
    sampled from corner to corner. Samples outside of the image have a fixed value.
    """
    x, size = node.input(0), node.extents(node.input(3))
    mode = node.choice("mode", ("bilinear", "nearest"), "bilinear")
    if size is None or len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise node.fail(f"crop_size {node.proto.input[3]!r} must be two known integers above 0")
    y, x_ = (places(node, axis, int(n)) for axis, n in enumerate(size))
    if mode == "nearest":
        made = picked(node, y.whole(ops.Floor(), 0.5), x_.whole(ops.Floor(), 0.5))
    else:
        ends = ops.Floor(), ops.Ceil()
        pairs = [[picked(node, y.whole(row), x_.whole(column)) for column in ends] for row in ends]
        lines = [between(node, left, right, x_, 2) for left, right in pairs]
        made = between(node, lines[0], lines[1], y, 1)
    seen = node.add(
        ops.LogicalAnd(),
        node.add(ops.Unsqueeze((2, 3)), y.inside),
        node.add(ops.Unsqueeze((1, 3)), x_.inside),
    )
    made = node.convert(made, x.shape.dtype)
    made = node.add(ops.Where(), seen, made, node.number("extrapolation_value", 0.0))
    return node.add(ops.Transpose((0, 3, 1, 2)), made)


def places(node: Node, axis: int, count: int) -> Places:
    """The sample positions along one axis of boxes: from one end to the other, or the middle if
    there is one.

    They are computed in f32, and in onnxruntime's order of operations.
    """
    node.dims_of(1, 2)
    boxes, length = node.convert(node.input(1), F32), node.dims_of(0, 4)[2 + axis]
    begin, end = (node.add(ops.Slice((1,), (i,), (i + 1,)), boxes) for i in (axis, axis + 2))
    span = node.convert(node.dims([length - 1]), boxes.shape.dtype)
    if count == 1:
        middle = scaled(node, node.add(ops.Add(), begin, end), 0.5)
        at = node.add(ops.Mul(), middle, span)
    else:
        step = node.add(ops.Mul(), node.add(ops.Sub(), end, begin), span)
        step = node.add(ops.Div(), step, count - 1)
        ramp = node.convert(arange(node, count), boxes.shape.dtype)
        first, last = (node.add(ops.Mul(), v, span) for v in (begin, end))
        at = node.add(ops.Add(), first, node.add(ops.Mul(), ramp, step))
        at = node.add(ops.Concat(1), node.add(ops.Slice((1,), (0,), (count - 1,)), at), last)
    low = node.add(ops.GreaterOrEqual(), at, 0)
    high = node.add(ops.LessOrEqual(), at, span)
    return Places(node, at, node.add(ops.LogicalAnd(), low, high), length)


def picked(node: Node, y: Instruction, x: Instruction) -> Instruction:
    """The image values at integer positions, [boxes, rows, columns, channels]."""
    batch, channels, height, width = node.dims_of(0, 4)
    pixels = node.add(ops.Transpose((0, 2, 3, 1)), node.input(0))
    pixels = node.reshape(pixels, (dim.product((batch, height, width)), channels))
    image = node.reshape(node.convert(node.input(2), I64), (y.shape.dims[0], 1, 1))
    rows, columns = node.add(ops.Unsqueeze((2,)), y), node.add(ops.Unsqueeze((1,)), x)
    at = node.add(ops.Add(), node.add(ops.Mul(), image, number(node, height)), rows)
    at = node.add(ops.Add(), node.add(ops.Mul(), at, number(node, width)), columns)
    return node.add(ops.Gather(0), pixels, at)


def between(
    node: Node, first: Instruction, second: Instruction, of: Places, axis: int
) -> Instruction:
    """Linear interpolation of two values at positions along an axis of [boxes, rows, columns,
    channels].
    """
    part = node.add(ops.Sub(), of.at, node.add(ops.Floor(), of.at))
    part = node.add(ops.Unsqueeze((2, 3) if axis == 1 else (1, 3)), part)
    first, second = (node.convert(v, F32) for v in (first, second))
    more = node.add(ops.Mul(), node.add(ops.Sub(), second, first), part)
    return node.add(ops.Add(), first, more)
