"""Lists the passes there are, or shows one with its options and rules.

Those of installed packages are among them.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from migx.cli import _report

if TYPE_CHECKING:
    from migx.manager import Pass
    from migx.rewrite import Rule


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="show this one")
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints them; the exit code is 1 where some cannot be had."""
    classes, wrong = _report.wanted("passes", options.name)
    found = [_described(name, cls) for name, cls in classes.items()]
    if options.json:
        _report.print_json(found[0] if options.name else found)
    elif options.name:
        _print(found[0])
    else:
        rows = [(e["name"], len(e["rules"]) or "", _report.sentence(e["doc"])) for e in found]
        print(_report.table(("pass", "rules", ""), rows))
    return _report.said(wrong)


def _described(name: str, cls: type[Pass]) -> dict[str, Any]:
    """What a pass does: its options, its rules, and the passes it stands for."""
    from migx.fields import required

    inner = None if required(cls) else cls().pipeline()
    rules = [_rule(each) for each in cls.rules]
    described = _report.described(name, cls, "options")
    return described | {"rules": rules, "stands_for": None if inner is None else str(inner)}


def _rule(rule: Rule) -> dict[str, str]:
    return {
        "name": rule.name,
        "doc": " ".join(_report.prose(rule.function.__doc__).split()),
        "pattern": str(rule.pattern),
        "source": rule.source,
    }


def _print(entry: dict[str, Any]) -> None:
    _report.print_described(entry, "options")
    if entry["stands_for"] is not None:
        print(f"\nstands for: {entry['stands_for']}")
    for rule in entry["rules"]:
        print(f"\n{rule['name']}: {rule['doc']}\n  {rule['pattern']}\n  {rule['source']}")
