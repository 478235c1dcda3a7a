"""Operators of ``com.microsoft`` that fuse norms with products with weights of a few bits."""

from __future__ import annotations

from migx import ops
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops.contrib import DOMAIN, affine, self_gated
from migx.onnx.ops.elementwise import plus
from migx.onnx.ops.normalization import over_root_mean_square
from migx.onnx.ops.quantization import n_bits_product
from migx.shape import F32


@importer("MatMulNBitsMlp", domain=DOMAIN)
def gated_projection(node: Node) -> tuple[Instruction, Instruction]:
    """SiLU of one product, times another."""
    if (kind := node.string("activation")) != "silu":
        raise node.fail(f"activation {kind!r} is not supported; silu is")
    total, x = normalized(node)
    n = node.integer("N")
    gate, up = (n_bits_product(node, x, n, i, i + 1, i + 2) for i in (3, 6))
    return node.add(ops.Mul(), self_gated(node, gate), up), total


@importer("MatMulNBitsQkv", domain=DOMAIN)
def attention_projections(node: Node) -> tuple[Instruction, ...]:
    """Queries, keys and values, and the sum they are projected from, before the norm."""
    total, x = normalized(node)
    rows = node.integer("Nq"), node.integer("Nkv"), node.integer("Nkv")
    made = [n_bits_product(node, x, n, i, i + 1, i + 2)
            for n, i in zip(rows, (3, 6, 9), strict=True)]  # fmt: skip
    return *made, total


def normalized(node: Node) -> tuple[Instruction, Instruction]:
    """The sum of the input and the skip, and its RMSNormalization, if a scale is given."""
    total = plus(node, node.input(0), node.optional(1))
    if (scale := node.optional(2)) is None:
        return total, total
    wide, axes = node.convert(total, F32), (total.shape.rank - 1,)
    default = 1e-5 if node.proto.op_type == "MatMulNBitsMlp" else 1e-6
    result, _ = over_root_mean_square(node, wide, axes, node.number("epsilon", default))
    return total, affine(node, result, total, scale, None)
