"""ONNX Dropout: the identity, except in training."""

from __future__ import annotations

import zlib

import numpy as np

from migx import ops
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.shape import BOOL, F32, DType


@importer("Dropout")
def dropout_by_attributes(node: Node) -> tuple[Instruction, ...]:
    """Until version 7 an attribute selects inference or training, the default."""
    x = node.input(0)
    if node.integer("is_test", 0):
        return kept_whole(node, x.shape.dtype)
    ratio = node.literal(np.float32(node.number("ratio", 0.5)))
    result, mask = dropped(node, ratio, None)
    return result, node.convert(mask, x.shape.dtype)


@importer("Dropout", since=7)
def dropout_of_inference(node: Node) -> tuple[Instruction, ...]:
    """Until version 12 there is no training."""
    return kept_whole(node, BOOL if node.version >= 10 else node.input(0).shape.dtype)


@importer("Dropout", since=12)
def dropout(node: Node) -> tuple[Instruction, ...]:
    ratio, training = node.optional(1), node.optional(2)
    known = np.array(False) if training is None else node.constant(training)
    if known is not None and not known.any():
        return kept_whole(node, BOOL)
    ratio = node.literal(np.float32(0.5)) if ratio is None else ratio
    return dropped(node, ratio, training if known is None else None)


def kept_whole(node: Node, mask: DType) -> tuple[Instruction, ...]:
    """The value itself; the mask, if it is an output, keeps everything."""
    x = node.input(0)
    if node.outputs < 2:
        return (x,)
    return x, node.full(1, mask, x.shape.dims)


def dropped(
    node: Node, ratio: Instruction, training: Instruction | None
) -> tuple[Instruction, Instruction]:
    """The value times a random mask, scaled up by the expected loss; and the mask.

    ``training`` is known only at run time; None means training. A node without a seed has one
    derived from its name.
    """
    x = node.input(0)
    seed = node.integer("seed", zlib.crc32(node.label.encode()))
    ratio = node.convert(node.reshape(ratio, ()), F32)
    mask = node.add(ops.DropoutMask(seed & 0xFFFFFFFF), x, ratio)
    one = node.literal(1, F32)
    factor = node.add(ops.Div(), one, node.add(ops.Sub(), one, ratio))
    if training is not None:
        trains = node.reshape(training, ())
        mask = node.add(ops.LogicalOr(), mask, node.add(ops.Not(), trains))
        factor = node.add(ops.Where(), trains, factor, one)
    scaled = node.add(ops.Mul(), x, node.convert(factor, x.shape.dtype))
    return node.add(ops.Where(), mask, scaled, 0), mask
