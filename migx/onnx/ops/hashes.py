"""Hashes of n-grams, an operator of ``com.microsoft``."""

from __future__ import annotations

from migx import ops
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops.contrib import DOMAIN


@importer("NGramHashMapping", domain=DOMAIN)
def hashed_runs(node: Node) -> tuple[Instruction, Instruction]:
    """For the n-grams of sizes 2, 3 and so on that end at each token: the XOR of the products of
    tokens and multipliers, reduced modulo a number for each head.

    Tokens before one that ends a text, or in another segment, are masked.
    """
    tokens, size = node.input(0), node.integer("max_ngram_size")
    heads = node.integer("n_head_per_ngram")
    if size < 2 or heads < 1:
        raise node.fail(f"max_ngram_size {size} is 2 or more, n_head_per_ngram {heads} 1 or more")
    batch, length = node.dims_of(0, 2)
    node.expect_dims(3, (batch, size - 1))
    end = node.optional(5)
    blank = node.literal(node.integer("pad_id"), tokens.shape.dtype)
    blank = blank if end is None else node.reshape(end, ())
    past = node.optional(3)
    if past is None:
        past = node.broadcast_to(blank, (batch, size - 1))
    whole = node.add(ops.Concat(1), past, tokens)
    mixes = mixed(node, whole, blank, size)
    residues = []
    for n, mix in enumerate(mixes):
        cut = ops.Slice((0,), (n * heads,), ((n + 1) * heads,))
        modulus = node.add(cut, node.input(2))
        own = node.add(ops.Mod(), node.add(ops.Unsqueeze((2,)), mix), modulus)
        if (offsets := node.optional(4)) is not None:
            own = node.add(ops.Add(), own, node.add(cut, offsets))
        residues.append(own)
    present = node.add(ops.Slice((1,), (length,), (length + size - 1,)), whole)
    return node.add(ops.Concat(2), *residues) if len(residues) > 1 else residues[0], present


def mixed(node: Node, whole: Instruction, blank: Instruction, size: int) -> list[Instruction]:
    """The hashes of n-grams of sizes 2, 3 and so on, [batch, length], for tokens [batch, size - 1 +
    length].
    """
    length, end, segments = node.input(0).shape.dims[1], node.optional(5), node.optional(6)
    resets = end is not None and bool(node.integer("reset_on_eos", 0))
    begins = None if segments is None else segment_begins(node, segments, size)
    hidden: Instruction | None = None
    total, made = None, list[Instruction]()
    for back in range(size):
        first = size - 1 - back
        at = node.add(ops.Slice((1,), (first,), (first + length,)), whole)
        hides = []
        if back and resets and end is not None:
            hides.append(node.add(ops.Equal(), at, node.reshape(end, ())))
        if back and begins is not None:
            hides.append(node.add(ops.Slice((1,), (first + 1,), (first + 1 + length,)), begins))
        for hide in hides:
            hidden = hide if hidden is None else node.add(ops.LogicalOr(), hidden, hide)
        if hidden is not None:
            at = node.add(ops.Where(), hidden, blank, at)
        factor = node.add(ops.Slice((0,), (back,), (back + 1,)), node.input(1))
        product = node.add(ops.Mul(), at, factor)
        total = product if total is None else node.add(ops.BitwiseXor(), total, product)
        if back:
            made.append(total)
    return made


def segment_begins(node: Node, segments: Instruction, size: int) -> Instruction:
    """Where each segment except the first begins, [batch, size - 1 + length]."""
    batch, length = segments.shape.dims
    first = node.add(ops.Slice((1,), (0,), (1,)), segments)
    earlier = node.broadcast_to(first, (batch, size))
    whole = node.add(ops.Concat(1), earlier, segments)
    one, other = (node.add(ops.Slice((1,), (i,), (i + size - 1 + length,)), whole) for i in (0, 1))
    return node.add(ops.Not(), node.add(ops.Equal(), one, other))
