"""ONNX normalisations and reductions, lowered to sums, means and elementwise arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from migx import dim, ops
from migx.builders import folded
from migx.ir import Instruction
from migx.onnx.alike import REDUCTIONS, class_of
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops import runtime
from migx.onnx.ops.linear import per_channel
from migx.shape import F32, F64

COMPOSED = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")


@importer("BatchNormalization")
def batch_normalization(node: Node) -> tuple[Instruction, ...]:
    """Uses the given statistics, or in training mode those of x, and updates the running ones.

    Before version 14 only the outputs tell that it is training.
    """
    x, scale, bias, mean, variance = (node.input(i) for i in range(5))
    if not node.integer("training_mode", 0):
        if node.outputs > 1:
            raise node.fail(
                "it has statistics among its outputs: give it training_mode, version 14"
            )
        return (scaled_and_shifted(node, x, scale, bias, mean, variance),)
    axes = tuple(i for i in range(x.shape.rank) if i != 1)
    wide = node.convert(x, mean.shape.dtype)
    average, _, square = moments(node, wide, axes)
    now = [node.reshape(v, mean.shape.dims) for v in (average, square)]
    momentum, running = node.number("momentum", 0.9), []
    for old, new in zip((mean, variance), now, strict=True):
        kept = node.add(ops.Mul(), old, momentum)
        running.append(node.add(ops.Add(), kept, node.add(ops.Mul(), new, 1 - momentum)))
    return (scaled_and_shifted(node, x, scale, bias, *now), *running)


def moments(
    node: Node, x: Instruction, axes: tuple[int, ...]
) -> tuple[Instruction, Instruction, Instruction]:
    """The mean over some axes, the difference from it, and the mean of that squared."""
    mean = node.add(ops.ReduceMean(axes), x)
    centred = node.add(ops.Sub(), x, mean)
    return mean, centred, node.add(ops.ReduceMean(axes), node.add(ops.Mul(), centred, centred))


def scaled_and_shifted(
    node: Node,
    x: Instruction,
    scale: Instruction,
    bias: Instruction,
    mean: Instruction,
    variance: Instruction,
) -> Instruction:
    """X * f + (bias - mean * f) with f = scale / sqrt(variance + epsilon), all vectors over the
    channels.
    """
    spread = node.add(ops.Add(), variance, node.number("epsilon", 1e-5))
    factor = node.add(
        ops.Div(), scale, node.add(ops.Sqrt(), node.convert(spread, scale.shape.dtype))
    )
    mean = node.convert(mean, scale.shape.dtype)
    shift = node.add(ops.Sub(), bias, node.add(ops.Mul(), mean, factor))
    factor, shift = (per_channel(node, node.convert(v, x.shape.dtype), x) for v in (factor, shift))
    return node.add(ops.Add(), node.add(ops.Mul(), x, factor), shift)


def normalized(
    node: Node, x: Instruction, axes: Sequence[int], epsilon: float
) -> tuple[Instruction, Instruction, Instruction]:
    """(x - mean) / sqrt(variance + epsilon) over some axes, with the mean and 1 / sqrt(...), whose
    reduced axes have size 1.
    """
    mean = node.add(ops.ReduceMean(tuple(axes)), x)
    centred = node.add(ops.Sub(), x, mean)
    result, inverse = over_root_mean_square(node, centred, axes, epsilon)
    return result, mean, inverse


def over_root_mean_square(
    node: Node, x: Instruction, axes: Sequence[int], epsilon: float
) -> tuple[Instruction, Instruction]:
    """X / sqrt(mean(x²) + epsilon) over some axes, with 1 / sqrt(...), whose axes have size 1."""
    square = node.add(ops.ReduceMean(tuple(axes)), node.add(ops.Mul(), x, x))
    inverse = node.add(ops.Rsqrt(), node.add(ops.Add(), square, epsilon))
    return node.add(ops.Mul(), x, inverse), inverse


@importer("LayerNormalization")
def layer_normalization(node: Node) -> tuple[Instruction, ...]:
    x, scale, bias = node.input(0), node.input(1), node.optional(2)
    axes = range(node.axis(node.integer("axis", -1), x.shape.rank), x.shape.rank)
    stash = node.dtype("stash_type", 1)
    result, mean, inverse = normalized(
        node, node.convert(x, stash), axes, node.number("epsilon", 1e-5)
    )
    result = node.convert(result, x.shape.dtype)
    result = node.add(ops.Mul(), result, node.broadcast_to(scale, x.shape.dims))
    if bias is not None:
        result = node.add(ops.Add(), result, node.broadcast_to(bias, x.shape.dims))
    return result, mean, inverse


@importer("RMSNormalization")
def rms_normalization(node: Node) -> Instruction:
    x, scale = node.input(0), node.input(1)
    axes = range(node.axis(node.integer("axis", -1), x.shape.rank), x.shape.rank)
    wide = node.convert(x, node.dtype("stash_type", 1))
    result, _ = over_root_mean_square(node, wide, axes, node.number("epsilon", 1e-5))
    return node.add(
        ops.Mul(), node.convert(result, scale.shape.dtype), node.broadcast_to(scale, x.shape.dims)
    )


@importer("MeanVarianceNormalization", since=9)
def mean_variance_normalization(node: Node) -> Instruction:
    """(x - mean) / (deviation + 1e-9). ONNX's body computes the variance as a difference of two
    means, which cancels for large means and may be negative.
    """
    x = node.input(0)
    axes = node.axes(node.integers("axes", (0, 2, 3)), x.shape.rank)
    wide = node.convert(x, F32) if x.shape.dtype.bits < 32 else x
    _, centred, square = moments(node, wide, axes)
    deviation = node.add(ops.Sqrt(), square)
    deviation = node.add(ops.Add(), deviation, 1e-9)
    result = node.add(ops.Div(), centred, deviation)
    return node.convert(result, x.shape.dtype)


@importer("InstanceNormalization")
def instance_normalization(node: Node) -> Instruction:
    x = node.input(0)
    wide = node.convert(x, F32) if x.shape.dtype.bits < 32 else x
    result, _, _ = normalized(node, wide, range(2, x.shape.rank), node.number("epsilon", 1e-5))
    scale, bias = (per_channel(node, node.input(i), x) for i in (1, 2))
    return node.add(
        ops.Add(), node.add(ops.Mul(), node.convert(result, x.shape.dtype), scale), bias
    )


@importer("GroupNormalization", since=21)
def group_normalization(node: Node) -> Instruction:
    x = node.input(0)
    wide = node.convert(x, node.dtype("stash_type", 1))
    result = node.convert(by_groups(node, wide, node.integer("num_groups")), x.shape.dtype)
    scale, bias = (per_channel(node, node.input(i), x) for i in (1, 2))
    return node.add(ops.Add(), node.add(ops.Mul(), result, scale), bias)


def by_groups(node: Node, x: Instruction, groups: int) -> Instruction:
    """Groups of channels, which come second, each normalised."""
    batch, channels, *rest = x.shape.dims
    apart = node.reshape(x, (batch, groups, channels // groups, *rest))
    axes, epsilon = range(2, apart.shape.rank), node.number("epsilon", 1e-5)
    return node.reshape(normalized(node, apart, axes, epsilon)[0], x.shape.dims)


@importer("Softmax", "LogSoftmax")
def softmax_of_matrix(node: Node) -> Instruction:
    """Until version 13 the dims from the axis on are merged."""
    x = node.input(0)
    axis = node.axis(node.integer("axis", 1), x.shape.rank)
    flat = tail_as_one(node, x, axis)
    return node.reshape(node.add(softmax_op(node, axis), flat), x.shape.dims)


def tail_as_one(node: Node, x: Instruction, axis: int) -> Instruction:
    """The value with its dims from an axis on merged."""
    tail = dim.product(x.shape.dims[axis:])
    return node.reshape(x, (*x.shape.dims[:axis], tail))


@importer("Softmax", "LogSoftmax", since=13)
def softmax(node: Node) -> Instruction:
    x = node.input(0)
    return node.add(softmax_op(node, node.axis(node.integer("axis", -1), x.shape.rank)), x)


def softmax_op(node: Node, axis: int) -> ops.Softmax:
    return ops.Softmax(axis) if node.proto.op_type == "Softmax" else ops.Logsoftmax(axis)


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
    place = folded(node, ops.Argmax(axis), x)
    values = node.literal([0, 1], x.shape.dtype)
    return node.add(ops.Onehot(axis, x.shape.dims[axis]), place, values)


def without_axes(node: Node, x: Instruction, axes: Sequence[int]) -> Instruction:
    """The value with the reduced axes if ``keepdims`` is set, otherwise without them."""
    return x if node.integer("keepdims", 1) or not axes else node.add(ops.Squeeze(tuple(axes)), x)


def reduced(node: Node, fold: runtime.Fold) -> Instruction:
    """Reduces axes from the attribute or the input; by default all, unless told otherwise."""
    x, given = node.input(0), node.optional(1)
    axes, whole = runtime.known_axes(node, given), not node.integer("noop_with_empty_axes", 0)
    if axes is None and given is not None:
        keep = bool(node.integer("keepdims", 1))
        return runtime.over_axes(node, x, given, fold, keep=keep, whole=whole)
    axes = axes or (tuple(range(x.shape.rank)) if whole else ())
    axes = node.axes(axes, x.shape.rank)
    return without_axes(node, fold(x, axes), axes)


@importer(*REDUCTIONS)
def reduction(node: Node) -> Instruction:
    kind = class_of(node.proto.op_type)
    return reduced(node, lambda x, axes: node.add(kind(axes), x) if axes else x)


@importer(*COMPOSED)
def composed_reduction(node: Node) -> Instruction:
    return reduced(node, lambda x, axes: composed(node, x, axes))


def composed(node: Node, x: Instruction, axes: tuple[int, ...]) -> Instruction:
    """Reductions composed of sums; exponentials are shifted by the maximum.

    Square roots and logarithms of integers are truncated.
    """
    kind = node.proto.op_type.removeprefix("Reduce")
    dtype = x.shape.dtype
    x = x if dtype.is_float or kind in ("L1", "SumSquare") else node.convert(x, F64)
    if kind == "LogSumExp":
        peak = node.add(ops.ReduceMax(axes), x)
        finite = node.add(ops.Where(), node.add(ops.Isinf(), peak), 0, peak)
        x = node.add(ops.Exp(), node.add(ops.Sub(), x, finite))
    elif kind == "L1":
        x = node.add(ops.Abs(), x)
    elif kind in ("L2", "SumSquare"):
        x = node.add(ops.Mul(), x, x)
    total = node.add(ops.ReduceSum(axes), x) if axes else x
    if kind in ("LogSum", "LogSumExp"):
        total = node.add(ops.Log(), total)
    if kind == "LogSumExp":
        total = node.add(ops.Add(), total, finite)
    return node.convert(node.add(ops.Sqrt(), total) if kind == "L2" else total, dtype)


@importer("ArgMax", "ArgMin")
def arg_extreme(node: Node) -> Instruction:
    x = node.input(0)
    axis = node.axis(node.integer("axis", 0), x.shape.rank)
    last = bool(node.integer("select_last_index", 0))
    op = ops.Argmax(axis, last) if node.proto.op_type == "ArgMax" else ops.Argmin(axis, last)
    return without_axes(node, node.add(op, x), (axis,))


@importer("LpNormalization")
def lp_normalization(node: Node) -> Instruction:
    x = node.input(0)
    axes = (node.axis(node.integer("axis", -1), x.shape.rank),)
    return over_size(node, x, size_of(node, x, axes, 1 if node.integer("p", 2) == 1 else 2))


def size_of(node: Node, x: Instruction, axes: tuple[int, ...], power: int) -> Instruction:
    """The sum of magnitudes along some axes, or for the power 2 the length."""
    if power == 1:
        return node.add(ops.ReduceSum(axes), node.add(ops.Abs(), x))
    return node.add(ops.Sqrt(), node.add(ops.ReduceSum(axes), node.add(ops.Mul(), x, x)))


def over_size(node: Node, x: Instruction, size: Instruction) -> Instruction:
    """The value divided by its size along some axes; where that is 0, it stays."""
    size = node.add(ops.Where(), node.add(ops.Equal(), size, 0), 1, size)
    return node.add(ops.Div(), x, size)


@importer("CumSum")
@importer("CumProd", since=26)
def cumulative(node: Node) -> Instruction:
    x, given = node.input(0), node.input(1)
    scan = ops.PrefixScanSum if node.proto.op_type == "CumSum" else ops.PrefixScanProd
    held = node.constant(given)
    options = bool(node.integer("exclusive", 0)), bool(node.integer("reverse", 0))
    if held is None:
        return runtime.along_axis(node, x, given, scan(0, *options))
    return node.add(scan(node.axis(int(held.item()), x.shape.rank), *options), x)
