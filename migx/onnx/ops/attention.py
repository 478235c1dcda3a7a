"""The attention operators of ``com.microsoft``.

All become products, a softmax and a product. Queries, keys and values are [batch, heads, length,
size] internally.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from migx import ops
from migx.builders import arange, at_index, number, parted, stacked
from migx.dim import Extent
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops._common import divided
from migx.onnx.ops.contrib import DOMAIN
from migx.onnx.ops.elementwise import plus
from migx.onnx.ops.linear import matrix_product, scaled
from migx.onnx.ops.qlinear import dequantized
from migx.shape import F32, I64

Pair = tuple[Instruction, Instruction]


@importer("Attention", domain=DOMAIN)
def attention(node: Node) -> tuple[Instruction, ...]:
    """Queries, keys and values come from one product of the input."""
    if node.optional(6) is not None:
        raise node.fail("past_sequence_length is not supported")
    whole = matrix_product(node, ops.Dot(), node.input(0), node.input(1))
    return self_attended(node, whole, *(node.optional(i) for i in (2, 3, 4, 5)))


@importer("QAttention", domain=DOMAIN)
def quantized_attention(node: Node) -> tuple[Instruction, ...]:
    """Attention of a quantised input and weights; their product is dequantised."""
    x = dequantized(node, node.input(0), node.input(3), node.optional(6), -1)
    weights = dequantized(node, node.input(1), node.input(4), node.optional(7), -1)
    whole = matrix_product(node, ops.Dot(), x, weights)
    return self_attended(node, whole, node.input(2), node.optional(5), node.optional(8), None)


def self_attended(
    node: Node,
    whole: Instruction,
    bias: Instruction | None,
    mask: Instruction | None,
    past: Instruction | None,
    scores_bias: Instruction | None,
) -> tuple[Instruction, ...]:
    """Attention of queries, keys and values that are concatenated; ``past`` and ``present`` contain
    keys and values.
    """
    if node.integer("do_rotary", 0):
        raise node.fail("do_rotary is not supported")
    heads = node.integer("num_heads")
    whole = plus(node, whole, bias)
    third = whole.shape.dims[-1] // 3
    sizes = node.integers("qkv_hidden_sizes", ()) or (third, third, third)
    q, k, v = (headed(node, part, heads) for part in divided(node, whole, sizes))
    behind: Extent = 0
    if past is not None:
        behind = past.shape.dims[3]
        old = [at_index(node, past, 0, i) for i in range(2)]
        k, v = (node.add(ops.Concat(2), *pair) for pair in zip(old, (k, v), strict=True))
    result, _ = attended(node, q, k, v, mask, scores_bias, behind)
    if node.outputs < 2:
        return (result,)
    return result, stacked(node, 0, (k, v))


@importer("MultiHeadAttention", domain=DOMAIN)
def multi_head_attention(node: Node) -> tuple[Instruction, ...]:
    """Operands are hidden states or heads; keys and values may be packed into one operand. The
    fourth result is the scores, with -inf for keys after their query if attention is causal.
    """
    for place, name in ((8, "past_sequence_length"), (9, "cache_indirection")):
        if node.optional(place) is not None:
            raise node.fail(f"{name} is not supported")
    q, k, v = unpacked(node, node.input(0), node.optional(1), node.optional(2))
    q, k, v = projected(node, (q, k, v), node.optional(3), node.integer("num_heads"))
    behind: Extent = 0
    for i, name in ((6, "past_key"), (7, "past_value")):
        if (past := node.optional(i)) is not None:
            behind = past.shape.dims[2]
            joined = node.add(ops.Concat(2), past, k if name == "past_key" else v)
            k, v = (joined, v) if name == "past_key" else (k, joined)
    result, scores = attended(node, q, k, v, node.optional(4), node.optional(5), behind)
    return result, k, v, scores


def projected(
    node: Node, given: Sequence[Instruction], bias: Instruction | None, heads: int
) -> list[Instruction]:
    """Queries, keys and values with their parts of the bias added, split into heads; those already
    split are unchanged.
    """
    parts: Sequence[Instruction | None] = (None, None, None)
    if bias is not None:
        width = given[0].shape.dims[-1]
        parts = parted(node, bias, (width, width, bias.shape.dims[0] - 2 * width))
    return [
        x if x.shape.rank == 4 else headed(node, plus(node, x, part), heads)
        for x, part in zip(given, parts, strict=True)
    ]


def unpacked(
    node: Node, q: Instruction, k: Instruction | None, v: Instruction | None
) -> tuple[Instruction, Instruction, Instruction]:
    """Unpacks queries, keys and values from [batch, length, heads, 3, size], or keys and values
    from [batch, length, heads, 2, size].
    """
    if k is None:
        parts = split_heads(node, q, 3)
        return parts[0], parts[1], parts[2]
    if v is None:
        first, second = split_heads(node, k, 2)
        return q, first, second
    return q, k, v


def split_heads(node: Node, x: Instruction, count: int) -> list[Instruction]:
    if x.shape.rank != 5:
        raise node.fail(f"packed heads are [batch, length, heads, {count}, size], not {x.shape}")
    batch, length, heads, _, size = x.shape.dims
    parts = parted(node, x, (1,) * count, 3)
    return [node.reshape(part, (batch, length, heads * size)) for part in parts]


def headed(node: Node, x: Instruction, heads: int) -> Instruction:
    """[batch, length, heads * size] as [batch, heads, length, size]."""
    if x.shape.rank != 3 or heads < 1:
        raise node.fail(
            f"{heads} heads of {x.shape}: 1 or more of [batch, length, size] are wanted"
        )
    batch, length, width = x.shape.dims
    apart = node.reshape(x, (batch, length, heads, width // heads))
    return node.add(ops.Transpose((0, 2, 1, 3)), apart)


def merged(node: Node, x: Instruction) -> Instruction:
    """[batch, heads, length, size] as [batch, length, heads * size]."""
    batch, heads, length, size = x.shape.dims
    return node.reshape(node.add(ops.Transpose((0, 2, 1, 3)), x), (batch, length, heads * size))


def weighed(node: Node, scores: Instruction, v: Instruction) -> Instruction:
    """Values weighed by the softmax of scores, with heads merged."""
    return merged(node, node.add(ops.Dot(), node.add(ops.Softmax(3), scores), v))


def attended(
    node: Node,
    q: Instruction,
    k: Instruction,
    v: Instruction,
    mask: Instruction | None,
    bias: Instruction | None,
    behind: Extent,
) -> Pair:
    """softmax(q kᵀ scale + bias + mask) v with its heads merged, and the softmax's operand;
    ``behind`` keys come before the first query.
    """
    scores = masked_scores(node, q, k, mask, bias)
    if node.integer("unidirectional", 0):
        scores = causal(node, scores, behind)
    return weighed(node, scores, v), scores


def masked_scores(
    node: Node,
    q: Instruction,
    k: Instruction,
    mask: Instruction | None,
    bias: Instruction | None,
) -> Instruction:
    """The scores q kᵀ scale + bias + mask."""
    scores = plus(node, products(node, q, k), bias)
    if mask is None:
        return scores
    filler = node.number("mask_filter_value", -10000.0)
    allowed = mask_of(node, mask, k.shape.dims[0], k.shape.dims[2])
    zero, low = (node.literal(value, scores.shape.dtype) for value in (0.0, filler))
    added = node.add(ops.Where(), allowed, zero, low)
    return node.add(ops.Add(), scores, added)


def products(node: Node, q: Instruction, k: Instruction) -> Instruction:
    """The products q kᵀ times the given scale, or divided by the square root of the size of a
    head.
    """
    product = node.add(ops.Dot(), q, node.add(ops.Transpose((0, 1, 3, 2)), k))
    scale, size = node.number("scale", 0.0), q.shape.dims[-1]
    if scale or isinstance(size, int):
        return scaled(node, product, scale or 1 / math.sqrt(size))
    inverse = node.add(ops.Rsqrt(), node.convert(node.dims([size]), F32))
    return node.add(ops.Mul(), product, node.convert(inverse, product.shape.dtype))


def mask_of(node: Node, mask: Instruction, batch: Extent, total: Extent) -> Instruction:
    """The keys that may be attended to, as bool that broadcasts to [batch, heads, length, total].

    The operand is lengths [batch]; lengths and offsets [3 * batch + 2]; ends, then starts [2 *
    batch]; or a mask of ones of rank 2, 3 or 4.
    """
    if mask.shape.rank > 1:
        axes = {2: (1, 2), 3: (1,)}.get(mask.shape.rank, ())
        seen = node.add(ops.Unsqueeze(axes), mask) if axes else mask
        return node.add(ops.Greater(), seen, 0)
    places = arange(node, total)
    count = mask.shape.dims[0]
    if count in (batch, 3 * batch + 2):
        lengths = mask if count == batch else parted(node, mask, (batch, 2 * batch + 2))[0]
        return node.add(ops.Less(), places, column(node, lengths, batch))
    if count != 2 * batch:
        raise node.fail(f"a mask {mask.shape} for a batch of {batch} is not supported")
    ends, starts = (column(node, part, batch) for part in parted(node, mask, (batch, batch)))
    inside = node.add(ops.Less(), places, ends)
    return node.add(ops.LogicalAnd(), inside, node.add(ops.GreaterOrEqual(), places, starts))


def column(node: Node, x: Instruction, batch: Extent) -> Instruction:
    """One integer for each batch item, as i64 [batch, 1, 1, 1]."""
    return node.reshape(node.convert(x, I64), (batch, 1, 1, 1))


def causal(node: Node, scores: Instruction, behind: Extent) -> Instruction:
    """Scores with -inf for keys after their query; ``behind`` keys come before the first query."""
    length, total = scores.shape.dims[-2:]
    query = node.add(ops.Add(), arange(node, length), number(node, behind))
    query = node.add(ops.Unsqueeze((1,)), query)
    allowed = node.add(ops.LessOrEqual(), arange(node, total), query)
    return kept(node, scores, allowed)


def kept(node: Node, scores: Instruction, allowed: Instruction) -> Instruction:
    """Scores with -inf where not allowed."""
    return node.add(ops.Where(), allowed, scores, -math.inf)


def rotated(
    node: Node, x: Instruction, places: Instruction, tables: Pair, interleaved: bool, used: int = 0
) -> Instruction:
    """Rotates pairs of elements of each head by the angle of their position; the tables contain
    cosines and sines [positions, pairs].
    """
    angles = [node.add(ops.Gather(0), table, places) for table in tables]
    return turned(node, x, (angles[0], angles[1]), interleaved, used)


def turned(
    node: Node, x: Instruction, angles: Pair, interleaved: bool, used: int = 0
) -> Instruction:
    """Rotates pairs of elements of each head by angles, given as cosines and sines [batch, length,
    pairs]; elements beyond the ``used`` ones are unchanged.
    """
    size = x.shape.dims[-1]
    width: Extent = used or 2 * angles[0].shape.dims[2]
    rest = []
    if width != size:
        x, tail = parted(node, x, (width, size - width))
        rest = [tail]
    pairs = width // 2
    *lead, _ = x.shape.dims
    apart = node.reshape(x, (*lead, pairs, 2) if interleaved else (*lead, 2, pairs))
    axis = 4 if interleaved else 3
    a, b = (at_index(node, apart, axis, i) for i in range(2))
    cos, sin = (node.add(ops.Unsqueeze((1,)), v) for v in angles)
    first = node.add(ops.Sub(), node.add(ops.Mul(), a, cos), node.add(ops.Mul(), b, sin))
    second = node.add(ops.Add(), node.add(ops.Mul(), a, sin), node.add(ops.Mul(), b, cos))
    made = node.reshape(stacked(node, axis, (first, second)), x.shape.dims)
    return node.add(ops.Concat(3), made, *rest) if rest else made
