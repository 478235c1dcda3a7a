"""ONNX resampling: Resize and Upsample, with scales, sizes and regions known now or at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from migx import ops
from migx.dim import Extent
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops import runtime
from migx.op import Array
from migx.shape import F32, F64, I64

POLICIES = ("stretch", "not_larger", "not_smaller")
"""How sizes are changed to keep the aspect ratio."""


@dataclass(frozen=True)
class Wanted:
    """A Resize's request: operands for some axes, and how coordinates are computed and rounded."""

    axes: tuple[int, ...]
    scales: Instruction | None = None
    sizes: Instruction | None = None
    region: Instruction | None = None
    transformation: str = "asymmetric"
    nearest: str = "floor"
    policy: str = "stretch"


@importer("Resize", since=10)
def resize_by_scales(node: Node) -> Instruction:
    """Version 10: coordinates are asymmetric, and the scales always given.

    The nearest element is the one before on axes that grow and the one after on those that shrink,
    as in onnxruntime; ONNX leaves this open. Shrinking axes are resized first if there may be both.
    """
    scales, x = node.input(1), node.input(0)
    for bound, nearest in ((ops.Min(), "ceil"), (ops.Max(), "floor")):
        bounded = node.add(bound, scales, 1)
        known = node.constant(bounded)
        if known is None or not np.all(known == 1):
            wanted = Wanted(every_axis(node), bounded, nearest=nearest)
            x = resized(Node(node.proto, node.graph, (x,), node.version), wanted)
    return x


@importer("Upsample")
def upsample_plane(node: Node) -> Instruction:
    """Version 1: the scales of height and width are attributes."""
    plane = [1.0, 1.0, node.number("height_scale"), node.number("width_scale")]
    return resized(node, Wanted(every_axis(node), node.literal(np.asarray(plane, np.float32))))


@importer("Upsample", since=7)
def upsample(node: Node) -> Instruction:
    scales = node.optional(1)
    if scales is None:
        scales = node.literal(np.asarray(node.numbers("scales"), np.float32))
    return resized(node, Wanted(every_axis(node), scales))


@importer("Resize", since=11)
def resize(node: Node) -> Instruction:
    rank = node.input(0).shape.rank
    region, scales, sizes = (given(node, i) for i in (1, 2, 3))
    if scales is None and sizes is None:
        raise node.fail("it needs scales or sizes")
    transformation = node.string("coordinate_transformation_mode", "half_pixel")
    crops = transformation == "tf_crop_and_resize"
    if crops and region is None:
        raise node.fail("tf_crop_and_resize needs a region of interest")
    policy = node.choice("keep_aspect_ratio_policy", POLICIES, "stretch")
    wanted = Wanted(
        tuple(node.axis(a, rank) for a in node.integers("axes", range(rank))),
        scales if sizes is None else None,
        sizes,
        region if crops else None,
        transformation,
        node.string("nearest_mode", "round_prefer_floor"),
        "stretch" if sizes is None else policy,
    )
    return resized(node, wanted)


def every_axis(node: Node) -> tuple[int, ...]:
    return tuple(range(node.input(0).shape.rank))


def given(node: Node, index: int) -> Instruction | None:
    """An operand unless it is omitted or empty; some exporters write the latter for the former."""
    value = node.optional(index)
    return None if value is None or value.shape.elements == 0 else value


def resized(node: Node, wanted: Wanted) -> Instruction:
    """The static operation if all operands are known, otherwise the dynamic one."""
    scales, sizes = wanted.scales, wanted.sizes
    factors = None if scales is None else node.constant(scales)
    extents = None if sizes is None else node.extents(sizes)
    region = None if wanted.region is None else node.constant(wanted.region)
    fits = wanted.policy == "stretch" or all_numbers(node, wanted.axes, extents)
    open_region = wanted.region is not None and region is None
    x, rank = node.input(0), node.input(0).shape.rank
    if factors is not None:
        pairs = zip(wanted.axes, factors.reshape(-1).tolist(), strict=True)
        fits = fits and all(is_exact(x.shape.dims[axis], factor) for axis, factor in pairs)
    if (factors is None and extents is None) or open_region or not fits:
        return resized_at_run_time(node, wanted)
    dims: list[Extent] = list(x.shape.dims)
    scaling = [1.0] * rank
    if extents is not None:
        for axis, extent in zip(wanted.axes, extents, strict=True):
            dims[axis] = extent
        if wanted.policy != "stretch":
            scaling = kept_aspect(wanted, x.shape.dims, dims)
    elif factors is not None:
        for axis, factor in zip(wanted.axes, factors.reshape(-1).tolist(), strict=True):
            scaling[axis] = factor
            dims[axis] = scaled_dim(dims[axis], factor)
    stretched = extents is not None and wanted.policy == "stretch"
    op = operation(node, wanted, dims, scales=() if stretched else tuple(scaling))
    return node.add(op if region is None else replace(op, roi=whole(wanted, region, rank)), x)


