"""Two reports side by side, and whether their changes are more than noise."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import FOLDER, Report, Result, ResultError, quartiles

LEAST = 0.05
"""The least change that counts as one."""
ENOUGH = 3
"""The least number of samples that shows a spread."""
RULE = (
    f'Diff is the change of the median. The status is "same" when it is under {LEAST:.0%} or the '
    "interquartile ranges of the two sets of samples overlap; or when either holds once each "
    "sample is divided by the peer's median in its own run, for then the machine has changed. "
    f'It is "unclear" with fewer than {ENOUGH} samples.'
)


@dataclass(frozen=True)
class Row:
    """One test in both reports: the medians, their change (0.1 is a tenth more), its status."""

    test: str
    batch: int
    unit: str
    new: float
    old: float
    diff: float
    status: str


def rows(old: Report, new: Report) -> Iterator[Row]:
    """The tests that both reports have, in the order of the new one."""
    before = {_key(r): r for r in old.results}
    for result in new.results:
        if other := before.get(_key(result)):
            yield _row(other, result)


def _key(result: Result) -> tuple[str, int, str, str]:
    return result.test, result.batch, result.unit, result.against


def _row(old: Result, new: Result) -> Row:
    medians = statistics.median(new.ours), statistics.median(old.ours)
    diff = medians[0] / medians[1] - 1
    return Row(new.test, new.batch, new.unit, *medians, diff, _status(old, new))


def _status(old: Result, new: Result) -> str:
    if min(len(old.ours), len(new.ours)) < ENOUGH:
        return "unclear"
    change = _change(old.ours, new.ours)
    machine = old.peer and new.peer and change != _change(_by_peer(old), _by_peer(new))
    if not change or machine:
        return "same"
    words = ("less", "more") if new.unit == "MB" else ("faster", "slower")
    return words[(change > 0) != new.more_is_better]


def _change(old: Sequence[float], new: Sequence[float]) -> int:
    """1 for more, -1 for less, 0 for a change that may be noise."""
    low, middle, high = quartiles(old)
    lower, median, higher = quartiles(new)
    if abs(median / middle - 1) < LEAST or (lower <= high and low <= higher):
        return 0
    return 1 if median > middle else -1


def _by_peer(result: Result) -> list[float]:
    scale = statistics.median(result.peer)
    return [sample / scale for sample in result.ours]


def find(given: str) -> Report:
    """The report of a file, or of a commit by the first digits of its hash."""
    if Path(given).is_file():
        return Report.load(Path(given))
    known = sorted(FOLDER.glob("*.json"), key=lambda path: path.stem)
    found = [path for path in known if path.stem == given] or [
        path for path in known if path.stem.startswith(given)
    ]
    if len(found) != 1:
        names = ", ".join(path.stem for path in found or known) or "none; `make bench` makes one"
        what = "several results match" if found else "there is no result of"
        raise ResultError(f"{what} {given!r}: {names}")
    return Report.load(found[0])
