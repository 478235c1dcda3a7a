"""What verbs print: tables, JSON, and docstrings."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from migx.cli import _streams
from migx.errors import counted

T = TypeVar("T")
NARROW = 20
"""A narrower column is not wrapped."""


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declares ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def give(options: argparse.Namespace, found: T, show: Callable[[T], None]) -> None:
    """Prints the result of a verb: as JSON if that is asked for, otherwise by ``show``."""
    if options.json:
        print_json(found)
    else:
        show(found)


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


def in_bytes(count: int) -> str:
    """A number of bytes in the unit it is read in: ``848 bytes``, ``13.50 kB``, ``1,327.41 MB``."""
    if count < 1000:
        return counted(count, "byte")
    return f"{count / 1e3:.2f} kB" if count < 1e6 else f"{count / 1e6:,.2f} MB"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows in aligned columns; those of numbers only are right-aligned. On a terminal, the last
    column is wrapped to the available width.
    """
    body = [[_streams.escaped(str(cell)) for cell in row] for row in rows]
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
    """A docstring for the terminal, with single backticks around code."""
    return inspect.cleandoc(doc or "").replace("``", "`")


def sentence(doc: str | None) -> str:
    """The first sentence of a docstring, on one line."""
    text = " ".join(prose(doc).split())
    found = re.search(r"(?<! al)\.(?= +[^a-z ])", text)
    return text if found is None else text[: found.end()]
