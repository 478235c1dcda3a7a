"""ONNX operators that reshape, extend and concatenate tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from migx import dim, ops
from migx.builders import arange, concatenate, number
from migx.dim import Dim, Extent
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops import runtime
from migx.onnx.sparse import dense

T = TypeVar("T")


@importer("Constant")
def constant(node: Node) -> Instruction:
    for name in ("value_float", "value_floats"):
        if node.has(name):
            value = node.number(name) if name == "value_float" else node.numbers(name)
            return node.literal(np.asarray(value, np.float32))
    for name in ("value_int", "value_ints"):
        if node.has(name):
            number = node.integer(name) if name == "value_int" else node.integers(name)
            return node.literal(np.asarray(number, np.int64))
    for name in ("value_string", "value_strings"):
        if node.has(name):
            text = node.string(name) if name == "value_string" else node.strings(name)
            return node.literal(np.asarray(text, object))
    if node.has("sparse_value"):
        return dense(node, node.sparse_tensor("sparse_value"))
    return node.weight("value")


@importer("ConstantOfShape")
def constant_of_shape(node: Node) -> Instruction:
    value = node.tensor("value").array.reshape(-1)[0] if node.has("value") else np.float32(0)
    return spread(node, node.literal(np.asarray(value)), node.input(0))


def spread(node: Node, x: Instruction, target: Instruction) -> Instruction:
    """A value broadcast with the dims in another value (ONNX Expand)."""
    wanted = node.extents(target)
    if wanted is not None:
        rank = max(x.shape.rank, len(wanted))
        pairs = zip(_padded(x.shape.dims, rank), _padded(wanted, rank), strict=True)
        return node.broadcast_to(x, [dim.broadcast(a, b) for a, b in pairs])
    parts = runtime.parts_of(node, target)
    rank = max(x.shape.rank, len(parts))
    axes = enumerate(zip(_padded(x.shape.dims, rank), _padded(parts, rank), strict=True))
    dims = [node.fresh(str(i)) if b is None else dim.broadcast(a, b) for i, (a, b) in axes]
    # What tells the sizes has the dims of x, but not its data, which may lie far from the host.
    dummy = node.broadcast_to(node.literal(np.zeros((), np.bool_)), x.shape.dims)
    node.add(ops.Multibroadcast(tuple(dims)), dummy, target)
    return node.broadcast_to(x, dims)


def _padded(dims: Sequence[T], rank: int) -> tuple[T | int, ...]:
    return (1,) * (rank - len(dims)) + tuple(dims)


@importer("Expand")
def expand(node: Node) -> Instruction:
    return spread(node, node.input(0), node.input(1))


@importer("Shape")
def shape(node: Node) -> Instruction:
    x = node.input(0)
    first, last = node.integer("start", 0), node.integer("end", x.shape.rank)
    return node.dims(x.shape.dims[slice(first, last)])


@importer("Size")
def size(node: Node) -> Instruction:
    return number(node, node.input(0).shape.elements)


@importer("Reshape", since=5)
def reshape(node: Node) -> Instruction:
    x, target = node.input(0), node.input(1)
    keep_zeros = bool(node.integer("allowzero", 0))
    wanted = node.extents(target)
    if wanted is not None:
        return node.reshape(x, resolved(node, x, wanted, keep_zeros))
    dims: list[Extent] = []
    for i, part in enumerate(runtime.parts_of(node, target)):
        copied = part == 0 and i < x.shape.rank and not keep_zeros
        known = x.shape.dims[i] if copied else part
        dims.append(node.fresh(str(i)) if known is None or known == -1 else known)
    return node.add(ops.Reshape(tuple(dims), keep_zeros), x, target)


@importer("Reshape")
def reshape_by_attribute(node: Node) -> Instruction:
    x = node.input(0)
    return node.reshape(x, resolved(node, x, node.integers("shape"), keep_zeros=False))


def resolved(
    node: Node, x: Instruction, wanted: Sequence[Extent], keep_zeros: bool
) -> tuple[Extent, ...]:
    """The dims of a Reshape: 0 copies the input's dim, -1 is inferred."""
    if any(d == 0 and i >= x.shape.rank for i, d in enumerate(wanted)) and not keep_zeros:
        raise node.fail(f"dims {tuple(wanted)} copy a dim that {x.shape} does not have")
    dims = [x.shape.dims[i] if d == 0 and not keep_zeros else d for i, d in enumerate(wanted)]
    if -1 in dims:
        rest = dim.product(d for d in dims if d != -1)
        if dims.count(-1) > 1 or rest == 0:
            raise node.fail(f"dims {tuple(wanted)} do not determine -1")
        dims[dims.index(-1)] = left_over(x.shape.dims, [d for d in dims if d != -1])
    return tuple(dims)


