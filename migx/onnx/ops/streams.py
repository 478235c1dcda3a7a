"""Operators of ``com.microsoft`` for models with several streams of hidden states: gates, and
mixing of streams.
"""

from __future__ import annotations

import math

from migx import ops
from migx.builders import folded
from migx.dim import Extent, may_equal
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops.contrib import DOMAIN
from migx.onnx.ops.linear import matrix_product, scaled
from migx.onnx.ops.normalization import over_root_mean_square
from migx.shape import F32


@importer("ScaledSiLU", domain=DOMAIN)
def scaled_silu(node: Node) -> Instruction:
    """SiLU of the value times a scale, each step rounded to the type of the value."""
    x, scale = node.input(0), node.optional(1)
    wide = node.convert(x, F32)
    if scale is None:
        wide = scaled(node, wide, node.number("alpha", 1.0))
    else:
        wide = node.add(ops.Mul(), wide, node.reshape(node.convert(scale, F32), ()))
    x = node.convert(wide, x.shape.dtype)
    return node.add(ops.Mul(), x, node.add(ops.Sigmoid(), x))


@importer("GatedAdd", domain=DOMAIN)
def gated_add(node: Node) -> Instruction:
    """X + Y * gate; with weights, the gate is the sigmoid of its product with them, in f32."""
    y, gate = node.input(1), node.input(2)
    if (weight := node.optional(3)) is not None:
        wide = [node.convert(v, F32) for v in (gate, weight)]
        opened = node.add(ops.Sigmoid(), matrix_product(node, ops.Dot(), *wide))
        gate = node.convert(opened, y.shape.dtype)
    product = node.add(ops.Mul(), y, gate)
    return node.add(ops.Add(), node.input(0), product)


@importer("BranchwiseRMSNorm", domain=DOMAIN)
def branchwise_norm(node: Node) -> Instruction:
    """RMSNormalization of each stream; scales are for all, [streams * size] or [streams, size], or
    shared, [size].
    """
    x, scale = node.input(0), node.optional(1)
    apart = in_streams(node, node.convert(x, F32))
    result = normalized(node, apart)
    if scale is not None:
        count, size = apart.shape.dims[-2:]
        if scale.shape.rank == 1 and not may_equal(scale.shape.dims[0], size):
            scale = node.reshape(scale, (count, size))
        result = node.add(ops.Mul(), result, node.convert(scale, F32))
    return node.convert(node.reshape(result, x.shape.dims), x.shape.dtype)


def in_streams(node: Node, x: Instruction) -> Instruction:
    """[..., streams * size] as [..., streams, size]; unchanged if it is so already."""
    count = node.integer("num_branches", 0)
    if not count:
        return x
    *lead, width = x.shape.dims
    if not may_equal(width % count, 0):
        raise node.fail(f"{node.proto.input[0]!r} {x.shape}: {width} are not {count} streams")
    return node.reshape(x, (*lead, count, width // count))


def normalized(node: Node, x: Instruction) -> Instruction:
    """X divided by its root mean square along the last axis."""
    axes, epsilon = (x.shape.rank - 1,), node.number("epsilon", 1e-5)
    return over_root_mean_square(node, x, axes, epsilon)[0]


@importer("HyperConnectionPreMix", domain=DOMAIN)
def before_streams(node: Node) -> Instruction:
    """The sum of all streams, each times its gates."""
    x = in_streams(node, node.convert(node.input(0), F32))
    parts = node.add(ops.Mul(), x, gates(node, 1, x.shape.dims))
    axis = x.shape.rank - 2
    total = folded(node, ops.ReduceSum((axis,)), parts)
    total = scaled(node, total, node.number("reduction_scale", 1.0))
    return node.convert(total, node.input(0).shape.dtype)


@importer("HyperConnectionPostMix", domain=DOMAIN)
def after_streams(node: Node) -> Instruction:
    """The streams, perhaps mixed by a matrix, plus a block's result times their gates."""
    given, mix = node.input(0), node.optional(3)
    x = in_streams(node, node.convert(given, F32))
    rank = x.shape.rank
    made = node.add(ops.Unsqueeze((rank - 2,)), node.convert(node.input(1), F32))
    made = node.add(ops.Mul(), gates(node, 2, x.shape.dims), made)
    if mix is not None:
        turn = ops.Transpose((*range(rank - 2), rank - 1, rank - 2))
        x = node.add(ops.Dot(), node.add(turn, node.convert(mix, F32)), x)
    total = node.reshape(node.add(ops.Add(), x, made), given.shape.dims)
    return node.convert(total, given.shape.dtype)


def gates(node: Node, place: int, dims: tuple[Extent, ...]) -> Instruction:
    """Gates of streams as [..., streams, size]: one for each stream, with or without a last axis of
    size 1, or one for each element, with separate or merged axes.
    """
    x = node.convert(node.input(place), F32)
    *lead, count, size = dims
    if x.shape.rank == len(dims):
        return x
    if x.shape.rank == len(dims) - 1 and may_equal(x.shape.dims[-1], count):
        return node.add(ops.Unsqueeze((x.shape.rank,)), x)
    if x.shape.rank == len(dims) - 1 and may_equal(x.shape.dims[-1], count * size):
        return node.reshape(x, dims)
    wide, name = ", ".join(map(str, (*lead, count))), node.proto.input[place]
    raise node.fail(f"{name!r} {x.shape}: ({wide}), ({wide}, 1) or ({wide}, {size}) is wanted")


@importer("EngramGate", domain=DOMAIN)
def engram_gate(node: Node) -> tuple[Instruction, ...]:
    """A value times the sigmoid of the signed square root of the product of keys and queries, both
    normalised. The second result is the first, RMS-normalised, if a scale for it is given.
    """
    key, query, value = (node.convert(node.input(i), F32) for i in range(3))
    dtype, size = node.input(2).shape.dtype, key.shape.dims[-1]
    if not isinstance(size, int):
        raise node.fail(f"the size of {node.proto.input[0]!r} {key.shape} must be a number")
    sides = [
        node.add(ops.Mul(), normalized(node, x), node.convert(node.input(i), F32))
        for i, x in ((3, key), (4, query))
    ]
    agree = node.add(ops.ReduceSum((3,)), node.add(ops.Mul(), *sides))
    agree = scaled(node, agree, 1 / math.sqrt(size))
    large = node.add(ops.Max(), node.add(ops.Abs(), agree), 1e-6)
    root = node.add(ops.Mul(), node.add(ops.Sign(), agree), node.add(ops.Sqrt(), large))
    value = node.add(ops.Unsqueeze((2,)), value)
    made = node.add(ops.Mul(), node.add(ops.Sigmoid(), root), value)
    result = node.convert(made, dtype)
    if (scale := node.optional(5)) is None:
        return (result,)
    normed = node.add(ops.Mul(), normalized(node, made), node.convert(scale, F32))
    return result, node.convert(normed, dtype)
