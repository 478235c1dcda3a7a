"""Lists all targets, or shows one with the passes it runs.

Those of installed packages are included.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from migx.cli import _listing

if TYPE_CHECKING:
    from migx.target import Target


configure = _listing.configure


def run(options: argparse.Namespace) -> int:
    """Prints them; the exit code is 1 if some cannot be loaded."""
    return _listing.listed(
        options, "targets", _described, _show, ("target",), lambda entry: (entry["name"],)
    )


def _described(name: str, cls: type[Target]) -> dict[str, Any]:
    from migx import plugins
    from migx.target import passes_for

    own = {kind: sorted(plugins.own(kind, name)) for kind in ("passes", "operations")}
    described = _listing.described(name, cls, "options")
    return described | {"passes": str(passes_for(cls())), "own": own}


def _show(entry: dict[str, Any]) -> None:
    _listing.show_described(entry, "options")
    print(f"\npasses: {entry['passes'] or 'none'}")
    for kind, names in entry["own"].items():
        if names:
            print(f"{kind} of its own: {', '.join(names)}")
