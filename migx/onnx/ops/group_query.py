"""Grouped-query attention of ``com.microsoft``: several query heads share one of keys and values.

Queries, keys and values are [batch, heads, length, size] internally.
"""

from __future__ import annotations

import numpy as np

from migx import dim, ops
from migx.builders import arange
from migx.dim import Extent
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops._common import divided, repeated, up_to
from migx.onnx.ops.attention import column, headed, kept, merged, products, rotated
from migx.onnx.ops.contrib import DOMAIN
from migx.onnx.ops.elementwise import plus
from migx.onnx.ops.linear import scaled
from migx.onnx.ops.normalization import over_root_mean_square
from migx.onnx.ops.runtime import expected
from migx.shape import F32, I8, I64, U8, DType

NEVER = np.iinfo(np.int64).max
"""A position that no query attends to."""

LEVELS = {8: (I8, -128.0, 127.0), 4: (U8, -8.0, 7.0)}
"""The type and the range of levels of cached keys and values, by their bits; levels of four bits
are stored minus the lowest.
"""


@importer("GroupQueryAttention", domain=DOMAIN)
def group_query_attention(node: Node) -> tuple[Instruction, ...]:
    """Keys and values are cached, optionally quantised.

    ``seqlens_k`` is the total number of keys minus one; new keys follow the valid old ones, so the
    present may have unused room.
    """
    heads, groups = node.integer("num_heads"), node.integer("kv_num_heads")
    q, k, v = separate(node, heads, groups)
    q, k = (normalized(node, x, i) for x, i in ((q, 14), (k, 15)))
    batch, length = q.shape.dims[0], q.shape.dims[2]
    last = column(node, node.input(5), batch)
    start = first_place(node, last, batch, length)
    places = node.add(ops.Add(), start, arange(node, length))
    if node.integer("do_rotary", 0):
        given = node.optional(9)
        turn = node.reshape(places, (batch, length)) if given is None else given
        tables = node.input(7), node.input(8)
        mixed = bool(node.integer("rotary_interleaved", 0))
        q, k = (rotated(node, x, turn, tables, mixed) for x in (q, k))
    wide = k.shape.dtype
    k, v = levels(node, k, 12), levels(node, v, 13)
    if node.integer("sliding_window_cache", 0):
        k, v, at, *present = slid(node, k, v, start, last)
    else:
        k = kept_with(node, node.optional(3), k, places)
        v = kept_with(node, node.optional(4), v, places, k.shape.dims[2])
        present, at = [k, v], None
    keys, values = (numbers(node, x, i, wide) for x, i in ((k, 12), (v, 13)))
    places = node.add(ops.Transpose((0, 1, 3, 2)), places)
    result, seen = grouped(node, q, keys, values, places, at)
    results = merged(node, result), *present
    return results if seen is None else (*results, seen)


def first_place(node: Node, last: Instruction, batch: Extent, length: Extent) -> Instruction:
    """The positions of the first new keys, [batch, 1, 1, 1]: before the end by the number of valid
    ones, which are all unless ``query_seqlens`` says otherwise.
    """
    if (valid := node.optional(16)) is None:
        less = node.broadcast_to(node.dims([length - 1]), (batch, 1, 1, 1))
    else:
        less = node.add(ops.Sub(), column(node, valid, batch), 1)
    return node.add(ops.Max(), node.add(ops.Sub(), last, less), 0)


def normalized(node: Node, x: Instruction, place: int) -> Instruction:
    """RMS normalisation of heads with weights, if these are given."""
    if (weight := node.optional(place)) is None:
        return x
    name = "q_norm_epsilon" if place == 14 else "k_norm_epsilon"
    epsilon = node.number(name, node.number("qk_norm_epsilon", 1e-6))
    wide, _ = over_root_mean_square(node, node.convert(x, F32), (3,), epsilon)
    wide = node.add(ops.Mul(), wide, node.convert(weight, F32))
    return node.convert(wide, x.shape.dtype)


def bits_of(node: Node, place: int) -> int:
    """The bits of cached elements, for the scale at an operand; 0 if they are not quantised."""
    name = "k_quant_type" if place == 12 else "v_quant_type"
    if node.choice(name, ("NONE", "PER_TENSOR", "PER_CHANNEL"), "NONE") == "NONE":
        return 0
    if (bits := node.integer("kv_cache_bit_width", 8)) not in LEVELS:
        raise node.fail(f"kv_cache_bit_width {bits}; it is {' or '.join(map(str, LEVELS))}")
    past, wanted = node.optional(place - 9), LEVELS[bits][0]
    if past is not None and past.shape.dtype is not wanted:
        raise node.fail(f"{node.proto.input[place - 9]!r} {past.shape}: {wanted} is wanted")
    return bits


