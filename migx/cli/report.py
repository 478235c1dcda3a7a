"""Writes a page that shows what passes did to a model, and where its time goes.

The page is one self-contained HTML file: each pass with its rewrites and the instructions before
and after, the program at any point, and where each ONNX node went. With ``--perf`` the model is
also run, and each instruction has its time; inputs that no file gives are drawn from a seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from migx.cli import _load, _options, _report, _streams
from migx.cli._session import Session


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    _load.add_model(parser)
    _load.add_deferring(parser)
    _options.add_target(parser, usual="cpu")
    _options.add_inputs(parser)
    parser.add_argument("--perf", action="store_true", help="also run it, and show times")
    _options.add_output(parser, "FILE.html", "report.html", usual=Path("report.html"))
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Writes it."""
    from migx import view
    from migx.cli import _inputs

    if options.inputs is not None and not options.perf:
        raise _load.UsageError("--inputs is for --perf: without it nothing is run")
    if options.output.suffix != ".html":
        raise _load.UsageError(f"--output {options.output}: reports are .html files")
    session = Session.of(options)
    inputs, sizes = session.inputs() if options.perf else (None, {})
    doing = "compiling and running" if options.perf else "running the passes"
    asked = session.asked | {"inputs": inputs, "title": options.model}
    with _streams.progress(f"{doing} for {session.target}"), _inputs.explaining(sizes):
        made = view.report(session.program, session.target, **asked)
    if options.perf and made.run is None:
        why = (
            "has no times: its executable has neither profile(arguments, slots) nor "
            "trace(arguments, seen, slots)"
        )
        print(f"target {made.target} {why}", file=sys.stderr)
    if options.json:
        sys.stdout.write(f"{made.json()}\n")
        return 0
    made.write(options.output)
    size = _report.in_bytes(options.output.stat().st_size)
    print(f"{options.output}: {size}; open it in a browser")
    return 0
