"""The operator ``GatedDeltaNet`` of ``com.microsoft``: linear attention with gates and norms."""

from __future__ import annotations

from migx import ops
from migx.dim import Extent
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops._common import delegated, divided, repeated
from migx.onnx.ops.contrib import DOMAIN
from migx.onnx.ops.linear import scaled
from migx.onnx.ops.linear_attention import Steps, rule_of, scale_of, scanned
from migx.shape import F32

GATES = {"none": "none", "softplus": "softplus", "qwen": "softplus", "sigmoid": "sigmoid"}
GATES["kda"] = "sigmoid"
"""The activations of decays by name; some have two names."""
LEAST = 1e-12
"""The epsilon added to squared lengths when keys are normalised."""


@importer("GatedDeltaNet", domain=DOMAIN)
def gated_delta_net(node: Node) -> tuple[Instruction, Instruction]:
    """Tokens are concatenated, with equal parts for each batch item, or separate, [batch, time,
    heads, size]. The state [batch, heads, width, size] is transposed internally.
    """
    if node.optional(3) is not None:
        raise node.fail("cu_seqlens is not supported: all sequences must have one length")
    node.expect_integers(state_update_capacity=0)
    decays, corrects = rule_of(node)
    q, k, v = operands(node)
    lead, heads = v.shape.dims[:-2], v.shape.dims[-2]
    if not isinstance(heads, int):
        raise node.fail(f"how many heads {node.proto.input[2]!r} has is {heads}, not a number")
    width, size = v.shape.dims[-1], k.shape.dims[-1]
    past = node.optional(6)
    if past is None and len(lead) == 1:
        raise node.fail("initial_state says how many members a batch has; it is missing")
    batch = lead[0] if past is None else past.shape.dims[0]
    length = lead[1] if len(lead) == 2 else lead[0] // batch
    node.expect_dims(6, (batch, heads, width, size))
    if past is None:
        state = node.full(0, F32, (batch, heads, size, width))
    else:
        state = node.add(ops.Transpose((0, 1, 3, 2)), past)
    steps = (batch, length)
    q, k, v = (node.reshape(x, (*steps, x.shape.dims[-2], 1, x.shape.dims[-1])) for x in (q, k, v))
    of = Steps(
        scaled(node, repeated(node, q, 2, heads), scale_of(node, size)),
        repeated(node, k, 2, heads),
        v,
        decay(node, steps, heads) if decays else None,
        rate(node, steps, heads) if corrects else None,
    )
    state, made = scanned(node, of, state)
    result = node.convert(node.reshape(made, (*lead, heads, width)), node.input(0).shape.dtype)
    return result, node.add(ops.Transpose((0, 1, 3, 2)), state)


def operands(node: Node) -> list[Instruction]:
    """Queries, keys and values [..., heads, size], possibly from one packed operand."""
    whole, past = node.input(0), node.optional(6)
    if node.optional(1) is None or node.optional(2) is None:
        if past is None:
            raise node.fail("initial_state says how many heads packed operands have; it is missing")
        *lead, total = whole.shape.dims
        heads, width, size = past.shape.dims[1:]
        keys = (total - heads * width) // (2 * size)
        parts = divided(node, whole, (keys * size, keys * size, heads * width))
        dims = (keys, size), (keys, size), (heads, width)
        found = [node.reshape(x, (*lead, *d)) for x, d in zip(parts, dims, strict=True)]
    else:
        found = [node.input(i) for i in range(3)]
    if any(x.shape.rank not in (3, 4) for x in found):
        raise node.fail("queries, keys and values are [tokens, heads, size] or [batch, time, ...]")
    q, k, v = (node.convert(x, F32) for x in found)
    return [*(unit(node, x) if node.integer("qk_l2_norm", 0) else x for x in (q, k)), v]


def unit(node: Node, x: Instruction) -> Instruction:
    """Heads divided by their length."""
    axis = (x.shape.rank - 1,)
    square = node.add(ops.ReduceSum(axis), node.add(ops.Mul(), x, x))
    inverse = node.add(ops.Rsqrt(), node.add(ops.Add(), square, LEAST))
    return node.add(ops.Mul(), x, inverse)


def gate(node: Node, place: int, steps: tuple[Extent, Extent], heads: int) -> Instruction:
    """An operand with a number for each head, or for each element of a key, as [batch, time, heads,
    size or 1, 1].
    """
    x = node.input(place)
    lead = node.input(0).shape.rank - (1 if node.optional(1) is None else 2)
    size = x.shape.dims[-1] if x.shape.rank == lead + 2 else 1
    return node.reshape(node.convert(x, F32), (*steps, heads, size, 1))


def decay(node: Node, steps: tuple[Extent, Extent], heads: int) -> Instruction:
    """The factor of the state: the exponential of the operand, or of an activation of it."""
    kind = GATES[node.choice("gate_activation", GATES, "none")]
    x = gate(node, 4, steps, heads)
    if kind != "none":
        each = node.add(ops.Exp(), node.reshape(node.input(7), (heads, 1, 1)))
        if (bias := node.optional(8)) is not None:
            size = bias.shape.elements // heads
            x = node.add(ops.Add(), x, node.reshape(bias, (heads, size, 1)))
        if kind == "softplus":
            x = node.add(ops.Neg(), node.add(ops.Mul(), delegated(node, "Softplus", x), each))
        else:
            opened = node.add(ops.Sigmoid(), node.add(ops.Mul(), x, each))
            x = scaled(node, opened, node.number("gate_lower_bound", -5.0))
    return node.add(ops.Exp(), x)


def rate(node: Node, steps: tuple[Extent, Extent], heads: int) -> Instruction:
    """The rate of updates of the state."""
    kind = node.choice("beta_activation", ("none", "sigmoid"), "none")
    x = gate(node, 5, steps, heads)
    return x if kind == "none" else node.add(ops.Sigmoid(), x)
