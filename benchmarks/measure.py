"""Results of a benchmark: samples of ours and of a peer, taken in turn, and the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from migx.base.files import written

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".bench"
"""Where results go, one file for each commit."""


class ResultError(Exception):
    """A result is missing or malformed, or two that should agree do not."""


@dataclass(frozen=True)
class Result:
    """The samples of one test. More is better where the unit ends in ``/s``, else less.

    ``batch`` is the size of one sample: the first dim of a model's first input, or the instructions
    of a chain. ``peer`` is empty if the peer cannot do it.
    """

    test: str
    batch: int
    unit: str
    ours: tuple[float, ...]
    peer: tuple[float, ...]
    against: str

    @property
    def more_is_better(self) -> bool:
        return self.unit.endswith("/s")

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer, by the medians; None if either is 0, such as a
        difference of two times that is smaller than their noise.
        """
        if not self.peer:
            return None
        ours, peer = statistics.median(self.ours), statistics.median(self.peer)
        if not ours or not peer:
            return None
        return ours / peer if self.more_is_better else peer / ours


@dataclass(frozen=True)
class Report:
    """Results of one run, with the commit, the time and the machine."""

    commit: str
    date: str
    machine: dict[str, Any]
    results: tuple[Result, ...] = field(default=())

    def save(self, path: Path) -> None:
        """Writes the report as JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path) as out:
            out.write(json.dumps(asdict(self), indent=1).encode() + b"\n")

    @classmethod
    def load(cls, path: Path) -> Report:
        """Reads a report; ``ResultError`` if the file is missing or is not a report."""
        try:
            given = json.loads(path.read_text("utf-8"))
            results = tuple(
                Result(**{**r, "ours": tuple(r["ours"]), "peer": tuple(r["peer"])})
                for r in given.pop("results")
            )
            return cls(**given, results=results)
        except OSError as error:
            raise ResultError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ResultError(f"{path} is no result of a benchmark: {error}") from error


def report(results: Iterable[Result]) -> Report:
    """The report of some results taken here and now."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Report(commit(), date, machine(), tuple(results))


def commit() -> str:
    """The commit that is checked out, ``-dirty`` where files differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "uncommitted"
    return f"{head}-dirty" if _git("status", "--porcelain") else head


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if not done.returncode else ""


def machine() -> dict[str, Any]:
    """The machine and the versions that results depend on."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "blas threads": os.environ.get("OPENBLAS_NUM_THREADS", "all"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "onnx", "llvmlite")},
        **{peer: version(peer) for peer in ("onnxruntime", "openvino") if find_spec(peer)},
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # only Linux has that file
    return platform.processor() or "unknown"


def in_turn(
    ours: Callable[[], float], peer: Callable[[], float], rounds: int, budget: float
) -> tuple[list[float], list[float]]:
    """Samples of both, alternating, so that disturbances of the machine affect both.

    The peer stops when another sample would take it over ``budget`` seconds, but has one at least.
    """
    samples: tuple[list[float], list[float]] = [], []
    spent = longest = 0.0
    for _ in range(rounds):
        samples[0].append(ours())
        if not samples[1] or spent + longest <= budget:
            took = seconds(lambda: samples[1].append(peer()))
            spent, longest = spent + took, max(longest, took)
    return samples


def seconds(call: Callable[[], object], times: int = 1) -> float:
    """Seconds of one call, as the mean of some."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def quartiles(samples: Iterable[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    given = sorted(samples)
    if len(given) == 1:
        return given[0], given[0], given[0]
    low, middle, high = statistics.quantiles(given, n=4, method="inclusive")
    return low, middle, high
