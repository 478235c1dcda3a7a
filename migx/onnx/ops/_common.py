"""Shared by importers of several families: operators expressed by others, layouts of channels."""

from __future__ import annotations

from typing import Any

import onnx

from migx import ops
from migx.dim import Extent
from migx.ir import Instruction
from migx.onnx import importers
from migx.onnx.node import Node
from migx.shape import I64

VERSION = 21
"""The version of the default domain that operators are taken from."""


def delegated(
    node: Node, operator: str, *inputs: Instruction | None, **attributes: Any
) -> Instruction:
    """The first result of an operator of the default domain for the given operands.

    It has the node's attributes, except for those given here; None removes one.
    """
    return all_of(node, operator, *inputs, **attributes)[0]


def all_of(
    node: Node, operator: str, *inputs: Instruction | None, **attributes: Any
) -> tuple[Instruction, ...]:
    """All results of an operator; see ``delegated``."""
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    proto.op_type, proto.domain = operator, ""
    kept = [a for a in proto.attribute if a.name not in attributes]
    given = {name: value for name, value in attributes.items() if value is not None}
    del proto.attribute[:]
    proto.attribute.extend(kept)
    proto.attribute.extend(onnx.helper.make_attribute(*pair) for pair in given.items())
    del proto.output[1:]
    importer = importers.find("", operator, VERSION)
    if importer is None:
        raise node.fail(f"there is no operator {operator}")
    made = importer(Node(proto, node.graph, inputs, VERSION))
    return made if isinstance(made, tuple) else (made,)


def up_to(node: Node, x: Instruction, axis: int, end: Instruction, count: Extent) -> Instruction:
    """The first elements along an axis, up to a computed ``end``; ``count`` is its dim."""
    last = node.reshape(node.convert(end, I64), (1,))
    bounds = node.literal([0], I64), last, node.literal([1], I64)
    return node.add(ops.DynamicSlice((axis,), (count,)), x, *bounds)


def channels_first(node: Node, x: Instruction) -> Instruction:
    """[N, ..., C] as [N, C, ...]."""
    return node.add(ops.Transpose((0, x.shape.rank - 1, *range(1, x.shape.rank - 1))), x)


def channels_last(node: Node, x: Instruction) -> Instruction:
    """[N, C, ...] as [N, ..., C]."""
    return node.add(ops.Transpose((0, *range(2, x.shape.rank), 1)), x)
