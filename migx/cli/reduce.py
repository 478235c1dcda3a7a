"""Makes a program small while it still fails in the same way.

Without a command it fails if `migx bisect` finds that passes or a target are wrong. A command gets
a .migx file in place of {} or at its end, with any inputs in an .npz file beside it; it fails by
its exit code, which must stay the same. The exit code is 1 if nothing fails to begin with.

The smallest program found so far is always in the output file, its inputs beside it, so the search
can be interrupted. A case saved by `migx fuzz` has its own passes and inputs; options override
them. It is judged as by the fuzzer, each element under a bound of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migx.cli import _command, _load, _options, _report, _streams
from migx.cli._session import Session
from migx.errors import counted

if TYPE_CHECKING:
    from migx.debug.bisect import Symptom
    from migx.debug.case import Case

TAKES_COMMAND = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.usage = "migx reduce MODEL [options] [-- COMMAND]"
    _load.add_model(parser)
    _options.add_inputs(parser)
    _options.add_target(parser, "ref")
    _options.add_output(parser, "FILE", "NAME.reduced.migx in the current folder")
    _command.add_timeout(parser)
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Reduces the program."""
    from migx.debug.bisect import NothingWrong

    _load.take_case(options)
    session = Session.of(options)
    case = _case(session)
    output = options.output or Path(f"{Path(options.model).stem}.reduced.migx")
    try:
        with _streams.progress(f"reducing {options.model}") as say:
            found = _reduced(case, output, session, say)
    except NothingWrong as nothing:
        print(nothing, file=sys.stderr)
        return 1
    _report.give(options, found, _print)
    return 0


def _print(found: dict[str, Any]) -> None:
    before, trials = counted(found["before"], "instruction"), counted(found["trials"], "run")
    line = f"{found['symptom']}: {before} became {found['after']} in {trials}"
    print(line, found["file"], sep="\n")


def _case(session: Session) -> Case:
    """The program with its inputs, which a command may do without."""
    from migx.binding import check_inputs
    from migx.debug.case import Case

    program, options = session.program, session.options
    if options.command and options.inputs is None:
        return Case(program)
    inputs, _ = session.inputs(apart=True)
    return Case(program, check_inputs(program.main, inputs))


def _judge(session: Session) -> Callable[[Case], Symptom]:
    """A function that determines how a case fails."""
    options, target = session.options, session.target
    if options.command:
        rest = options.command, options.timeout, options.passes
        return lambda case: _command.judged(case, *rest)
    from migx.debug.bisect import outcome

    pipeline = session.pipeline
    how = {"by_element": options.of_fuzzer}
    return lambda case: outcome(case.program, pipeline, case.inputs or {}, target, **how)


def _reduced(
    case: Case, output: Path, session: Session, say: Callable[[str], None]
) -> dict[str, Any]:
    """Reduces a case into the output file, reporting progress; returns the result to print."""
    from migx.debug.bisect import NothingWrong
    from migx.debug.reduce import reduced_case

    judge, options = _judge(session), session.options
    wanted = judge(case)
    if not wanted.kind:
        who = "the command" if options.command else "the program"
        raise NothingWrong(f"{who} does not fail: there is nothing to reduce")
    left, trials = case.program.size, 0

    def fails(made: Case) -> bool:
        nonlocal trials
        trials += 1
        say(f"{counted(left, 'instruction')} after {counted(trials, 'run')}")
        return judge(made).kind == wanted.kind

    def keep(made: Case) -> None:
        nonlocal left
        if _load.is_text(output):
            made.save(output, options.passes)
        else:
            made.save_inputs(output)
            _load.save(made.program, output)
        left = made.program.size

    keep(reduced_case(case, fails, keep))
    return {
        "symptom": wanted.kind,
        "before": case.program.size,
        "after": left,
        "trials": trials,
        "file": str(output),
    }