def all_numbers(node: Node, axes: Sequence[int], extents: Sequence[Extent] | None) -> bool:
    """Whether sizes, and the dims they replace, are numbers."""
    dims = [node.input(0).shape.dims[a] for a in axes]
    return all(isinstance(e, int) for e in (*dims, *(extents or ())))


def kept_aspect(wanted: Wanted, have: Sequence[Extent], dims: list[Extent]) -> list[float]:
    """The factor for all resized axes, the least or largest of theirs; sets ``dims``."""
    ratios = [float(int(dims[a]) / int(have[a])) for a in wanted.axes]
    factor = min(ratios) if wanted.policy == "not_larger" else max(ratios)
    for axis in wanted.axes:
        dims[axis] = int(np.floor(factor * int(have[axis]) + 0.5))
    return [factor if axis in wanted.axes else 1.0 for axis in range(len(have))]


def operation(
    node: Node, wanted: Wanted, dims: Sequence[Extent], scales: tuple[float, ...] = ()
) -> ops.Resize:
    """The operation with the node's attributes."""
    return ops.Resize(
        sizes=tuple(dims),
        scales=scales,
        mode=node.string("mode", "nearest"),
        coordinate_transformation_mode=wanted.transformation,
        nearest_mode=wanted.nearest,
        cubic_coeff_a=node.number("cubic_coeff_a", -0.75),
        exclude_outside=bool(node.integer("exclude_outside", 0)),
        antialias=bool(node.integer("antialias", 0)),
        extrapolation_value=node.number("extrapolation_value", 0.0),
    )


def is_exact(size: Extent, factor: float) -> bool:
    """Whether the scaled size can be computed exactly: for a symbol, if the factor is a ratio of
    small integers; other factors round with the size.
    """
    return isinstance(size, int) or factor.as_integer_ratio()[1] <= 1 << 16


def scaled_dim(size: Extent, factor: float) -> Extent:
    """floor(size * factor)."""
    if isinstance(size, int):
        return int(np.floor(size * np.float32(factor)))
    above, below = factor.as_integer_ratio()
    return size * above // below


def whole(wanted: Wanted, region: Array, rank: int) -> tuple[float, ...]:
    """The region of interest for all axes: starts, then ends."""
    both = np.repeat([[0.0], [1.0]], rank, axis=1)
    both[:, list(wanted.axes)] = region.reshape(2, -1)
    return tuple(both.reshape(-1).tolist())


def resized_at_run_time(node: Node, wanted: Wanted) -> Instruction:
    """Computes sizes and scales of all axes, one from the other."""
    x, rank = node.input(0), node.input(0).shape.rank
    places, have = runtime.numbers(node, wanted.axes), node.dims(x.shape.dims)
    ones = node.literal(np.ones(rank))
    if wanted.sizes is not None:
        sizes = runtime.placed(node, have, places, runtime.listed(node, wanted.sizes))
        scales = node.add(ops.Div(), node.convert(sizes, F64), node.convert(have, F64))
        if wanted.policy != "stretch":
            sizes, scales = kept_aspect_at_run_time(node, wanted, scales)
    elif wanted.scales is not None:
        factors = node.reshape(node.convert(wanted.scales, F64), (len(wanted.axes),))
        scales = runtime.placed(node, ones, places, factors)
        product = node.add(ops.Mul(), node.convert(have, F32), node.convert(scales, F32))
        sizes = node.convert(node.add(ops.Floor(), product), I64)
    operands = [sizes, scales]
    if wanted.region is not None:
        region = node.convert(wanted.region, F64)
        none = np.repeat([0.0, 1.0], rank)
        operands.append(runtime.placed_pairs(node, none, places, region, rank))
    out = [node.fresh(str(a)) if a in wanted.axes else d for a, d in enumerate(x.shape.dims)]
    static = operation(node, wanted, out)
    return node.add(ops.DynamicResize(**vars(static)), x, *operands)


def kept_aspect_at_run_time(
    node: Node, wanted: Wanted, scales: Instruction
) -> tuple[Instruction, Instruction]:
    """Sizes and scales with one factor for all resized axes, the least or largest of theirs."""
    places = runtime.numbers(node, wanted.axes)
    rank = node.input(0).shape.rank
    ratios = node.add(ops.Gather(0), scales, places)
    fold = ops.ReduceMin((0,)) if wanted.policy == "not_larger" else ops.ReduceMax((0,))
    factor = node.broadcast_to(node.add(fold, ratios), (len(wanted.axes),))
    factors = runtime.placed(node, node.literal(np.ones(rank)), places, factor)
    have = node.convert(node.dims(node.input(0).shape.dims), F64)
    product = node.add(ops.Mul(), have, factors)
    rounded = node.add(ops.Floor(), node.add(ops.Add(), product, 0.5))
    return node.convert(rounded, I64), factors
