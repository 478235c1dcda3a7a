"""Lists all passes, or shows one with its options and rules.

Those of installed packages are included.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from migx.cli import _listing, _report

if TYPE_CHECKING:
    from migx.manager import Pass
    from migx.rewrite import Rule


configure = _listing.configure


def run(options: argparse.Namespace) -> int:
    """Prints them; the exit code is 1 if some cannot be loaded."""
    return _listing.listed(options, "passes", _described, _show, ("pass", "rules"), _row)


def _row(entry: dict[str, Any]) -> tuple[str, int | str]:
    return entry["name"], len(entry["rules"]) or ""


def _described(name: str, cls: type[Pass]) -> dict[str, Any]:
    """The facts about a pass: its options, its rules, and the passes it abbreviates."""
    from migx.fields import required

    inner = None if required(cls) else cls().pipeline()
    rules = [_rule(each) for each in cls.rules]
    described = _listing.described(name, cls, "options")
    return described | {"rules": rules, "stands_for": None if inner is None else str(inner)}


def _rule(rule: Rule) -> dict[str, str]:
    return {
        "name": rule.name,
        "doc": " ".join(_report.prose(rule.function.__doc__).split()),
        "pattern": str(rule.pattern),
        "source": rule.source,
    }


def _show(entry: dict[str, Any]) -> None:
    _listing.show_described(entry, "options")
    if entry["stands_for"] is not None:
        print(f"\nstands for: {entry['stands_for']}")
    for rule in entry["rules"]:
        print(f"\n{rule['name']}: {rule['doc']}\n  {rule['pattern']}\n  {rule['source']}")
