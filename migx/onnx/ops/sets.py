"""ONNX operators for distinct elements, maxima, caches and bit casts."""

from __future__ import annotations

from migx import ops
from migx.builders import arange
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops.normalization import tail_as_one
from migx.shape import I64


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


@importer("Hardmax")
def hardmax_of_matrix(node: Node) -> Instruction:
    """Until version 13 the dims from the axis on are merged."""
    x = node.input(0)
    axis = node.axis(node.integer("axis", 1), x.shape.rank)
    flat = tail_as_one(node, x, axis)
    return node.reshape(greatest(node, flat, axis), x.shape.dims)


@importer("Hardmax", since=13)
def hardmax(node: Node) -> Instruction:
    x = node.input(0)
    return greatest(node, x, node.axis(node.integer("axis", -1), x.shape.rank))


def greatest(node: Node, x: Instruction, axis: int) -> Instruction:
    """1 at the first maximum along an axis, 0 elsewhere."""
    place = node.add(ops.Squeeze((axis,)), node.add(ops.Argmax(axis), x))
    values = node.literal([0, 1], x.shape.dtype)
    return node.add(ops.Onehot(axis, x.shape.dims[axis]), place, values)


@importer("Det", since=11)
def determinant(node: Node) -> Instruction:
    return node.add(ops.Determinant(), node.input(0))


@importer("BitCast", since=26)
def bit_cast(node: Node) -> Instruction:
    return node.add(ops.BitCast(node.dtype("to")), node.input(0))


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
