"""Shared code of the verbs that list operations, passes or targets, or show one."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from typing import Any

from migx.cli import _report
from migx.errors import MigxError
from migx.fields import text_of

Described = dict[str, Any]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="show this one alone, in full")
    _report.add_json(parser)


def listed(
    options: argparse.Namespace,
    kind: str,
    describe: Callable[[str, type[Any]], Described],
    show: Callable[[Described], None],
    header: tuple[str, ...],
    row: Callable[[Described], tuple[Any, ...]],
) -> int:
    """Prints the one asked for, or a row for each, whose last column is its summary. The exit code
    is 1 if some cannot be loaded, with messages on stderr.
    """
    from migx import plugins

    classes, wrong = _wanted(kind, options.name)
    found = list[Described]()
    for name, cls in sorted(classes.items()):
        try:
            with plugins.blamed(cls.__module__, "cannot be described"):
                found.append(describe(name, cls))
        except MigxError as error:
            if options.name:
                raise
            wrong.append(str(error))
    if options.json:
        _report.print_json(found[0] if options.name else found)
    elif options.name:
        show(found[0])
    else:
        rows = [(*row(entry), _report.sentence(entry["doc"])) for entry in found]
        print(_report.table((*header, ""), rows))
    for each in wrong:
        print(f"error: {each}", file=sys.stderr)
    return int(bool(wrong))


def _wanted(kind: str, name: str | None) -> tuple[dict[str, type[Any]], list[str]]:
    """The class with a name; or all of a kind, and messages about those that cannot be loaded."""
    from migx import plugins

    if name is None:
        return plugins.everything(kind)
    cls = plugins.operation(name) if kind == "ops" else plugins.load(kind, name)
    return {name: cls}, []


def described(name: str, cls: type[Any], what: str) -> Described:
    """The facts about a class: name, docstring, fields (under ``what``) and module."""
    return {
        "name": name,
        "doc": _report.prose(cls.__doc__),
        what: _fields(cls),
        "module": cls.__module__,
    }


def show_described(entry: Described, what: str) -> None:
    """Prints the result of ``described``."""
    print(f"{entry['name']}  ({entry['module']})\n\n{entry['doc']}")
    if entry[what]:
        rows = [(f["name"], f["type"], f.get("default", "required")) for f in entry[what]]
        print(f"\n{_report.table((what, 'type', 'default'), rows)}")


def _fields(cls: type[Any]) -> list[dict[str, str]]:
    """The fields of a dataclass: name, type and, if there is one, default."""
    if not dataclasses.is_dataclass(cls):
        return []
    found = []
    for field in dataclasses.fields(cls):
        entry = {"name": field.name, "type": text_of(field.type)}
        if field.default is not dataclasses.MISSING:
            entry["default"] = repr(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            entry["default"] = repr(field.default_factory())
        found.append(entry)
    return found
