"""Sparse tensors: instructions that scatter their values into zeros, so that reading one takes no
more memory than its file does.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx

from migx import ops
from migx.errors import DataError
from migx.ir import Instruction
from migx.onnx.node import Node
from migx.op import Array
from migx.shape import STR


def dense(node: Node, tensor: onnx.SparseTensorProto) -> Instruction:
    """The dense tensor. ``DataError`` if indices do not ascend or do not fit the values."""
    name, dims = tensor.values.name or node.label, tuple(tensor.dims)
    held = node.graph.model.weight(tensor.values, name)
    values = node.unpacked(node.graph.module.add_instruction(held, origins=node.origins))
    places = node.graph.model.argument(tensor.indices).array
    if not dims or any(d <= 0 for d in dims) or values.shape.rank != 1:
        raise DataError(
            f"sparse tensor {name!r} has the dims {list(dims)} and the values {values.shape}; dims "
            "are at least 1, and values a list"
        )
    tuples = _tuples(name, dims, places, values)
    zero = node.literal("" if values.shape.dtype is STR else 0, values.shape.dtype)
    return node.add(
        ops.ScatterndNone(), node.broadcast_to(zero, dims), node.literal(tuples), values
    )


def _tuples(name: str, dims: tuple[int, ...], places: Array, values: Instruction) -> Array:
    """The indices as one tuple for each value; files have these, or linear indices."""
    count = values.shape.dims[0]
    if places.dtype != np.int64 or places.shape not in ((count,), (count, len(dims))):
        raise DataError(
            f"sparse tensor {name!r} has {count} values and indices {places.dtype}"
            f"{list(places.shape)}; they are i64[{count}] or i64[{count}, {len(dims)}]"
        )
    rows = places
    if places.ndim == 1:
        strides = [math.prod(dims[axis + 1 :]) for axis in range(len(dims))]
        rows = np.stack([places // s for s in strides], 1)
        rows[:, 1:] %= np.asarray(dims[1:], np.int64)
    inside = bool(((rows >= 0) & (rows < np.asarray(dims))).all())
    ordered = [tuple(row) for row in rows.tolist()]
    if not inside or any(a >= b for a, b in itertools.pairwise(ordered)):
        raise DataError(
            f"the indices of sparse tensor {name!r} must be ascending and within {list(dims)}"
        )
    return np.ascontiguousarray(rows)
