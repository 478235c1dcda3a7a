"""Fused operators of ``com.microsoft``: activations, normalisations, and products and convolutions
with what follows them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from migx import ops
from migx.builders import arange, folded
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops._common import channels_first, channels_last, delegated, equal_parts
from migx.onnx.ops.elementwise import plus
from migx.onnx.ops.linear import matrix_product, per_channel, scaled
from migx.onnx.ops.normalization import by_groups, normalized, over_root_mean_square
from migx.shape import F32, I32

DOMAIN = "com.microsoft"
TINY = 9.999999960041972e-13
"""The default epsilon of normalisations with a skip: 1e-12 as an f32."""


# Activations


@importer("Gelu", domain=DOMAIN)
def gelu(node: Node) -> Instruction:
    return delegated(node, "Gelu", node.input(0))


@importer("BiasGelu", domain=DOMAIN)
def bias_gelu(node: Node) -> Instruction:
    return delegated(node, "Gelu", node.add(ops.Add(), node.input(0), node.input(1)))


@importer("FastGelu", domain=DOMAIN)
def fast_gelu(node: Node) -> Instruction:
    return delegated(node, "Gelu", summed(node, 0, 1), approximate="tanh")


@importer("QuickGelu", domain=DOMAIN)
def quick_gelu(node: Node) -> Instruction:
    """The product x * sigmoid(alpha * x)."""
    return self_gated(node, node.input(0), node.number("alpha", 1.702))


def self_gated(node: Node, x: Instruction, alpha: float = 1.0) -> Instruction:
    """The product x * sigmoid(alpha * x): SiLU where alpha is 1."""
    return node.add(ops.Mul(), x, node.add(ops.Sigmoid(), scaled(node, x, alpha)))


@importer("SwiGLU", domain=DOMAIN)
def swiglu(node: Node) -> Instruction:
    """The product gate * sigmoid(alpha * gate) * (up + beta), both clipped by a positive limit, in
    f32; without a second operand, the gate is the first half of the first.
    """
    gate, up = node.input(0), node.optional(1)
    dtype, limit = gate.shape.dtype, node.number("limit", 0.0)
    if up is None:
        gate, up = equal_parts(node, gate, 2)
    gate, up = (node.convert(v, F32) for v in (gate, up))
    if limit > 0:
        gate = node.add(ops.Min(), gate, limit)
        up = node.add(ops.Clip(), up, -limit, limit)
    opened = self_gated(node, gate, node.number("activation_alpha", 1.0))
    if node.integer("round_activation", 0):
        opened = node.convert(node.convert(opened, dtype), F32)
    up = node.add(ops.Add(), up, node.number("activation_beta", 0.0))
    return node.convert(node.add(ops.Mul(), opened, up), dtype)


@importer("BiasSplitGelu", domain=DOMAIN)
def bias_split_gelu(node: Node) -> Instruction:
    """The first half of the channels of x + bias, times the gelu of the second."""
    left, right = equal_parts(node, summed(node, 0, 1), 2)
    return node.add(ops.Mul(), left, delegated(node, "Gelu", right))


@importer("BiasAdd", domain=DOMAIN)
def bias_add(node: Node) -> Instruction:
    return summed(node, 0, 1, 2)


def summed(node: Node, *operands: int) -> Instruction:
    """The sum of the given operands that are present."""
    first, *others = operands
    given = [node.input(first), *(v for v in map(node.optional, others) if v is not None)]
    return reduce(lambda x, y: node.add(ops.Add(), x, y), given)


# Normalisations


@importer("SkipLayerNormalization", domain=DOMAIN)
def skip_layer_normalization(node: Node) -> tuple[Instruction, ...]:
    """LayerNormalization of the sum of input, skip and bias; the last result is the sum."""
    total = summed(node, 0, 1, 4)
    wide = node.convert(total, F32)
    axes = (total.shape.rank - 1,)
    result, mean, inverse = normalized(node, wide, axes, node.number("epsilon", TINY))
    return affine(node, result, total, node.input(2), node.optional(3)), mean, inverse, total


@importer("SkipSimplifiedLayerNormalization", domain=DOMAIN)
def skip_simplified_layer_normalization(node: Node) -> tuple[Instruction, ...]:
    """RMSNormalization of the sum of the input, the skip and a bias; the last result is the sum."""
    total = summed(node, 0, 1, 3)
    wide = node.convert(total, F32)
    axes = (total.shape.rank - 1,)
    result, inverse = over_root_mean_square(node, wide, axes, node.number("epsilon", TINY))
    result = affine(node, result, total, node.input(2), None)
    return result, node.add(ops.Undefined()), inverse, total


@importer("SimplifiedLayerNormalization")
def simplified_layer_normalization(node: Node) -> tuple[Instruction, ...]:
    """RMSNormalization under onnxruntime's name, also in the default domain."""
    x, scale = node.input(0), node.input(1)
    axes = range(node.axis(node.integer("axis", -1), x.shape.rank), x.shape.rank)
    wide = node.convert(x, F32)
    result, inverse = over_root_mean_square(node, wide, axes, node.number("epsilon", 1e-5))
    return affine(node, node.convert(result, scale.shape.dtype), scale, scale, None), inverse


def affine(
    node: Node, x: Instruction, like: Instruction, scale: Instruction, bias: Instruction | None
) -> Instruction:
    """The value times a scale plus a bias, in the type of another value."""
    return plus(node, node.add(ops.Mul(), node.convert(x, like.shape.dtype), scale), bias)


