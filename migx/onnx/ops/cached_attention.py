"""Attention of ``com.microsoft`` with caches of keys and values that have room for more."""

from __future__ import annotations

from migx import ops
from migx.builders import arange, folded, number, parted, stacked
from migx.dim import Extent, may_equal
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops._common import equal_parts, repeated, up_to
from migx.onnx.ops.attention import (
    Pair,
    column,
    headed,
    kept,
    masked_scores,
    products,
    rotated,
    weighed,
)
from migx.onnx.ops.contrib import DOMAIN
from migx.onnx.ops.elementwise import plus
from migx.onnx.ops.group_query import kept_with, separate
from migx.shape import BOOL, I64


@importer("DecoderMaskedMultiHeadAttention", domain=DOMAIN)
def decoding_attention(node: Node) -> tuple[Instruction, ...]:
    """Attention of one query to cached keys, its own included, or to those of an encoder.

    Keys have the layout of values, as on a CPU; on GPUs onnxruntime uses another. The fourth result
    is the scores.
    """
    q, k, v = node.input(0), node.optional(1), node.optional(2)
    heads = node.integer("num_heads")
    if k is None or v is None:
        q, k, v = equal_parts(node, q, 3)
    if not may_equal(q.shape.dims[1], 1):
        raise node.fail(f"{node.proto.input[0]!r} {q.shape}: one query is wanted, [batch, 1, size]")
    biases: list[Instruction] = []
    if (bias := node.optional(10)) is not None:
        width = q.shape.dims[-1]
        biases = parted(node, bias, (width, width, bias.shape.dims[0] - 2 * width))
    q = headed(node, plus(node, q, biases[0] if biases else None), heads)
    given = (k, v)
    if (node.optional(5) is None) != (k.shape.rank == 4):
        raise node.fail(
            "past keys need keys [batch, 1, size]; keys of an encoder (rank 4) take none"
        )
    if k.shape.rank == 4:
        return attended_to(node, q, given, given)
    k, v = (
        headed(node, plus(node, x, part), heads)
        for x, part in zip(given, biases[1:] or (None, None), strict=True)
    )
    if not node.integer("past_present_share_buffer", 0):
        whole = [node.add(ops.Concat(2), node.input(i), x) for i, x in ((5, k), (6, v))]
        return attended_to(node, q, (whole[0], whole[1]), (whole[0], whole[1]))
    place = node.reshape(node.convert(node.input(7), I64), (1, 1, 1, 1))
    present = put(node, node.input(5), k, place), put(node, node.input(6), v, place)
    seen = first_of_beams(node, present, place)
    return attended_to(node, q, seen, present)


def attended_to(node: Node, q: Instruction, seen: Pair, present: Pair) -> tuple[Instruction, ...]:
    """The results of attention to keys and values."""
    scores = masked_scores(node, q, seen[0], node.optional(3), node.optional(4))
    return weighed(node, scores, seen[1]), *present, scores


def put(node: Node, past: Instruction, new: Instruction, place: Instruction) -> Instruction:
    """The cache with one new row at a position."""
    return node.add(ops.ScatterNone(2), past, node.broadcast_to(place, new.shape.dims), new)


def first_of_beams(node: Node, present: Pair, place: Instruction) -> Pair:
    """The keys and values up to a position, each from its beam, if beams are given."""
    batch, _, room, _ = present[0].shape.dims
    told = [v.shape.dims[-1] for v in (node.optional(4), node.optional(3)) if v is not None]
    total = told[0] if told else node.fresh("total")
    end = node.add(ops.Add(), place, 1)
    cut = [up_to(node, x, 2, end, total) for x in present]
    beams, width = node.optional(9), node.optional(8)
    if beams is None or width is None:
        return cut[0], cut[1]
    beams = node.reshape(node.convert(beams, I64), (batch, room))
    beams = up_to(node, beams, 1, end, total)
    width = node.reshape(node.convert(width, I64), (1, 1))
    own = node.add(ops.Unsqueeze((1,)), arange(node, batch))
    first = node.add(ops.Mul(), node.add(ops.Div(), own, width), width)
    rows = node.add(ops.Add(), first, beams)
    times = node.add(ops.Unsqueeze((0,)), arange(node, total))
    latest = node.add(ops.Equal(), times, node.reshape(place, (1, 1)))
    rows = node.add(ops.Where(), latest, own, rows)
    index, turn = stacked(node, 2, node.broadcast(rows, times)), ops.Transpose((0, 2, 1, 3))
    k, v = (node.add(turn, node.add(ops.Gathernd(), node.add(turn, x), index)) for x in cut)
    return k, v


