"""The linear attention operators of ``com.microsoft``, with those around them in such layers: a
causal convolution, gates, and a gated norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from migx import dim, ops
from migx.dim import Extent, may_equal
from migx.ir import Instruction, Module
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops._common import delegated, repeated
from migx.onnx.ops.contrib import DOMAIN, self_gated
from migx.onnx.ops.linear import scaled, with_bias
from migx.onnx.ops.normalization import over_root_mean_square
from migx.shape import F32

RULES = {
    "linear": (False, False),
    "gated": (True, False),
    "delta": (False, True),
    "gated_delta": (True, True),
}
"""For each update rule, whether the state decays, and whether its content is corrected."""


@dataclass(frozen=True)
class Steps:
    """The operands of steps, with time second: queries [batch, time, heads, group, size], which are
    scaled, keys [batch, time, heads, 1, size], values [batch, time, heads, 1, width], and factors
    of the state and of updates, [batch, time, heads, size, 1], with size 1 where they are shared.
    """

    q: Instruction
    k: Instruction
    v: Instruction
    decay: Instruction | None
    rate: Instruction | None

    @property
    def given(self) -> list[Instruction]:
        return [v for v in (self.q, self.k, self.v, self.decay, self.rate) if v is not None]


@importer("LinearAttention", domain=DOMAIN)
def linear_attention(node: Node) -> tuple[Instruction, Instruction]:
    """A scan over time, in f32, that carries a matrix for each head, which maps keys to values.

    There may be fewer heads of queries and keys than of values; neighbouring heads share one then.
    """
    if node.integer("state_window", 0):
        raise node.fail("state_window is not supported; with 0 the last state alone is a result")
    of = read_steps(node)
    batch, length, heads, _, width = of.v.shape.dims
    group, size = of.q.shape.dims[3:]
    past = node.optional(3)
    if past is None:
        state = node.full(0, F32, (batch, heads, size, width))
    else:
        node.expect_dims(3, (batch, heads, size, width))
        state = node.convert(past, F32)
    state, made = scanned(node, of, state)
    result = node.convert(made, node.input(0).shape.dtype)
    kept = result.shape.dtype if past is None else past.shape.dtype
    return node.reshape(result, (batch, length, heads * group * width)), node.convert(state, kept)


def scanned(node: Node, of: Steps, state: Instruction) -> tuple[Instruction, Instruction]:
    """The state [batch, heads, size, width] after all steps, and the results of queries on the way,
    [batch, time, heads, group, width].
    """
    turn = ops.Transpose((1, 0, 2, 3, 4))  # makes each time step contiguous
    given = [node.add(turn, v) for v in of.given]
    op = ops.Scan(len(given))
    whole = node.add(op, state, *given, modules=[step_of(node, of, state)])
    state, made = node.elements(whole, 2)
    return state, node.add(turn, made)


def read_steps(node: Node) -> Steps:
    """The operands, by heads of the state."""
    decays, corrects = rule_of(node)
    count, heads = node.integer("q_num_heads"), node.integer("kv_num_heads")
    if count < 1 or heads < 1 or (count % heads and heads % count):
        raise node.fail(f"{count} heads of queries, {heads} of values: one must divide the other")
    q, k, v = (node.convert(node.input(i), F32) for i in range(3))
    if any(x.shape.rank != 3 for x in (q, k, v)):
        raise node.fail("queries, keys and values are [batch, time, heads * size]")
    batch, length, hidden = q.shape.dims
    size = part(node, 0, hidden, count)
    width = part(node, 2, v.shape.dims[2], heads)
    keys = k.shape.dims[2] // size
    if not isinstance(keys, int) or keys < 1 or heads % keys:
        raise node.fail(f"{keys} heads of keys must divide the {heads} of values")
    group = max(count // heads, 1)
    q = node.reshape(q, (batch, length, min(count, heads), group, size))
    k = node.reshape(k, (batch, length, keys, 1, size))
    scale = scale_of(node, size)
    decay, rate = factors(node, decays, 4, heads, size), factors(node, corrects, 5, heads, 1)
    return Steps(
        scaled(node, repeated(node, q, 2, heads), scale),
        repeated(node, k, 2, heads),
        node.reshape(v, (batch, length, heads, 1, width)),
        None if decay is None else node.add(ops.Exp(), decay),
        rate,
    )


def rule_of(node: Node) -> tuple[bool, bool]:
    """Whether the state decays, and whether its content is corrected."""
    return RULES[node.choice("update_rule", RULES, "gated_delta")]


def scale_of(node: Node, size: Extent) -> float:
    """The factor of queries: the given scale, or the reciprocal square root of their size."""
    scale = node.number("scale", 0.0)
    if not scale and not isinstance(size, int):
        raise node.fail(f"without a scale the size of a head must be a number, not {size}")
    return scale or 1 / math.sqrt(size)


def part(node: Node, place: int, width: Extent, count: int) -> Extent:
    """One of ``count`` equal parts of the last dim of an operand."""
    if not may_equal(width % count, 0):
        raise node.fail(f"{node.proto.input[place]!r}: {width} elements are not {count} heads")
    return width // count


def factors(node: Node, wanted: bool, place: int, heads: int, size: Extent) -> Instruction | None:
    """An operand with a factor for each head, or for each element of a key, or one for all heads if
    that is 1; None if the rule has none.
    """
    if not wanted:
        return None
    if node.optional(place) is None:
        name = "decay" if place == 4 else "beta"
        raise node.fail(f"update_rule {node.string('update_rule', 'gated_delta')!r} wants {name}")
    x = node.convert(node.input(place), F32)
    batch, length, width = x.shape.dims
    if width == heads:
        return node.reshape(x, (batch, length, heads, 1, 1))
    if size == 1 and width == 1:
        return node.reshape(x, (batch, length, 1, 1, 1))
    if size != 1 and may_equal(width, heads * size):
        return node.reshape(x, (batch, length, heads, size, 1))
    wide = f"{heads} or {heads * size}" if size != 1 else f"{heads} or 1"
    raise node.fail(f"{node.proto.input[place]!r} {x.shape}: its last dim is {wide}")


def step_of(node: Node, of: Steps, state: Instruction) -> Module:
    """One step: the state decays, is updated by the new part of a value, and is read by queries.

    Reading the state by a row is a weighted sum of its rows: so a step is elementwise arithmetic
    and column sums, which become one kernel.
    """
    step = node.inside("linear_attention.step")
    module = step.module
    shapes = [v.shape.with_dims((v.shape.dims[0], *v.shape.dims[2:])) for v in of.given]
    held = module.add_parameter("state", state.shape.as_standard())
    q, k, v, *rest = (module.add_parameter(f"x{i}", s) for i, s in enumerate(shapes))
    decay = None if of.decay is None else rest.pop(0)
    if decay is not None:
        held = step.add(ops.Mul(), held, decay)
    if rest:
        v = step.add(ops.Mul(), step.add(ops.Sub(), v, asked_of(step, k, held)), rest[0])
    column = step.add(ops.Transpose((0, 1, 3, 2)), k)
    held = step.add(ops.Add(), held, step.add(ops.Mul(), column, v))
    module.add_return(held, asked_of(step, q, held), names=["state_new", "y"])
    return module


def asked_of(step: Node, rows: Instruction, state: Instruction) -> Instruction:
    """The product of rows [batch, heads, group, size] with the state."""
    if rows.shape.dims[-2] != 1:
        return step.add(ops.Dot(), rows, state)
    column = step.add(ops.Transpose((0, 1, 3, 2)), rows)
    return step.add(ops.ReduceSum((2,)), step.add(ops.Mul(), column, state))


@importer("LinearAttentionGate", domain=DOMAIN)
def linear_attention_gate(node: Node) -> tuple[Instruction, ...]:
    """The decay of a state, and the rate of its updates: by softplus and sigmoid, in f32."""
    a, bias, scale, b = node.input(0), node.input(1), node.input(2), node.optional(3)
    total = node.add(ops.Add(), node.convert(a, F32), bias)
    decay = node.add(ops.Mul(), delegated(node, "Softplus", total), scale)
    decay = node.convert(decay, a.shape.dtype)
    if b is None:
        return (decay,)
    rate = node.add(ops.Sigmoid(), node.convert(b, F32))
    return decay, node.convert(rate, b.shape.dtype)


@importer("GatedRMSNorm", domain=DOMAIN)
def gated_norm(node: Node) -> Instruction:
    """RMSNormalization of groups of as many elements as there are scales, times an activation of a
    gate, in f32.
    """
    x, scale, gate = (node.convert(node.input(i), F32) for i in range(3))
    kind = node.choice("activation", ("silu", "swish", "sigmoid"), "silu")
    *lead, width = x.shape.dims
    count = scale.shape.dims[0]
    if not may_equal(width % count, 0):
        raise node.fail(f"{node.proto.input[0]!r} {x.shape}: {width} is no multiple of {count}")
    apart = node.reshape(x, (*lead, width // count, count))
    result, _ = over_root_mean_square(node, apart, (len(lead) + 1,), node.number("epsilon", 1e-5))
    result = node.reshape(node.add(ops.Mul(), result, scale), x.shape.dims)
    opened = node.add(ops.Sigmoid(), gate) if kind == "sigmoid" else self_gated(node, gate)
    return node.convert(node.add(ops.Mul(), result, opened), node.input(0).shape.dtype)


@importer("CausalConvWithState", domain=DOMAIN)
def causal_convolution(node: Node) -> tuple[Instruction, Instruction]:
    """A causal depthwise convolution, preceded by the past if given, or by zeros. The second result
    is the past of the next call.
    """
    x, w, bias, past = node.input(0), node.input(1), node.optional(2), node.optional(3)
    kind = node.choice("activation", ("none", "silu", "swish"), "none")
    dilation = node.integer("dilation", 1)
    if node.integer("ndim", 1) != 1 or node.integer("state_window", 0):
        raise node.fail("ndim is 1 and state_window 0; others are not supported")
    node.expect_integers(
        state_length=0,
        state_channels_last=-1,
        state_update_capacity=0,
        input_channels=0,
        input_channel_offset=0,
    )
    if dilation < 1:
        raise node.fail(f"dilation {dilation}; it is 1 or more")
    last, given = bool(node.integer("channels_last", 0)), x.shape.dims
    x = channels_second(node, x) if last else x
    batch, channels, length = x.shape.dims
    if not isinstance(channels, int):
        raise node.fail(f"how many channels {node.proto.input[0]!r} {x.shape} has is not known")
    taps = w.shape.dims[-1]
    node.expect_dims(1, (channels, 1, taps))
    back = (taps - 1) * dilation
    dims = (given[0], back, *given[2:]) if last else (batch, channels, back)
    if past is None:
        past = node.full(0, x.shape.dtype, (batch, channels, back))
    else:
        node.expect_dims(3, dims)
        past = channels_second(node, past) if last else past
    whole = node.add(ops.Concat(2), past, x)
    op = ops.Convolution((0, 0), (1,), (dilation,), group=channels)
    result = with_bias(node, node.add(op, whole, w), bias)
    result = result if kind == "none" else self_gated(node, result)
    present = node.add(ops.Slice((2,), (length,), (length + back,)), whole)
    if not last:
        return result, present
    made = [node.add(ops.Transpose((0, 2, 1)), v) for v in (result, present)]
    return node.reshape(made[0], given), node.reshape(made[1], dims)


def channels_second(node: Node, x: Instruction) -> Instruction:
    """[batch, length, *channels] as [batch, channels, length]."""
    batch, length, *channels = x.shape.dims
    flat = node.reshape(x, (batch, length, dim.product(channels)))
    return node.add(ops.Transpose((0, 2, 1)), flat)
