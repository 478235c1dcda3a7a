"""Rotary embeddings, operators of ``com.microsoft``: pairs of elements of heads are rotated."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from migx import ops
from migx.builders import arange, at_index
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops.attention import headed, merged, rotated, turned
from migx.onnx.ops.contrib import DOMAIN
from migx.onnx.ops.linear import scaled
from migx.shape import BOOL

Turn = Callable[[Instruction, bool, int], Instruction]
"""Rotates heads [batch, heads, length, size]; arguments are whether pairs are adjacent, and how
many elements are rotated.
"""


@importer("RotaryEmbedding", domain=DOMAIN)
def rotary_embedding(node: Node) -> Instruction:
    places, tables = node.input(1), (node.input(2), node.input(3))

    def turn(x: Instruction, interleaved: bool, used: int) -> Instruction:
        batch, _, length, _ = x.shape.dims
        at = places
        if at.shape.rank == 2:
            at = node.reshape(at, (batch, length))
        else:
            at = node.add(ops.Add(), node.reshape(at, (1, 1)), arange(node, length))
        return rotated(node, x, at, tables, interleaved, used)

    return in_heads(node, turn)


@importer("MRotaryEmbedding", domain=DOMAIN)
def rotary_embedding_of_three_places(node: Node) -> Instruction:
    """Each pair is rotated by the angle of one of three positions: in time, height or width. The
    result is multiplied by ``scale``.
    """
    places = node.input(1)
    sections, layout = node.integers("mrope_section"), node.integer("mrope_layout", 0)
    if len(sections) != 3 or min(sections) < 0:
        raise node.fail(f"mrope_section {sections}: three numbers of pairs are wanted")
    if layout not in (0, 1):
        raise node.fail(f"no mrope_layout {layout}; there are 0, sections, and 1, interleaved")
    pairs = sum(sections)
    for table in (2, 3):
        node.expect_dims(table, (node.input(table).shape.dims[0], pairs))
    node.expect_dims(1, (3, *places.shape.dims[1:]))
    at = [at_index(node, places, 0, i) for i in range(3)]
    streams = np.repeat(np.arange(3), sections)
    if layout == 1:
        streams = np.zeros(pairs, np.int64)
        for i in (1, 2):
            streams[i : 3 * sections[i] : 3] = i

    def angles(table: Instruction) -> Instruction:
        """The rows of a table at the position of each pair."""
        rows = [node.add(ops.Gather(0), table, place) for place in at]
        made = rows[0]
        for i in (1, 2):
            own = node.literal(streams == i, BOOL)
            made = node.add(ops.Where(), own, rows[i], made)
        return scaled(node, made, node.number("scale", 1.0))

    pair = angles(node.input(2)), angles(node.input(3))
    return in_heads(node, lambda x, mixed, used: turned(node, x, pair, mixed, used))


def in_heads(node: Node, turn: Turn) -> Instruction:
    """The first operand rotated: [batch, heads, length, size] or [batch, length, heads * size].
    Rows packed with ``is_packed_batching`` are rotated alike.
    """
    x, width = node.input(0), 2 * node.dims_of(2, 2)[1]
    if x.shape.rank not in (3, 4):
        raise node.fail(f"{node.proto.input[0]!r} {x.shape}: 3 or 4 axes are wanted")
    heads, used = node.integer("num_heads", 0), node.integer("rotary_embedding_dim", 0)
    flat = x.shape.rank == 3
    if flat:
        count = heads or x.shape.dims[-1] // width
        if not isinstance(count, int):
            names = " and ".join(repr(node.proto.input[i]) for i in (0, 2))
            raise node.fail(
                f"without num_heads the last dims of {names} must be numbers, for "
                f"they make {count} heads"
            )
        x = headed(node, x, count)
    made: Instruction = turn(x, bool(node.integer("interleaved", 0)), used)
    return merged(node, made) if flat else made
