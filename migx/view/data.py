"""The content of a report: plain values that become JSON, with no program behind them.

Frequent values are stored once in a table and referred to by index: instructions in
``Report.lines``, the contents of modules in ``bodies``, programs in ``states``.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from migx.base.files import written

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Line:
    """One version of an instruction. ``value`` and ``inputs`` are indices in ``Report.names``.
    ``attributes`` are those that differ from their defaults, as in the text form; ``origins`` is an
    index in ``Report.origin_sets``; ``returned`` has the names of a return's results.
    """

    value: int
    operation: str
    inputs: tuple[int, ...]
    attributes: str
    shape: str
    modules: tuple[str, ...]
    origins: int
    returned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """A rule that fired: its pass, its location, and its source if known."""

    name: str
    pass_name: str
    place: str
    code: str


@dataclass(frozen=True)
class Rewrite:
    """One event of the log: its key, the index of its rule in ``Report.rules``, the lines that
    matched, and the lines that replaced them.
    """

    key: str
    rule: int
    origins: int
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One pass that ran: its text, its place in the pipeline, the pipeline's element it belongs to,
    and the states before and after.
    """

    text: str
    says: str
    place: str
    element: str
    seconds: float
    before: int
    after: int
    rewrites: tuple[Rewrite, ...] = ()


@dataclass(frozen=True)
class Cost:
    """The cost of an instruction in one run, summed over its executions; ``kernel`` is "" if it ran
    on the host.
    """

    value: int
    kernel: str
    times: int
    seconds: float
    flops: int
    nbytes: int


@dataclass(frozen=True)
class Run:
    """One run: sizes of symbols, costs, bytes of memory, and the machine's peaks per second."""

    sizes: dict[str, int]
    costs: tuple[Cost, ...]
    arena: int
    weights: int
    peak_flops: float
    peak_bytes: float


@dataclass(frozen=True, repr=False)
class Report:
    """What a pipeline did to a program.

    ``names`` has the name of each value, the same from the first pass to the last: as in the text
    for values that ``main`` had at the start; those made by passes are numbered on. ``nodes`` are
    the ONNX nodes, of which ``origin_sets`` are made. ``bodies`` are lists of lines; ``states`` map
    modules to bodies, and the first is the original program. ``target`` is "" if passes were given
    and nothing was compiled.
    """

    title: str
    version: str
    target: str
    pipeline: str
    names: tuple[str, ...]
    nodes: tuple[str, ...]
    origin_sets: tuple[tuple[int, ...], ...]
    lines: tuple[Line, ...]
    bodies: tuple[tuple[int, ...], ...]
    states: tuple[dict[str, int], ...]
    rules: tuple[Rule, ...]
    steps: tuple[Step, ...]
    run: Run | None = None

    def __repr__(self) -> str:
        rewrites = sum(len(step.rewrites) for step in self.steps)
        return f"<Report of {self.title}: {len(self.steps)} passes, {rewrites} rewrites>"

    def json(self) -> str:
        """The report as JSON, its dataclasses as objects."""
        return json.dumps(self, default=vars, separators=(",", ":"), ensure_ascii=False)

    def html(self) -> str:
        """The report as a self-contained page."""
        from migx.view.document import document

        return document(self.title, self.json())

    def write(self, path: str | Path) -> None:
        """Writes the page, atomically."""
        page = self.html().encode()
        with written(path) as out:
            out.write(page)


@dataclass
class Table(Generic[T]):
    """A table of distinct values."""

    places: dict[T, int] = field(default_factory=dict)

    def place(self, value: T) -> int:
        """The index of a value, which is appended if it is new."""
        return self.places.setdefault(value, len(self.places))

    def values(self) -> tuple[T, ...]:
        return tuple(self.places)
