"""Running models on ``cpu`` against onnxruntime and OpenVINO, on as many threads, their samples in
turn.

The peers run with all their graph optimisations; OpenVINO is told to compute in f32 as the others
do, for on some machines it would take bf16. Before anything is timed, our results must agree with
onnxruntime's without optimisations: with them, it rounds factors of four-bit weights to 8 bits.
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
from benchmarks.measure import Result, in_turn
from benchmarks.models import inputs, make
from benchmarks.ref import agree, in_a_line, repeated
from migx.cli.perf import PAUSE

BAR = "as fast as the peer in the geometric mean of float and int4 models, none under 0.7"
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


def results(
    name: str, folder: Path | None, rounds: int, budget: float
) -> tuple[list[Result], list[str]]:
    """The samples of one model for each thread count and peer, and why a peer has none."""
    path, given = make(name, folder), inputs(name)
    batch = next(iter(given.values())).shape[0]
    program, expected = migx.parse_onnx(path), _exact(path, given)
    found, notes = list[Result](), dict[str, None]()
    for threads in THREADS:
        program.compile("cpu", num_threads=threads)
        agree(name, program.eval(given), expected)
        ours = rested(repeated(lambda: program.eval(given)))
        for peer, made in PEERS.items():
            try:
                theirs = rested(repeated(made(path, threads, given)))
            except Exception as error:  # noqa: BLE001 - whatever stops the peer is what is reported
                notes[f"{peer} cannot run {name}: {in_a_line(error)}"] = None
                mine, other = [ours() for _ in range(rounds)], list[float]()
            else:
                mine, other = in_turn(ours, theirs, rounds, budget)
            test = f"cpu {name}, {threads} threads"
            found.append(Result(test, batch, "s", tuple(mine), tuple(other), peer))
    return found, list(notes)


def starts(name: str, folder: Path | None, rounds: int) -> list[Result]:
    """The time until a model can run: loading a file and a first run, against creating a session
    and a first run; compilation in a new process, without cached objects and with all.
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
        Result(f"cpu {name}, load and first answer", batch, "s", mine, peer, "onnxruntime"),
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
    """The seconds of a compilation without cached objects, and of one with them. Python's bytecode
    is cached in a folder.
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
    """The sample, taken once the threads of the one before sleep."""

    def taken() -> float:
        time.sleep(PAUSE)
        return sample()

    return taken


def _exact(path: Path, given: Mapping[str, Any]) -> list[Any]:
    """The peer's results without optimisations."""
    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return [np.asarray(v) for v in _session(path, 1, level).run(None, dict(given))]


def _onnxruntime(path: Path, threads: int, given: Mapping[str, Any]) -> Callable[[], object]:
    return partial(_session(path, threads).run, None, dict(given))


def _openvino(path: Path, threads: int, given: Mapping[str, Any]) -> Callable[[], object]:
    import openvino

    asked = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(path, "CPU", asked).create_infer_request()
    return partial(request.infer, dict(given))


PEERS: Mapping[str, Callable[[Path, int, Mapping[str, Any]], Callable[[], object]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


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
