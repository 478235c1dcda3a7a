"""Runs passes over a model, and prints or saves the result.

A text whose first line is ``# passes: ...``, such as a crash file, has its own passes; ``--passes``
overrides them. Messages about the passes go to stderr.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migx.cli import _load, _options, _report, _streams

if TYPE_CHECKING:
    from migx.events import Event, EventLog
    from migx.manager import Observer, Pipeline
    from migx.observers import Time

KEY = re.compile(r"[0-9a-f]{16}(\.\d+){0,2}")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    _load.add_model(parser)
    _load.add_deferring(parser)
    parser.add_argument("--passes", metavar="P,Q{x=1}", help="the passes; see `migx passes`")
    _options.add_output(parser, "FILE", ".migx, .mxr or .onnx")
    parser.add_argument("--origins", action="store_true", help="add the ONNX node of each line")
    parser.add_argument(
        "--stop-after",
        metavar="N",
        type=int,
        help="run only the first N passes; those in groups count each time they run",
    )
    parser.add_argument(
        "--skip", metavar="KEY,KEY", default="", help="skip these rewrites; --trace shows the keys"
    )
    parser.add_argument("--only", metavar="KEY,KEY", help="skip all rewrites by rules but these")
    parser.add_argument(
        "--verify-each", action="store_true", help="check the program after each pass"
    )
    parser.add_argument(
        "--trace", action="store_true", help="show on stderr each rewrite and its source line"
    )
    parser.add_argument(
        "--print-after-change",
        action="store_true",
        help="show on stderr the program after each pass that changes it",
    )
    parser.add_argument("--time", action="store_true", help="show on stderr the time of each pass")
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Runs them."""
    from migx.manager import PassManager, Pipeline
    from migx.observers import Time
    from migx.text import show

    if options.stop_after is not None and options.stop_after < 0:
        raise _load.UsageError(f"--stop-after {options.stop_after}: give 0 or more")
    pipeline = Pipeline.parse(_wanted(options))
    program = _load.load(options)
    timer, log = Time(), _log(options)
    manager = PassManager(program, _observers(options, timer), log)
    with _streams.progress(f"running {pipeline}"):
        changed = manager.run(pipeline, stop_after=options.stop_after)
    if len(timer.rows) < (options.stop_after or 0):
        print(
            f"--stop-after {options.stop_after}: no more than {len(timer.rows)} ran",
            file=sys.stderr,
        )
    if changed:  # the copy lacks the compiled form, which is that of the program as it was
        program = program.copy()
    if options.output is not None:
        _load.save(program, options.output, origins=options.origins)
    text = "" if options.output is not None else show(program, origins=options.origins)
    if options.json:
        found = _found(pipeline, changed, timer, log if options.trace else None)
        _report.print_json(found | ({"text": text} if text else {}))
        return 0
    if log is not None and options.trace:
        shown = [drawn(event) for event in log.events] or ["no rewrites"]
        print(*shown, sep="\n", file=sys.stderr)
    if options.time:
        print(_times(timer), file=sys.stderr)
    sys.stdout.write(text)
    return 0


def _log(options: argparse.Namespace) -> EventLog | None:
    """The log that a trace is printed from, or that skips rewrites; None if not needed."""
    from migx.events import AllBut, EventLog

    skip = _keys(options.skip)
    if options.only is not None:
        return EventLog(AllBut(_keys(options.only) - skip, skip))
    return EventLog(skip) if options.trace or skip else None


def _keys(given: str) -> frozenset[str]:
    """The keys in a list, as ``--trace`` shows them."""
    keys = frozenset(key.strip() for key in given.split(",") if key.strip())
    if wrong := sorted(key for key in keys if not KEY.fullmatch(key)):
        raise _load.UsageError(f"{wrong[0]!r} is not the key of a rewrite: --trace shows keys")
    return keys


def _found(pipeline: Pipeline, changed: bool, timer: Time, log: EventLog | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "passes": str(pipeline),
        "changed": changed,
        "steps": [
            {"pass": name, "seconds": seconds, "before": before, "after": after}
            for name, seconds, before, after in timer.rows
        ],
    }
    return found if log is None else found | {"events": [vars(event) for event in log.events]}


def drawn(event: Event) -> str:
    """The text of a rewrite: its rule, where, and what changed."""
    origins = f" at {', '.join(event.origins)}" if event.origins else ""
    before = [f"  - {line}" for line in event.before.splitlines()]
    after = [f"  + {line}" for line in event.after.splitlines()]
    rule = event.rule or "the whole pass"
    head = f"{event.key} {event.pass_name}: {rule}{origins} ({event.source})"
    return "\n".join([head, *before, *after])


def _wanted(options: argparse.Namespace) -> str:
    """The passes asked for, or those in the first line of a text."""
    if options.passes is not None:
        return str(options.passes)
    if (named := _load.named_passes(Path(options.model))) is not None:
        return named
    raise _load.UsageError(
        "say which passes: --passes 'p,q', or a text whose first line is '# passes: p,q'; "
        "`migx passes` lists them"
    )


def _observers(options: argparse.Namespace, timer: Time) -> list[Observer]:
    """Verification comes last, so that a program is printed before it is refused."""
    from migx.observers import CrashFile, Print, Verify

    observers: list[Observer] = [timer]
    if options.print_after_change:
        observers.append(Print(sys.stderr))
    if options.verify_each:
        observers.append(Verify())
    # A text reproduces a failure by itself.
    return observers if _load.is_text(Path(options.model)) else [*observers, CrashFile()]


def _times(timer: Time) -> str:
    rows = [
        (name, f"{seconds * 1000:.2f}", before, after)
        for name, seconds, before, after in timer.rows
    ]
    return _report.table(("pass", "ms", "instructions before", "after"), rows)
