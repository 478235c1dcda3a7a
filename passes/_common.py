"""What the rules of many passes ask for."""

from __future__ import annotations

from migx.match import skip
from migx.ops.layout import Broadcast, Multibroadcast
from migx.ops.reduce import (
    ReduceAll,
    ReduceAny,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceProd,
    ReduceSum,
)
from migx.shape import Dims

REDUCTIONS = (ReduceAll, ReduceAny, ReduceMax, ReduceMean, ReduceMin, ReduceProd, ReduceSum)

broadcast_of = skip(Broadcast, Multibroadcast)
"""What a pattern matches, or broadcasts of it."""


def without_padding(padding: Dims) -> bool:
    """Whether a window sees the input alone."""
    return all(p == 0 for p in padding)


def without_gaps(dilation: tuple[int, ...]) -> bool:
    """Whether a window sees neighbours."""
    return all(d == 1 for d in dilation)
