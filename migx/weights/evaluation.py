"""Evaluates trees of constants: shared parts once, independent ones in parallel.

Folding, baking, loading and swapping all compute values here, so they all give the same bits.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from migx.argument import Argument
from migx.errors import AssumptionError, DataError, EvaluationError
from migx.ir import Instruction
from migx.meaning import FAILURES, failed
from migx.op import result_of, traits
from migx.ops._row_major import row_major
from migx.ops.builtin import Literal
from migx.shape import Shape
from migx.weights.constants import connected, tree

HEAVY = 1 << 23
"""The bytes of a value from which on it is worth a thread, which may have to wait for a core."""

Values = dict[Instruction, Argument]
Known = Mapping[Instruction, Argument]


def evaluated(
    roots: Sequence[Instruction],
    known: Known = MappingProxyType({}),
    *,
    context: Any = None,
    lenient: bool = False,
    threads: int | None = None,
) -> Values:
    """The values of some instructions that depend only on literals and ``known`` values, each in
    standard layout, computed on as many ``threads`` as there are processors unless told otherwise.

    A failure raises an error with the instruction drawn; if ``lenient``, whatever depends on it is
    left out.
    """
    trees = [tree(at, lambda v: () if v in known else v.inputs) for at in roots]
    links = [[at for at in whole if not _given(at, known)] or whole for whole in trees]
    light, heavy = list[list[int]](), list[list[int]]()
    for places in connected(links):
        weight = sum(int(at.shape.nbytes) for i in places for at in trees[i])
        (heavy if weight >= HEAVY else light).append(places)

    def run(places: list[int]) -> Values:
        order = dict.fromkeys(at for i in places for at in trees[i])
        return _Run(known, context, lenient).run(list(order), {roots[i] for i in places})

    found: Values = {}
    for places in light:
        found |= run(places)
    if len(heavy) < 2:
        return found | run(heavy[0]) if heavy else found
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for values in pool.map(run, heavy):
            found |= values
    return found


def _given(at: Instruction, known: Known) -> bool:
    return at in known or type(at.op) is Literal


@dataclass(frozen=True)
class _Run:
    """Evaluates instructions in order on one thread."""

    known: Known
    context: Any
    lenient: bool

    def run(self, order: Sequence[Instruction], roots: set[Instruction]) -> Values:
        """The values of the roots; others are dropped after their last use."""
        left = Counter(v for at in order if at not in self.known for v in at.inputs)
        values: Values = {}
        found: Values = {}
        with np.errstate(all="ignore"):
            for at in order:
                inputs = () if at in self.known else at.inputs
                if all(v in values for v in inputs):
                    try:
                        values[at] = self.value(at, [values[v] for v in inputs])
                        if at in roots:
                            found[at] = settled(values[at], at.shape.as_standard())
                    except FAILURES as error:
                        values.pop(at, None)
                        self.refuse(at, error)
                left.subtract(inputs)
                for v in inputs:
                    if not left[v] and (gone := values.pop(v, None)) is not None:
                        gone.give_back()
        return found

    def value(self, at: Instruction, arguments: list[Argument]) -> Argument:
        if (given := self.known.get(at)) is not None:
            return given
        if type(at.op) is Literal:
            return at.op.value
        made = result_of(at.op, at.shape, arguments, self.context)
        view = traits(at.op).view
        if view is None or arguments[view].source is None:
            return made
        return arguments[view].viewed(made.shape, made.array)

    def refuse(self, at: Instruction, error: BaseException) -> None:
        if self.lenient:
            return
        if isinstance(error, (AssumptionError, DataError)):
            raise error
        raise failed(at, error) from error


def settled(value: Argument, shape: Shape) -> Argument:
    """The value in standard layout; ``EvaluationError`` if it does not fit its shape."""
    array = row_major(value.array)
    if array is value.data and value.shape == shape:
        return value
    if array.dtype != shape.dtype.numpy or (
        array.shape != shape.dims and not shape.dtype.is_packed
    ):
        raise EvaluationError(f"computed {array.dtype} {list(array.shape)} for {shape}")
    return value.viewed(shape, array)
