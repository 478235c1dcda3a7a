"""Running models on ``ref`` against ``onnx.reference.ReferenceEvaluator``: both are numpy, one
operator at a time.

Three of the 26 models do not run there: ``magika_v3_3`` and ``piper_nakdimon`` have values of
another rank there than in onnxruntime, and ``llama_matmulnbits_b32`` an operator of another domain.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_batch_normalization import BatchNormalization_14
from onnx.reference.ops.op_dequantize_linear import DequantizeLinear_25

import migx
from benchmarks.measure import Result, ResultError, in_turn, seconds
from benchmarks.models import inputs, make

BAR = "no slower than 1.1 times the peer on each, 3 times as fast in the median"
AGAINST = "onnx.reference"
TOLERANCE = 1e-2
"""The allowed difference of results, relative to the largest value: a model in i8 jumps by a step
if a sum is rounded differently.
"""
AT_LEAST = 0.05
"""The least seconds of a sample: a faster run is repeated, and the mean is the sample."""

Arrays = list[NDArray[Any]]


class BatchNormalization(BatchNormalization_14):
    """The peer's own of opset 14: that of opset 9 mixes in the statistics of the batch, as if the
    model were still trained.
    """

    op_domain = ""


class DequantizeLinear(DequantizeLinear_25):
    """The peer's own of opset 25: it has none for opsets before 19."""

    op_domain = ""


def result(name: str, folder: Path | None, rounds: int, budget: float) -> tuple[Result, str]:
    """The samples of one model; and why the peer has none, if so.

    A first run of each is not counted, unless the peer's takes longer than the budget: then that is
    its one sample.
    """
    path, given = make(name, folder), inputs(name)
    program = migx.parse_onnx(path).compile("ref")
    outputs: Arrays = program.eval(given)

    def made(ours: list[float], peer: list[float]) -> Result:
        batch = next(iter(given.values())).shape[0]
        return Result(f"ref {name}", batch, "s", tuple(ours), tuple(peer), AGAINST)

    ours = repeated(lambda: program.eval(given))
    try:
        run = _peer(path, given)
        expected: Arrays = []
        first = seconds(lambda: expected.extend(run()))
    except Exception as error:  # noqa: BLE001 - whatever stops the peer is what is reported
        return made([ours() for _ in range(rounds)], []), in_a_line(error)
    agree(name, outputs, expected)
    if first > budget:
        return made([ours() for _ in range(rounds)], [first]), ""
    return made(*in_turn(ours, repeated(run), rounds, budget)), ""


def repeated(run: Callable[[], object]) -> Callable[[], float]:
    """The mean seconds of a run, over enough runs for a sample."""
    times = max(1, round(AT_LEAST / seconds(run)))
    return lambda: seconds(run, times)


def _peer(path: Path, given: dict[str, Any]) -> Callable[[], Arrays]:
    evaluator = ReferenceEvaluator(str(path), new_ops=[BatchNormalization, DequantizeLinear])

    def run() -> Arrays:
        with warnings.catch_warnings(action="ignore"):
            return [np.asarray(value) for value in evaluator.run(None, given)]

    return run


def agree(name: str, ours: Arrays, peer: Arrays) -> None:
    """Raises ``ResultError`` if the two results differ."""
    for index, (a, b) in enumerate(zip(ours, peer, strict=True)):
        what = f"output {index} of {name}"
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise ResultError(f"{what} is {a.dtype} {a.shape}, the peer's {b.dtype} {b.shape}")
        x, y = a.astype(np.float64), b.astype(np.float64)
        limit = TOLERANCE * float(np.max(np.abs(y), initial=0))
        if not np.allclose(x, y, rtol=0, atol=limit, equal_nan=True):
            apart = float(np.max(np.abs(x - y)))
            raise ResultError(f"{what} is {apart:.3g} from the peer's, at most {limit:.3g} is due")


def in_a_line(error: Exception) -> str:
    """An error in one line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200)
