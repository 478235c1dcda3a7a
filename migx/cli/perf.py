"""Measures a model on a target: each kernel's time, arithmetic and bytes, and what has no kernel.

Whole runs are timed, and in one run each kernel by itself. GFLOP/s and GB/s stand beside the
machine's peaks, which are measured too: arithmetic, and a copy of memory, which kernels that work
in caches may exceed. Inputs that no file gives are drawn from a seed; symbols then have small sizes
that the model accepts, 1 if possible. If a target cannot time each kernel, only whole runs are
timed. Peers run in turn with it, each after a pause.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migx.cli import _load, _options, _report, _streams, _weights
from migx.cli._session import Session
from migx.errors import first_few

if TYPE_CHECKING:
    from migx.compiler import Compiled
    from migx.profile import Cost, Profile

PEERS = ("onnxruntime", "openvino")

PAUSE = 0.05
"""Seconds after a run of a peer until its threads no longer spin on our cores."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    _load.add_model(parser)
    _options.add_inputs(parser)
    _options.add_target(parser)
    _weights.add_weights(parser)
    _options.add_threads(parser)
    parser.add_argument("--repeat", metavar="N", type=int, default=20, help="run N times (20)")
    parser.add_argument(
        "--each", action="store_true", help="list every instruction and its ONNX nodes"
    )
    parser.add_argument(
        "--against",
        metavar="PEER,FILE",
        help=f"also time an ONNX file by {' and '.join(PEERS)}, or other models on the same inputs",
    )
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measures it."""
    from migx.cli import _inputs
    from migx.profile import Profile, can_tell, measured

    if options.repeat < 1:
        raise _load.UsageError(f"--repeat {options.repeat}: give 1 or more")
    peers = _peers(options)
    session = Session.of(options, to_run=True)
    inputs, sizes = session.inputs()
    compiling, program = session.compile(), session.program
    with _inputs.explaining(sizes):
        made, profile = program.compiled, Profile(())
        if told := can_tell(made):
            profile = measured(made, made.arguments(inputs))
        sessions = _sessions(peers, session, inputs)
        program.eval(inputs)
    runs = _timed({"migx": lambda: program.eval(inputs)} | sessions, options)
    each = _each(made, profile) if options.each else []
    found = _found(profile, runs, each) | {"sizes": sizes, "compile": compiling}
    _report.give(options, found, _print)
    if not told:
        print(_untold(made), file=sys.stderr)
    return 0


def _untold(made: Compiled) -> str:
    """The message for a target that cannot profile: what it lacks, and what runs on the host."""
    names = Counter(at.name for at in made.fallbacks())
    most = ", ".join(f"{count} {name}" for name, count in names.most_common(3))
    more = ", ..." if len(names) > 3 else ""
    return (
        f"target {made.context.target.name} does not say what its kernels take: its executable has "
        "neither profile(arguments, slots) nor trace(arguments, seen, slots); "
        f"{names.total()} instructions run on the host" + (f": {most}{more}" if most else "")
    )


def _peers(options: argparse.Namespace) -> list[str]:
    peers = options.against.split(",") if options.against else []
    for peer in peers:
        if peer not in PEERS and not Path(peer).is_file():
            said = f"there are {' and '.join(PEERS)}, and no such file"
            raise _load.UsageError(f"--against {peer}: {said}")
        if peer in PEERS and not _load.is_onnx(Path(options.model)):
            raise _load.UsageError(f"--against {peer} needs an ONNX file, not {options.model}")
    return peers


def _sessions(
    peers: Iterable[str], session: Session, inputs: Mapping[str, Any]
) -> dict[str, Callable[[], object]]:
    """A call of each peer on the same inputs and as many threads; each has run once."""
    from migx.cli._peers import refusals

    options = session.options
    made: dict[str, Callable[[], object]] = {}
    for peer in peers:
        if peer not in PEERS:
            made[peer] = _other(Path(peer), session, inputs)
            continue
        try:
            made[peer] = (_onnxruntime if peer == "onnxruntime" else _openvino)(options, inputs)
            made[peer]()
        except ImportError as error:
            raise _load.PeerError(f"--against {peer} needs it: pip install {peer}") from error
        except refusals() as error:
            raise _load.PeerError(
                f"{peer} cannot run {options.model}: {str(error).strip()}"
            ) from error
    return made


def _other(path: Path, session: Session, inputs: Mapping[str, Any]) -> Callable[[], object]:
    from migx.cli import _against

    other = _against.session_of(path, session)
    other.compile()
    program, given = other.program, _against.taken(inputs, other.program)
    program.eval(given)
    return lambda: program.eval(given)


def _onnxruntime(options: argparse.Namespace, inputs: Mapping[str, Any]) -> Callable[[], object]:
    import onnxruntime

    asked = onnxruntime.SessionOptions()
    asked.log_severity_level = 4
    asked.intra_op_num_threads = options.threads or 0
    session = onnxruntime.InferenceSession(options.model, asked, ["CPUExecutionProvider"])
    return lambda: session.run(None, dict(inputs))


def _openvino(options: argparse.Namespace, inputs: Mapping[str, Any]) -> Callable[[], object]:
    import openvino

    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}  # its own may be bf16
    if options.threads:
        config["INFERENCE_NUM_THREADS"] = options.threads
    compiled = openvino.Core().compile_model(options.model, "CPU", config)
    return lambda: compiled(dict(inputs))


def _timed(
    calls: Mapping[str, Callable[[], object]], options: argparse.Namespace
) -> dict[str, list[float]]:
    """The seconds of each run of each call, alternating, so that disturbances affect all. Each has
    run before. With several, a pause and an untimed run of its own precede each, so that it finds
    neither the threads of another awake nor caches that another has filled.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(options.repeat):
        with _streams.progress(f"run {number + 1} of {options.repeat}"):
            for name, call in calls.items():
                if len(calls) > 1:
                    time.sleep(PAUSE)
                    call()
                start = time.perf_counter()
                call()
                taken[name].append(time.perf_counter() - start)
    return taken


