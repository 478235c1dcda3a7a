"""What the errors of a sum are relative to, where terms cancel and leave less than that.

The errors of floats are relative to each term: with signs as good as random, what reaches the sum
is relative to the root of the sum of the squares of the terms. The roundings of additions are
relative to partial sums, none of which exceeds, in whatever order, the sum of all positive terms or
of all negative ones. The errors of quantised values are of one size for all elements of a tensor,
relative to the greatest: what reaches a sum is relative to that times the root of the sum of the
squares of the factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from migx import op as operations
from migx.argument import Argument
from migx.ir import Instruction
from migx.testing.bounds.kinds import SUMS
from migx.testing.bounds.ranges import largest
from migx.testing.bounds.roundings import roundings
from migx.testing.bounds.steps import Step, doubles

LONG = SUMS - {"add", "mul", "sub"}
"""The operations that accumulate."""

MOST = 2**18
"""The most terms, of all elements of a result, that are added again."""


def sizes(at: Instruction, values: Sequence[Argument], result: Argument) -> tuple[float, float]:
    """The greatest root of the sum of squares of the terms of any element, and the greatest partial
    sum on the way to it in the worst order; 0 if there are none, or more than ``MOST``.
    """
    count = roundings(at.op, [v.shape for v in values], result.shape)
    if {*operations.symbols(at.op)} or count * result.shape.elements > MOST:
        return 0.0, 0.0
    step = Step(at.op, list(values), [None] * len(values), result)
    with np.errstate(all="ignore"):
        partial = largest(step.terms() + np.abs(doubles(result))) / 2
        return math.sqrt(largest(step.terms(power=2))), partial


def norm(name: str, place: int, factors: Argument) -> float:
    """The greatest root of the sum of squares of the factors at a place that one sum has."""
    along = FACTORS[name, place]
    batch = factors.array.strides[:-2] if name == "dot" else ()
    array = factors.array[tuple(slice(None if stride else 1) for stride in batch)]
    with np.errstate(over="ignore"):
        squares = np.square(array.astype(np.float32, copy=False))
        return math.sqrt(largest(np.sum(squares, along(array.ndim))))


FACTORS: Mapping[tuple[str, int], Callable[[int], int | tuple[int, ...]]] = {
    ("dot", 0): lambda rank: -1,
    ("dot", 1): lambda rank: -2,
    ("convolution", 1): lambda rank: tuple(range(1, rank)),
    ("convolution_channels_last", 1): lambda rank: tuple(range(1, rank)),
}
"""The axes along which the factors of one sum lie, by operation and place among its inputs."""
