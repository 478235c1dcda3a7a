"""Running models on ``ref`` against ``onnx.reference.ReferenceEvaluator``: both numpy, one
operator at a time.

Three of the 26 models do not run there: two with operators that the exporter gave a wrong rank the
peer does not forgive, one with an operator of another domain.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

import migx
from benchmarks.measure import Result, ResultError, in_turn, seconds
from benchmarks.models import inputs, make

BAR = "no slower than 1.1 times the peer on each, 3 times as fast in the median"
AGAINST = "onnx.reference"
TOLERANCE = 1e-3
"""How far results may lie apart, as a part of the largest value."""
AT_LEAST = 0.05
"""Seconds that one sample takes: a faster run is repeated, and the mean is the sample."""

Arrays = list[NDArray[Any]]


def result(name: str, folder: Path, rounds: int, budget: float) -> tuple[Result, str]:
    """The samples of one model; and why the peer has none, if so.

    A first run of each is not counted, unless the peer's alone takes longer than the budget.
    """
    path, given = make(name, folder), inputs(name)
    batch = next(iter(given.values())).shape[0]
    program = migx.parse_onnx(path).compile("ref")
    outputs: Arrays = program.eval(given)
    times = _times(seconds(lambda: program.eval(given)))

    def ours() -> float:
        return seconds(lambda: program.eval(given), times)

    try:
        run = _peer(path)
        expected: Arrays = []
        first = seconds(lambda: expected.extend(run(given)))
    except Exception as error:  # noqa: BLE001 - whatever stops the peer is what is reported
        samples = tuple(ours() for _ in range(rounds))
        return Result(f"ref {name}", batch, "s", samples, (), AGAINST), _in_a_line(error)
    _agree(name, outputs, expected)
    if first > budget:
        return Result(
            f"ref {name}", batch, "s", tuple(ours() for _ in range(rounds)), (first,), AGAINST
        ), ""
    often = _times(first)
    taken = in_turn(ours, lambda: seconds(lambda: run(given), often), rounds, budget)
    return Result(f"ref {name}", batch, "s", tuple(taken[0]), tuple(taken[1]), AGAINST), ""


def _times(once: float) -> int:
    return max(1, round(AT_LEAST / once))


def _peer(path: Path) -> Callable[[dict[str, Any]], Arrays]:
    """The peer's run of a model. It knows DequantizeLinear from opset 19 on, so a quantised model
    of an older one is declared to be of 19, where the operators of these models mean the same.
    """
    model = onnx.load(path)
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        for entry in model.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = max(entry.version, 19)
    evaluator = ReferenceEvaluator(model)

    def run(given: dict[str, Any]) -> Arrays:
        with warnings.catch_warnings(action="ignore"):
            return [np.asarray(value) for value in evaluator.run(None, given)]

    return run


def _agree(name: str, ours: Arrays, peer: Arrays) -> None:
    for index, (a, b) in enumerate(zip(ours, peer, strict=True)):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise ResultError(
                f"{name}: output {index} is {a.dtype}{a.shape}, {b.dtype}{b.shape} there"
            )
        x, y = a.astype(np.float64), b.astype(np.float64)
        limit = TOLERANCE * float(np.max(np.abs(y), initial=0))
        if not np.allclose(x, y, rtol=0, atol=limit, equal_nan=True):
            apart = float(np.max(np.abs(x - y)))
            raise ResultError(
                f"{name}: output {index} is {apart:.3g} apart, at most {limit:.3g} is due"
            )


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