def _each(made: Compiled, profile: Profile) -> list[dict[str, Any]]:
    """The costs one by one, named as in the text of the compiled program, with their ONNX nodes."""
    from migx.text import number

    modules, found = made.program.modules, []
    names = {
        at: own if name == "main" else f"{name}:{own}"
        for name, module in modules.items()
        for at, own in number(module).items()
    }
    for cost in profile.costs:
        at, name = cost.at, names[cost.at]
        entry = _entry(f"{name} = {at.name} : {at.shape}", [cost])
        found.append(entry | {"value": name, "kernel": cost.kernel, "origins": at.origins})
    return found


def _found(
    profile: Profile, runs: Mapping[str, list[float]], each: list[dict[str, Any]]
) -> dict[str, Any]:
    native = [c for c in profile.costs if c.kernel]
    host = [c for c in profile.costs if not c.kernel]
    return {
        "runs": {
            name: dict(zip(("p50", "p90", "p99"), _percentiles(taken), strict=True))
            for name, taken in runs.items()
        },
        "kernels": _grouped(native, lambda c: c.kernel),
        "host": _grouped(host, lambda c: c.at.name),
        "each": each,
        "bytes": {"arena": profile.arena, "weights": profile.weights},
        "peak": {"flops": profile.peak_flops, "bytes": profile.peak_bytes},
    }


def _percentiles(taken: list[float]) -> tuple[float, float, float]:
    if len(taken) < 2:
        return taken[0], taken[0], taken[0]
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    return cuts[49], cuts[89], cuts[98]


def _grouped(costs: Iterable[Cost], name: Callable[[Cost], str]) -> list[dict[str, Any]]:
    """Costs summed by name, the largest first."""
    groups: dict[str, list[Cost]] = {}
    for cost in costs:
        groups.setdefault(name(cost), []).append(cost)
    found = [_entry(n, members) for n, members in groups.items()]
    return sorted(found, key=lambda e: -e["seconds"])


def _entry(name: str, costs: list[Cost]) -> dict[str, Any]:
    return {
        "name": name,
        "count": len(costs),
        "seconds": sum(c.seconds for c in costs),
        "flops": sum(c.flops for c in costs),
        "bytes": sum(c.nbytes for c in costs),
    }


def _print(found: dict[str, Any]) -> None:
    peak = found["peak"]
    whole = sum(e["seconds"] for part in ("kernels", "host") for e in found[part])
    header = ("kernel", "times", "ms", "%", "GFLOP/s", "% of peak", "GB/s", "% of peak")
    for part, title in (("each", "instruction"), ("kernels", "kernel"), ("host", "on the host")):
        if found[part]:
            rows = [_row(e, whole, peak) for e in found[part]]
            titles = (title, *header[1:], *(["from ONNX"] if part == "each" else []))
            print(_report.table(titles, rows), end="\n\n")
    names = ("", "ms: median", "90th percentile", "99th", "times migx's")
    mine = found["runs"]["migx"]["p50"]
    rows = [
        (name, *(f"{1e3 * v:.3f}" for v in taken.values()), f"{taken['p50'] / mine:.2f}")
        for name, taken in found["runs"].items()
    ]
    print(_report.table(names, rows))
    memory = found["bytes"]
    known = "".join(f"{name} {_report.in_bytes(memory[name])}, " for name in ("arena", "weights"))
    known = f"{known[:-2]}; " if any(memory.values()) else ""
    print(f"\n{known}compiled in {found['compile']:.2f} s")
    if peak["flops"] and peak["bytes"]:
        print(
            f"at best this machine does {peak['flops'] / 1e9:.0f} GFLOP/s and copies "
            f"{peak['bytes'] / 1e9:.0f} GB/s"
        )


def _row(entry: dict[str, Any], whole: float, peak: Mapping[str, float]) -> tuple[str, ...]:
    seconds = max(entry["seconds"], 1e-9)
    rates = []
    for kind in ("flops", "bytes"):
        rate = entry[kind] / seconds
        rates.append(f"{rate / 1e9:.1f}" if rate else "")
        rates.append(f"{100 * rate / peak[kind]:.0f}" if rate and peak[kind] else "")
    name = entry["name"] if len(entry["name"]) <= 60 else entry["name"][:59] + "…"
    share = f"{100 * seconds / max(whole, 1e-9):.1f}"
    nodes = [first_few(entry["origins"])] if "origins" in entry else []
    return name, str(entry["count"]), f"{1e3 * seconds:.3f}", share, *rates, *nodes
