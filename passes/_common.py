"""Patterns and predicates that the rules of several passes share."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from migx import op as operations
from migx.argument import Argument
from migx.ir import Instruction
from migx.match import skip
from migx.ops.builtin import Literal
from migx.ops.layout import Broadcast, Multibroadcast
from migx.shape import Dims

SAMPLE = 64
"""Bytes at either end of a literal that tell most apart, so that few are compared whole."""

broadcast_of = skip(Broadcast, Multibroadcast)
"""Makes a pattern that also matches through broadcasts."""


def without_padding(padding: Dims) -> bool:
    """Whether no side is padded."""
    return all(p == 0 for p in padding)


def without_gaps(dilation: tuple[int, ...]) -> bool:
    """Whether every dilation is 1."""
    return all(d == 1 for d in dilation)


def identity(at: Instruction) -> Hashable:
    """The value-numbering key of an instruction, equal for two exactly if they compute the same."""
    if isinstance(at.op, Literal):
        return at.shape, _sample(at.op.value), at.op.value
    inputs = [id(v) for v in at.inputs]
    if operations.traits(at.op).commutative:
        inputs.sort()
    return operations.key(at.op), tuple(inputs), tuple(map(id, at.modules))


def _sample(value: Argument) -> bytes:
    """Some bytes of a value, equal for values that ``Argument`` compares as equal."""
    data = value.data if value.available else None
    if not isinstance(data, np.ndarray) or data.dtype == object or not data.flags.c_contiguous:
        return b""
    flat = data.reshape(-1).view(np.uint8)
    return flat[:SAMPLE].tobytes() + flat[-SAMPLE:].tobytes()
