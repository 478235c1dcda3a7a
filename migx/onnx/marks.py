"""Functions that say what they are for: how importers and exporters are found in the modules of
packages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from migx import plugins
from migx.plugins import NameClash

Entry = tuple[Any, ...]


def mark(function: Callable[..., Any], entries: Iterable[Entry]) -> None:
    """Says what a function is for, in addition to what was said before."""
    function.__dict__.setdefault("marks", []).extend(entries)


def marked(kind: str) -> dict[Entry, Callable[..., Any]]:
    """Each function that the packages of a kind define, by what it is for; ``NameClash`` where two
    are for the same.
    """
    found: dict[Entry, Callable[..., Any]] = {}
    for module in plugins.modules(kind):
        for function in vars(module).values():
            if getattr(function, "__module__", None) != module.__name__:
                continue
            for entry in getattr(function, "marks", ()):
                if (other := found.setdefault(entry, function)) is not function:
                    said = " ".join(map(str, entry))
                    raise NameClash(f"{said} is in {other.__module__} and {module.__name__}")
    return found
