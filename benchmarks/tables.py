"""Reports in the terminal."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.compare import RULE, Row
from benchmarks.measure import Report, Result, quartiles

COLORS = {"faster": "green", "less": "green", "slower": "red", "more": "red"}


def show_results(title: str, goal: str, results: Sequence[Result], notes: Sequence[str]) -> None:
    """One benchmark: medians, half the interquartile range in percent of them, and how many times
    better than the peer ours is.
    """
    console = _console()
    table = Table("Test", title=f"{title}; goal: {goal}", title_justify="left")
    for heading in ("Batch", "migx", "±", results[0].against, "±", "times better"):
        table.add_column(heading, justify="right", no_wrap=True)
    for r in results:
        ratio = "" if r.ratio is None else f"{r.ratio:.2f}"
        peer = _spread(r.peer, r.unit) if r.against else ("", "")
        both = *_spread(r.ours, r.unit), *peer
        table.add_row(r.test, f"{r.batch:,}", *both, ratio)
    console.print(table)
    for note in notes:
        console.print(note, markup=False)


def show_peers(title: str, goal: str, results: Sequence[Result]) -> None:
    """One benchmark with several peers: a table for each."""
    for peer in dict.fromkeys(r.against for r in results):
        against = [r for r in results if r.against == peer]
        show_results(title, goal, against, [ratios(against)])


def show_comparison(old: Report, new: Report, rows: Iterable[Row]) -> None:
    """``Test | Batch | New | Old | Diff | Status``, and the rule of the last."""
    console = _console()
    table = Table("Test", title=f"{new.commit} against {old.commit}", title_justify="left")
    for heading in ("Batch", "New", "Old", "Diff"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Status")
    for row in rows:
        status = f"[{COLORS.get(row.status, 'default')}]{row.status}[/]"
        amounts = _amount(row.new, row.unit), _amount(row.old, row.unit)
        table.add_row(row.test, f"{row.batch:,}", *amounts, f"{row.diff:+.1%}", status)
    console.print(table)
    console.print(RULE, markup=False)
    if old.machine != new.machine:
        facts = [k for k in new.machine if old.machine.get(k) != new.machine[k]]
        listed = "; ".join(f"{k} {new.machine[k]}, was {old.machine.get(k)}" for k in facts)
        console.print(f"The machines differ: {listed}", markup=False)


def _console() -> Console:
    """The terminal, or a page wide enough for each test to fit on one line."""
    return Console(width=None if sys.stdout.isatty() else 110)


def _spread(samples: Sequence[float], unit: str) -> tuple[str, str]:
    if not samples:
        return "cannot run", ""
    low, middle, high = quartiles(samples)
    return _amount(middle, unit), f"{(high - low) / 2 / middle:.0%}" if middle and len(
        samples
    ) > 1 else ""


def _amount(value: float, unit: str) -> str:
    """A value with its unit, to three digits: ``1.23 ms``, ``45.6 MB``, ``789 k/s``."""
    if unit == "s":
        return f"{_three(value)} s" if value >= 1 else f"{_three(value * 1e3)} ms"
    if unit.endswith("/s"):
        return f"{_three(value / 1e6)} M/s" if value >= 1e6 else f"{_three(value / 1e3)} k/s"
    return f"{_three(value)} {unit}"


def _three(value: float) -> str:
    digits = 2 - math.floor(math.log10(value)) if value else 0
    return f"{value:,.{max(0, digits)}f}"


def ratios(results: Iterable[Result]) -> str:
    """The median and the geometric mean of how many times better ours is, and where it is least."""
    found = [(r.ratio, r.test) for r in results if r.ratio is not None]
    if not found:
        return "the peer ran none"
    times = [ratio for ratio, _ in found]
    mean, (least, where) = statistics.geometric_mean(times), min(found)
    return (
        f"times better over {len(found)}: {statistics.median(times):.2f} in the median, "
        f"{mean:.2f} in the geometric mean, least {least:.2f} ({where})"
    )
