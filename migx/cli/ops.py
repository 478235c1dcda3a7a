"""Lists all operations, or shows one with its attributes and traits.

Those of installed packages are included.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from migx.cli import _listing

configure = _listing.configure


def run(options: argparse.Namespace) -> int:
    """Prints them; the exit code is 1 if some cannot be loaded."""
    return _listing.listed(
        options, "ops", _described, _show, ("operation",), lambda entry: (entry["name"],)
    )


def _described(name: str, cls: type[Any]) -> dict[str, Any]:
    """The class, with its traits that differ from the defaults."""
    from migx import op as operations

    given, usual = operations.traits(cls), operations.Traits()
    traits = {
        f.name: getattr(given, f.name)
        for f in dataclasses.fields(operations.Traits)
        if getattr(given, f.name) != getattr(usual, f.name)
    }
    return _listing.described(name, cls, "attributes") | {"traits": traits}


def _show(entry: dict[str, Any]) -> None:
    _listing.show_described(entry, "attributes")
    print(f"\ntraits: {', '.join(map(_trait, entry['traits'].items())) or 'none'}")


def _trait(item: tuple[str, Any]) -> str:
    name, value = item
    if isinstance(value, bool):
        return name if value else f"not {name}"
    return f"{name} of input {value}"
