"""Running models on ``cpu`` against onnxruntime, on as many threads, their samples in turn.

The peer runs with all its graph optimisations. Before anything is timed, results must agree with
its own without any: optimised, it rounds what four-bit weights are multiplied by to 8 bits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import migx
from benchmarks.alone import PAUSE
from benchmarks.measure import Result, in_turn
from benchmarks.models import inputs, make
from benchmarks.ref import agree, in_a_line, repeated

BAR = "as fast as the peer in the geometric mean of float and int4 models, none under 0.7"
AGAINST = "onnxruntime"
THREADS = (2, 1)
STARTS_BAR = "a cold compile in 4 s and 3 s, a warm one in 0.3 s, a file as fast as a session"
STARTS = ("resnet50", "bert_base")
_COMPILING = """
import sys
import time
import migx
program = migx.parse_onnx(sys.argv[1])
start = time.perf_counter()
program.compile("cpu", num_threads=2)
print(time.perf_counter() - start)
"""


def results(name: str, folder: Path | None, rounds: int, budget: float) -> tuple[list[Result], str]:
    """The samples of one model at each number of threads; and why the peer has none, if so."""
    path, given = make(name, folder), inputs(name)
    batch = next(iter(given.values())).shape[0]
    program = migx.parse_onnx(path)
    found: list[Result] = []
    expected: list[Any] = []
    for threads in THREADS:
        program.compile("cpu", num_threads=threads)
        outputs = program.eval(given)
        ours = repeated(lambda: program.eval(given))
        test = f"cpu {name}, {threads} threads"
        try:
            session = _session(path, threads)
            expected = expected or _exact(path, given)
        except Exception as error:  # noqa: BLE001 - whatever stops the peer is what is reported
            samples = tuple(ours() for _ in range(rounds))
            return [*found, Result(test, batch, "s", samples, (), AGAINST)], in_a_line(error)
        agree(name, outputs, expected)
        peer = repeated(partial(session.run, None, given))
        mine, other = in_turn(rested(ours), rested(peer), rounds, budget)
        found.append(Result(test, batch, "s", tuple(mine), tuple(other), AGAINST))
    return found, ""


def starts(name: str, folder: Path | None, rounds: int) -> list[Result]:
    """What it takes until a model can run: a file loaded and its first answer, against a session
    made and its first; a compilation in a new process with no object kept, and with all.
    """
    path, given = make(name, folder), inputs(name)
    batch = next(iter(given.values())).shape[0]
    with tempfile.TemporaryDirectory() as held:
        file = Path(held) / "model.mxr"
        migx.save(migx.parse_onnx(path).compile("cpu", num_threads=2), file)
        loads = [(_loaded(file, given), _created(path, given)) for _ in range(rounds + 1)][1:]
        compiles = [_compiled(path, held) for _ in range(rounds + 1)][1:]
    mine, peer = zip(*loads, strict=True)
    cold, warm = zip(*compiles, strict=True)
    return [
        Result(f"cpu {name}, load and first answer", batch, "s", mine, peer, AGAINST),
        Result(f"cpu {name}, cold compile", batch, "s", cold, (), ""),
        Result(f"cpu {name}, warm compile", batch, "s", warm, (), ""),
    ]


def _loaded(file: Path, given: Mapping[str, Any]) -> float:
    return _taken(lambda: migx.load(file).eval(given))


def _created(path: Path, given: Mapping[str, Any]) -> float:
    return _taken(lambda: _session(path, 2).run(None, dict(given)))


def _taken(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _compiled(path: Path, bytecode: str) -> tuple[float, float]:
    """The seconds of a compilation without kept objects, and of one with them. Python's own
    compilations are kept in a folder.
    """
    setting = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as cache:
        setting |= {"MIGX_CACHE_DIR": cache, "PYTHONPYCACHEPREFIX": bytecode}
        command = [sys.executable, "-c", _COMPILING, str(path)]
        cold, warm = (
            float(subprocess.run(command, check=True, capture_output=True, env=setting).stdout)
            for _ in range(2)
        )
    return cold, warm


def rested(sample: Callable[[], float]) -> Callable[[], float]:
    """The sample, taken when the threads of the one before sleep."""

    def taken() -> float:
        time.sleep(PAUSE)
        return sample()

    return taken


def _exact(path: Path, given: Mapping[str, Any]) -> list[Any]:
    """What the peer answers when it rewrites nothing."""
    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return [np.asarray(v) for v in _session(path, 1, level).run(None, dict(given))]


def _session(
    path: Path,
    threads: int,
    level: Any = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
) -> onnxruntime.InferenceSession:
    asked = onnxruntime.SessionOptions()
    asked.graph_optimization_level = level
    asked.log_severity_level = 4
    asked.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), asked, providers=["CPUExecutionProvider"])
