"""How far a value may be from another that was computed in another way: derived, never chosen.

    bounds = ElementBounds(program, inputs)      # or TensorBounds: what an executable's trace calls
    results = executable.trace(inputs, bounds)
    compare("y", got, results[0], bounds.of(program.main.outputs[0])).problem

A bound follows a run of a program on ``ref``, so trip counts and dims that only the data decides
are what they are. Each operation adds its own roundings, which ``roundings`` counts from element
types and the lengths of accumulations, to what the errors of its inputs come to.

There are two resolutions. ``ElementBounds`` has a bound for each element, from magnitudes in double
precision and the worst of all cases. It is for small programs, of which each value is computed some
times more; the fuzzer uses it. ``TensorBounds`` has one number for each tensor, from the variance
of what is as good as random, at no cost to speak of. It is for whole networks, where the worst case
means nothing any more; ``migx verify`` and ``migx bisect`` use it. ``compare`` holds values to
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
