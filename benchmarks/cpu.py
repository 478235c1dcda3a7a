"""Running models on ``cpu`` against onnxruntime, on as many threads, their samples in turn.

The peer runs with all its graph optimisations. Results must agree before anything is timed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

import migx
from benchmarks.measure import Result, in_turn
from benchmarks.models import inputs, make
from benchmarks.ref import agree, in_a_line, repeated

BAR = "as fast as the peer in the geometric mean of float and int4 models, none under 0.7"
AGAINST = "onnxruntime"
THREADS = (2, 1)


def results(name: str, folder: Path | None, rounds: int, budget: float) -> tuple[list[Result], str]:
    """The samples of one model at each number of threads; and why the peer has none, if so."""
    path, given = make(name, folder), inputs(name)
    batch = next(iter(given.values())).shape[0]
    program = migx.parse_onnx(path)
    found: list[Result] = []
    for threads in THREADS:
        program.compile("cpu", num_threads=threads)
        outputs = program.eval(given)
        ours = repeated(lambda: program.eval(given))
        test = f"cpu {name}, {threads} threads"
        try:
            session = _session(path, threads)
            expected = [np.asarray(v) for v in session.run(None, given)]
        except Exception as error:  # noqa: BLE001 - whatever stops the peer is what is reported
            samples = tuple(ours() for _ in range(rounds))
            return [*found, Result(test, batch, "s", samples, (), AGAINST)], in_a_line(error)
        agree(name, outputs, expected)
        peer = repeated(partial(session.run, None, given))
        mine, other = in_turn(ours, peer, rounds, budget)
        found.append(Result(test, batch, "s", tuple(mine), tuple(other), AGAINST))
    return found, ""


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    asked = onnxruntime.SessionOptions()
    asked.log_severity_level = 4
    asked.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), asked, providers=["CPUExecutionProvider"])
