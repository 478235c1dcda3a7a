"""Chains of relu, clip, max and min.

They are monotone, so an outer one may as well be applied to the bounds of an inner one.
"""

from __future__ import annotations

from migx.builders import full_like
from migx.ir import Instruction
from migx.match import constant, on, varying
from migx.ops.pointwise import Clip, Max, Min, Relu
from migx.passes.simplify_algebra.terms import throughout
from migx.rewrite import Cursor, rule

x, a, b, c, d = varying("x"), constant("a"), constant("b"), constant("c"), constant("d")


@rule(on(Max, x, throughout(0)))
def max_zero(at: Cursor, x: Instruction) -> Instruction:
    """max(x, 0) is relu(x)."""
    return at(Relu(), x)


@rule(on(Min, on(Max, x, a).once(), b))
def min_max(at: Cursor, x: Instruction, a: Instruction, b: Instruction) -> Instruction:
    """min(max(x, a), b) is clip(x, a, b)."""
    return at(Clip(), x, a, b)


@rule(on(Min, on(Relu, x).once(), b))
def min_relu(at: Cursor, x: Instruction, b: Instruction) -> Instruction:
    """min(relu(x), b) is clip(x, 0, b)."""
    return at(Clip(), x, full_like(at, x, 0), b)


@rule(on(Clip, on(Clip, x, a, b).once(), c, d))
def clip_clip(
    at: Cursor, x: Instruction, a: Instruction, b: Instruction, c: Instruction, d: Instruction
) -> Instruction:
    """clip(clip(x, a, b), c, d) is clip(x, clip(a, c, d), clip(b, c, d))."""
    return at(Clip(), x, at(Clip(), a, c, d), at(Clip(), b, c, d))


@rule(on(Relu, on(Clip, x, a, b).once()))
def relu_clip(at: Cursor, x: Instruction, a: Instruction, b: Instruction) -> Instruction:
    """relu(clip(x, a, b)) is clip(x, relu(a), relu(b))."""
    return at(Clip(), x, at(Relu(), a), at(Relu(), b))


@rule(on(Clip, on(Relu, x).once(), a, b))
def clip_relu(at: Cursor, x: Instruction, a: Instruction, b: Instruction) -> Instruction:
    """clip(relu(x), a, b) is clip(x, relu(a), b)."""
    return at(Clip(), x, at(Relu(), a), b)


clamps = max_zero + min_max + min_relu + clip_clip + relu_clip + clip_relu
