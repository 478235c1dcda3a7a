"""Evaluates trees of constants, what they share once, those that share nothing in parallel."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from migx.argument import Argument
from migx.constants import connected, tree
from migx.errors import EvaluationError, MigxError
from migx.ir import Instruction
from migx.op import evaluator
from migx.ops.builtin import Literal
from migx.shape import Shape

HEAVY = 1 << 18
"""Bytes from which on values are worth a thread."""

FAILURES = (MigxError, ArithmeticError, LookupError, TypeError, ValueError)

Values = dict[Instruction, Argument]


def evaluated(roots: Sequence[Instruction]) -> Values:
    """The values of some instructions that depend on literals alone, each in standard layout;
    those that fail are left out.
    """
    trees = [tree(at) for at in roots]
    links = [[at for at in whole if type(at.op) is not Literal] for whole in trees]
    light, heavy = list[list[int]](), list[list[int]]()
    for places in connected(links):
        weight = sum(int(at.shape.nbytes) for i in places for at in trees[i])
        (heavy if weight >= HEAVY else light).append(places)

    def run(places: list[int]) -> Values:
        order = dict.fromkeys(at for i in places for at in trees[i])
        return _run(list(order), {roots[i] for i in places})

    found: Values = {}
    for places in light:
        found |= run(places)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for values in pool.map(run, heavy):
            found |= values
    return found


def _run(order: Sequence[Instruction], roots: set[Instruction]) -> Values:
    """Evaluates instructions in order; a value is dropped when its last reader has run."""
    left = Counter(v for at in order for v in at.inputs)
    values: Values = {}
    found: Values = {}
    with np.errstate(all="ignore"):
        for at in order:
            if all(v in values for v in at.inputs):
                try:
                    values[at] = _value(at, [values[v] for v in at.inputs])
                    if at in roots:
                        found[at] = _settled(values[at], at.shape.as_standard())
                except FAILURES:
                    values.pop(at, None)
            left.subtract(at.inputs)
            for v in at.inputs:
                if not left[v]:
                    values.pop(v, None)
    return found


def _value(at: Instruction, arguments: list[Argument]) -> Argument:
    if type(at.op) is Literal:
        return at.op.value
    return evaluator(type(at.op))(at.op, None, at.shape, arguments, [])


def _settled(value: Argument, shape: Shape) -> Argument:
    """The value as a literal holds it; ``EvaluationError`` where it is not what its shape says."""
    array = np.asarray(value.array, order="C")
    if array.dtype != shape.dtype.numpy or (
        array.shape != shape.dims and not shape.dtype.is_packed
    ):
        raise EvaluationError(f"computed {array.dtype} {list(array.shape)} for {shape}")
    return Argument(shape, array)
