"""Makes a program small while a command still fails on it in the same way.

The command gets a .migx file in the place of {}, or at its end, and fails by its exit code, which
must stay the same. The smallest program found so far is always in the output file, so it can be
interrupted. The exit code is 1 where the command does not fail to begin with.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migx.cli import _command, _load, _report

if TYPE_CHECKING:
    from migx.program import Program

TAKES_COMMAND = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.usage = "migx reduce MODEL [options] -- COMMAND"
    _load.add_model(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="where the small program goes (NAME.reduced.migx in this folder)",
    )
    _command.add_timeout(parser)
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Makes it small."""
    from migx.debug.bisect import NothingWrong

    if not options.command:
        raise _load.UsageError(
            "say what fails: migx reduce MODEL -- COMMAND, where {} stands for the file"
        )
    program = _load.load(options)
    output = options.output or Path(f"{Path(options.model).stem}.reduced.migx")
    try:
        with _load.progress(f"reducing {options.model}") as say:
            found = _reduced(program, output, options, say)
    except NothingWrong as nothing:
        print(nothing, file=sys.stderr)
        return 1
    if options.json:
        _report.print_json(found)
    else:
        print(
            "{symptom}: {before} instructions became {after} in {trials} runs\n{file}".format(
                **found
            )
        )
    return 0


def _reduced(
    program: Program, output: Path, options: argparse.Namespace, say: Callable[[str], None]
) -> dict[str, Any]:
    """What is printed once the smallest program is in the output file; says on the way how far it
    is.
    """
    from migx.debug.bisect import NothingWrong
    from migx.debug.reduce import reduced
    from migx.observers import size

    wanted = _command.judged(program, options.command, options.timeout)
    if not wanted.kind:
        raise NothingWrong("the command does not fail: there is nothing to reduce")
    left, trials = size(program), 0

    def fails(made: Program) -> bool:
        nonlocal trials
        trials += 1
        say(f"{left} instructions after {trials} runs")
        return _command.judged(made, options.command, options.timeout).kind == wanted.kind

    def keep(made: Program) -> None:
        nonlocal left
        _load.save(made, output, origins=True)
        left = size(made)

    keep(reduced(program, fails, keep))
    return {
        "symptom": wanted.kind,
        "before": size(program),
        "after": left,
        "trials": trials,
        "file": str(output),
    }
