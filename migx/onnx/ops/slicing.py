"""ONNX operators that slice tensors along their axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from migx import dim, ops
from migx.builders import arange
from migx.dim import Dim, Extent
from migx.errors import DimError
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops import runtime
from migx.onnx.ops._common import divided
from migx.shape import I64, Shape

FAR = 2**31 - 1
"""Slice ends at least this far mean the end of the axis, those below its negative the front."""


@importer("Split")
def split(node: Node) -> tuple[Instruction, ...]:
    """One slice for each output."""
    x, given = node.input(0), node.optional(1)
    axis, count = node.axis(node.integer("axis", 0), x.shape.rank), len(node.proto.output)
    whole = x.shape.dims[axis]
    sizes: Sequence[Extent] | None = node.integers("split", ()) or None
    if given is not None:
        sizes = node.extents(given)
        if sizes is None:
            return split_at_run_time(node, x, given, axis)
    if sizes is None:
        if node.integer("num_outputs", count) != count:
            raise node.fail(f"num_outputs is {node.integer('num_outputs')}, it has {count} outputs")
        part = (whole + (count - 1)) // count
        sizes = [part] * (count - 1) + [whole - part * (count - 1)]
    if len(sizes) != count:
        raise node.fail(f"it has {count} outputs and {len(sizes)} sizes")
    return tuple(divided(node, x, sizes, axis))


def split_at_run_time(
    node: Node, x: Instruction, given: Instruction, axis: int
) -> tuple[Instruction, ...]:
    """Slices at the running sums of the sizes, checked: non-negative, adding up to the axis."""
    sizes = runtime.listed(node, given)
    count = len(node.proto.output)
    if not dim.may_equal(sizes.shape.dims[0], count):
        raise node.fail(f"it has {count} outputs and {sizes.shape.dims[0]} sizes")
    total, least = node.add(ops.ReduceSum((0,)), sizes), node.add(ops.ReduceMin((0,)), sizes)
    x = runtime.expected(
        node,
        x,
        f"the sizes of the parts are negative, or do not add up to axis {axis}",
        node.add(ops.Equal(), total, node.dims([x.shape.dims[axis]])),
        node.add(ops.GreaterOrEqual(), least, runtime.numbers(node, [0])),
    )
    starts = node.add(ops.PrefixScanSum(0, exclusive=True), sizes)
    ends, one = node.add(ops.Add(), starts, sizes), runtime.numbers(node, [1])
    parts = []
    for i in range(count):
        bounds = [node.add(ops.Slice((0,), (i,), (i + 1,)), v) for v in (starts, ends)]
        cut = ops.DynamicSlice((axis,), (node.fresh(str(i)),))
        parts.append(node.add(cut, x, *bounds, one))
    return tuple(parts)


@importer("Slice")
def slice_by_attributes(node: Node) -> Instruction:
    starts, ends = node.integers("starts"), node.integers("ends")
    rank = node.input(0).shape.rank
    axes = [node.axis(a, rank) for a in node.integers("axes", range(len(starts)))]
    return sliced(node, node.input(0), axes, starts, ends, [1] * len(axes))


@importer("Slice", since=10)
def slice_by_inputs(node: Node) -> Instruction:
    x, starts, ends, given = node.input(0), node.input(1), node.input(2), node.optional(3)
    for name, bounds in ("starts", starts), ("ends", ends):
        if bounds.shape.rank != 1:
            raise node.fail(f"its {name} are {bounds.shape}; a list of numbers has one dim")
    (count,) = starts.shape.dims
    axes = None if given is None else runtime.known_axes(node, given)
    if axes is None and (given is not None or not isinstance(count, int)):
        return sliced_on_any_axes(node, given)
    places = [node.axis(a, x.shape.rank) for a in (range(int(count)) if axes is None else axes)]
    count = len(places)
    steps = node.optional(4)
    known = [node.extents(v) for v in (starts, ends)]
    by = (1,) * count if steps is None else node.extents(steps)
    if known[0] is not None and known[1] is not None and by is not None:
        try:
            return sliced(node, x, places, known[0], known[1], by)
        except DimError:
            pass  # a bound's sign depends on sizes: the run decides
    steps = node.literal(np.ones(count, np.int64)) if steps is None else steps
    lens = [node.fresh(str(a)) for a in sorted(places)]
    operands = [node.convert(v, I64) for v in (starts, ends, steps)]
    order = np.argsort(places, kind="stable")
    if list(order) != list(range(count)):
        operands = [
            node.add(ops.Gather(0), v, node.literal(order.astype(np.int64))) for v in operands
        ]
    return node.add(ops.DynamicSlice(tuple(sorted(places)), tuple(lens)), x, *operands)


def sliced_on_any_axes(node: Node, given: Instruction | None) -> Instruction:
    """A slice of every axis: as specified on those named at run time, whole on others. Without
    axes, the first ones are meant, as many as there are starts.
    """
    x, rank, operands = node.input(0), node.input(0).shape.rank, []
    named = arange(node, node.input(1).shape.dims[0]) if given is None else given
    axes = runtime.listed(node, named)
    for operand, whole in ((node.input(1), 0), (node.input(2), 2**63 - 1), (node.optional(4), 1)):
        values: Instruction | int = 1 if operand is None else runtime.listed(node, operand)
        every = runtime.numbers(node, [whole] * rank)
        operands.append(runtime.placed(node, every, axes, values))
    op = ops.DynamicSlice(tuple(range(rank)), runtime.fresh_dims(node, rank))
    return node.add(op, x, *operands)


def sliced(
    node: Node,
    x: Instruction,
    axes: Sequence[int],
    starts: Sequence[Extent],
    ends: Sequence[Extent],
    steps: Sequence[Extent],
) -> Instruction:
    """Slices with known bounds: negative steps are reversed first, larger ones applied last."""
    backwards = tuple(sorted(a for a, s in zip(axes, steps, strict=True) if s < 0))
    x = node.add(ops.Reverse(backwards), x) if backwards else x
    cuts: dict[int, tuple[Extent, Extent]] = {}
    strides: dict[int, int] = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        whole = x.shape.dims[axis]
        if step == 0 or isinstance(step, Dim):
            raise node.fail(f"its step is {step}")
        if step < 0:
            first, last = backward_bounds(start, end, whole)
        else:
            first, last = (from_front(v, x.shape, axis) for v in (start, end))
        if (first, last) != (0, whole):
            cuts[axis] = first, dim.maximum(first, last)
        if abs(step) != 1:
            strides[axis] = abs(step)
    if cuts:
        order = sorted(cuts)
        bounds = tuple(cuts[a][0] for a in order), tuple(cuts[a][1] for a in order)
        x = node.add(ops.Slice(tuple(order), *bounds), x)
    if strides:
        x = node.add(
            ops.Step(tuple(sorted(strides)), tuple(strides[a] for a in sorted(strides))), x
        )
    return x


def from_front(place: Extent, x: Shape, axis: int) -> Extent:
    """A bound counted from the front and clamped to the axis.

    If its sign depends on sizes, the extent contains both cases. A bound that is also a dim is not
    negative.
    """
    whole = x.dims[axis]
    if isinstance(place, int) and abs(place) >= FAR:
        return whole if place > 0 else 0
    low, high = dim.bounds(place)
    if low >= 0 or place in x.dims:
        return dim.minimum(place, whole)
    behind = dim.maximum(place + whole, 0)
    if high < 0 or behind == 0:  # such as the start of x[-n:] with n elements, even if n is 0
        return behind
    is_negative = dim.minimum(dim.maximum(-1 * place, 0), 1)
    return dim.minimum(dim.maximum(place, 0), whole) + is_negative * behind


def backward_bounds(start: Extent, end: Extent, whole: Extent) -> tuple[Extent, Extent]:
    """The bounds of a slice with a negative step, on the reversed axis."""
    if isinstance(start, int) and abs(start) >= FAR:
        start = whole - 1 if start > 0 else -1
    else:
        start = dim.minimum(start + whole if start < 0 else start, whole - 1)
    if isinstance(end, int) and abs(end) >= FAR:
        end = whole - 1 if end > 0 else -1
    else:
        end = dim.maximum(end + whole if end < 0 else end, -1)
    return dim.minimum(whole - 1 - start, whole), dim.minimum(whole - 1 - end, whole)
