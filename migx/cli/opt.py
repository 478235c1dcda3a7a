"""Runs passes over a model and prints the text of what they leave.

A text whose first line is ``# passes: ...``, as files left by a pass that failed are, says itself
which passes; ``--passes`` overrules it. What is said about the passes goes to stderr.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migx.cli import _load, _report

if TYPE_CHECKING:
    from migx.manager import Observer
    from migx.observers import Time

HEADER = "# passes:"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    _load.add_model(parser)
    parser.add_argument("--passes", metavar="P,Q{x=1}", help="the passes; see `migx passes`")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write the text there")
    parser.add_argument("--origins", action="store_true", help="with the ONNX node of each line")
    parser.add_argument("--verify-each", action="store_true", help="check after each pass")
    parser.add_argument(
        "--print-after-change", action="store_true", help="show each change on stderr"
    )
    parser.add_argument("--time", action="store_true", help="show on stderr what each pass took")
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Runs them."""
    from migx.manager import Pipeline, run_passes
    from migx.observers import Time
    from migx.text import show

    pipeline = Pipeline.parse(_wanted(options))
    program = _load.load(options)
    timer = Time()
    with _load.progress(f"running {len(pipeline)} passes"):
        changed = run_passes(program, pipeline, _observers(options, timer))
    if options.time and not options.json:
        print(_times(timer), file=sys.stderr)
    if options.output is not None:
        _load.save_text(program, options.output, origins=options.origins)
    if options.json:
        found: dict[str, Any] = {
            "passes": str(pipeline),
            "changed": changed,
            "steps": [
                {"pass": name, "seconds": seconds, "before": before, "after": after}
                for name, seconds, before, after in timer.rows
            ],
        }
        if options.output is None:
            found["text"] = show(program, origins=options.origins)
        _report.print_json(found)
    elif options.output is None:
        sys.stdout.write(show(program, origins=options.origins))
    return 0


def _wanted(options: argparse.Namespace) -> str:
    """The passes asked for, or those the first line of a text names."""
    if options.passes is not None:
        return str(options.passes)
    path = Path(options.model)
    if _load.is_text(path) and path.is_file():
        first = _load.text_of(path).partition("\n")[0]
        if first.startswith(HEADER):
            return first.removeprefix(HEADER).strip()
    raise _load.UsageError(
        f"say which passes: --passes 'p,q', or a text whose first line is '{HEADER} p,q'; "
        "`migx passes` lists them"
    )


def _observers(options: argparse.Namespace, timer: Time) -> list[Observer]:
    """Verification comes last, so that what was left is printed before it is refused."""
    from migx.observers import CrashFile, Print, Verify

    observers: list[Observer] = [timer]
    if options.print_after_change:
        observers.append(Print(sys.stderr))
    if options.verify_each:
        observers.append(Verify())
    # A text reproduces a failure as it is.
    return observers if _load.is_text(Path(options.model)) else [*observers, CrashFile()]


def _times(timer: Time) -> str:
    rows = [
        (name, f"{seconds * 1000:.2f}", before, after)
        for name, seconds, before, after in timer.rows
    ]
    return _report.table(("pass", "ms", "instructions before", "after"), rows)
