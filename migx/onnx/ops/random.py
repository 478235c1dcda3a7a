"""ONNX operators that draw random numbers. A node without a seed has one from its name."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from migx import ops
from migx.builders import folded
from migx.dim import Extent
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.op import Operation
from migx.shape import F32, DType


def seed(node: Node) -> int:
    """The bits of the seed, which is a float, or a hash of the node's name."""
    if not node.has("seed"):
        return zlib.crc32(node.label.encode())
    return int.from_bytes(struct.pack(">f", node.number("seed")), "big")


def drawn(node: Node, dims: Sequence[Extent], to: DType) -> Operation:
    """The operation for a RandomUniform or RandomNormal."""
    made: Operation
    if node.proto.op_type.startswith("RandomUniform"):
        low, high = node.number("low", 0.0), node.number("high", 1.0)
        made = ops.RandomUniform(seed(node), tuple(dims), to, low=low, high=high)
    else:
        mean, scale = node.number("mean", 0.0), node.number("scale", 1.0)
        made = ops.RandomNormal(seed(node), tuple(dims), to, mean=mean, scale=scale)
    return made


@importer("RandomUniform", "RandomNormal")
def random(node: Node) -> Instruction:
    return node.add(drawn(node, node.integers("shape"), node.dtype("dtype", 1)))


@importer("RandomUniformLike", "RandomNormalLike")
def random_like(node: Node) -> Instruction:
    """The type is that of the input unless given."""
    x = node.input(0)
    to = node.dtype("dtype") if node.has("dtype") else x.shape.dtype
    return node.add(drawn(node, x.shape.dims, to))


@importer("Bernoulli", since=15)
def bernoulli(node: Node) -> Instruction:
    """1 with the given probability. ONNX's own function body has it the other way round."""
    x = node.input(0)
    to = node.dtype("dtype") if node.has("dtype") else x.shape.dtype
    uniform = node.add(ops.RandomUniform(seed(node), x.shape.dims, x.shape.dtype))
    return node.convert(node.add(ops.Less(), uniform, x), to)


@importer("Multinomial", since=7)
def multinomial(node: Node) -> Instruction:
    """The maxima of log-probabilities, each minus the logarithm of an exponential variate."""
    x, count = node.input(0), node.integer("sample_size", 1)
    batch, classes = node.dims_of(0, 2)
    # A uniform variate may be 0, but not 1.
    uniform = node.add(ops.RandomUniform(seed(node), (batch, count, classes), F32))
    rest = node.add(ops.Sub(), 1, uniform)
    variate = node.add(ops.Neg(), node.add(ops.Log(), rest))
    chances = node.convert(node.add(ops.Unsqueeze((1,)), x), F32)
    scores = node.add(ops.Sub(), chances, node.add(ops.Log(), variate))
    place = folded(node, ops.Argmax(2), scores)
    return node.convert(place, node.dtype("dtype", 6))
