"""Sequences of different lengths packed without padding, as operators of ``com.microsoft`` have
them: tokens [tokens, size], and their positions in [batch, length], those of padding last.
"""

from __future__ import annotations

from migx import ops
from migx.builders import arange, concatenate
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops.attention import attended, projected, self_attended, unpacked
from migx.onnx.ops.contrib import DOMAIN
from migx.onnx.ops.linear import matrix_product
from migx.shape import I32, I64


@importer("RemovePadding", domain=DOMAIN)
def remove_padding(node: Node) -> tuple[Instruction, ...]:
    """The tokens, their positions, the cumulative lengths from 0 on, and the largest length."""
    x, counts = node.input(0), node.convert(node.input(1), I64)
    batch, length, size = node.dims_of(0, 3)
    node.expect_dims(1, (batch,))
    seen = node.add(ops.Less(), arange(node, length), node.add(ops.Unsqueeze((1,)), counts))
    seen = node.reshape(node.broadcast_to(seen, (batch, length)), (batch * length,))
    there = node.add(ops.Squeeze((0,)), node.add(ops.Nonzero(node.fresh("tokens")), seen))
    tokens = node.add(ops.Gather(0), node.reshape(x, (batch * length, size)), there)
    _, places = node.elements(node.add(ops.Topk(batch * length, 0), node.convert(seen, I32)), 2)
    before = node.add(ops.PrefixScanSum(0), counts)
    before = concatenate(node, 0, [node.literal([0], I64), before])
    found = (node.reshape(places, (batch, length)), before, node.add(ops.ReduceMax((0,)), counts))
    return tokens, *(node.convert(v, I32) for v in found)


@importer("RestorePadding", domain=DOMAIN)
def restore_padding(node: Node) -> Instruction:
    """The tokens at their positions, with 0 as padding."""
    node.dims_of(0, 2)
    return padded(node, node.input(0), 1)


@importer("PackedAttention", domain=DOMAIN)
def packed_attention(node: Node) -> Instruction:
    """Attention within each sequence; one product of tokens gives queries, keys and values."""
    node.dims_of(0, 2)
    whole = padded(node, matrix_product(node, ops.Dot(), node.input(0), node.input(1)), 3)
    mask = lengths(node, 4)
    result = self_attended(node, whole, node.input(2), mask, None, node.optional(5))[0]
    return without_padding(node, result, 3)


@importer("PackedMultiHeadAttention", domain=DOMAIN)
def packed_multi_head_attention(node: Node) -> Instruction:
    """Attention within each sequence; queries may be packed with keys and values, as [tokens,
    heads, 3, size].
    """
    given = (node.input(0), node.optional(1), node.optional(2))
    q, k, v = (x if x is None else padded(node, x, 4) for x in given)
    assert q is not None, "it is required"
    heads = node.integer("num_heads")
    q, k, v = projected(node, unpacked(node, q, k, v), node.optional(3), heads)
    result, _ = attended(node, q, k, v, lengths(node, 5), node.optional(6), 0)
    return without_padding(node, result, 4)


def padded(node: Node, x: Instruction, places: int) -> Instruction:
    """Tokens [tokens, ...] at their positions, as [batch, length, ...] with 0 as padding;
    ``places`` is the number of the operand with the positions.
    """
    (batch, length), (_, *rest) = node.dims_of(places, 2), x.shape.dims
    nothing = node.full(0, x.shape.dtype, (batch * length, *rest))
    index = node.add(ops.Unsqueeze((1,)), of_tokens(node, places))
    return node.reshape(node.add(ops.ScatterndNone(), nothing, index, x), (batch, length, *rest))


def without_padding(node: Node, x: Instruction, places: int) -> Instruction:
    """The tokens of [batch, length, size], without padding."""
    batch, length, size = x.shape.dims
    flat = node.reshape(x, (batch * length, size))
    return node.add(ops.Gather(0), flat, of_tokens(node, places))


def of_tokens(node: Node, places: int) -> Instruction:
    """The positions of the tokens, without those of padding."""
    batch, length = node.dims_of(places, 2)
    flat = node.reshape(node.convert(node.input(places), I64), (batch * length,))
    return node.add(ops.Slice((0,), (0,), (node.input(0).shape.dims[0],)), flat)


def lengths(node: Node, index: int) -> Instruction:
    """The lengths of the sequences, from the operand with their cumulative lengths, which follows
    that with the positions.
    """
    batch, _ = node.dims_of(index - 1, 2)
    (before,) = node.dims_of(index, 1)
    first, last = (
        node.add(ops.Slice((0,), (i,), (before - 1 + i,)), node.input(index)) for i in (0, 1)
    )
    return node.reshape(node.add(ops.Sub(), last, first), (batch,))
