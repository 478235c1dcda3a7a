"""Reading a model: ``migx.parse_onnx`` against ``onnx.load``, each time in a fresh process.

Both read the same model, its weights in a file beside it; onnx.load reads the weights into memory,
migx maps them. ``benchmarks.probe`` defines what is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import ROOT, Result, in_turn

BAR = "at most 1.0 s for the call and 150 MB in all"
TESTS = {
    "call": ("parse", "s"),
    "start": ("import and parse", "s"),
    "memory": ("parse memory", "MB"),
}


def results(model: Path, rounds: int) -> Iterator[Result]:
    """Seconds of the call, seconds with the import, and megabytes."""
    taken: dict[str, list[dict[str, float]]] = {"migx": [], "onnx": []}

    def sample(who: str) -> float:
        taken[who].append(_probed(who, model))
        return taken[who][-1]["start"]

    _probed("onnx", model)  # from here on the files are in the system's cache
    in_turn(lambda: sample("migx"), lambda: sample("onnx"), rounds, budget=120)
    for key, (test, unit) in TESTS.items():
        ours, peer = (tuple(t[key] for t in taken[who]) for who in ("migx", "onnx"))
        yield Result(f"{test} {model.parent.name}", 1, unit, ours, peer, "onnx.load")


def _probed(who: str, model: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.probe", who, str(model.resolve())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found