def levels(node: Node, x: Instruction, place: int) -> Instruction:
    """Keys or values as cached: divided by their scale, rounded, and packed two to a byte if they
    have four bits, low bits first.
    """
    if not (bits := bits_of(node, place)):
        return x
    dtype, low, high = LEVELS[bits]
    made = node.add(ops.Div(), node.convert(x, F32), node.input(place))
    made = node.add(ops.Nearbyint(), made)
    made = node.add(ops.Clip(), made, low, high)
    if bits == 8:
        return node.convert(made, dtype)
    made = node.add(ops.Add(), made, -low)
    return node.add(ops.PackInt4(3), node.convert(made, dtype))


def numbers(node: Node, x: Instruction, place: int, dtype: DType) -> Instruction:
    """Cached keys or values, dequantised."""
    if not (bits := bits_of(node, place)):
        return x
    x = node.convert(node.add(ops.UnpackInt4(axis=3), x) if bits == 4 else x, F32)
    x = node.add(ops.Add(), x, LEVELS[bits][1]) if bits == 4 else x
    return node.convert(node.add(ops.Mul(), x, node.input(place)), dtype)


def separate(node: Node, heads: int, groups: int) -> list[Instruction]:
    """Queries, keys and values by heads, possibly from one packed operand."""
    whole, key, value = node.input(0), node.optional(1), node.optional(2)
    if key is None or value is None:
        size = whole.shape.dims[-1] // (heads + 2 * groups)
        sizes = (heads * size, groups * size, groups * size)
        whole, key, value = divided(node, whole, sizes)
    counts = (heads, groups, groups)
    return [headed(node, x, n) for x, n in zip((whole, key, value), counts, strict=True)]


def kept_with(
    node: Node,
    past: Instruction | None,
    new: Instruction,
    places: Instruction,
    length: Extent | None = None,
) -> Instruction:
    """The cache with new keys or values at their positions; its length is the larger of the old one
    and the total length, which may be known.
    """
    if past is None:
        return new
    room = node.add(ops.Concat(2), past, node.scalar(0, new))
    at = node.add(ops.Transpose((0, 1, 3, 2)), places)
    index = node.broadcast_to(at, new.shape.dims)
    filled = node.add(ops.ScatterNone(2), room, index, new)
    total = node.input(6)
    have, most = past.shape.dims[2], room.shape.dims[2]
    if length is None and (wanted := node.extents(total)) is not None:
        length = dim.maximum(have, wanted[0])
    if length is not None:
        return filled if length == most else node.add(ops.Slice((2,), (0,), (length,)), filled)
    last = node.add(ops.Max(), node.reshape(node.convert(total, I64), (1,)), node.dims([have]))
    return up_to(node, filled, 2, last, node.fresh("total"))


def slid(
    node: Node, k: Instruction, v: Instruction, start: Instruction, last: Instruction
) -> tuple[Instruction, ...]:
    """For a cache that has room for a window and drops older entries: keys and values, old before
    new; their positions [batch, 1, 1, room + length]; and the new cache of both.

    Its first rows hold the latest positions in order; others may hold anything. The new cache has
    zeros there, and those of the old one get a position that no query attends to.
    """
    window, pasts = node.integer("local_window_size", -1), [node.input(3), node.input(4)]
    room, length = pasts[0].shape.dims[2], k.shape.dims[2]
    start = fitting(node, start, room, window)
    end = node.add(ops.Add(), last, 1)
    gone, leaving = (let_go(node, n, room, room - window + 1) for n in (start, end))
    rows = arange(node, room)
    held, wanted = (node.add(ops.Add(), first, rows) for first in (gone, leaving))
    there = node.add(ops.Less(), held, start)
    before = node.add(ops.Where(), there, held, NEVER)
    at = node.add(ops.Concat(3), before, node.add(ops.Add(), start, arange(node, length)))
    new = node.add(ops.Sub(), wanted, node.add(ops.Sub(), start, node.dims([room])))
    old, is_old = node.add(ops.Sub(), wanted, gone), node.add(ops.Less(), wanted, start)
    index = node.add(ops.Where(), is_old, old, new)
    index = node.add(ops.Min(), index, node.dims([room + length - 1]))
    used = node.add(ops.Less(), wanted, end)
    index, used = (node.add(ops.Transpose((0, 1, 3, 2)), x) for x in (index, used))
    both = [node.add(ops.Concat(2), past, x) for past, x in zip(pasts, (k, v), strict=True)]
    present = []
    for x, past in zip(both, pasts, strict=True):
        latest = node.add(ops.GatherElements(2), x, node.broadcast_to(index, past.shape.dims))
        present.append(node.add(ops.Where(), used, latest, 0))
    return *both, at, *present


