"""Lists the supported ONNX operators, with the first version of each importer."""

from __future__ import annotations

import argparse
from typing import Any

from migx.cli import _report
from migx.errors import UnknownName, there_are


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="show this operator; its domain may precede it, as in ai.onnx.Add",
    )
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints them."""
    from migx.onnx import importers

    found: list[dict[str, Any]] = [
        {
            "domain": domain or "ai.onnx",
            "name": name,
            "since": sorted(since for since, _ in versions),
            "modules": sorted({function.__module__ for _, function in versions}),
        }
        for (domain, name), versions in sorted(importers.table().items())
    ]
    if options.name:
        asked = [e for e in found if options.name in (e["name"], f"{e['domain']}.{e['name']}")]
        found = asked or _unknown(options.name, found)
    _report.give(options, found, _print)
    return 0


def _print(found: list[dict[str, Any]]) -> None:
    rows = [
        (e["domain"], e["name"], ", ".join(map(str, e["since"])), ", ".join(e["modules"]))
        for e in found
    ]
    print(_report.table(("domain", "operator", "since", "read by"), rows))


def _unknown(name: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    known = there_are(name, (each["name"] for each in found))
    raise UnknownName(f"no ONNX operator {name!r} is read; {known}")