@importer("SparseAttention", domain=DOMAIN)
def sparse_attention(node: Node) -> tuple[Instruction, ...]:
    """Grouped-query attention in which a query attends to some blocks of the keys up to its
    position. Heads use the block layouts in turn.
    """
    heads, groups = node.integer("num_heads"), node.integer("kv_num_heads")
    q, k, v = separate(node, heads, groups)
    batch, length = q.shape.dims[0], q.shape.dims[2]
    known = node.add(ops.Sub(), column(node, node.input(8), batch), number(node, length))
    start = node.add(ops.Max(), known, 0)
    places = node.add(ops.Add(), start, arange(node, length))
    if node.integer("do_rotary", 0):
        tables, mixed = (node.input(9), node.input(10)), bool(node.integer("rotary_interleaved", 0))
        turn = node.reshape(places, (batch, length))
        q, k = (rotated(node, x, turn, tables, mixed) for x in (q, k))
    room = node.input(3).shape.dims[2]
    k = kept_with(node, node.input(3), k, places, room)
    v = kept_with(node, node.input(4), v, places, room)
    total = node.extents(node.input(7))
    end: Extent = node.fresh("total") if total is None else total[0]
    seen = [first_keys(node, x, end) for x in (k, v)]
    keys, values = (repeated(node, x, 1, heads) for x in seen)
    scores = products(node, q, keys)
    allowed = in_layout(node, heads, node.reshape(places, (batch, length)), arange(node, end))
    past = node.add(
        ops.LessOrEqual(), arange(node, end), node.add(ops.Transpose((0, 1, 3, 2)), places)
    )
    scores = kept(node, scores, node.add(ops.LogicalAnd(), allowed, past))
    return weighed(node, scores, values), k, v


def first_keys(node: Node, x: Instruction, total: Extent) -> Instruction:
    """The first ``total`` keys or values."""
    if isinstance(total, int) or node.extents(node.input(7)) is not None:
        return node.add(ops.Slice((2,), (0,), (total,)), x)
    return up_to(node, x, 2, node.input(7), total)


def in_layout(node: Node, heads: int, queries: Instruction, keys: Instruction) -> Instruction:
    """Whether the layout of a head contains the block of a query and a key: bool [batch, heads,
    queries, keys], for positions of queries [batch, queries] and of keys.
    """
    size = node.literal(node.integer("sparse_block_size"), I64)
    table = layouts(node)
    row, col = (node.add(ops.Div(), x, size) for x in (queries, keys))
    rows = node.add(ops.Gather(1), table, row)
    seen = node.add(ops.Transpose((1, 0, 2, 3)), node.add(ops.Gather(3), rows, col))
    batch, count, *rest = seen.shape.dims
    if not isinstance(count, int) or heads % count:
        raise node.fail(f"{count} layouts for {heads} heads, which are no multiple of them")
    each = node.broadcast_to(
        node.add(ops.Unsqueeze((1,)), seen), (batch, heads // count, *seen.shape.dims[1:])
    )
    return node.reshape(each, (batch, heads, *rest))


def layouts(node: Node) -> Instruction:
    """The blocks of keys that each block of queries attends to, bool [layouts, blocks, blocks],
    from a CSR matrix: row offsets and columns, which may have unused ones at the end.
    """
    begins, columns = (node.convert(node.input(i), I64) for i in (5, 6))
    count, blocks = begins.shape.dims[0], begins.shape.dims[1] - 1
    entries = columns.shape.dims[1]
    ends = node.add(ops.Slice((1,), (1,), (blocks + 1,)), begins)
    ends = node.add(ops.Unsqueeze((1,)), ends)
    entry = node.add(ops.Unsqueeze((0, 2)), arange(node, entries))
    passed = node.convert(node.add(ops.LessOrEqual(), ends, entry), I64)
    row = folded(node, ops.ReduceSum((2,)), passed)
    width = number(node, blocks)
    spare = node.add(ops.Equal(), row, width)
    place = node.add(ops.Add(), node.add(ops.Mul(), row, width), columns)
    beyond = node.add(ops.Mul(), width, width)
    place = node.add(ops.Where(), spare, beyond, place)
    none = node.full(0, BOOL, (count, blocks * blocks + 1))
    some = node.full(1, BOOL, place.shape.dims)
    filled = node.add(ops.ScatterNone(1), none, place, some)
    filled = node.add(ops.Slice((1,), (0,), (blocks * blocks,)), filled)
    return node.reshape(filled, (count, blocks, blocks))
