"""Lists the passes there are, or shows one with its options.

Those of installed packages are among them.
"""

from __future__ import annotations

import argparse

from migx.cli import _report


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="show this one")
    _report.add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints them."""
    from migx import plugins

    wanted = [options.name] if options.name else plugins.names("passes")
    found = [_report.described(n, plugins.load("passes", n), "options") for n in wanted]
    if options.json:
        _report.print_json(found[0] if options.name else found)
    elif options.name:
        _report.print_described(found[0], "options")
    else:
        print(_report.table(("pass", ""), [(e["name"], _report.sentence(e["doc"])) for e in found]))
    return 0
