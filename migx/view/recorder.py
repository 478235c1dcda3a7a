"""Watches passes run, and collects the content of a report."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Iterable, Iterator, Sequence
from operator import is_
from pathlib import Path
from tokenize import TokenError
from typing import Any

import migx
from migx.argument import Argument
from migx.events import Event, EventLog
from migx.ir import Instruction, Module
from migx.manager import Observer, Pipeline, Step
from migx.ops.builtin import Param, Return
from migx.profile import Profile
from migx.program import Program
from migx.text import Names, attributes, quoted
from migx.view import data

LONGEST = 400
"""The most characters of attributes shown; the end of a longer list tells no more."""


class Recorder(Observer):
    """An observer that records the program between passes, and each rewrite through its ``log``. A
    line is recorded only when an instruction has changed.

    ``seconds`` are the times of the passes without recording, which itself takes time.
    """

    def __init__(self, seconds: Sequence[float] = ()) -> None:
        self.seconds = seconds
        self.values = _Values()
        self.log = _Log(self.values)
        self.bodies = data.Table[tuple[int, ...]]()
        self.states = data.Table[tuple[tuple[str, int], ...]]()
        self.steps: list[data.Step] = []
        self.pipeline = ""

    def started(self, program: Program, pipeline: Pipeline) -> None:
        self.pipeline = str(pipeline)
        self._state = self._found(program)

    def before(self, step: Step) -> None:
        self._logged = len(self.log.events)

    def after(self, step: Step, changed: bool, seconds: float) -> None:
        element = str(step.pipeline.steps[int(step.place.partition(".")[0])])
        says = inspect.cleandoc(type(step.of).__doc__ or "")
        rewrites = tuple(self.log.rewrites(self._logged))
        seconds = self.seconds[step.index] if self.seconds else seconds
        states = self._state, self._found(step.program)
        made = data.Step(str(step.of), says, step.place, element, seconds, *states, rewrites)
        self.steps.append(made)
        self._state = made.after

    def finished(self, program: Program, text: str, says: str) -> None:
        """Records the final program, if it changed after the last pass."""
        found = self._found(program)
        if found != self._state:
            self.steps.append(data.Step(text, says, "", "", 0.0, self._state, found))

    def _found(self, program: Program) -> int:
        """The index of a program's current state."""
        modules = program.modules.values()
        return self.states.place(tuple((m.name, self._body(m)) for m in modules))

    def _body(self, module: Module) -> int:
        return self.bodies.place(tuple(map(self.values.line, module)))

    def report(self, title: str, target: str, run: data.Run | None = None) -> data.Report:
        """The report on everything recorded."""
        values = self.values
        return data.Report(
            title=title,
            version=migx.__version__,
            target=target,
            pipeline=self.pipeline,
            names=tuple(values.names),
            nodes=values.nodes.values(),
            origin_sets=values.origin_sets.values(),
            lines=values.lines.values(),
            bodies=self.bodies.values(),
            states=tuple(map(dict, self.states.values())),
            rules=self.log.rules.values(),
            steps=tuple(self.steps),
            run=run,
        )

    def run(self, profile: Profile, sizes: dict[str, int]) -> data.Run:
        """A profile in terms of this recording's values."""
        costs: dict[int, data.Cost] = {}
        for c in profile.costs:
            at = self.values.number(c.at)
            was = costs.get(at, data.Cost(at, c.kernel, 0, 0.0, 0, 0))
            costs[at] = data.Cost(
                at,
                c.kernel,
                was.times + 1,
                was.seconds + c.seconds,
                was.flops + int(c.flops),
                was.nbytes + int(c.nbytes),
            )
        found = tuple(costs.values())
        memory = int(profile.arena), int(profile.weights)
        return data.Run(sizes, found, *memory, float(profile.peak_flops), float(profile.peak_bytes))


