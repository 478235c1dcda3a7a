"""Scores a target by ONNX's backend suite, which comes with the onnx package.

Each case is compared with the suite's expected outputs, by its tolerances. A family is the
operators that one file of migx/onnx/ops reads, those that ONNX defines by simpler ones (functions),
or models of a kind. "Refused" are cases that cannot be read, on any target; "on the host" are cases
with a part that has no kernel. The exit code is 1 if a case fails that ref passes; on ref, if any
fails.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from migx.cli import _load, _report, _streams

if TYPE_CHECKING:
    from migx.testing.conformance import Outcome

SMALLEST = "module main(x: f32[1]) {\n  return x\n}\n"
WIDTH = 60
"""The maximum width of the list of a family's operations."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "words",
        metavar="WORD",
        nargs="*",
        default=[],
        help="only cases whose names contain one of these",
    )
    parser.add_argument("--target", metavar="T", default="cpu", help="the target (cpu)")
    parser.add_argument(
        "--family", metavar="F,F", help="only these families, the first column of the table"
    )
    parser.add_argument(
        "--symbolic",
        action="store_true",
        help="make every dim of the inputs a symbol, and every constant an input",
    )
    jobs = os.cpu_count() or 1
    parser.add_argument(
        "--jobs", metavar="N", type=int, default=jobs, help="number of processes (the cores)"
    )
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Scores the target."""
    import migx
    from migx.target import get_target

    if options.jobs < 1:
        raise _load.UsageError(f"--jobs {options.jobs}: give 1 or more")
    target = get_target(options.target)
    # A target that cannot run here fails at once.
    migx.parse(SMALLEST).compile(target).eval({"x": [0.0]})
    from migx.testing import conformance, suite

    with _streams.progress("making the cases"):
        cases = suite.chosen(options.words, options.family.split(",") if options.family else ())
    if not cases:
        of = f" of family {options.family}" if options.family else ""
        if not options.words:
            raise _load.UsageError(f"no case is{of}")
        raise _load.UsageError(f"no case{of} has {' or '.join(options.words)} in its name")
    with _streams.progress(f"running {len(cases)} cases on {options.target}"):
        outcomes = conformance.outcomes(
            cases, options.target, jobs=options.jobs, symbolic=options.symbolic
        )
    worse = sum(each.worse for each in outcomes)
    if options.json:
        _report.print_json(_found(options.target, outcomes))
    else:
        print(_shown(target.name, outcomes))
    return int(worse > 0)


def _found(target: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    from migx.testing.conformance import tallies

    families = {name: vars(tally) for name, tally in tallies(outcomes).items()}
    cases = [vars(each) | {"passed": each.passed} for each in outcomes]
    return {"target": target, "families": families, "cases": cases}


def _shown(target: str, outcomes: Sequence[Outcome]) -> str:
    from migx.testing.conformance import tallies

    rows = [
        (name, t.cases, t.passed, t.failed, t.refused, t.fell_back, _named(t.fallbacks))
        for name, t in tallies(outcomes).items()
    ]
    header = ("family", "cases", "passed", "failed", "refused", "on the host", "there")
    lines = [_report.table(header, rows)]
    own = "fails" if target == "ref" else "fails, though ref passes"
    for title, listed in {
        own: [o for o in outcomes if o.worse],
        "fails, as on ref": [o for o in outcomes if not (o.passed or o.refused or o.worse)],
        "refused": [o for o in outcomes if o.refused],
    }.items():
        if listed:
            lines += [f"\n{title}:", *(f"  {o.name}: {o.why}" for o in listed)]
    return "\n".join(lines)


def _named(operations: Counter[str]) -> str:
    """Operations and their counts, most frequent first."""
    said = ", ".join(f"{count} {name}" for name, count in operations.most_common())
    return said if len(said) <= WIDTH else f"{said[: WIDTH - 1]}…"
