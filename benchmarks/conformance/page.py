"""The page with the result of each case, and the list of known failures."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from migx.testing.conformance import Outcome

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "onnx.md"
FAILURES = Path(__file__).parent / "failures.json"
HEAD = """\
<!-- Made by make conformance: mend the code, not this page. -->
# ONNX conformance

`make conformance` runs every case of the backend suite that ships in onnx {version} on `ref`, by
the tolerances of the suite; element types must be equal. An error is the largest of a case, in
units in the last place of its output's type: *exact* is none, a dash stands where no floats are.
*pass (host)* says that a node of the case, of strings or image files, runs through ONNX's own
reference implementation, by the operation `host`; no tensor arithmetic does. Other targets are
[scored](../how-to/score-a-target.md) by the same cases.
"""
_ROW = re.compile(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)


def summary(outcomes: Iterable[Outcome]) -> list[tuple[str, int, int]]:
    """Kind, passed and total of each kind, then of all."""
    total: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for outcome in outcomes:
        total[outcome.kind] += 1
        passed[outcome.kind] += outcome.passed
    rows = [(kind, passed[kind], count) for kind, count in total.items()]
    return [*rows, ("all", passed.total(), total.total())]


def verdict(outcome: Outcome) -> str:
    """The page's verdict on a case."""
    if not outcome.passed:
        return "fail: " + re.sub(r"[|<>`*\\[\]]", " ", outcome.why)
    return "pass (host)" if outcome.host else "pass"


def _error(ulp: float | None) -> str:
    if ulp is None:
        return "–"
    return "exact" if ulp == 0 else f"{ulp:.2g}"


def text(outcomes: Sequence[Outcome]) -> str:
    """The page."""
    import onnx

    lines = [HEAD.format(version=onnx.__version__), "| kind | passed | of |", "|---|---|---|"]
    lines += [f"| {kind} | {passed} | {total} |" for kind, passed, total in summary(outcomes)]
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        lines += [f"\n## {kind}\n", "| case | result | error |", "|---|---|---|"]
        lines += [
            f"| `{o.name}` | {verdict(o)} | {_error(o.ulp)} |" for o in outcomes if o.kind == kind
        ]
    return "\n".join(lines) + "\n"


def rows(page: str) -> dict[str, str]:
    """A page's row of each case, by its name."""
    return {name: said for name, said, _ in _ROW.findall(page)}


def failures() -> Mapping[str, str]:
    """The reason for each known failure, by the case's name."""
    found: dict[str, str] = json.loads(FAILURES.read_text("utf-8"))
    return found


def unexpected(outcomes: Iterable[Outcome]) -> list[str]:
    """What differs from the list of known failures: one line for each case."""
    known, lines = failures(), []
    for outcome in outcomes:
        if outcome.passed and outcome.name in known:
            lines.append(f"{outcome.name} passes, but is in {FAILURES.name}")
        elif not outcome.passed and outcome.name not in known:
            lines.append(f"{outcome.name} fails: {outcome.why}")
    return lines


def accept(outcomes: Iterable[Outcome]) -> None:
    """Writes the list of known failures anew."""
    why = {outcome.name: outcome.why for outcome in outcomes if not outcome.passed}
    FAILURES.write_text(json.dumps(why, indent=1, sort_keys=True) + "\n", "utf-8")
