"""Two reports side by side, and whether what changed is more than noise."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import FOLDER, Report, Result, ResultError, quartiles

LEAST = 0.05
"""Smaller changes are never called one."""
ENOUGH = 3
"""With fewer samples there is no spread to judge by."""
RULE = f"""Each sample is first divided by the median of the peer in its own run, where there is one: that
takes the machine's speed out, and Diff is the change of the median after it. The status is "same" when
Diff is under {LEAST:.0%} or the middle halves of the two sets of samples overlap, "unclear" with fewer
than {ENOUGH} samples of ours, and else what it says."""


@dataclass(frozen=True)
class Row:
    """One test in both reports. ``diff`` is the change of the median, 0.1 for a tenth more."""

    test: str
    batch: int
    unit: str
    new: float
    old: float
    diff: float
    status: str


def rows(old: Report, new: Report) -> Iterator[Row]:
    """The tests that both reports have, in the order of the new one."""
    before = {(r.test, r.batch, r.unit): r for r in old.results}
    for result in new.results:
        if other := before.get((result.test, result.batch, result.unit)):
            yield _row(other, result)


def _row(old: Result, new: Result) -> Row:
    by_peer = bool(old.peer and new.peer)
    low, middle, high = quartiles(_relative(old, by_peer))
    lower, median, higher = quartiles(_relative(new, by_peer))
    diff = median / middle - 1
    if min(len(old.ours), len(new.ours)) < ENOUGH:
        status = "unclear"
    elif abs(diff) < LEAST or (lower <= high and low <= higher):
        status = "same"
    else:
        better = (diff > 0) == new.more_is_better
        less = "less" if new.unit == "MB" else "faster"
        more = "more" if new.unit == "MB" else "slower"
        status = less if better else more
    medians = statistics.median(new.ours), statistics.median(old.ours)
    return Row(new.test, new.batch, new.unit, *medians, diff, status)


def _relative(result: Result, by_peer: bool) -> list[float]:
    scale = statistics.median(result.peer) if by_peer else 1.0
    return [sample / scale for sample in result.ours]


def find(given: str) -> Report:
    """The report of a file, or of a commit by the first digits of its hash."""
    if Path(given).is_file():
        return Report.load(Path(given))
    known = sorted(FOLDER.glob("*.json"))
    found = [path for path in known if path.stem == given] or [
        path for path in known if path.stem.startswith(given)
    ]
    if len(found) != 1:
        names = ", ".join(path.stem for path in found or known) or "none; `make bench` makes one"
        what = "several results match" if found else "there is no result of"
        raise ResultError(f"{what} {given!r}: {names}")
    return Report.load(found[0])
