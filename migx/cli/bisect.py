"""Finds the rewrites that make an answer wrong.

Without a command the outputs on the target are compared with those of the unchanged model on ref,
within derived bounds. A command is run on the result of the passes, a .migx file in place of {} or
at its end, and fails by its exit code. The exit code is 1 if no rewrite is to blame: nothing is
wrong, or it is wrong without any.

Inputs that no file gives are drawn from a seed, as by `migx run`, but symbols have small, different
sizes above 1, as far as the model accepts them. A case saved by `migx fuzz` has its own passes and
inputs; options override them. It is judged as by the fuzzer, each element under a bound of its own.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
from typing import TYPE_CHECKING, Any

from migx.cli import _command, _load, _options, _report, _streams, opt
from migx.cli._session import Session
from migx.errors import counted

if TYPE_CHECKING:
    from migx.debug.bisect import Found, Judge, Symptom
    from migx.events import AllBut
    from migx.manager import Pipeline
    from migx.program import Program

TAKES_COMMAND = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.usage = "migx bisect MODEL [options] [-- COMMAND]"
    _load.add_model(parser)
    _options.add_inputs(parser)
    _options.add_target(parser, "ref")
    _command.add_timeout(parser)
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Finds them."""
    from migx.debug.bisect import NothingWrong, bisected

    _load.take_case(options)
    session = Session.of(options)
    program, pipeline = session.program, session.pipeline
    runs = itertools.count(1)
    try:
        with _streams.progress(f"bisecting {pipeline}") as say:
            judge = _judge(session, pipeline)

            def judged(lowered: Program) -> Symptom:
                say(f"run {next(runs)}")
                return judge(lowered)

            found = bisected(program, pipeline, judged)
    except NothingWrong as nothing:
        if options.json:
            none: dict[str, Any] = {
                "passes": str(pipeline),
                "symptom": None,
                "detail": str(nothing),
                "events": [],
            }
            _report.print_json(none)
        else:
            print(nothing)
        return 1
    shown = _described(found, pipeline, options)
    if options.json:
        _report.print_json(shown)
    else:
        _print(shown, found)
    return int(not found.events)


def _judge(session: Session, pipeline: Pipeline) -> Judge:
    options = session.options
    if options.command:
        from migx.debug.case import Case

        return lambda lowered: _command.judged(Case(lowered), options.command, options.timeout)
    from migx.cli import _inputs
    from migx.debug.bisect import against_ref, by_element_of_ref

    judged = by_element_of_ref if options.of_fuzzer else against_ref
    inputs, sizes = session.inputs(apart=True)
    with _inputs.explaining(sizes):
        return judged(session.program, inputs, session.target, pipeline.approximations())


def _described(found: Found, pipeline: Pipeline, options: argparse.Namespace) -> dict[str, Any]:
    """The result to print, as plain values."""
    return {
        "passes": str(pipeline),
        "symptom": found.symptom.kind,
        "detail": found.symptom.detail,
        "events": [vars(event) for event in found.events],
        "needed": [vars(event) for event in found.needed],
        "recorded": found.recorded,
        "fired": found.fired,
        "trials": found.trials,
        "before": _shows(found.before, pipeline, options),
        "after": _shows(found.after, pipeline, options),
    }


def _shows(skip: AllBut, pipeline: Pipeline, options: argparse.Namespace) -> str:
    """A command that shows the program after the passes with only some rewrites."""
    words = ["migx", "opt", options.model, "--passes", str(pipeline)]
    for name, given in (("--input-dim", options.input_dim), ("--dim-param", options.dim_param)):
        words += [word for each in given for word in (name, each)]
    if options.draw_missing is not None:
        words += ["--draw-missing", str(options.draw_missing)]
    words += ["--only", ",".join(sorted(skip.kept))]
    if skip.passes:
        words += ["--skip", ",".join(sorted(skip.passes))]
    return shlex.join(words)


def _print(shown: dict[str, Any], found: Found) -> None:
    first, *rest = shown["detail"].splitlines() or [""]
    print("\n".join([f"{shown['symptom']}: {first}".rstrip(": "), *rest]))
    recorded, trials = counted(shown["recorded"], "rewrite"), counted(shown["trials"], "run")
    of_all = f"of {recorded}; found in {trials}"
    match len(found.events):
        case 0:
            print(f"\nit fails without any {of_all}")
            return
        case 1:
            print(f"\n1 {of_all}")
        case many:
            print(f"\n{many}, together, {of_all}")
    for event in found.events:
        print(f"\n{opt.drawn(event)}")
        if (fired := found.fired[f"{event.pass_name}.{event.rule}"]) > 1:
            print(f"one of {fired} rewrites by this rule; the others may be as wrong")
    if found.needed:
        names = dict.fromkeys(event.pass_name for event in found.needed)
        print(f"\nneeded to come so far: {', '.join(names)}")
    print(f"\nbefore: {shown['before']}\nafter:  {shown['after']}")
