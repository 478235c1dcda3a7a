"""Runs a model and summarises its outputs.

Inputs that no file gives are drawn from a seed; symbols then have small sizes that the model
accepts, 1 if possible. Integers are drawn from the indices of a table that they index, or the
constants they are compared with, and otherwise from 0 and 1.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from typing import Any

from migx.cli import _load, _options, _report, _streams, _weights
from migx.cli._session import Session
from migx.dims.symbol import listed


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    _load.add_model(parser)
    _options.add_inputs(parser)
    _options.add_target(parser)
    _options.add_threads(parser)
    _weights.add_weights(parser)
    parser.add_argument(
        "--save", metavar="OUT.npz", type=_options.path, help="the file for the outputs"
    )
    parser.add_argument("--repeat", metavar="N", type=int, default=1, help="run N times (1)")
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Runs it."""
    from migx.base.files import apart, write_arrays
    from migx.cli import _inputs

    if options.repeat < 1:
        raise _load.UsageError(f"--repeat {options.repeat}: give 1 or more")
    if options.save is not None and options.save.suffix != ".npz":
        raise _load.UsageError(f"--save {options.save}: outputs are saved in .npz files")
    session = Session.of(options, to_run=True)
    inputs, sizes = session.inputs()
    compiling, program = session.compile(), session.program
    with _inputs.explaining(sizes):
        outputs, seconds = _timed(program, inputs, options.repeat)
    named = list(apart(zip(program.main.output_names, outputs, strict=True)))
    if options.save is not None:
        write_arrays(options.save, {name: _inputs.array_of(value) for name, value in named})
    found = {
        "target": session.target,
        "sizes": sizes,
        "seed": None if options.inputs is not None else options.seed,
        "outputs": [_inputs.summary(name, value) for name, value in named],
        "seconds": {"compile": compiling, "runs": seconds},
    }
    _report.give(options, found, _print)
    return 0


def _timed(program: Any, inputs: Mapping[str, Any], repeat: int) -> tuple[list[Any], list[float]]:
    """The outputs, and the seconds each run took."""
    seconds = []
    for i in range(repeat):
        with _streams.progress(f"run {i + 1} of {repeat}" if repeat > 1 else "running"):
            start = time.perf_counter()
            outputs = program.eval(inputs)
            seconds.append(time.perf_counter() - start)
    return outputs, seconds


def _print(found: dict[str, Any]) -> None:

    if found["seed"] is not None:
        sizes = f", with {listed(found['sizes'])}" if found["sizes"] else ""
        print(f"inputs drawn from seed {found['seed']}{sizes}\n")
    rows = [
        (
            entry["name"],
            entry["shape"],
            *(_number(entry[k]) if k in entry else "" for k in ("min", "max", "mean")),
            _first(entry),
        )
        for entry in found["outputs"]
    ]
    print(_report.table(("output", "shape", "min", "max", "mean", "first values"), rows))
    runs = found["seconds"]["runs"]
    spread = f", of {len(runs)} runs from {min(runs):.4f} to {max(runs):.4f}"
    print(
        f"\ncompiled in {found['seconds']['compile']:.4f} s, "
        f"ran in {statistics.median(runs):.4f} s{spread if len(runs) > 1 else ''}"
    )


def _first(entry: dict[str, Any]) -> str:
    text = ", ".join(map(_number, entry.get("first", ())))
    strange = entry.get("not finite")
    return f"{text}  ({strange} not finite)" if strange else text


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
