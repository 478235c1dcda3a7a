"""ONNX operators that select, scatter, sort and search."""

from __future__ import annotations

import numpy as np

from migx import ops
from migx.builders import arange, number
from migx.ir import Instruction
from migx.onnx.given import declared_rank
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops import runtime
from migx.shape import I64, U64


@importer("Gather")
def gather(node: Node) -> Instruction:
    x = node.input(0)
    return node.add(ops.Gather(node.axis(node.integer("axis", 0), x.shape.rank)), x, node.input(1))


@importer("GatherElements")
def gather_elements(node: Node) -> Instruction:
    x = node.input(0)
    return node.add(
        ops.GatherElements(node.axis(node.integer("axis", 0), x.shape.rank)), x, node.input(1)
    )


@importer("GatherND")
def gather_nd(node: Node) -> Instruction:
    x, indices, batch = node.input(0), node.input(1), node.integer("batch_dims", 0)
    rank = declared_rank(node.declared())
    if rank is not None:
        indices = of_width(node, indices, indices.shape.rank - 1 + x.shape.rank - batch - rank)
    if batch == 0 and indices.shape.rank and indices.shape.dims[-1] == 1 and x.shape.rank:
        return node.add(ops.Gather(0), x, node.add(ops.Squeeze((indices.shape.rank - 1,)), indices))
    if indices.shape.rank and not isinstance(width := indices.shape.dims[-1], int):
        raise runtime.rank_not_known(node, "indices for an element", width)
    return node.add(ops.Gathernd(batch), x, indices)


def of_width(node: Node, indices: Instruction, width: int) -> Instruction:
    """Index tuples; if their shape does not tell their length, it follows from ranks."""
    *lead, own = indices.shape.dims
    known = isinstance(own, int) or width < 1
    return indices if known else node.reshape(indices, (*lead, width))


def combined_by(node: Node) -> str:
    """The suffix of the operation's name for how updates are combined with existing values."""
    return node.choice("reduction", ("none", "add", "mul", "max", "min"), "none").title()


@importer("ScatterElements", "Scatter")
def scatter_elements(node: Node) -> Instruction:
    kind = combined_by(node)
    axis = node.axis(node.integer("axis", 0), node.input(0).shape.rank)
    return node.add(
        getattr(ops, f"Scatter{kind}")(axis), node.input(0), node.input(1), node.input(2)
    )


@importer("ScatterND")
def scatter_nd(node: Node) -> Instruction:
    x, indices, updates = (node.input(i) for i in range(3))
    ranks = indices.shape.rank - 1 + x.shape.rank - updates.shape.rank
    kind = combined_by(node)
    op = getattr(ops, f"Scatternd{kind}")()
    return node.add(op, x, of_width(node, indices, ranks), updates)


@importer("OneHot")
def one_hot(node: Node) -> Instruction:
    indices, depth, values = (node.input(i) for i in range(3))
    if indices.shape.dtype is U64:  # what i64 does not hold is out of range, and stays so
        indices = node.add(ops.Min(), indices, 2**63 - 1)
    count = node.convert(depth, I64)
    known = node.extents(count)
    axis = node.axis(node.integer("axis", -1), indices.shape.rank + 1)
    op = ops.Onehot(axis, node.fresh() if known is None else known[0])
    return node.add(op, node.convert(indices, I64), values, *([count] if known is None else []))


@importer("NonZero")
def non_zero(node: Node) -> Instruction:
    """The indices of nonzero elements, without a run if x is a known list, or one number broadcast
    to a list: this is how some exporters write a range.
    """
    x = node.input(0)
    below = x.inputs[0] if x.op.name in ("broadcast", "multibroadcast") else x
    known = node.contents(below) if x.shape.rank == 1 else None
    if known is None or known.dtype == object or known.shape not in (x.shape.dims, ()):
        return node.add(ops.Nonzero(node.fresh()), x)
    if below is x or not known:
        return node.literal(np.flatnonzero(known if below is x else ())[None], I64)
    (count,) = x.shape.dims
    bounds = [node.literal(0, I64), number(node, count), node.literal(1, I64)]
    return node.add(ops.Unsqueeze((0,)), node.add(ops.DynamicRange(count), *bounds))


@importer("Compress")
def compress(node: Node) -> Instruction:
    x = node.input(0)
    if not node.has("axis"):
        x = node.reshape(x, (x.shape.elements,))
    axis = node.axis(node.integer("axis", 0), x.shape.rank)
    return node.add(ops.Compress(axis, node.fresh()), x, node.input(1))


@importer("ReverseSequence")
def reverse_sequence(node: Node) -> Instruction:
    op = ops.ReverseSequence(node.integer("batch_axis", 1), node.integer("time_axis", 0))
    return node.add(op, node.input(0), node.input(1))


@importer("Trilu")
def trilu(node: Node) -> Instruction:
    operands = [v for v in (node.input(0), node.optional(1)) if v is not None]
    return node.add(ops.Trilu(bool(node.integer("upper", 1))), *operands)


@importer("TopK")
def top_k(node: Node) -> tuple[Instruction, ...]:
    x, given = node.input(0), node.optional(1)
    known = (node.integer("k"),) if given is None else node.extents(given)
    axis = node.axis(node.integer("axis", -1), x.shape.rank)
    ways = bool(node.integer("largest", 1)), bool(node.integer("sorted", 1))
    if known is None:
        return node.elements(node.add(ops.Topk(node.fresh(), axis, *ways), x, node.input(1)), 2)
    return node.elements(node.add(ops.Topk(known[0], axis, *ways), x), 2)


@importer("NonMaxSuppression")
def non_max_suppression(node: Node) -> Instruction:
    boxes, scores = node.input(0), node.input(1)
    limit = node.optional(2) or node.literal([0], I64)
    overlap, least = (
        node.optional(i) or node.literal([value], scores.shape.dtype)
        for i, value in ((3, 0.0), (4, float("-inf")))
    )
    op = ops.Nonmaxsuppression(bool(node.integer("center_point_box", 0)), node.fresh())
    return node.add(op, boxes, scores, limit, overlap, least)


@importer("Unique", since=11)
def unique(node: Node) -> tuple[Instruction, ...]:
    """Of the flattened value if there is no axis."""
    x, axis = node.input(0), 0
    if node.has("axis"):
        axis = node.axis(node.integer("axis"), x.shape.rank)
    else:
        x = node.reshape(x, (x.shape.elements,))
    whole = node.add(ops.Unique(axis, node.fresh(), bool(node.integer("sorted", 1))), x)
    return node.elements(whole, 4)


@importer("TensorScatter", since=24)
def tensor_scatter(node: Node) -> Instruction:
    """A cache with an update written from an index on for each item; ``circular`` wraps."""
    cache, update, given = node.input(0), node.input(1), node.optional(2)
    axis = node.axis(node.integer("axis", -2), cache.shape.rank)
    rank, batch = cache.shape.rank, cache.shape.dims[0]
    ramp = arange(node, update.shape.dims[axis])
    places = node.reshape(ramp, [update.shape.dims[axis] if i == axis else 1 for i in range(rank)])
    if given is not None:
        start = node.reshape(node.convert(given, I64), (batch, *[1] * (rank - 1)))
        places = node.add(ops.Add(), start, places)
    if node.choice("mode", ("linear", "circular"), "linear") == "circular":
        places = node.add(ops.Mod(), places, node.dims([cache.shape.dims[axis]]))
    index = node.broadcast_to(places, update.shape.dims)
    return node.add(ops.ScatterNone(axis), cache, index, update)