def left_over(have: Sequence[Extent], wanted: Sequence[Extent]) -> Extent:
    """The quotient of two products of dims, without the common ones."""
    above, below = list(have), []
    for d in wanted:
        if d in above:
            above.remove(d)
        else:
            below.append(d)
    return dim.product(above) // dim.product(below)


@importer("Flatten")
def flatten(node: Node) -> Instruction:
    x = node.input(0)
    axis = node.integer("axis", 1)
    axis = axis + x.shape.rank if axis < 0 else axis
    return node.reshape(x, (dim.product(x.shape.dims[:axis]), dim.product(x.shape.dims[axis:])))


@importer("Transpose")
def transpose(node: Node) -> Instruction:
    x = node.input(0)
    return node.add(ops.Transpose(node.integers("perm", range(x.shape.rank)[::-1])), x)


@importer("Squeeze")
def squeeze(node: Node) -> Instruction:
    """Without axes, drops those of size 1; dims known only at run time are assumed not to be 1. In
    the ``other`` readings of a file, one such dim of its inputs is 1, or all are.
    """
    x, given = node.input(0), node.optional(1)
    axes = runtime.known_axes(node, given)
    if axes is None and given is not None:
        return runtime.squeezed(node, x, given)
    if not axes and not node.has("axes"):
        if unknown := [d for d in x.shape.dims if d != 1 and dim.may_equal(d, 1)]:
            ones = node.add(ops.Equal(), node.dims(unknown), 1)
            any_one = node.add(ops.ReduceAny((0,)), ones)
            x = node.assumed(x, node.reshape(any_one, ()), False)
            symbols = (d.symbol.name for d in unknown if isinstance(d, Dim) and d.symbol)
            node.graph.model.not_one.update(dict.fromkeys(symbols))
        axes = tuple(i for i, d in enumerate(x.shape.dims) if d == 1)
    return node.add(ops.Squeeze(node.axes(axes or (), x.shape.rank)), x) if axes else x


@importer("Unsqueeze")
def unsqueeze(node: Node) -> Instruction:
    x, given = node.input(0), node.optional(1)
    axes = runtime.known_axes(node, given)
    if axes is None and given is not None:
        return runtime.unsqueezed(node, x, given)
    axes = node.integers("axes") if given is None else axes or ()
    return node.add(ops.Unsqueeze(node.axes(axes, x.shape.rank + len(axes))), x)


@importer("Concat")
def concat(node: Node) -> Instruction:
    """Until version 4 the axis defaults to 1."""
    values = node.operands()
    default = 1 if node.version < 4 else None
    axis = node.axis(node.integer("axis", default), values[0].shape.rank)
    return concatenate(node, axis, values)


@importer("Tile", since=6)
def tile(node: Node) -> Instruction:
    return tiled(node, node.input(0), node.input(1))


@importer("Tile")
def tile_one_axis(node: Node) -> Instruction:
    """Version 1: the count and the axis are scalars."""
    x = node.input(0)
    once = node.literal(np.ones(x.shape.rank, np.int64))
    tiles, axis = (runtime.listed(node, node.input(i)) for i in (1, 2))
    return tiled(node, x, runtime.placed(node, once, axis, tiles))


def tiled(node: Node, x: Instruction, given: Instruction) -> Instruction:
    """Each axis gets a new one before it, which is broadcast and merged with it."""
    repeats, rank = node.extents(given), x.shape.rank
    if repeats is not None and all(r == 1 for r in repeats):
        return x
    apart = node.add(ops.Unsqueeze(tuple(range(0, 2 * rank, 2))), x)
    if repeats is not None:
        pairs = zip(repeats, x.shape.dims, strict=True)
        wide = node.broadcast_to(apart, [e for pair in pairs for e in pair])
        return node.reshape(wide, [r * d for r, d in zip(repeats, x.shape.dims, strict=True)])
    counts, have = node.reshape(runtime.listed(node, given), (rank,)), node.dims(x.shape.dims)
    columns = [node.reshape(v, (rank, 1)) for v in (counts, have)]
    target = node.reshape(node.add(ops.Concat(1), *columns), (2 * rank,))
    dims = [e for i, d in enumerate(x.shape.dims) for e in (node.fresh(f"repeats.{i}"), d)]
    wide = node.add(ops.Multibroadcast(tuple(dims)), apart, target)
    return runtime.reshaped(node, wide, node.add(ops.Mul(), counts, have))


