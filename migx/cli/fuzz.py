"""Tests passes or a target on random programs. Each must preserve the outputs, within bounds
derived from the roundings on the way, leave a well-formed program, and be deterministic.

Without ``--passes`` or ``--target``, every pass is tried in turn, with default options and in its
variants. A program that fails is reduced and saved as a case for ``migx opt``, with its inputs
beside it; a pass that keeps failing is left out. The exit code is 1 if there is a failure.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migx.cli import _load, _options, _report, _streams

if TYPE_CHECKING:
    from migx.manager import Pipeline
    from migx.testing.fuzz import Report

COUNTED = (
    *("submodules", "captures", "tuples", "strided"),
    *("symbolic", "told", "broadcasts", "constants"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--passes", metavar="P,Q{x=1}", help="the pipeline to test, as a whole")
    parser.add_argument("--target", metavar="T", help="the target to compare with ref")
    parser.add_argument(
        "--weights",
        action="store_true",
        help="test that weights left out, baked, swapped and saved give the same bits",
    )
    parser.add_argument(
        "--seconds", metavar="N", type=_options.seconds, default=10.0, help="time limit (10)"
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="the seed (0)")
    parser.add_argument(
        "--every-rule",
        action="store_true",
        help="exit with 1 also if a rule never fired or a pass without rules changed nothing",
    )
    parser.add_argument(
        "--save",
        metavar="FOLDER",
        type=_options.path,
        default=Path("fuzz"),
        help="where failures are saved (fuzz)",
    )
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Fuzzes, and prints the report."""
    from migx.testing.fuzz import fuzz, subjects_for

    _expect_folder(options.save)
    pipelines = [] if options.weights and options.passes is None else _pipelines(options)
    subjects = subjects_for(pipelines, options.target, law=options.weights)
    with _streams.progress(f"fuzzing {', '.join(map(str, subjects))}"):
        report = fuzz(subjects, seconds=options.seconds, seed=options.seed, folder=options.save)
    if options.json:
        _report.print_json(_found(report))
    else:
        print(_shown(report, passes=bool(pipelines)))
    vain = report.silent or report.idle
    return int(bool(report.failures or (options.every_rule and vain)))


def _expect_folder(path: Path) -> None:
    """``UsageError`` if the folder for failures, created at the first one, cannot be written."""
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise _load.UsageError(f"--save {path}: {there} is not a writable folder")


def _pipelines(options: argparse.Namespace) -> list[Pipeline]:
    """The pipeline asked for, or each pass by itself."""
    from migx.manager import Pipeline
    from migx.testing.fuzz import each_pass

    if options.passes is not None:
        return [Pipeline.parse(options.passes)]
    return [] if options.target is not None else each_pass()


def _found(report: Report) -> dict[str, Any]:
    return {
        "programs": report.programs,
        "seconds": report.seconds,
        "programs_per_second": report.rate,
        "changed": report.changed,
        "features": dict(report.features),
        "rules_fired": dict(sorted(report.fired.items())),
        "rules_silent": report.silent,
        "passes_idle": report.idle,
        "failures": [vars(failure) for failure in report.failures],
        "left_alone": report.left,
    }


def _shown(report: Report, *, passes: bool) -> str:
    """The report as text; for passes, with the number of programs they changed."""
    features = report.features
    mean = features["instructions"] / max(1, report.programs)
    size = f"{report.programs} programs of {mean:.0f} instructions"
    speed = f"in {report.seconds:.1f} s, {report.rate:.0f} a second"
    held = ", ".join(f"{features[name]} {name}" for name in COUNTED)
    changed = f"; {report.changed} were changed" if passes else ""
    lines = [f"{size} {speed}{changed}", f"with {held}"]
    if report.fired or report.silent:
        known = len(report.fired) + len(report.silent)
        lines.append(f"{len(report.fired)} of {known} rules fired, {report.fired.total()} times")
    if report.silent:
        lines.append(f"never fired: {', '.join(report.silent)}")
    if report.idle:
        lines.append(f"changed nothing: {', '.join(report.idle)}")
    if report.left:
        lines.append(f"abandoned after too many failures: {', '.join(report.left)}")
    lines += [f"\nFAILED {failure}" for failure in report.failures]
    return "\n".join(lines)
