"""Errors followed element by element, where one number for a tensor would say too little.

A logarithm is as steep as its smallest argument, and a value is rounded or quantised to another
integer only if it is close to a boundary between two. So around these, through views and pointwise
operations, errors are computed for each element by the rules of ``steps``: what a sigmoid flattens
and a logarithm steepens is as before, and table indices computed in floats, as quantised values,
are exact unless an element that is selected is close to a boundary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from migx import op as operations
from migx.argument import Argument
from migx.ir import Instruction
from migx.program import Program
from migx.testing.bounds.kinds import WHOLE, moves
from migx.testing.bounds.ranges import Doubles
from migx.testing.bounds.steps import Step

MOST = 2**18
"""The most elements of a value that is followed."""


class Followed:
    """The errors of followed elements, each half the allowed difference of two sides.

    ``sizes`` are those of symbols; ``tolerance`` gives the allowed difference in any element of
    another value.
    """

    def __init__(
        self,
        program: Program,
        sizes: Mapping[str, int],
        tolerance: Callable[[Instruction, Argument], float],
    ) -> None:
        self._sizes, self._tolerance = sizes, tolerance
        self._members = _around(program)
        self._reads = Counter(v for at in self._members for v in at.inputs)
        self._left: dict[Instruction, int] = {}
        self._values: dict[Instruction, Argument] = {}
        self._errors: dict[Instruction, Doubles | None] = {}

    def keep(self, at: Instruction, value: Argument) -> None:
        """Keeps a value that has been computed, if it will be read."""
        self._errors.pop(at, None)
        if self._reads[at] and value.shape.dtype.is_tensor and value.shape.elements <= MOST:
            self._values[at], self._left[at] = value, self._reads[at]

    def difference(self, at: Instruction, result: Argument) -> float | None:
        """The largest allowed difference in an element of a result; None if it is not followed."""
        known = {symbol.name for symbol in operations.symbols(at.op)} <= self._sizes.keys()
        if at not in self._members or not known or any(v not in self._values for v in at.inputs):
            return None
        values = [self._values[v] for v in at.inputs]
        errors = [self._error(v, value) for v, value in zip(at.inputs, values, strict=True)]
        with np.errstate(all="ignore"):
            op = operations.bind(at.op, self._sizes)
            found = Step(op, values, [*errors], result, counts=True).error()
        assert not isinstance(found, tuple), "it has one result"
        self._errors[at] = found
        for v in at.inputs:
            self._left[v] -= 1
            if not self._left[v]:
                del self._values[v]
                self._errors.pop(v, None)
        return 0.0 if found is None else 2 * float(np.max(found, initial=0.0))

    def forget(self, at: Instruction) -> None:
        """Uses the tolerance of a value, whose error is larger than follows from its inputs'."""
        self._errors.pop(at, None)

    def _error(self, at: Instruction, value: Argument) -> Doubles | None:
        if at in self._errors:
            return self._errors[at]
        allowed = self._tolerance(at, value) / 2
        return np.full(value.array.shape, allowed) if allowed else None


def _around(program: Program) -> frozenset[Instruction]:
    """Logarithms, roundings to integers and quantisations, and the views and pointwise operations
    before and after them.
    """
    todo = [at for at in program.instructions() if _is_steep(at)]
    found = set(todo)
    while todo:
        at = todo.pop()
        near = {v for v in (*at.inputs, *at.users) if _is_followed(v)} - found
        found |= near
        todo += near
    return frozenset(found)


def _is_steep(at: Instruction) -> bool:
    """Whether an instruction is a logarithm, a rounding to integers or a quantisation."""
    if at.name == "convert":
        return at.shape.dtype.is_integer and at.inputs[0].shape.dtype.is_float
    return at.name in ("log", "quantizelinear") or at.name in WHOLE


def _is_followed(at: Instruction) -> bool:
    single = operations.traits(at.op).pointwise or moves(at.op)
    return single and at.shape.dtype.is_tensor and not at.modules