@importer("EmbedLayerNormalization", domain=DOMAIN)
def embed_layer_normalization(node: Node) -> tuple[Instruction, ...]:
    """The normalised sum of word, position and segment embeddings, the length of each sequence, and
    the sum. Without segments, all words are in the first.
    """
    tables, segments = [node.optional(i) for i in (2, 3, 4)], node.optional(1)
    if segments is None and tables[2] is not None:
        segments = node.full(0, I32, node.input(0).shape.dims)
    return embedded(node, tables, segments, node.input(5), node.input(6), node.optional(8))


def embedded(
    node: Node,
    tables: Sequence[Instruction | None],
    segments: Instruction | None,
    scale: Instruction,
    bias: Instruction,
    places: Instruction | None = None,
    real: Callable[[int, Instruction], Instruction] = lambda _, rows: rows,
) -> tuple[Instruction, ...]:
    """The results of an embedding node for its tables of words, positions and segments. ``real``
    dequantises the rows gathered from one of them.
    """
    words, mask = node.input(0), node.optional(7)
    batch, length = node.dims_of(0, 2)
    picks = [words, arange(node, length) if places is None else places, segments]
    total = None
    for i, (table, pick) in enumerate(zip(tables, picks, strict=True)):
        if pick is None:
            continue
        if table is None:
            raise node.fail(f"input {i + 2}, a table of embeddings, is missing")
        rows = real(i, node.add(ops.Gather(0), table, pick))
        total = rows if total is None else node.add(ops.Add(), total, rows)
    assert total is not None
    result, _, _ = normalized(node, node.convert(total, F32), (2,), node.number("epsilon", TINY))
    seen = node.full(0, I32, (batch,))
    if mask is not None:
        seen = folded(node, ops.ReduceSum((1,)), mask)
    return affine(node, result, total, scale, bias), seen, total


@importer("GroupNorm", domain=DOMAIN)
def group_norm(node: Node) -> Instruction:
    return normalized_groups(node, node.input(0))


def normalized_groups(node: Node, x: Instruction) -> Instruction:
    """Normalised groups of channels, which are the last axis unless ``channels_last`` is 0;
    followed by SiLU if ``activation`` is 1.
    """
    last = bool(node.integer("channels_last", 1))
    first = channels_first(node, x) if last else x
    result = by_groups(node, node.convert(first, F32), node.integer("groups"))
    for op, i in ((ops.Mul(), 1), (ops.Add(), 2)):
        result = node.add(op, result, per_channel(node, node.convert(node.input(i), F32), result))
    result = self_gated(node, result) if node.integer("activation", 0) else result
    result = node.convert(result, x.shape.dtype)
    return channels_last(node, result) if last else result


# Products and convolutions


@importer("FusedMatMul", "TransposeMatMul", domain=DOMAIN)
def fused_matmul(node: Node) -> Instruction:
    """A product times alpha; ``transBatch`` moves the first axis before the last."""
    sides = [
        arranged(node, node.input(i), bool(node.integer(f"transBatch{s}", 0)),
                 bool(node.integer(f"trans{s}", 0)))
        for i, s in enumerate("AB")
    ]  # fmt: skip
    return scaled(node, matrix_product(node, ops.Dot(), *sides), node.number("alpha", 1.0))


def arranged(node: Node, x: Instruction, batch: bool, swapped: bool) -> Instruction:
    """A side of a product with its axes transposed as the product requires."""
    order = list(range(x.shape.rank))
    if len(order) < 2:
        return x
    if batch:
        order = [*order[1:-1], order[0], order[-1]]
    if swapped:
        order[-2:] = order[:-3:-1]
    return x if order == sorted(order) else node.add(ops.Transpose(tuple(order)), x)


@importer("FusedGemm", domain=DOMAIN)
def fused_gemm(node: Node) -> Instruction:
    result = delegated(node, "Gemm", *node.inputs)
    given = [n for n in ("activation_alpha", "activation_beta", "activation_gamma") if node.has(n)]
    return activated(node, result, [node.number(name) for name in given])


@importer("FusedConv", domain=DOMAIN)
def fused_convolution(node: Node) -> Instruction:
    """A convolution, plus the operand Z if given, followed by an activation."""
    result = plus(node, delegated(node, "Conv", *node.inputs[:3]), node.optional(3))
    return activated(node, result, node.numbers("activation_params", ()))


@importer("NhwcConv", "NhwcFusedConv", domain=DOMAIN)
def channels_last_convolution(node: Node) -> Instruction:
    """A convolution of [N, ..., C] with weights [O, ..., C / group]."""
    x, w = (channels_first(node, node.input(i)) for i in (0, 1))
    result = channels_last(node, delegated(node, "Conv", x, w, node.optional(2)))
    result = plus(node, result, node.optional(3))
    return activated(node, result, node.numbers("activation_params", ()))


PARAMETERS = {
    "Clip": ("min", "max"),
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
}
"""The attributes of each activation that are given as numbers."""


def activated(node: Node, x: Instruction, numbers: list[float] | tuple[float, ...]) -> Instruction:
    """The activation that a node names, with the given parameters; x itself if there is none."""
    kind = node.string("activation", "")
    if not kind:
        return x
    if kind == "Clip":
        bounds = [node.literal(value, x.shape.dtype) for value in numbers]
        return delegated(node, kind, x, *bounds)
    names = PARAMETERS.get(kind, ())
    given = dict(zip(names, numbers, strict=False))
    return delegated(node, kind, x, **{**dict.fromkeys(names), **given})
