"""``python -m benchmarks.conformance``: runs the suite, prints what passes, writes the page."""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks.conformance import page, suite


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 where a case fails or passes that was not known to."""
    parser = argparse.ArgumentParser(prog="benchmarks.conformance", description=__doc__)
    parser.add_argument("--device", default="ref", help="the target to drive (ref)")
    parser.add_argument("--filter", default="", help="only cases with this in their names")
    parser.add_argument(
        "--accept", action="store_true", help=f"take what fails now as known: {page.FAILURES.name}"
    )
    parser.add_argument(
        "--symbolic",
        action="store_true",
        help="every dim of the inputs a symbol, every constant an input",
    )
    asked = parser.parse_args(arguments)
    start = time.perf_counter()
    outcomes = [
        suite.outcome(case, asked.device, symbolic=asked.symbolic)
        for kind in suite.KINDS
        for case in suite.cases(kind).values()
        if asked.filter in case.name
    ]
    for kind, passed, total in page.summary(outcomes):
        print(f"{kind:18} {passed:5} of {total:5}")
    print(f"{time.perf_counter() - start:.0f} s")
    if asked.filter or asked.symbolic or asked.device != "ref":
        for outcome in outcomes:
            if not outcome.passed:
                print(f"{outcome.name}: {outcome.why}")
        return 0
    page.PAGE.write_text(page.text(outcomes), "utf-8")
    if asked.accept:
        page.accept(outcomes)
    surprises = page.unexpected(outcomes)
    print("\n".join(surprises) or "as expected", file=sys.stderr if surprises else sys.stdout)
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main())
