"""What a report tells: one plain value that becomes JSON, with no program behind it.

What occurs often stands once in a table, and elsewhere as its place there: instructions in
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
    """One instruction, as it was for a while: ``value`` is its place in ``Report.names``, and so
    are its ``inputs``. ``attributes`` are those not at their defaults, as in the text form;
    ``origins`` a place in ``Report.origin_sets``; ``returned`` the names of what a return returns.
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
    """A rule that fired: its pass, where it stands, and its source where that is known."""

    name: str
    pass_name: str
    place: str
    code: str


@dataclass(frozen=True)
class Rewrite:
    """One event of the log: its key, the rule's place in ``Report.rules``, the lines that matched
    as they were then, and the lines that stand for them now.
    """

    key: str
    rule: int
    origins: int
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One pass that ran: its text, the place in the pipeline and the element of it that it belongs
    to, and the states before and after.
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
    """What an instruction took in one run, all times it ran together; ``kernel`` is "" where that
    was on the host.
    """

    value: int
    kernel: str
    times: int
    seconds: float
    flops: int
    nbytes: int


@dataclass(frozen=True)
class Run:
    """One run: the sizes of symbols, its costs, bytes of memory, and what the machine does at best
    in a second.
    """

    sizes: dict[str, int]
    costs: tuple[Cost, ...]
    arena: int
    weights: int
    peak_flops: float
    peak_bytes: float


@dataclass(frozen=True, repr=False)
class Report:
    """What a pipeline did to a program.

    ``names`` has the name of each value, the same from first pass to last: of what was there at the
    start, in ``main``, that of its text; what passes make is numbered on. ``nodes`` are the ONNX
    nodes, of which ``origin_sets`` are made. ``bodies`` are lists of lines, ``states`` say which
    body each module has; the first is the program as it was given. ``target`` is "" where passes
    were given and nothing was compiled.
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
        """The report as a page that needs nothing else."""
        from migx.view.document import document

        return document(self.title, self.json())

    def write(self, path: str | Path) -> None:
        """Writes the page, whole or not at all."""
        page = self.html().encode()
        with written(path) as out:
            out.write(page)


@dataclass
class Table(Generic[T]):
    """Values, each of which stands once."""

    places: dict[T, int] = field(default_factory=dict)

    def place(self, value: T) -> int:
        """Where a value stands; at the end if it is new."""
        return self.places.setdefault(value, len(self.places))

    def values(self) -> tuple[T, ...]:
        return tuple(self.places)
