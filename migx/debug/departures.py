"""Where a run departs from what a program means: the first ONNX node whose result is off by more
than roundings explain.

print(departure(program, changed, inputs, target="cpu"))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from migx.argument import Argument
from migx.compiler import compiled
from migx.debug.layers import landmarks, shown
from migx.ir import Instruction
from migx.op import Array
from migx.program import Program
from migx.target import Target
from migx.testing.bounds import (
    NONE,
    Approximations,
    Budget,
    Comparison,
    TensorBounds,
    compare,
)
from migx.text import draw_instruction


@dataclass(frozen=True)
class Departure:
    """The end of an ONNX node whose result is off by more than its bound, and by how much."""

    at: Instruction
    comparison: Comparison

    @property
    def message(self) -> str:
        """How far off it is, beside the bound and where that comes from."""
        found = self.comparison
        return (
            f"the first to depart: largest error {found.largest:.3g}, tolerance "
            f"{found.tolerance:.3g} ({found.derivation}); {found.problem}"
        )

    def __str__(self) -> str:
        return draw_instruction(self.message, self.at)


def departure(
    before: Program,
    after: Program,
    inputs: Mapping[str, Any],
    target: Target | str = "ref",
    approximations: Approximations = NONE,
) -> Departure | None:
    """The first ONNX node of ``after``, compiled for a target, whose result differs from that in
    ``before`` on ``ref`` by more than its bound; None if there is none.

    ``approximations`` are as in ``compared``, which compares the outputs alone; see ``shown`` for
    targets that show nothing else.
    """
    plain = compiled(before, "ref", passes="")
    arguments = plain.arguments(inputs)
    expected = Expected(plain.program, TensorBounds(plain.program, arguments, approximations))
    plain.trace(arguments, expected)
    program, run = shown(compiled(after, target), after, inputs)
    found = Departures(program, expected.values, expected.budgets)
    run(found)
    return found.first


class Expected:
    """Records the values and bounds of ONNX nodes in a run on ``ref``, whose roundings it follows;
    only bounds unless it is to ``keep`` the values.
    """

    def __init__(self, program: Program, roundings: TensorBounds, keep: bool = True) -> None:
        self._labels = {at: label for label, at in landmarks(program).items()}
        self._roundings, self._keep = roundings, keep
        self.values: dict[str, Array] = {}
        self.budgets: dict[str, Budget] = {}

    def __call__(self, at: Instruction, result: Argument) -> None:
        self._roundings(at, result)
        label = self._labels.get(at)
        if label is not None:
            self.budgets[label] = self._roundings.of(at)
            if self._keep:
                self.values[label] = result.array


class Departures:
    """Compares the results of ONNX nodes with given values as a run computes them; keeps the
    ``first`` that departs, and how many were ``compared``.
    """

    def __init__(
        self, program: Program, values: Mapping[str, Array], budgets: Mapping[str, Budget]
    ) -> None:
        self._values, self._budgets = values, budgets
        self._labels = {at: n for n, at in landmarks(program).items() if n in values}
        self.compared = 0
        self.first: Departure | None = None

    def __call__(self, at: Instruction, result: Argument) -> None:
        label = self._labels.get(at)
        if label is None:
            return
        self.compared += 1
        if self.first is None:
            found = compare(label, result.array, self._values[label], self._budgets[label])
            if not found.passed:
                self.first = Departure(at, found)
