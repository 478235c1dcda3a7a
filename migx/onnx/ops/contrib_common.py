"""Operators of ``com.microsoft`` that say what ONNX has an operator for, or nearly."""

from __future__ import annotations

from migx import ops
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops._delegate import all_of, channels_first, channels_last, delegated
from migx.onnx.ops.contrib import DOMAIN, normalized_groups
from migx.onnx.ops.elementwise import binary, plus
from migx.onnx.ops.linear import matrix_product
from migx.shape import I32


@importer("GatherND", "GridSample", "Pad", "Range", "Trilu", domain=DOMAIN)
def taken_over(node: Node) -> Instruction:
    """Operators that ONNX has under that name by now."""
    inputs = list(node.inputs)
    if node.proto.op_type == "Range" and len(inputs) == 2:
        inputs.append(node.literal(1, node.input(0).shape.dtype))
    return delegated(node, node.proto.op_type, *inputs)


@importer("ExpandDims", domain=DOMAIN)
def expand_dims(node: Node) -> Instruction:
    """A new axis at a place that one integer tells."""
    return delegated(node, "Unsqueeze", node.input(0), node.reshape(node.input(1), (1,)))


@importer("Unique", domain=DOMAIN)
def unique(node: Node) -> tuple[Instruction, ...]:
    """The elements there are, where each stands among them, and how often it occurs."""
    found, _, place, count = all_of(node, "Unique", node.input(0), sorted=0)
    return found, place, count


@importer("MatMulInteger16", domain=DOMAIN)
def matmul_integer(node: Node) -> Instruction:
    """A product of integers of 16 bits, in 32."""
    sides = [node.convert(node.input(i), I32) for i in (0, 1)]
    return matrix_product(node, ops.Dot(), *sides)


@importer("GemmFastGelu", domain=DOMAIN)
def gemm_fast_gelu(node: Node) -> Instruction:
    product = matrix_product(node, ops.Dot(), node.input(0), node.input(1))
    return delegated(node, "Gelu", plus(node, product, node.optional(2)), approximate="tanh")


@importer("NhwcMaxPool", domain=DOMAIN)
def channels_last_max_pool(node: Node) -> Instruction:
    return channels_last(node, delegated(node, "MaxPool", channels_first(node, node.input(0))))


@importer("SkipGroupNorm", domain=DOMAIN)
def skip_group_norm(node: Node) -> tuple[Instruction, Instruction]:
    """GroupNorm of the sum of the input, the skip and a bias, which is the last result."""
    x, skip = node.input(0), node.input(3)
    if skip.shape.rank == 2:
        skip = node.add(ops.Unsqueeze((1, 2)), skip)
    total = plus(node, binary(node, ops.Add(), x, skip), node.optional(4))
    return normalized_groups(node, total), total


@importer("CDist", domain=DOMAIN)
def distances(node: Node) -> Instruction:
    """How far each row of the one is from each of the other."""
    rows, others = node.input(0), node.input(1)
    apart = binary(
        node, ops.Sub(), node.add(ops.Unsqueeze((1,)), rows), node.add(ops.Unsqueeze((0,)), others)
    )
    square = node.add(ops.ReduceSum((2,)), node.add(ops.Mul(), apart, apart))
    square = node.add(ops.Squeeze((2,)), square)
    metric = node.string("metric", "sqeuclidean")
    if metric not in ("euclidean", "sqeuclidean"):
        raise node.fail(f"no metric {metric!r}; there are euclidean and sqeuclidean")
    return square if metric == "sqeuclidean" else node.add(ops.Sqrt(), square)
