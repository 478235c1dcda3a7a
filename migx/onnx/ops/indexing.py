"""ONNX operators that select, scatter, sort and search."""

from __future__ import annotations

from migx import ops
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.shape import I64


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
    return node.add(ops.Gathernd(node.integer("batch_dims", 0)), node.input(0), node.input(1))


@importer("ScatterElements", "Scatter")
def scatter_elements(node: Node) -> Instruction:
    kind = node.string("reduction", "none").title()
    axis = node.axis(node.integer("axis", 0), node.input(0).shape.rank)
    return node.add(
        getattr(ops, f"Scatter{kind}")(axis), node.input(0), node.input(1), node.input(2)
    )


@importer("ScatterND")
def scatter_nd(node: Node) -> Instruction:
    kind = node.string("reduction", "none").title()
    return node.add(getattr(ops, f"Scatternd{kind}")(), node.input(0), node.input(1), node.input(2))


@importer("OneHot")
def one_hot(node: Node) -> Instruction:
    indices, depth, values = (node.input(i) for i in range(3))
    known = node.extents(node.convert(depth, I64))
    if known is None:
        raise node.fail("depth must be constant or come from dims")
    axis = node.axis(node.integer("axis", -1), indices.shape.rank + 1)
    return node.add(ops.Onehot(axis, known[0]), node.convert(indices, I64), values)


@importer("NonZero")
def non_zero(node: Node) -> Instruction:
    return node.add(ops.Nonzero(node.fresh()), node.input(0))


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
    if known is None:
        raise node.fail("k must be constant or come from dims")
    axis = node.axis(node.integer("axis", -1), x.shape.rank)
    op = ops.Topk(known[0], axis, bool(node.integer("largest", 1)), bool(node.integer("sorted", 1)))
    return node.elements(node.add(op, x), 2)


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
