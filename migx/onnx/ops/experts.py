"""Mixtures of experts, operators of ``com.microsoft``: of many networks, each token passes through
the few that its router scores highest.

Chosen tokens are sorted into blocks of rows for one expert each, and a loop processes the blocks.
So only weights of chosen experts are read, for one token or for thousands; and packed weights are
unpacked where they are multiplied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from migx import ops
from migx.blocks import in_blocks
from migx.builders import arange, at_index, folded
from migx.dim import Extent
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops._common import delegated
from migx.onnx.ops.contrib import DOMAIN, self_gated
from migx.onnx.ops.elementwise import plus
from migx.onnx.ops.normalization import over_size
from migx.onnx.ops.quantization import first_of, packed_rows
from migx.shape import BOOL, F32, I64, U8, Shape

JITTER = 0.01
"""How far scores may be below the maximum, relative to it, to count with a sparse mixer."""


@dataclass(frozen=True)
class Layer:
    """One product of each expert: the indices of its operands among the node's. Its weights have
    the dims [experts, results, row elements].
    """

    name: str
    weights: int
    bias: int
    scales: int = 0
    zeros: int = 0

    def rows(self, step: Node, x: Instruction, expert: Instruction) -> Instruction:
        """The products of rows with the weights of one expert, plus its bias."""
        weights = step.convert(self.of(step, expert), x.shape.dtype)
        product = step.add(ops.Dot(), x, step.add(ops.Transpose((1, 0)), weights))
        bias = step.optional(self.bias)
        return plus(step, product, None if bias is None else step.add(ops.Gather(0), bias, expert))

    def of(self, step: Node, expert: Instruction) -> Instruction:
        """The weights of one expert, [results, row elements]."""
        if not self.scales:
            return step.add(ops.Gather(0), step.input(self.weights), expert)
        bits, block = self.bits(step), block_of(step)
        levels = levels_of(step, self.weights, bits)
        scales = step.add(ops.Gather(0), step.input(self.scales), expert)
        if step.optional(self.zeros) is None:
            zeros = step.full(1 << (bits - 1), U8, scales.shape.dims)
        else:
            held = step.add(ops.Gather(0), levels_of(step, self.zeros, bits), expert)
            zeros = first_of(step, held, scales.shape.dims[-1])
        op = ops.DequantizeLinear(axis=1 if block else 0, block=block)
        return step.add(op, step.add(ops.Gather(0), levels, expert), scales, zeros)

    def bits(self, node: Node) -> int:
        """The bits of an element of quantised weights."""
        bits = node.integer("expert_weight_bits", 4)
        bits = node.integer(f"{self.name}_expert_weight_bits", bits)
        if bits not in (2, 4, 8):
            raise node.fail(f"weights of {bits} bits; they have 2, 4 or 8")
        return bits

    def check(self, node: Node, experts: Extent, results: Extent, elements: Extent) -> None:
        """``OnnxError`` if an operand does not have the expected dims."""
        wanted: dict[int, tuple[Extent, ...]] = {
            self.weights: (experts, results, elements),
            self.bias: (experts, results),
        }
        if self.scales:
            bits, block = self.bits(node), block_of(node)
            if block and elements % block != 0:
                raise node.fail(
                    f"block_size {block} does not divide {elements}, a row of {self.name}"
                )
            if elements * bits % 8 != 0:
                raise node.fail(f"{elements} elements of {bits} bits, a row of {self.name}, are no "
                                "whole bytes")  # fmt: skip
            wanted[self.weights] = (experts, results, elements * bits // 8)
            lines = (experts, results, elements // block) if block else (experts, results)
            wanted[self.scales] = lines
            wanted[self.zeros] = (*lines[:-1], (lines[-1] * bits + 7) // 8)
        for place, dims in wanted.items():
            node.expect_dims(place, dims)


def levels_of(node: Node, place: int, bits: int) -> Instruction:
    """An operand of packed levels along the last axis, unpacked."""
    value = node.input(place)
    *dims, width = value.shape.dims
    return packed_rows(node, value, bits, (*dims, width * 8 // bits))


def block_of(node: Node) -> int:
    """The number of elements of a row that share a scale; 0 if all do."""
    return max(node.integer("block_size", 0), 0)


@importer("MoE", domain=DOMAIN)
def mixture(node: Node) -> Instruction:
    return mixed(node, Layer("fc1", 2, 3), Layer("fc2", 4, 5), Layer("fc3", 6, 7), None)


@importer("QMoE", domain=DOMAIN)
def quantized_mixture(node: Node) -> Instruction:
    """MoE with weights of 2, 4 or 8 bits, packed along rows, low bits first. The shares of experts
    are computed as in MoE, and as on GPUs; on a CPU onnxruntime normalises them also if
    ``normalize_routing_weights`` is 0.
    """
    if (kind := node.string("quant_type", "int")) != "int":
        raise node.fail(f"quant_type {kind!r} is not supported; 'int' is")
    if node.integer("weights_prepacked", -1) > 0:
        raise node.fail("weights_prepacked 1 is a layout of one machine; 0 and -1 are read")
    if any(node.optional(place) is not None for place in range(15, len(node.inputs))):
        raise node.fail("global and activation scales go with floats; quant_type is 'int'")
    layers = Layer("fc1", 2, 4, 3, 11), Layer("fc2", 5, 7, 6, 12), Layer("fc3", 8, 10, 9, 13)
    return mixed(node, *layers, node.optional(14))


def mixed(
    node: Node, first: Layer, second: Layer, third: Layer, weights: Instruction | None
) -> Instruction:
    """The sum of the chosen experts' results for each token, weighted by their shares: from
    ``weights`` if given, otherwise from the scores.
    """
    x, scores = node.input(0), node.convert(node.input(1), F32)
    if scores.shape.rank != 2:
        raise node.fail(f"{node.proto.input[1]!r} {scores.shape}: (tokens, experts) is wanted")
    tokens, experts = scores.shape.dims
    hidden = x.shape.dims[-1]
    inner = node.input(second.weights).shape.dims[-1]
    inner = inner * 8 // second.bits(node) if second.scales else inner
    first.check(node, experts, inner * (2 if is_fused(node, third) else 1), hidden)
    second.check(node, experts, hidden, inner)
    third.check(node, experts, inner, hidden)
    k = node.integer("k", 1)
    if not isinstance(experts, int) or not 1 <= k <= experts:
        raise node.fail(f"k is {k}, of {experts} experts")
    shares, chosen = routed(node, scores, k, weights)
    rows = node.reshape(x, (tokens, hidden))
    made = of_experts(node, rows, chosen, experts, (first, second, third))
    parts = node.add(ops.Mul(), node.convert(made, F32), node.add(ops.Unsqueeze((2,)), shares))
    total = folded(node, ops.ReduceSum((1,)), parts)
    return node.reshape(node.convert(total, x.shape.dtype), x.shape.dims)


# Routing


def routed(
    node: Node, scores: Instruction, k: int, weights: Instruction | None
) -> tuple[Instruction, Instruction]:
    """The shares of the experts chosen by tokens, and their indices, both [tokens, k]."""
    best, chosen = node.elements(node.add(ops.Topk(k, 1), scores), 2)
    sums_to_one = bool(node.integer("normalize_routing_weights", 0))
    if node.integer("use_sparse_mixer", 0):
        if k != 2 or weights is not None:
            raise node.fail("use_sparse_mixer goes with k 2, and without router_weights")
        return sparsely(node, scores, best, chosen), chosen
    if weights is None:
        if sums_to_one:
            return node.add(ops.Softmax(1), best), chosen
        return node.add(ops.GatherElements(1), node.add(ops.Softmax(1), scores), chosen), chosen
    node.expect_dims(14, scores.shape.dims)
    shares = node.add(ops.GatherElements(1), node.convert(weights, F32), chosen)
    if not sums_to_one:
        return shares, chosen
    total = node.add(ops.ReduceSum((1,)), shares)
    return over_size(node, shares, total), chosen


def sparsely(
    node: Node, scores: Instruction, best: Instruction, chosen: Instruction
) -> Instruction:
    """The shares of a sparse mixer: each of two experts has its own softmax, over scores close to
    its own; that of the second excludes the first. They are as onnxruntime computes them on GPUs;
    on a CPU it ignores the attribute.
    """
    size, shares = node.add(ops.Abs(), scores), list[Instruction]()
    first = node.add(ops.Slice((1,), (0,), (1,)), chosen)
    for i in range(2):
        own, place = (node.add(ops.Slice((1,), (i,), (i + 1,)), v) for v in (best, chosen))
        below = node.add(ops.Sub(), own, scores)
        room = node.add(ops.Max(), size, own)
        room = node.add(ops.Mul(), room, 2 * JITTER)
        out = node.add(ops.Greater(), below, room)
        if i:
            taken = node.add(ops.Equal(), arange(node, scores.shape.dims[1]), first)
            out = node.add(ops.LogicalOr(), out, taken)
        near = node.add(ops.Where(), out, -math.inf, scores)
        shares.append(node.add(ops.GatherElements(1), node.add(ops.Softmax(1), near), place))
    return node.add(ops.Concat(1), *shares)


# The experts


def of_experts(
    node: Node,
    x: Instruction,
    chosen: Instruction,
    experts: int,
    layers: tuple[Layer, Layer, Layer],
) -> Instruction:
    """The result of each chosen expert for each token, [tokens, k, hidden], of tokens [tokens,
    hidden].
    """
    tokens, k = chosen.shape.dims
    flat, token = (
        node.reshape(v, (tokens * k,))
        for v in (chosen, node.add(ops.Broadcast(0, (tokens, k)), arange(node, tokens)))
    )
    blocks = in_blocks(node, flat, token, experts)
    step = node.inside("experts")
    module = step.module
    at, goes_on = module.add_parameter("block", Shape(I64)), module.add_parameter("on", Shape(BOOL))
    expert, rows = (step.add(ops.Gather(0), v, at) for v in (blocks.owner, blocks.sources))
    made = through(step, step.add(ops.Gather(0), x, rows), expert, *layers)
    module.add_return(goes_on, made, names=["on", "made"])
    count = node.fresh("blocks")
    length, hidden = made.shape.dims
    loop = ops.Loop((made.shape.with_dims((count, length, hidden)),))
    whole = node.add(loop, blocks.count, node.add(ops.Undefined()), modules=[module])
    (stacked,) = node.elements(whole, 1)
    picked = node.add(ops.Gather(0), node.reshape(stacked, (count * length, hidden)), blocks.place)
    return node.reshape(picked, (*chosen.shape.dims, hidden))


def through(
    step: Node, x: Instruction, expert: Instruction, first: Layer, second: Layer, third: Layer
) -> Instruction:
    """The result of one expert for some rows."""
    inner = first.rows(step, x, expert)
    if is_fused(step, third):
        inner = gated(step, *halves(step, inner))
    elif step.optional(third.weights) is not None:
        inner = gated(step, inner, third.rows(step, x, expert))
    else:
        inner = activated(step, inner)
    return second.rows(step, inner, expert)


def is_fused(node: Node, third: Layer) -> bool:
    """Whether the first layer of an expert computes both gates and gated values. ``OnnxError`` if
    activation, fusion and layers do not go together.
    """
    kind, fusion = activation(node), node.integer("swiglu_fusion", 0)
    has_third = node.optional(third.weights) is not None
    if fusion not in (0, 1, 2) or (fusion and (kind != "swiglu" or has_third)):
        raise node.fail(
            f"swiglu_fusion {fusion} with activation_type {kind!r}{' and fc3' if has_third else ''}"
            "; it is 1 or 2 with 'swiglu' and without fc3, and else 0"
        )
    if has_third and kind not in ("silu", "swiglu"):
        raise node.fail(f"fc3 with activation_type {kind!r}; it goes with 'silu' and 'swiglu'")
    if kind == "swiglu" and not fusion and not has_third:
        raise node.fail("activation_type 'swiglu' wants swiglu_fusion 1 or 2, or fc3")
    return fusion != 0


def halves(node: Node, x: Instruction) -> list[Instruction]:
    """The gates and the gated values: interleaved with ``swiglu_fusion`` 1, concatenated with 2."""
    rows, width = x.shape.dims
    axis = 2 if node.integer("swiglu_fusion") == 1 else 1
    apart = node.reshape(x, (rows, width // 2, 2) if axis == 2 else (rows, 2, width // 2))
    return [at_index(node, apart, axis, i) for i in range(2)]


def gated(node: Node, gate: Instruction, x: Instruction) -> Instruction:
    """SiLU of the gate times the gated value; with ``swiglu`` both are clipped, the gate before or
    after its activation, and ``activation_beta`` is added to the value.
    """
    if activation(node) == "silu":
        return node.add(ops.Mul(), self_gated(node, gate), x)
    limit = node.number("swiglu_limit", math.inf)
    after = bool(node.integer("swiglu_limit_after_activation", 0))
    if limit < math.inf:
        gate = gate if after else node.add(ops.Min(), gate, limit)
        x = node.add(ops.Clip(), x, -limit, limit)
    opened = self_gated(node, gate, node.number("activation_alpha", 1.0))
    opened = node.add(ops.Min(), opened, limit) if after else opened
    x = node.add(ops.Add(), x, node.number("activation_beta", 0.0))
    return node.add(ops.Mul(), opened, x)


def activated(node: Node, x: Instruction) -> Instruction:
    """An ungated activation."""
    match activation(node):
        case "relu":
            return node.add(ops.Relu(), x)
        case "gelu":
            return delegated(node, "Gelu", x, approximate="tanh")
        case "silu":
            return self_gated(node, x)
    return x


def activation(node: Node) -> str:
    """The activation of experts, by name; swiglu is gated, and silu may be."""
    return node.choice("activation_type", ("relu", "gelu", "silu", "swiglu", "identity"), "relu")