class _Values:
    """The numbers and lines of instructions, which are kept alive as keys."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.nodes = data.Table[str]()
        self.origin_sets = data.Table[tuple[int, ...]]()
        self.lines = data.Table[data.Line]()
        self._numbers: dict[Instruction, int] = {}
        self._last: dict[Instruction, tuple[tuple[Any, ...], tuple[str, ...], int]] = {}
        self._counted = 0

    def number(self, at: Instruction) -> int:
        """The number of an instruction's value, which is named when first seen."""
        found = self._numbers.get(at)
        if found is None:
            found = self._numbers[at] = len(self.names)
            self.names.append(self._name(at))
        return found

    def _name(self, at: Instruction) -> str:
        if isinstance(at.op, Param):
            return quoted(at.op.parameter)
        if isinstance(at.op, Return):
            return "return"
        self._counted += 1
        return f"%{self._counted - 1}"

    def line(self, at: Instruction) -> int:
        """The line of an instruction's current version."""
        modules = tuple(m.name for m in at.modules)
        facts = (at.op, at.inputs, at.shape, at.origins, at.module)
        known = self._last.get(at)
        if known is not None and all(map(is_, facts, known[0])) and modules == known[1]:
            return known[2]
        found = self.lines.place(self._made(at, modules))
        self._last[at] = facts, modules, found
        return found

    def _made(self, at: Instruction, modules: tuple[str, ...]) -> data.Line:
        own = isinstance(at.op, Param | Return)
        shown = "" if own else attributes(at.op, place=_lies)
        return data.Line(
            value=self.number(at),
            operation=at.op.name,
            inputs=tuple(map(self.number, at.inputs)),
            attributes=shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…",
            shape=str(at.shape),
            modules=modules,
            origins=self.origins(at.origins),
            returned=at.op.names if isinstance(at.op, Return) else (),
        )

    def origins(self, names: Iterable[str]) -> int:
        """The index of a set of ONNX nodes."""
        return self.origin_sets.place(tuple(map(self.nodes.place, names)))


class _Log(EventLog):
    """A log that records the instructions of its events instead of their text."""

    def __init__(self, values: _Values) -> None:
        super().__init__()
        self.values = values
        self.rules = data.Table[data.Rule]()
        self._matched: dict[str, tuple[int, ...]] = {}
        self._changes: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self._rules: dict[tuple[str, str, str], data.Rule] = {}

    def key(self, rule: str, matched: Sequence[Instruction]) -> str:
        key = super().key(rule, matched)
        self._matched[key] = tuple(map(self.values.line, matched))
        return key

    def add(self, event: Event, put: Iterable[Instruction] = ()) -> None:
        matched = self._matched.get(event.key, ())
        self._changes[len(self.events)] = matched, tuple(map(self.values.line, put))
        super().add(event, put)

    def show(self, instructions: Iterable[Instruction], names: dict[Module, Names]) -> str:
        return ""

    def rewrites(self, first: int) -> Iterator[data.Rewrite]:
        """The events from an index on, without those of whole passes, which the states show."""
        for place, event in enumerate(self.events[first:], first):
            if event.rule:
                known = self._matched.get(event.key, ()), ()
                lines = self._changes.get(place, known)
                origins = self.values.origins(event.origins)
                yield data.Rewrite(event.key, self._rule(event), origins, *lines)

    def _rule(self, event: Event) -> int:
        facts = event.rule, event.pass_name, event.source
        if facts not in self._rules:
            self._rules[facts] = data.Rule(*facts[:2], *_source(event.source))
        return self.rules.place(self._rules[facts])


def _lies(value: Argument) -> tuple[str, int, int]:
    """A placeholder for the location of a large literal, so that nothing is hashed."""
    if value.source is None:
        return "memory", 0, value.nbytes
    return Path(value.source.file).name, value.source.offset, value.source.length


def _source(place: str) -> tuple[str, str]:
    """The location of a rule, from the package on, and its code; "" if unknown."""
    file, _, line = place.rpartition(":")
    if not line.isdigit():
        file, line = place, ""
    around = Path(migx.__file__).parent.parent
    path = Path(file)
    shown = path.relative_to(around).as_posix() if path.is_relative_to(around) else file
    lines = linecache.getlines(file)[int(line) - 1 :] if line else []
    try:
        code = "".join(inspect.getblock(lines)) if lines else ""
    except (TokenError, SyntaxError):
        code = ""  # the file has changed since it was imported
    return f"{shown}:{line}".rstrip(":"), code
