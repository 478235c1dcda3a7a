"""The choice of experts for tokens, an operator of ``com.microsoft``."""

from __future__ import annotations

import math

from migx import ops
from migx.builders import folded
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops.contrib import DOMAIN
from migx.onnx.ops.linear import matrix_product
from migx.shape import BOOL, F32

LEAST = 1e-20
"""The least score that a logarithm is taken of."""


@importer("MoEGroupRouter", domain=DOMAIN)
def group_router(node: Node) -> tuple[Instruction, ...]:
    """The logarithm of the sigmoid score for chosen experts, and the sentinel for others: those
    with the largest scores in the best groups, a bias added, are chosen. Or all scores, with and
    without the bias.
    """
    x, bias, (experts,) = node.input(0), node.input(1), node.dims_of(1, 1)
    dtype = x.shape.dtype
    if (weights := node.optional(2)) is not None:
        wide = (node.convert(v, F32) for v in (x, node.add(ops.Transpose((1, 0)), weights)))
        x = matrix_product(node, ops.Dot(), *wide)
    tokens = x.shape.elements // experts
    scores = node.add(ops.Sigmoid(), node.reshape(node.convert(x, F32), (tokens, experts)))
    chosen_by = node.add(ops.Add(), scores, bias)
    if node.outputs > 1:
        return node.add(ops.Undefined()), chosen_by, scores
    if not isinstance(experts, int):
        raise node.fail(f"how many experts there are is {experts}, not a number")
    allowed = in_best_groups(node, chosen_by, experts)
    within = node.add(ops.Where(), allowed, chosen_by, -math.inf)
    chosen = node.add(ops.LogicalAnd(), best(node, within, node.integer("top_k")), allowed)
    least = node.add(ops.Max(), scores, LEAST)
    other = node.number("router_sentinel", -10000.0)
    made = node.add(ops.Where(), chosen, node.add(ops.Log(), least), other)
    return (node.convert(made, dtype),)


def in_best_groups(node: Node, scores: Instruction, experts: int) -> Instruction:
    """Whether experts belong to the best groups, by the sums of their largest scores."""
    groups, most = node.integer("n_group", 1), node.integer("group_topk", 2)
    if groups < 1 or experts % groups or most < 1:
        raise node.fail(f"group_topk {most} of n_group {groups}, of {experts} experts: n_group "
                        "must divide the experts, and group_topk be 1 or more")  # fmt: skip
    size, tokens = experts // groups, scores.shape.dims[0]
    apart = node.reshape(scores, (tokens, groups, size))
    greatest, _ = node.elements(node.add(ops.Topk(min(most, size), 2), apart), 2)
    total = folded(node, ops.ReduceSum((2,)), greatest)
    each = node.add(ops.Unsqueeze((2,)), best(node, total, node.integer("topk_group", 1)))
    return node.reshape(node.broadcast_to(each, (tokens, groups, size)), (tokens, experts))


def best(node: Node, scores: Instruction, count: int) -> Instruction:
    """Whether scores are among the ``count`` largest of their row."""
    if not 1 <= count <= scores.shape.dims[1]:
        raise node.fail(f"{count} of {scores.shape.dims[1]} cannot be chosen")
    _, places = node.elements(node.add(ops.Topk(count, 1), scores), 2)
    none = node.full(0, BOOL, scores.shape.dims)
    some = node.full(1, BOOL, places.shape.dims)
    return node.add(ops.ScatterNone(1), none, places, some)
