"""Every rule fires in some textual case, and every pass has cases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import migx
from migx import plugins
from migx.manager import PassManager
from migx.rewrite import EventLog
from tests.conftest import cases

IR = Path(__file__).parent.parent / "ir"


def fired() -> Iterator[tuple[str, str]]:
    """The pass and the rule of each rewrite that happens in the cases."""
    for file in IR.glob("*.migx"):
        for _, passes, text in cases(file.read_text("utf-8")):
            given = text.partition("# becomes\n")[0]
            program = migx.parse(given, folder=IR, draw_missing=0)
            log = EventLog()
            PassManager(program, log=log).run(passes.partition(", atol=")[0])
            yield from ((event.pass_name, event.rule) for event in log.events)


def test_every_rule_fires_in_a_case() -> None:
    rules = {
        (p, rule.name) for p in plugins.names("passes") for rule in plugins.load("passes", p).rules
    }
    assert sorted(rules - set(fired())) == []


def test_every_pass_has_cases() -> None:
    without = {p for p in plugins.names("passes") if not (IR / f"{p}.migx").exists()}
    assert without <= {"optimize_module"}, "its members have the cases"