def fitting(node: Node, start: Instruction, room: Extent, window: int) -> Instruction:
    """The positions of the first new keys, checked against the window and the room of the cache."""
    problem = f"local_window_size {window} is from 1 to the room of past_key, {room}"
    if window < 1 or (isinstance(room, int) and window > room):
        raise node.fail(problem)
    if isinstance(room, int):
        return start
    fits = node.add(ops.LessOrEqual(), [window], node.dims([room]))
    return expected(node, start, problem, fits)


def let_go(node: Node, count: Instruction, room: Extent, at_once: Extent) -> Instruction:
    """How many of ``count`` positions a cache has dropped, several at a time: as few as leave room
    for the others.
    """
    over = node.add(ops.Sub(), count, node.dims([room]))
    over = node.add(ops.Max(), over, 0)
    several = node.dims([at_once])
    times = node.add(ops.Add(), over, node.dims([at_once - 1]))
    return node.add(ops.Mul(), node.add(ops.Div(), times, several), several)


def grouped(
    node: Node,
    q: Instruction,
    k: Instruction,
    v: Instruction,
    places: Instruction,
    at: Instruction | None,
) -> tuple[Instruction, Instruction | None]:
    """Attention of grouped heads, in which each query attends to the keys up to its position
    [batch, 1, length, 1], or to all; and the scores, or their softmax, if they are an output. Keys
    have positions [batch, 1, 1, total], or are in order.
    """
    batch, heads = q.shape.dims[:2]
    total, sink = k.shape.dims[2], sink_of(node, heads, q)
    k, v = (repeated(node, x, 1, heads) for x in (k, v))
    scores = products(node, q, k)
    if cap := node.number("softcap", 0.0):
        scores = scaled(node, node.add(ops.Tanh(), scaled(node, scores, 1 / cap)), cap)
    scores = plus(node, scores, bias_at(node, batch, at))
    allowed = attended(node, places, arange(node, total) if at is None else at)
    weights = softmax_beside(node, kept(node, scores, allowed), sink)
    result = node.add(ops.Dot(), weights, v)
    if not (mode := node.integer("qk_output", 0)):
        return result, None
    if at is not None:
        raise node.fail("qk_output with sliding_window_cache is not supported")
    if mode not in (1, 2):
        raise node.fail(
            f"no qk_output {mode}; there are 0, 1 (before the softmax) and 2 (after it)"
        )
    seen = node.add(ops.Where(), allowed, scores, 0) if mode == 1 else weights
    return result, first_of_total(node, seen)


def attended(node: Node, places: Instruction, keys: Instruction) -> Instruction:
    """Whether a query attends to a key, by the positions of both."""
    window = node.integer("local_window_size", -1)
    if not node.integer("causal", 1):
        if window != -1:
            raise node.fail(f"local_window_size {window} with causal 0; it is -1 then")
        places = column(node, node.input(5), places.shape.dims[0])
    allowed = node.add(ops.LessOrEqual(), keys, places)
    if window <= 0:
        return allowed
    oldest = node.add(ops.Sub(), places, window)
    return node.add(ops.LogicalAnd(), allowed, node.add(ops.Greater(), keys, oldest))


def bias_at(node: Node, batch: Extent, at: Instruction | None) -> Instruction | None:
    """The bias of scores for keys at given positions; its last axis covers all positions."""
    bias = node.optional(10)
    if bias is None or at is None:
        return bias
    _, heads, length, total = bias.shape.dims
    index = node.add(ops.Min(), at, node.dims([total - 1]))
    index = node.broadcast_to(index, (batch, heads, length, at.shape.dims[3]))
    bias = node.broadcast_to(bias, (batch, heads, length, total))
    return node.add(ops.GatherElements(3), bias, index)


def first_of_total(node: Node, scores: Instruction) -> Instruction:
    """The scores of the keys in use; the cache may have room for more."""
    total = node.extents(node.input(6))
    if total is not None:
        return node.add(ops.Slice((3,), (0,), (total[0],)), scores)
    return up_to(node, scores, 3, node.input(6), node.fresh("total"))


def sink_of(node: Node, heads: Extent, like: Instruction) -> Instruction | None:
    """The extra score of each head [heads]: its sink, or 0 with ``smooth_softmax``; or None."""
    sink = node.optional(11)
    if sink is not None:
        return node.convert(sink, like.shape.dtype)
    if node.integer("smooth_softmax", -1) == 1:
        return node.full(0, like.shape.dtype, (heads,))
    return None


def softmax_beside(node: Node, scores: Instruction, sink: Instruction | None) -> Instruction:
    """A softmax with one extra score, if there is a sink."""
    if sink is None:
        return node.add(ops.Softmax(3), scores)
    dims, total = scores.shape.dims, scores.shape.dims[3]
    beside = node.add(ops.Broadcast(1, (*dims[:3], 1)), sink)
    weights = node.add(ops.Softmax(3), node.add(ops.Concat(3), scores, beside))
    return node.add(ops.Slice((3,), (0,), (total,)), weights)
