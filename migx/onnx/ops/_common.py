"""Shared by importers of several families: operators by others, layouts of channels, parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from migx import ops
from migx.builders import parted
from migx.dim import Extent, may_equal
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


def divided(
    node: Node, x: Instruction, sizes: Sequence[Extent], axis: int = -1
) -> list[Instruction]:
    """A value split along an axis into parts of given sizes, which must add up to it: if they do
    not for the sizes of a run, the run fails.
    """
    place, total = axis % x.shape.rank, sum(sizes)
    if not may_equal(total, whole := x.shape.dims[place]):
        raise node.fail(f"its parts {tuple(sizes)} add up to {total}, the axis has {whole}")
    dims = [total if i == place else d for i, d in enumerate(x.shape.dims)]
    return parted(node, node.reshape(x, dims), sizes, axis)


def equal_parts(node: Node, x: Instruction, count: int) -> list[Instruction]:
    """A value split into equal parts along its last axis."""
    if not x.shape.rank:
        raise node.fail(f"{x.shape} has no last axis of {count} equal parts")
    return divided(node, x, (x.shape.dims[-1] // count,) * count)


def up_to(node: Node, x: Instruction, axis: int, end: Instruction, count: Extent) -> Instruction:
    """The first elements along an axis, up to a computed ``end``; ``count`` is its dim."""
    last = node.reshape(node.convert(end, I64), (1,))
    bounds = node.literal([0], I64), last, node.literal([1], I64)
    return node.add(ops.DynamicSlice((axis,), (count,)), x, *bounds)


def repeated(node: Node, x: Instruction, axis: int, count: Extent) -> Instruction:
    """Each index of an axis repeated, in order, until there are ``count``, a multiple."""
    *lead, given = x.shape.dims[: axis + 1]
    if given == count:
        return x
    rest = x.shape.dims[axis + 1 :]
    apart = node.add(ops.Unsqueeze((axis + 1,)), x)
    each = node.broadcast_to(apart, (*lead, given, count // given, *rest))
    return node.reshape(each, (*lead, count, *rest))


def channels_first(node: Node, x: Instruction) -> Instruction:
    """[N, ..., C] as [N, C, ...]."""
    return node.add(ops.Transpose((0, x.shape.rank - 1, *range(1, x.shape.rank - 1))), x)


def channels_last(node: Node, x: Instruction) -> Instruction:
    """[N, C, ...] as [N, ..., C]."""
    return node.add(ops.Transpose((0, *range(2, x.shape.rank), 1)), x)
