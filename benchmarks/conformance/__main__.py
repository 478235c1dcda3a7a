"""``python -m benchmarks.conformance``: runs the suite on ``ref`` and writes the page of it."""

from __future__ import annotations

import argparse
import sys

from benchmarks.conformance import page
from migx.testing import conformance, suite


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 if a case fails or passes unexpectedly."""
    parser = argparse.ArgumentParser(prog="benchmarks.conformance", description=__doc__)
    parser.add_argument(
        "--accept", action="store_true", help=f"take what fails now as known: {page.FAILURES.name}"
    )
    asked = parser.parse_args(arguments)
    outcomes = [conformance.outcome(case) for case in suite.chosen()]
    for kind, passed, total in page.summary(outcomes):
        print(f"{kind:18} {passed:5} of {total:5}")
    page.PAGE.write_text(page.text(outcomes), "utf-8")
    if asked.accept:
        page.accept(outcomes)
    surprises = page.unexpected(outcomes)
    print("\n".join(surprises) or "as expected", file=sys.stderr if surprises else sys.stdout)
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main())
