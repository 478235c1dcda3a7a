"""Lists the operations there are, or shows one with its attributes and traits.

Those of installed packages are among them.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from migx.cli import _report


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="show this one")
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints them; the exit code is 1 where some cannot be had."""
    classes, wrong = _report.wanted("ops", options.name)
    found = [_described(name, cls) for name, cls in sorted(classes.items())]
    if options.json:
        _report.print_json(found[0] if options.name else found)
    elif options.name:
        _report.print_described(found[0], "attributes")
        print(f"\ntraits: {', '.join(map(_trait, found[0]['traits'].items())) or 'none'}")
    else:
        rows = [(e["name"], _report.sentence(e["doc"])) for e in found]
        print(_report.table(("operation", ""), rows))
    return _report.said(wrong)


def _described(name: str, cls: type[Any]) -> dict[str, Any]:
    """The class, with those of its traits that are not the usual ones."""
    from migx import op as operations

    given, usual = operations.traits(cls), operations.Traits()
    traits = {
        f.name: getattr(given, f.name)
        for f in dataclasses.fields(operations.Traits)
        if getattr(given, f.name) != getattr(usual, f.name)
    }
    return _report.described(name, cls, "attributes") | {"traits": traits}


def _trait(item: tuple[str, Any]) -> str:
    name, value = item
    if isinstance(value, bool):
        return name if value else f"not {name}"
    return f"{name} of input {value}"
