"""Marks on functions that say what they are for, by which importers and exporters are found in the
modules of packages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from migx import plugins
from migx.plugins import NameClash

Entry = tuple[Any, ...]


def mark(function: Callable[..., Any], entries: Iterable[Entry]) -> None:
    """Marks a function, in addition to its earlier marks."""
    function.__dict__.setdefault("marks", []).extend(entries)


def marks_of(function: Callable[..., Any]) -> list[Entry]:
    """The marks of a function."""
    return list(getattr(function, "marks", ()))


def marked(kind: str) -> dict[Entry, Callable[..., Any]]:
    """The functions in the packages of a kind, by mark; ``NameClash`` if two have the same."""
    found: dict[Entry, Callable[..., Any]] = {}
    for module in plugins.modules(kind):
        for function in vars(module).values():
            if getattr(function, "__module__", None) != module.__name__:
                continue
            for entry in marks_of(function):
                if (other := found.setdefault(entry, function)) is not function:
                    said = " ".join(map(str, entry))
                    raise NameClash(f"{said} is in {other.__module__} and {module.__name__}")
    return found
