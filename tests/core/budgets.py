"""Programs run on ``ref`` with the budget of their output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import migx
from migx.argument import Argument
from migx.compiler import compiled
from migx.testing.bounds import Budget, TensorBounds, compare
from migx.testing.oracles import run_on_ref

Array = NDArray[Any]
Kernel = Callable[..., Array]


def run(text: str, **inputs: Array) -> tuple[Array, Budget]:
    """The one output of a program, and its budget."""
    made = compiled(migx.parse(text), "ref")
    arguments = made.arguments(inputs)
    roundings = TensorBounds(made.program, arguments)
    with np.errstate(all="ignore"):
        (result,) = made.trace(arguments, roundings)
    return result.array, roundings.of(made.program.main.outputs[0])


def drawn(*dims: int, dtype: str = "f4", seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(dims).astype(dtype)


def beside(middle: float, *dims: int) -> Array:
    """Drawn values, the first in the middle between two steps."""
    values = drawn(*dims)
    values[(0,) * len(dims)] = middle
    return values


def verdict(text: str, kernel: Kernel, *arrays: Array) -> str:
    """What is wrong with a kernel's result for a program's inputs; "" if nothing is."""
    program = migx.parse(text)
    names = program.main.parameters
    inputs = {n: Argument.of(a) for n, a in zip(names, arrays, strict=True)}
    ((wanted, error),) = run_on_ref(program, inputs, program)
    got = kernel(*arrays).astype(wanted.array.dtype)
    return compare("y", got, wanted.array, error, error).problem
