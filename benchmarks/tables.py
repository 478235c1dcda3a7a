"""Reports in the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.compare import RULE, Row
from benchmarks.measure import Report, Result, quartiles

COLORS = {"faster": "green", "less": "green", "slower": "red", "more": "red"}


def show_results(
    title: str, bar: str, results: Iterable[Result], notes: Sequence[str] = ()
) -> None:
    """One benchmark: medians, in brackets the quartiles, and how many times better than the peer."""
    results = list(results)
    table = Table("Test", title=f"{title} (due: {bar})", title_justify="left")
    for heading in ("Batch", "migx", "peer", "times better"):
        table.add_column(heading, justify="right", no_wrap=True)
    for r in results:
        ratio = "" if r.ratio is None else f"{r.ratio:.2f}"
        table.add_row(
            r.test, f"{r.batch:,}", _spread(r.ours, r.unit), _spread(r.peer, r.unit), ratio
        )
    console = Console()
    console.print(table)
    ratios = [r.ratio for r in results if r.ratio is not None]
    if len(ratios) > 1:
        least = min(ratios)
        console.print(
            f"times better than the peer: {statistics.median(ratios):.2f} in the median, {least:.2f} at least"
        )
    for note in notes:
        console.print(note, markup=False)


def show_comparison(old: Report, new: Report, rows: Iterable[Row]) -> None:
    """``Test | Batch | New | Old | Diff | Status``, and the rule of the last."""
    table = Table("Test", title=f"{new.commit} against {old.commit}", title_justify="left")
    for heading in ("Batch", "New", "Old", "Diff"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Status")
    for row in rows:
        color = COLORS.get(row.status, "default")
        sizes = _amount(row.new, row.unit), _amount(row.old, row.unit)
        status = f"[{color}]{row.status}[/]"
        table.add_row(row.test, f"{row.batch:,}", *sizes, f"{row.diff:+.1%}", status)
    console = Console()
    console.print(table)
    console.print(RULE.replace("\n", " "), markup=False)
    if old.machine != new.machine:
        console.print("The machines differ:", _differences(old, new), markup=False)


def _differences(old: Report, new: Report) -> str:
    keys = [k for k in new.machine if old.machine.get(k) != new.machine[k]]
    return "; ".join(f"{k} {new.machine[k]}, before {old.machine.get(k)}" for k in keys)


def _spread(samples: Sequence[float], unit: str) -> str:
    if not samples:
        return "cannot run"
    low, middle, high = quartiles(samples)
    return f"{_amount(middle, unit)} [{_number(low, unit)}–{_number(high, unit)}]"


def _amount(value: float, unit: str) -> str:
    return f"{_number(value, unit)} {'/s' if unit.endswith('/s') else unit}"


def _number(value: float, unit: str) -> str:
    return f"{value:,.0f}" if unit != "s" else f"{value:.3g}"