@importer("Pad")
def pad_by_attributes(node: Node) -> Instruction:
    x = node.input(0)
    pads = node.integers("pads" if node.version >= 2 else "paddings")
    return padded(node, x, pads, node.literal(node.number("value", 0.0), x.shape.dtype))


@importer("Pad", since=11)
def pad(node: Node) -> Instruction:
    x, rank, value = node.input(0), node.input(0).shape.rank, node.optional(2)
    given, axes = node.extents(node.input(1)), node.optional(3)
    named = None if axes is None else runtime.known_axes(node, axes)
    if given is None or (axes is not None and named is None):
        return padded_at_run_time(node, x, axes, value)
    pads: list[Extent] = list(given)
    if named is not None:
        pads = [0] * (2 * rank)
        for i, axis in enumerate(node.axis(a, rank) for a in named):
            pads[axis], pads[rank + axis] = given[i], given[len(named) + i]
    return padded(node, x, pads, value)


def padded(
    node: Node, x: Instruction, pads: Sequence[Extent], value: Instruction | None
) -> Instruction:
    if all(isinstance(p, int) and p == 0 for p in pads):
        return x
    mode = node.string("mode", "constant")
    op = ops.Pad(tuple(pads), mode)
    return node.add(op, x) if value is None or mode != "constant" else node.add(op, x, value)


def padded_at_run_time(
    node: Node, x: Instruction, axes: Instruction | None, value: Instruction | None
) -> Instruction:
    rank, pads = x.shape.rank, runtime.listed(node, node.input(1))
    if axes is not None:
        none, places = np.zeros(2 * rank, np.int64), runtime.listed(node, axes)
        pads = runtime.placed_pairs(node, none, places, pads, rank)
    mode = node.string("mode", "constant")
    op = ops.DynamicPad(runtime.fresh_dims(node, rank), mode)
    return node.add(op, x, pads, *([] if value is None or mode != "constant" else [value]))


@importer("Range")
def number_range(node: Node) -> Instruction:
    bounds = [node.input(i) for i in range(3)]
    bounds = [node.reshape(v, ()) for v in bounds]
    count: Extent = node.fresh()
    known = [node.extents(v, whole=True) for v in bounds]
    exact = [node.constant(v) for v in bounds]
    if all(v is not None for v in known):
        (start,), (limit,), (delta,) = (v for v in known if v is not None)
        count = range_count(start, limit, delta, count)
    elif all(v is not None for v in exact):
        first, end, by = (np.asarray(v).item() for v in exact)
        count = max(int(np.ceil((end - first) / by)), 0)
    return node.add(ops.DynamicRange(count), *bounds)


def range_count(start: Extent, limit: Extent, delta: Extent, unknown: Extent) -> Extent:
    """The number of elements from start to limit; ``unknown`` if the sign of delta is unknown."""
    if isinstance(delta, Dim) or delta == 0:
        return unknown
    span = limit - start if delta > 0 else start - limit
    return dim.maximum((span + (abs(delta) - 1)) // abs(delta), 0)


MODES = ("DCR", "CRD")
"""Which comes first in the channels: the block's rows and columns, or the remaining channels."""


@importer("DepthToSpace")
def depth_to_space(node: Node) -> Instruction:
    x, block = node.input(0), node.integer("blocksize")
    n, c, h, w = node.dims_of(0, 4)
    deep = c // (block * block)
    dims: tuple[Extent, ...] = (n, block, block, deep, h, w)
    order = (0, 3, 4, 1, 5, 2)
    if node.choice("mode", MODES, "DCR") != "DCR":
        dims, order = (n, deep, block, block, h, w), (0, 1, 4, 2, 5, 3)
    apart = node.add(ops.Transpose(order), node.reshape(x, dims))
    return node.reshape(apart, (n, deep, h * block, w * block))


@importer("SpaceToDepth")
def space_to_depth(node: Node) -> Instruction:
    x, block = node.input(0), node.integer("blocksize")
    n, c, h, w = node.dims_of(0, 4)
    apart = node.reshape(x, (n, c, h // block, block, w // block, block))
    mode = node.choice("mode", MODES, "DCR")
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return node.reshape(
        node.add(ops.Transpose(order), apart),
        (n, c * block * block, h // block, w // block),
    )


@importer("EyeLike")
def eye_like(node: Node) -> Instruction:
    x, shift = node.input(0), node.integer("k", 0)
    rows, columns = node.dims_of(0, 2)
    dtype = node.dtype("dtype") if node.has("dtype") else x.shape.dtype
    first, last = arange(node, rows, shift), arange(node, columns)
    return node.convert(node.add(ops.Equal(), node.add(ops.Unsqueeze((1,)), first), last), dtype)
