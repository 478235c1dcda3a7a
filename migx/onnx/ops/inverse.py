"""The inverses of matrices, an operator of ``com.microsoft``."""

from __future__ import annotations

from migx import dim, ops
from migx.builders import arange, number
from migx.dim import may_equal
from migx.ir import Instruction, Module
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops.contrib import DOMAIN
from migx.shape import BOOL, F16, F32, I64, Shape


@importer("Inverse", domain=DOMAIN)
def inverse(node: Node) -> Instruction:
    """Gaussian elimination with partial pivoting, one column in each iteration of a loop, on the
    matrix with the identity appended, which becomes the inverse. f16 is computed in f32.
    """
    x = node.input(0)
    if x.shape.rank < 2 or not may_equal(*x.shape.dims[-2:]):
        raise node.fail(f"{node.proto.input[0]!r} {x.shape}: matrices [..., n, n] are wanted")
    *lead, size, _ = x.shape.dims
    wide = node.convert(x, F32) if x.shape.dtype is F16 else x
    flat = node.reshape(wide, (dim.product(lead), size, size))
    place = arange(node, size)
    ones = node.add(ops.Equal(), node.add(ops.Unsqueeze((1,)), place), place)
    ones = node.broadcast_to(node.convert(ones, flat.shape.dtype), flat.shape.dims)
    both = node.add(ops.Concat(2), flat, ones)
    body = eliminated(node, both.shape, place)
    loop = node.add(ops.Loop(), number(node, size), node.add(ops.Undefined()), both, modules=[body])
    (both,) = node.elements(loop, 1)
    right = node.add(ops.Slice((2,), (size,), (2 * size,)), both)
    return node.convert(node.reshape(right, x.shape.dims), x.shape.dtype)


def eliminated(node: Node, shape: Shape, place: Instruction) -> Module:
    """One iteration on matrices [count, n, 2 n]: of the remaining rows, the one with the largest
    element in a column is swapped to the diagonal, scaled to 1 there, and subtracted from the
    others to make their elements 0.
    """
    step = node.inside("inverse.column")
    module = step.module
    at, on = module.add_parameter("column", Shape(I64)), module.add_parameter("on", Shape(BOOL))
    x = module.add_parameter("x", shape.as_standard())
    column = step.add(ops.Gather(2), x, at)
    left = step.add(ops.GreaterOrEqual(), place, at)
    size = step.add(ops.Abs(), column)
    size = step.add(ops.Where(), left, size, -1)
    best = step.add(ops.Unsqueeze((2,)), step.add(ops.Argmax(1), size))
    row = step.broadcast_to(best, (shape.dims[0], 1, shape.dims[2]))
    pivot = step.add(ops.GatherElements(1), x, row)
    own = step.add(ops.Unsqueeze((1,)), step.add(ops.Gather(1), x, at))
    rows = step.reshape(place, (1, shape.dims[1], 1))
    x = step.add(ops.Where(), step.add(ops.Equal(), rows, best), own, x)
    here = step.add(ops.Equal(), rows, at)
    one = step.add(ops.Unsqueeze((2,)), step.add(ops.Gather(2), pivot, at))
    scaled = step.add(ops.Div(), pivot, one)
    times = step.add(ops.Unsqueeze((2,)), step.add(ops.Gather(2), x, at))
    rest = step.add(ops.Sub(), x, step.add(ops.Mul(), times, scaled))
    made = step.add(ops.Where(), here, scaled, rest)
    module.add_return(on, made, names=["on", "made"])
    return module
