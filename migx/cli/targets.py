"""Lists the targets there are, or shows one with the passes it runs.

Those of installed packages are among them.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from migx.cli import _report

if TYPE_CHECKING:
    from migx.target import Target


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="show this one")
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints them; the exit code is 1 where some cannot be had."""
    classes, wrong = _report.wanted("targets", options.name)
    found = [_described(name, cls) for name, cls in classes.items()]
    if options.json:
        _report.print_json(found[0] if options.name else found)
    elif options.name:
        _report.print_described(found[0], "options")
        print(f"\npasses: {found[0]['passes'] or 'none'}")
        for kind, names in found[0]["own"].items():
            if names:
                print(f"{kind} of its own: {', '.join(names)}")
    else:
        rows = [(e["name"], _report.sentence(e["doc"])) for e in found]
        print(_report.table(("target", ""), rows))
    return _report.said(wrong)


def _described(name: str, cls: type[Target]) -> dict[str, Any]:
    from migx import plugins
    from migx.target import passes_for

    own = {kind: sorted(plugins.own(kind, name)) for kind in ("passes", "operations")}
    described = _report.described(name, cls, "options")
    return described | {"passes": str(passes_for(cls())), "own": own}
