"""Says why a rule does not apply at an instruction, and how far its pattern matches there.

--at names an instruction of the text (%3, body:%3 in a submodule), a parameter, an ONNX node, or an
operation, for all instructions of it. Its users are tried as well, as far as the pattern reaches.
Without --at, the deepest partial matches are shown.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from migx.cli import _load, _report

if TYPE_CHECKING:
    from migx.events import Event
    from migx.manager import Pass
    from migx.program import Program
    from migx.rewrite import Rule

MOST = 5
"""The most places shown by default."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    _load.add_model(parser)
    _load.add_deferring(parser)
    parser.add_argument(
        "--rule", metavar="PASS.RULE", required=True, help="the rule; `migx passes PASS` lists them"
    )
    parser.add_argument("--at", metavar="NAME", help="the instruction where it should apply")
    parser.add_argument("--passes", metavar="P,Q{x=1}", help="run these passes first")
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints it."""
    from migx.debug.whynot import rule_named, why_not
    from migx.manager import run_passes

    cls, rule = rule_named(options.rule)
    program = _load.load(options)
    if options.passes:
        run_passes(program, options.passes)
    answers = why_not(program, cls, rule, options.at)
    events = _fired(program, cls, rule)
    if options.json:
        found: dict[str, Any] = {
            "rule": options.rule,
            "pattern": str(rule.pattern),
            "answers": [dataclasses.asdict(answer) for answer in answers],
            "fired": None if events is None else [vars(event) for event in events],
        }
        _report.print_json(found)
        return 0
    print(f"{options.rule} looks for {rule.pattern}")
    shown = answers[:MOST] if options.at is None else answers
    for answer in shown:
        print(f"\n{answer}")
    if not answers:
        print(f"\nno instruction is {' or '.join(sorted(rule.pattern.roots() or ()))}")
    if len(shown) < len(answers):
        print(f"\nand {len(answers) - len(shown)} more places, which --json lists")
    if events is not None:
        at = [] if options.at is None else program.named(options.at)
        origins = {origin for each in at for origin in each.origins}
        here = sum(bool(origins & set(event.origins)) for event in events)
        where = f", of them here: {here}" if origins else ""
        print(f"\nrewrites by it in a run of {cls.name}: {len(events)}{where}")
    return 0


def _fired(program: Program, cls: type[Pass], rule: Rule) -> list[Event] | None:
    """The events of the rule in a run of its whole pass; None if the pass needs options."""
    from migx.debug.whynot import fired
    from migx.fields import required

    return None if required(cls) else fired(program, cls(), rule)
