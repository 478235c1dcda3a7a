"""What verbs print: tables, JSON, and the first sentence of a docstring."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

NARROW = 20
"""A column of less room is not wrapped."""


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declares ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs to read")


def print_json(value: Any) -> None:
    """Prints a value as JSON; numbers that JSON lacks become strings: "nan", "inf"."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {str(k): _plain(v) for k, v in value.items()}
        case list() | tuple():
            return [_plain(v) for v in value]
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float() | str():
            return value
    return str(value)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows in columns that line up; a column of nothing but numbers stands to the right. On a
    terminal, the last column is as wide as there is room, and its cells of several lines.
    """
    body = [[str(cell) for cell in row] for row in rows]
    columns = list(zip(header, *body, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [bool(body) and all(_is_number(cell) for cell in column[1:]) for column in columns]
    room = shutil.get_terminal_size().columns - sum(widths[:-1]) - 2 * len(widths[:-1])
    lines = []
    for *first, last in [list(header), *body]:
        wraps = sys.stdout.isatty() and not right[-1] and len(last) > room >= NARROW
        for i, piece in enumerate(textwrap.wrap(last, room) if wraps else [last]):
            cells = zip([*([""] * len(first) if i else first), piece], widths, right, strict=True)
            lines.append("  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in cells).rstrip())
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", ""))
    except ValueError:
        return False
    return True


def prose(doc: str | None) -> str:
    """A docstring as it is shown: with one backtick around code, not two."""
    return inspect.cleandoc(doc or "").replace("``", "`")


def sentence(doc: str | None) -> str:
    """The first sentence of a docstring, in one line."""
    text = " ".join(prose(doc).split())
    found = re.search(r"(?<! al)\.(?= +[^a-z ])", text)
    return text if found is None else text[: found.end()]


def fields(cls: type[Any]) -> list[dict[str, str]]:
    """The fields of a dataclass: name, type and, where there is one, default."""
    if not dataclasses.is_dataclass(cls):
        return []
    found = []
    for field in dataclasses.fields(cls):
        entry = {"name": field.name, "type": _type(field.type)}
        if field.default is not dataclasses.MISSING:
            entry["default"] = repr(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            entry["default"] = repr(field.default_factory())
        found.append(entry)
    return found


def _type(kind: Any) -> str:
    return kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))


def wanted(kind: str, name: str | None) -> tuple[dict[str, type[Any]], list[str]]:
    """The class of a name, or all of a kind and what is wrong with those that cannot be had."""
    from migx import plugins

    if name is None:
        return plugins.everything(kind)
    cls = plugins.operation(name) if kind == "ops" else plugins.load(kind, name)
    return {name: cls}, []


def said(wrong: Sequence[str]) -> int:
    """The exit code of a listing, after saying what it lacks."""
    for each in wrong:
        print(f"error: {each}", file=sys.stderr)
    return int(bool(wrong))


def described(name: str, cls: type[Any], what: str) -> dict[str, Any]:
    """Everything a verb tells of a class: name, docstring, fields (under ``what``) and module."""
    return {
        "name": name,
        "doc": prose(cls.__doc__),
        what: fields(cls),
        "module": cls.__module__,
    }


def print_described(entry: dict[str, Any], what: str) -> None:
    """Prints what ``described`` gives."""
    print(f"{entry['name']}  ({entry['module']})\n\n{entry['doc']}")
    if entry[what]:
        rows = [(f["name"], f["type"], f.get("default", "required")) for f in entry[what]]
        print(f"\n{table((what, 'type', 'default'), rows)}")
