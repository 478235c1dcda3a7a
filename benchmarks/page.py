"""The page of speeds: what a run of the benchmark of ``cpu`` has found, and where."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.measure import Report, Result

RESULTS = Path(__file__).parent / "results" / "cpu.json"
HEAD = """\
# Speed on `cpu`

Medians, and how many times faster migx is than {peers}: samples are taken in turn, on as many
threads, the peers with all their optimisations and in f32. Answers are compared before anything is
timed. Measured on {cpu} ({cores} cores), {system}, Python {python}, llvmlite {llvmlite}, at commit
{commit}. The models are those of `make models`, and `make bench` measures your machine. To make
this page anew: `python -m benchmarks run cpu --to {results}`, then `python -m docs.generate`."""
FOOT = """\
The last row is the geometric mean; an empty cell is a model that the peer does not run.
`llama_int4_qdq_b32` computes exactly here, while onnxruntime rounds what four-bit weights are
multiplied by to 8 bits; the `int8` models are products of bytes. How kernels come to be fast is
told in [how a kernel comes to be](../explanation/how-a-kernel-comes-to-be.md)."""


def parts() -> tuple[str, list[tuple[str, ...]], str]:
    """The text above the table, its rows, the first of them its head, and the text below."""
    report = Report.load(RESULTS)
    peers = list(dict.fromkeys(r.against for r in report.results))
    found: dict[str, dict[str, dict[str, Result]]] = {}
    for result in report.results:
        name, threads = result.test.removeprefix("cpu ").split(", ")
        found.setdefault(name, {}).setdefault(threads, {})[result.against] = result
    columns = sorted({threads for of in found.values() for threads in of})
    head = ["model"]
    for threads in columns:
        head += [f"migx, {'1 thread' if threads == '1 threads' else threads}", *peers]
    rows = [
        (f"`{name}`", *(c for t in columns for c in _cells(of[t], peers)))
        for name, of in found.items()
    ]
    means = [("", *(_mean([of[t][p] for of in found.values()]) for p in peers)) for t in columns]
    rows.append(("all", *(cell for mean in means for cell in mean)))
    versions = " and ".join(f"{p} {report.machine[p]}" for p in peers)
    facts = {**report.machine, "peers": versions, "commit": report.commit}
    facts["results"] = RESULTS.relative_to(RESULTS.parents[2])
    return HEAD.format(**facts), [tuple(head), *rows], FOOT


def _cells(by_peer: Mapping[str, Result], peers: Sequence[str]) -> list[str]:
    """The time of a run, from the samples in turn with the first peer's, and each peer's ratio."""
    ours = statistics.median(by_peer[peers[0]].ours)
    ratios = (by_peer[p].ratio for p in peers)
    return [_milliseconds(ours), *("" if r is None else f"{r:.2f}" for r in ratios)]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def _mean(results: Iterable[Result]) -> str:
    return f"{statistics.geometric_mean(r.ratio for r in results if r.ratio is not None):.2f}"
