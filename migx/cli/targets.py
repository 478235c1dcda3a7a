"""Lists the targets there are, or shows one with the passes it runs.

Those of installed packages are among them.
"""

from __future__ import annotations

import argparse
from typing import Any

from migx.cli import _report


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="show this one")
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints them."""
    from migx import plugins

    wanted = [options.name] if options.name else plugins.names("targets")
    found = [_described(name) for name in wanted]
    if options.json:
        _report.print_json(found[0] if options.name else found)
    elif options.name:
        _report.print_described(found[0], "options")
        print(f"\npasses: {found[0]['passes'] or 'none'}")
    else:
        rows = [(e["name"], _report.sentence(e["doc"])) for e in found]
        print(_report.table(("target", ""), rows))
    return 0


def _described(name: str) -> dict[str, Any]:
    from migx import plugins
    from migx.target import CompileOptions

    cls = plugins.load("targets", name)
    target = cls()
    passes = target.get_passes(target.get_context(), CompileOptions())
    return _report.described(name, cls, "options") | {"passes": str(passes)}
