"""Error bounds: how far a value may be from one computed in another way, derived, never chosen.

    bounds = ElementBounds(program, inputs)      # or TensorBounds: what an executable's trace calls
    results = executable.trace(inputs, bounds)
    compare("y", got, results[0], bounds.of(program.main.outputs[0])).problem

A bound follows a run of a program on ``ref``, so data-dependent trip counts and dims are known.
Each operation adds its own roundings, which ``roundings`` counts from element types and the lengths
of accumulations, to the propagated errors of its inputs.

There are two resolutions. ``ElementBounds`` has a worst-case bound for each element, from
magnitudes in double precision. It computes each value several more times, so it is for small
programs; the fuzzer uses it. ``TensorBounds`` has one number for each tensor, from the variance of
errors that are as good as random, at negligible cost. It is for whole networks, for which the worst
case says nothing; ``migx verify`` and ``migx bisect`` use it. ``compare`` checks values against
either.
"""

from migx.testing.bounds.compare import Bound, Comparison, compare
from migx.testing.bounds.elements import ElementBounds
from migx.testing.bounds.roundings import LAMBDA, roundings
from migx.testing.bounds.tensors import NONE, Approximations, Budget, TensorBounds

__all__ = [
    "LAMBDA",
    "NONE",
    "Approximations",
    "Bound",
    "Budget",
    "Comparison",
    "ElementBounds",
    "TensorBounds",
    "compare",
    "roundings",
]
