"""How far the results of two programs differ, beside the derived bounds.

for output in compared(program, changed, inputs, target="cpu"):
    print(output)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from migx.argument import Argument
from migx.compiler import compiled
from migx.errors import InputError
from migx.program import Program
from migx.target import Target
from migx.testing.bounds import NONE, Approximations, Comparison, TensorBounds, compare


def compared(
    before: Program,
    after: Program,
    inputs: Mapping[str, Any],
    target: Target | str = "ref",
    approximations: Approximations = NONE,
) -> list[Comparison]:
    """Each output of ``after``, compiled for a target, compared with that of ``before`` on ``ref``
    without passes: its errors, and its derived bound, see ``migx.testing.bounds``.

    ``approximations`` are how far off operations may be on purpose, by name: for a pipeline,
    ``Pipeline.of(passes).approximations()``.
    """
    return beside_ref(before, inputs, approximations)(compiled(after, target).eval(inputs))


def beside_ref(
    program: Program, inputs: Mapping[str, Any], approximations: Approximations = NONE
) -> Callable[[Sequence[Any]], list[Comparison]]:
    """A function that compares outputs with those of a program on ``ref``, without passes."""
    plain = compiled(program, "ref", passes="")
    arguments = plain.arguments(inputs)
    spent = TensorBounds(plain.program, arguments, approximations)
    expected = plain.trace(arguments, spent)
    budgets = [spent.of(value) for value in plain.program.main.outputs]

    def beside(outputs: Sequence[Any]) -> list[Comparison]:
        if len(outputs) != len(expected):
            raise InputError(f"{len(outputs)} outputs are compared with {len(expected)}")
        got = [x.data if isinstance(x, Argument) else x for x in outputs]
        each = zip(program.main.output_names, got, expected, budgets, strict=True)
        return [compare(name, x, y.data, budget) for name, x, y, budget in each]

    return beside
