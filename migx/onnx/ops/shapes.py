"""ONNX operators that shape, cut and join tensors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from migx import dim, ops
from migx.dim import Dim, Extent
from migx.errors import DimError
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.op import Array
from migx.shape import I64

FAR = 2**31 - 1
"""Slice ends at least this far out mean the end of the axis, those below its negative the front."""


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
        raise node.fail("sparse constants are not supported")
    return node.unpacked(node.add(ops.Literal(node.tensor("value"), node.label)))


@importer("ConstantOfShape")
def constant_of_shape(node: Node) -> Instruction:
    value = node.tensor("value").array.reshape(-1)[0] if node.has("value") else np.float32(0)
    return spread(node, node.literal(np.asarray(value)), node.input(0))


def spread(node: Node, x: Instruction, target: Instruction) -> Instruction:
    """A value broadcast with the dims another value holds (ONNX Expand)."""
    wanted = node.extents(target)
    if wanted is not None:
        rank = max(x.shape.rank, len(wanted))
        pairs = zip(_padded(x.shape.dims, rank), _padded(wanted, rank), strict=True)
        return node.broadcast_to(x, [dim.broadcast(a, b) for a, b in pairs])
    (count,) = target.shape.dims
    if not isinstance(count, int):
        raise node.fail(f"the rank of its result is {count}, which is not known")
    rank = max(x.shape.rank, count)
    return node.add(ops.Multibroadcast(tuple(node.fresh(str(i)) for i in range(rank))), x, target)


def _padded(dims: Sequence[Extent], rank: int) -> tuple[Extent, ...]:
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
    return node.add(ops.Squeeze((0,)), node.dims([node.input(0).shape.elements]))


@importer("Reshape", since=5)
def reshape(node: Node) -> Instruction:
    x, target = node.input(0), node.input(1)
    keep_zeros = bool(node.integer("allowzero", 0))
    wanted = node.extents(target)
    if wanted is not None:
        return node.reshape(x, resolved(node, x, wanted, keep_zeros))
    (count,) = target.shape.dims
    if not isinstance(count, int):
        raise node.fail(f"the rank of its result is {count}, which is not known")
    return node.add(
        ops.Reshape(tuple(node.fresh(str(i)) for i in range(count)), keep_zeros), x, target
    )


def resolved(
    node: Node, x: Instruction, wanted: Sequence[Extent], keep_zeros: bool
) -> tuple[Extent, ...]:
    """The dims a Reshape asks for: 0 is the dim of the input, -1 what is left."""
    if any(d == 0 and i >= x.shape.rank for i, d in enumerate(wanted)) and not keep_zeros:
        raise node.fail(f"dims {tuple(wanted)} copy a dim that {x.shape} does not have")
    dims = [x.shape.dims[i] if d == 0 and not keep_zeros else d for i, d in enumerate(wanted)]
    if -1 in dims:
        rest = dim.product(d for d in dims if d != -1)
        if dims.count(-1) > 1 or rest == 0:
            raise node.fail(f"dims {tuple(wanted)} leave more than one to be found")
        dims[dims.index(-1)] = left_over(x.shape.dims, [d for d in dims if d != -1])
    return tuple(dims)


def left_over(have: Sequence[Extent], wanted: Sequence[Extent]) -> Extent:
    """The product of some dims over that of others, those that stand on both sides left out."""
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
    x, given = node.input(0), node.optional(1)
    axes = (
        node.integers("axes", ())
        if given is None
        else tuple(node.needed(given, "axes").reshape(-1))
    )
    if not axes and not node.has("axes"):
        if unknown := [d for d in x.shape.dims if d != 1 and dim.may_equal(d, 1)]:
            raise node.fail(f"which axes are 1 is not known before {unknown[0]} is: give its axes")
        axes = tuple(i for i, d in enumerate(x.shape.dims) if d == 1)
    return node.add(ops.Squeeze(node.axes(axes, x.shape.rank)), x) if axes else x


@importer("Unsqueeze")
def unsqueeze(node: Node) -> Instruction:
    x, given = node.input(0), node.optional(1)
    axes = node.integers("axes") if given is None else tuple(node.needed(given, "axes").reshape(-1))
    return node.add(ops.Unsqueeze(node.axes(axes, x.shape.rank + len(axes))), x)


@importer("Concat", since=4)
def concat(node: Node) -> Instruction:
    values = [node.input(i) for i in range(len(node.inputs))]
    axis = node.axis(node.integer("axis"), values[0].shape.rank)
    return values[0] if len(values) == 1 else node.add(ops.Concat(axis), *values)


@importer("Split")
def split(node: Node) -> tuple[Instruction, ...]:
    """One slice for each output."""
    x, given = node.input(0), node.optional(1)
    axis = node.axis(node.integer("axis", 0), x.shape.rank)
    whole = x.shape.dims[axis]
    sizes: Sequence[Extent] | None = node.integers("split", ()) or None
    if given is not None:
        sizes = node.extents(given)
        if sizes is None:
            raise node.fail("the sizes of the parts must be constant or come from dims")
    if sizes is None:
        count = len(node.proto.output)
        if node.integer("num_outputs", count) != count:
            raise node.fail(f"num_outputs is {node.integer('num_outputs')}, it has {count} outputs")
        part = (whole + (count - 1)) // count
        sizes = [part] * (count - 1) + [whole - part * (count - 1)]
    bounds = list(itertools.accumulate(sizes, initial=0))
    if not dim.may_equal(bounds[-1], whole):
        raise node.fail(f"its parts {tuple(sizes)} add up to {bounds[-1]}, the axis has {whole}")
    return tuple(node.add(ops.Slice((axis,), (a,), (b,)), x) for a, b in itertools.pairwise(bounds))


@importer("Slice")
def slice_by_attributes(node: Node) -> Instruction:
    starts, ends = node.integers("starts"), node.integers("ends")
    rank = node.input(0).shape.rank
    axes = [node.axis(a, rank) for a in node.integers("axes", range(len(starts)))]
    return sliced(node, node.input(0), axes, starts, ends, [1] * len(axes))


@importer("Slice", since=10)
def slice_by_inputs(node: Node) -> Instruction:
    x, starts, ends = node.input(0), node.input(1), node.input(2)
    (count,) = starts.shape.dims
    if not isinstance(count, int):
        raise node.fail(f"how many axes it slices is {count}, which is not known")
    given = node.optional(3)
    axes = range(count) if given is None else node.needed(given, "axes").reshape(-1)
    places = [node.axis(int(a), x.shape.rank) for a in axes]
    steps = node.optional(4)
    known = [node.extents(v) for v in (starts, ends)]
    by = (1,) * count if steps is None else node.extents(steps)
    if known[0] is not None and known[1] is not None and by is not None:
        try:
            return sliced(node, x, places, known[0], known[1], by)
        except DimError:
            pass  # the sign of a bound is known only when sizes are: then the run decides
    steps = node.literal(np.ones(count, np.int64)) if steps is None else steps
    lens = [node.fresh(str(a)) if a in places else d for a, d in enumerate(x.shape.dims)]
    operands = [node.convert(v, I64) for v in (starts, ends, steps)]
    order = np.argsort(places, kind="stable")
    if list(order) != list(range(count)):
        operands = [
            node.add(ops.Gather(0), v, node.literal(order.astype(np.int64))) for v in operands
        ]
    return node.add(ops.DynamicSlice(tuple(sorted(places)), tuple(lens)), x, *operands)


def sliced(
    node: Node,
    x: Instruction,
    axes: Sequence[int],
    starts: Sequence[Extent],
    ends: Sequence[Extent],
    steps: Sequence[Extent],
) -> Instruction:
    """Slices of known bounds: what runs backwards is reversed first, what strides is stepped
    after.
    """
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
            first, last = (from_front(v, whole) for v in (start, end))
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


def from_front(place: Extent, whole: Extent) -> Extent:
    """A bound counted from the front and clamped to the axis. ``DimError`` where its sign is not
    known.
    """
    if isinstance(place, int) and abs(place) >= FAR:
        return whole if place > 0 else 0
    if place < 0:
        return dim.maximum(place + whole, 0)
    return dim.minimum(place, whole)


def backward_bounds(start: Extent, end: Extent, whole: Extent) -> tuple[Extent, Extent]:
    """The bounds of a slice that runs backwards, on the reversed axis."""
    if isinstance(start, int) and abs(start) >= FAR:
        start = whole - 1 if start > 0 else -1
    else:
        start = dim.minimum(start + whole if start < 0 else start, whole - 1)
    if isinstance(end, int) and abs(end) >= FAR:
        end = whole - 1 if end > 0 else -1
    else:
        end = dim.maximum(end + whole if end < 0 else end, -1)
    return dim.minimum(whole - 1 - start, whole), dim.minimum(whole - 1 - end, whole)


@importer("Tile", since=6)
def tile(node: Node) -> Instruction:
    """Each axis gets one before it, is broadcast along that, and is merged with it."""
    x = node.input(0)
    repeats = node.extents(node.input(1))
    if repeats is None:
        raise node.fail("repeats must be constant or come from dims")
    if all(r == 1 for r in repeats):
        return x
    apart = node.add(ops.Unsqueeze(tuple(range(0, 2 * x.shape.rank, 2))), x)
    wide = node.broadcast_to(
        apart, [e for pair in zip(repeats, x.shape.dims, strict=True) for e in pair]
    )
    return node.reshape(wide, [r * d for r, d in zip(repeats, x.shape.dims, strict=True)])


@importer("Pad", since=2)
def pad_by_attributes(node: Node) -> Instruction:
    x = node.input(0)
    return padded(
        node, x, node.integers("pads"), node.literal(node.number("value", 0.0), x.shape.dtype)
    )


@importer("Pad", since=11)
def pad(node: Node) -> Instruction:
    x, rank = node.input(0), node.input(0).shape.rank
    given, axes = node.extents(node.input(1)), node.optional(3)
    if given is None:
        raise node.fail("pads must be constant or come from dims")
    pads: list[Extent] = list(given)
    if axes is not None:
        pads = [0] * (2 * rank)
        named = [node.axis(int(a), rank) for a in node.needed(axes, "axes").reshape(-1)]
        for i, axis in enumerate(named):
            pads[axis], pads[rank + axis] = given[i], given[len(named) + i]
    return padded(node, x, pads, node.optional(2))


def padded(
    node: Node, x: Instruction, pads: Sequence[Extent], value: Instruction | None
) -> Instruction:
    if all(isinstance(p, int) and p == 0 for p in pads):
        return x
    mode = node.string("mode", "constant")
    op = ops.Pad(tuple(pads), mode)
    return node.add(op, x) if value is None or mode != "constant" else node.add(op, x, value)


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
    """How many numbers there are from start to limit; the symbol given where the sign of delta is
    not known.
    """
    if isinstance(delta, Dim) or delta == 0:
        return unknown
    span = limit - start if delta > 0 else start - limit
    return dim.maximum((span + (abs(delta) - 1)) // abs(delta), 0)


@importer("DepthToSpace")
def depth_to_space(node: Node) -> Instruction:
    x, block = node.input(0), node.integer("blocksize")
    n, c, h, w = x.shape.dims
    deep = c // (block * block)
    dims: tuple[Extent, ...] = (n, block, block, deep, h, w)
    order = (0, 3, 4, 1, 5, 2)
    if node.string("mode", "DCR") != "DCR":
        dims, order = (n, deep, block, block, h, w), (0, 1, 4, 2, 5, 3)
    apart = node.add(ops.Transpose(order), node.reshape(x, dims))
    return node.reshape(apart, (n, deep, h * block, w * block))


@importer("SpaceToDepth")
def space_to_depth(node: Node) -> Instruction:
    x, block = node.input(0), node.integer("blocksize")
    n, c, h, w = x.shape.dims
    apart = node.reshape(x, (n, c, h // block, block, w // block, block))
    order = (0, 3, 5, 1, 2, 4) if node.string("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return node.reshape(
        node.add(ops.Transpose(order), apart),
        (n, c * block * block, h // block, w // block),
    )


@importer("EyeLike")
def eye_like(node: Node) -> Instruction:
    x = node.input(0)
    rows, columns = x.shape.dims
    if isinstance(rows, Dim) or isinstance(columns, Dim):
        raise node.fail(f"the dims of {x.shape} must be known")
    dtype = node.dtype("dtype") if node.has("dtype") else x.shape.dtype
    return node.literal(np.eye(rows, columns, node.integer("k", 0)), dtype)


@importer("Resize", since=10)
def resize_by_scales(node: Node) -> Instruction:
    """Version 10: half the coordinates are asymmetric, and the scales always given."""
    scales = node.needed(node.input(1), "scales")
    return resized(node, scales.reshape(-1), None, "asymmetric", "floor")


@importer("Upsample", since=7)
def upsample(node: Node) -> Instruction:
    given = node.optional(1)
    scales = np.asarray(node.numbers("scales")) if given is None else node.needed(given, "scales")
    return resized(node, scales.reshape(-1), None, "asymmetric", "floor")


@importer("Resize", since=11)
def resize(node: Node) -> Instruction:
    scales, sizes = node.optional(2), node.optional(3)
    held = (
        None
        if scales is None or scales.shape.elements == 0
        else node.needed(scales, "scales").reshape(-1)
    )
    wanted = None if sizes is None or sizes.shape.elements == 0 else node.extents(sizes)
    if held is None and wanted is None:
        raise node.fail("scales must be constant, or sizes constant or come from dims")
    transformation = node.string("coordinate_transformation_mode", "half_pixel")
    return resized(
        node, held, wanted, transformation, node.string("nearest_mode", "round_prefer_floor")
    )


def resized(
    node: Node,
    scales: Array | None,
    sizes: Sequence[Extent] | None,
    transformation: str,
    nearest: str,
) -> Instruction:
    x = node.input(0)
    axes = [node.axis(a, x.shape.rank) for a in node.integers("axes", range(x.shape.rank))]
    dims: list[Extent] = list(x.shape.dims)
    factors = [1.0] * x.shape.rank
    for i, axis in enumerate(axes):
        if sizes is not None:
            dims[axis] = sizes[i]
        elif scales is not None:
            factors[axis] = float(scales[i])
            dims[axis] = scaled_dim(node, dims[axis], factors[axis])
    if sizes is not None and node.string("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.fail("keep_aspect_ratio_policy is not supported")
    op = ops.Resize(
        sizes=tuple(dims),
        scales=() if sizes is not None else tuple(factors),
        mode=node.string("mode", "nearest"),
        coordinate_transformation_mode=transformation,
        nearest_mode=nearest,
        cubic_coeff_a=node.number("cubic_coeff_a", -0.75),
        exclude_outside=bool(node.integer("exclude_outside", 0)),
        antialias=bool(node.integer("antialias", 0)),
        extrapolation_value=node.number("extrapolation_value", 0.0),
        roi=region(node, axes, x.shape.rank) if transformation == "tf_crop_and_resize" else (),
    )
    return node.add(op, x)


def scaled_dim(node: Node, size: Extent, factor: float) -> Extent:
    """floor(size * factor), exactly where the factor is a ratio of small numbers."""
    if isinstance(size, int):
        return int(np.floor(size * np.float32(factor)))
    above, below = float(factor).as_integer_ratio()
    if below > 1 << 16:
        raise node.fail(f"the dim {size} times {factor} is no exact expression")
    return size * above // below


def region(node: Node, axes: Sequence[int], rank: int) -> tuple[float, ...]:
    """The region of interest: starts, then ends, of all axes."""
    given = node.optional(1)
    if given is None:
        raise node.fail("tf_crop_and_resize needs a region of interest")
    held = node.needed(given, "roi").reshape(-1)
    whole = [0.0] * rank + [1.0] * rank
    for i, axis in enumerate(axes):
        whole[axis], whole[rank + axis] = float(held[i]), float(held[len(axes) + i])
    return tuple(whole)
