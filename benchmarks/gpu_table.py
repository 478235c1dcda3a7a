"""The table of ``benchmarks.gpu``: its lines, and how they are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.gpu_peers import COMPILED, EAGER, ONNXRUNTIME

BARS = {
    "pointwise": 0.85,
    "layer norm": 0.85,
    "softmax": 0.85,
    "gemm f16": 0.70,
    "int4 gemv": 0.70,
    "swap weights": 0.80,
}
"""The share of its limit that each should reach."""
PEERS = (EAGER, COMPILED, ONNXRUNTIME)


@dataclass
class Line:
    """One line of the table: its seconds, the amount in ``unit``, and the limit; the seconds of
    ``peers`` and of the floor; ``notes`` say what is missing.
    """

    name: str
    seconds: float | None = None
    amount: float | None = None
    unit: str = ""
    limit: float | None = None
    floor: float | None = None
    peers: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def share(self) -> float | None:
        """The share of the limit that is reached; for a model, of the floor's speed."""
        if self.seconds and self.floor:
            return self.floor / self.seconds
        known = self.amount and self.limit and math.isfinite(self.limit)
        return self.amount / self.limit if known and self.amount and self.limit else None

    def say(self, what: str) -> None:
        """Adds to the notes, once."""
        if what not in self.notes:
            self.notes.append(what)

    def fail(self, error: Exception) -> None:
        """Notes the first line of an error."""
        said = str(error).strip().splitlines() or [""]
        self.say(f"{type(error).__name__}: {said[0]}"[:120])

    def take(self, other: Line) -> None:
        """Merges another line of this name."""
        for name in ("seconds", "amount", "limit", "floor"):
            if getattr(other, name) is not None:
                setattr(self, name, getattr(other, name))
        self.unit = other.unit or self.unit
        self.peers |= other.peers
        for note in other.notes:
            self.say(note)


def show(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table as plain text: little may be installed on a machine with a GPU."""
    every = [headings, *rows]
    wide = [max(map(len, column)) for column in zip(*every, strict=True)]
    for first, *others in every:
        cells = [cell.rjust(width) for cell, width in zip(others, wide[1:], strict=True)]
        print("  ".join([first.ljust(wide[0]), *cells]).rstrip())


def report(lines: Sequence[Line], transformers: Sequence[str]) -> None:
    """Prints all lines, their notes, and the speed of transformers beside peers."""
    headings = ("what", "time", "amount", "of the limit", *(f"× {p}" for p in PEERS))
    show(headings, [shown(line) for line in lines])
    for note, named in _notes(lines).items():
        print(f"{note}: {', '.join(named)}")
    for peer in (COMPILED, ONNXRUNTIME):
        print(_mean([line for line in lines if line.name in transformers], peer))


def shown(line: Line) -> tuple[str, ...]:
    """The cells of a line."""
    took = "" if line.seconds is None else f"{line.seconds * 1e3:,.3f} ms"
    amount = "" if line.amount is None else f"{line.amount:,.2f} {line.unit}"
    share = "" if line.share is None else f"{line.share:.2f}"
    bar = BARS.get(line.name)
    if bar is not None and line.share is not None:
        share += f" of {bar:.2f}: {'reached' if line.share >= bar else 'missed'}"
    times = [
        f"{line.peers[p] / line.seconds:.2f}" if p in line.peers and line.seconds else ""
        for p in PEERS
    ]
    return line.name, took, amount, share, *times


def _notes(lines: Sequence[Line]) -> dict[str, list[str]]:
    """The notes, each with the names of its lines."""
    found: dict[str, list[str]] = {}
    for line in lines:
        for note in line.notes:
            found.setdefault(note, []).append(line.name)
    return found


def _mean(lines: Sequence[Line], peer: str) -> str:
    ratios = [
        line.peers[peer] / line.seconds for line in lines if line.seconds and peer in line.peers
    ]
    if not ratios:
        return f"transformers against {peer}: not measured"
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return f"transformers: {mean:.2f} times the speed of {peer}, geometric mean of {len(ratios)}"
