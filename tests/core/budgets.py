"""Programs run on ``ref`` with the budget of their output."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import migx
from migx.compiler import compiled
from migx.testing.bounds import Budget, TensorBounds

Array = NDArray[Any]


def run(text: str, **inputs: Array) -> tuple[Array, Budget]:
    """The one output of a program, and its budget."""
    made = compiled(migx.parse(text), "ref")
    arguments = made.arguments(inputs)
    roundings = TensorBounds(made.program, arguments)
    with np.errstate(all="ignore"):
        (result,) = made.trace(arguments, roundings)
    return result.array, roundings.of(made.program.main.outputs[0])


def drawn(*dims: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(dims, np.float32)


def beside(middle: float, *dims: int) -> Array:
    """Drawn values, the first in the middle between two steps."""
    values = drawn(*dims)
    values[(0,) * len(dims)] = middle
    return values
