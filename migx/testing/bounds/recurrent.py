"""Growth of roundings in recurrent layers, in which each step propagates those of earlier ones.

With wide weights they grow from step to step, so counting them says nothing. But a sum of n rounded
products is the exact sum of products that each have an error of about n roundings (N. J. Higham,
"Accuracy and Stability of Numerical Algorithms", section 3.1). So the layer is computed again on
inputs and weights with random errors of that size, and the change of its results is the bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from migx import op as operations
from migx.argument import Argument
from migx.op import Operation
from migx.ops.rnn import BACKWARD
from migx.shape import F32, F64, Shape
from migx.testing.bounds.ranges import TINY, Doubles, largest
from migx.testing.bounds.roundings import FUNCTION, LAMBDA


def growth(op: Operation, values: Sequence[Argument], result: Argument) -> float:
    """The factor by which the roundings of all steps exceed those of one, relative to the largest
    magnitude of a result.
    """
    size = _size(op, values)
    changed = zip(response(op, values, result, 1), result.parts, strict=True)
    return max(largest(c) / max(size * largest(part.array), TINY) for c, part in changed)


def response(
    op: Operation, values: Sequence[Argument], result: Argument, draws: int
) -> list[Doubles]:
    """How much roundings may change each element of each result: the maximum over some draws, and
    over all units, which are of a kind.
    """
    rng, size = np.random.default_rng(0), _size(op, values)
    shape = Shape.tuple(*(part.with_type(F64) for part in result.shape.parts))

    def results(off: float) -> list[Doubles]:
        moved = [_moved(v, off, rng) for v in values]
        return [part.array for part in operations.result_of(op, shape, moved).parts]

    exact, found = results(0.0), [np.zeros(part.array.shape) for part in result.parts]
    for _ in range(draws):
        pairs = zip(results(size), exact, strict=True)
        found = [np.maximum(np.abs(a - b), c) for (a, b), c in zip(pairs, found, strict=True)]
    return outgrown(op, found)


def outgrown(op: Any, found: Sequence[Doubles]) -> list[Doubles]:
    """What the errors of a few draws may be in any: in each unit as in the widest, because units
    are of a kind, and after each step as after those before, because in a chaotic layer errors grow
    until they are as large as the states, whose difference may then be small in all draws.
    """
    widest = [np.max(each, -1, keepdims=True, initial=0.0) for each in found]
    for direction, backward in enumerate(BACKWARD[op.direction]):
        steps = widest[0][::-1] if backward else widest[0]
        steps[:, direction] = np.maximum.accumulate(steps[:, direction])
    widest[1] = np.maximum(widest[1], np.max(widest[0], 0, initial=0.0))
    return [np.array(np.broadcast_to(w, a.shape)) for w, a in zip(widest, found, strict=True)]


def _size(op: Any, values: Sequence[Argument]) -> float:
    """The roundings of one step, relative to its sums."""
    shape = values[0].shape
    count = int(shape.dims[2]) + int(op.hidden_size) + 3 * FUNCTION
    return LAMBDA * math.sqrt(count) * min(shape.dtype.roundoff, F32.roundoff)


def _moved(value: Argument, size: float, rng: np.random.Generator) -> Argument:
    if not value.shape.dtype.is_float:
        return value
    array = value.array.astype(np.float64)
    return Argument.of(array * (1 + size * rng.choice((-1.0, 1.0), array.shape)))
