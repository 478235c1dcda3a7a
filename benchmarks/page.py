"""The page of speeds: what a run of the benchmark of ``cpu`` has found, and where."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.measure import Report, Result

RESULTS = Path(__file__).parent / "results" / "cpu.json"
HEAD = """\
# Speed on `cpu`

Medians of samples taken in turn with {against} {version}, with all its optimisations, on as many
threads; *times* is how many times faster migx is. Answers are compared before anything is timed.
Measured on {cpu} ({cores} cores), {system}, Python {python}, llvmlite {llvmlite}, at commit
{commit}. The models are those of `make models`, and `make bench` measures your machine. To make
this page anew: `python -m benchmarks run cpu --to {results}`, then `python -m docs.generate`."""
FOOT = """\
The last row is the geometric mean. `llama_int4_qdq_b32` computes exactly here, while {against}
rounds what four-bit weights are multiplied by to 8 bits; the `int8` models are products of bytes
on both sides. How kernels come to be fast is told in
[how a kernel comes to be](../explanation/how-a-kernel-comes-to-be.md)."""


def parts() -> tuple[str, list[tuple[str, ...]], str]:
    """What stands above the table, its rows, the first of them its head, and what stands below."""
    report = Report.load(RESULTS)
    found: dict[str, dict[str, Result]] = {}
    for result in report.results:
        name, threads = result.test.removeprefix("cpu ").split(", ")
        found.setdefault(name, {})[threads.split()[0]] = result
    columns = sorted({threads for of in found.values() for threads in of})
    against = report.results[0].against
    head = ["model"]
    for threads in columns:
        title = "1 thread" if threads == "1" else f"{threads} threads"
        head += [f"migx, {title}", against, "times"]
    rows = [
        (f"`{name}`", *(c for t in columns for c in _cells(of[t]))) for name, of in found.items()
    ]
    means = [_mean([of[t] for of in found.values()]) for t in columns]
    rows.append(("all", *(c for mean in means for c in ("", "", f"{mean:.2f}"))))
    facts = {**report.machine, "against": against, "version": report.machine[against]}
    facts |= {"commit": report.commit, "results": RESULTS.relative_to(RESULTS.parents[2])}
    return HEAD.format(**facts), [tuple(head), *rows], FOOT.format(against=against)


def _cells(result: Result) -> tuple[str, str, str]:
    ours, peer = statistics.median(result.ours), statistics.median(result.peer)
    return _milliseconds(ours), _milliseconds(peer), f"{peer / ours:.2f}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def _mean(results: list[Result]) -> float:
    return statistics.geometric_mean(
        statistics.median(r.peer) / statistics.median(r.ours) for r in results
    )
