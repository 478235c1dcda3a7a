"""Biases of ``com.microsoft`` for attention scores, by the distance of keys from queries."""

from __future__ import annotations

import numpy as np

from migx import ops
from migx.builders import parted
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops._common import delegated
from migx.onnx.ops.attention import headed
from migx.onnx.ops.contrib import DOMAIN
from migx.onnx.ops.elementwise import plus
from migx.onnx.ops.linear import matrix_product, scaled
from migx.op import Array
from migx.shape import I64


@importer("RelativePositionBias", domain=DOMAIN)
def relative_position_bias(node: Node) -> Instruction:
    """For each head a number for the bucket of each distance, [1, heads, queries, keys], as in T5.
    The table's dims are [buckets, heads], but it is stored head by head.
    """
    table, most = node.input(0), node.integer("max_distance")
    buckets, heads = node.dims_of(0, 2)
    both = bool(node.integer("is_bidirectional", 0))
    each = buckets // 2 if both else buckets
    if not isinstance(each, int) or each < 2 or most <= each // 2:
        raise node.fail(
            f"{buckets} buckets for a max_distance of {most}: it must exceed half of those of "
            "one direction, which has 2 or more"
        )
    query, key = (positions(node, i) for i in (1, 2))
    ahead = node.add(ops.Sub(), key, node.add(ops.Unsqueeze((1,)), query))
    zero = node.literal(0, I64)
    behind = node.add(ops.Neg(), ahead)
    far = node.add(ops.Abs(), ahead) if both else node.add(ops.Max(), behind, zero)
    far = node.add(ops.Min(), far, most)
    bucket = node.add(ops.Gather(0), node.literal(buckets_of(each, most)), far)
    if both:
        after = node.convert(node.add(ops.Greater(), ahead, zero), I64)
        bucket = node.add(ops.Add(), bucket, scaled(node, after, each))
    rows = node.reshape(table, (heads, buckets))
    return node.add(ops.Unsqueeze((0,)), node.add(ops.Gather(1), rows, bucket))


def positions(node: Node, place: int) -> Instruction:
    """The integers from 0 to below a length, which is an operand."""
    length = node.reshape(node.convert(node.input(place), I64), ())
    return delegated(node, "Range", node.literal(0, I64), length, node.literal(1, I64))


def buckets_of(count: int, most: int) -> Array:
    """The bucket of each distance up to the maximum: half of them have one distance each, the
    others logarithmic ranges. Computed in f32, with which models are trained.
    """
    exact = count // 2
    distance = np.arange(most + 1)
    part = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    part = part / np.float32(np.log(most / exact)) * np.float32(count - exact)
    far = np.minimum(exact + part.astype(np.int64), count - 1)
    return np.where(distance < exact, distance, far)


@importer("GatedRelativePositionBias", domain=DOMAIN)
def gated_relative_position_bias(node: Node) -> Instruction:
    """A position bias times u * (r * a - 1) + 2, where the gates u and r come from sums over halves
    of a product of each query.
    """
    if node.optional(6) is not None:
        raise node.fail("token_offset is not supported; without it rows are [batch, length, size]")
    x = node.add(ops.Add(), node.input(0), node.input(1))
    q = headed(node, x, node.integer("num_heads"))
    made = plus(node, matrix_product(node, ops.Dot(), q, node.input(3)), node.input(4))
    *lead, width = made.shape.dims
    halves = node.reshape(made, (*lead, 2, width // 2))
    gates = node.add(ops.Sigmoid(), node.add(ops.ReduceSum((4,)), halves))
    u, r = parted(node, node.add(ops.Squeeze((4,)), gates), (1, 1))
    inner = node.add(ops.Mul(), r, node.input(5))
    inner = node.add(ops.Sub(), inner, 1)
    factor = node.add(ops.Mul(), u, inner)
    return node.add(ops.Mul(), node.add(ops.Add(), factor, 2), node.input(2))
