"""ONNX conformance of a target: its outcome for each case of the backend suite, and its errors."""

from __future__ import annotations

import dataclasses
import signal
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path

from onnx.backend.test.case.test_case import TestCase

from migx import backend
from migx.errors import MigxError
from migx.target import Target, get_target
from migx.testing import suite

ALL = "all"
"""The name of the tally over all families."""
_TITLES = ("operators that", "Not equal", "Arrays are not equal", "the program is not")
"""Starts of error lines that say little without the next line."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a case: the largest error in units in the last place, None without floats; or
    why it failed. ``refused`` means that the model could not be read, which is not the target's
    fault; ``worse`` that it fails by the target's fault: ``ref`` passes it, or is the target.

    ``fallbacks`` names the operations that ran on the host for lack of a kernel; ``host`` says that
    a node ran through onnx's reference implementation.
    """

    kind: str
    name: str
    why: str = ""
    ulp: float | None = None
    host: bool = False
    refused: bool = False
    worse: bool = False
    fallbacks: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.why


@dataclass
class Tally:
    """The counts for a family. ``fell_back`` is the number of cases of which a part ran on the
    host, ``fallbacks`` the operations in these parts.
    """

    cases: int = 0
    passed: int = 0
    failed: int = 0
    worse: int = 0
    refused: int = 0
    fell_back: int = 0
    fallbacks: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Counts an outcome."""
        self.cases += 1
        self.passed += outcome.passed
        self.refused += outcome.refused
        self.failed += not outcome.passed and not outcome.refused
        self.worse += outcome.worse
        self.fell_back += bool(outcome.fallbacks)
        self.fallbacks.update(outcome.fallbacks)


def tallies(outcomes: Iterable[Outcome]) -> dict[str, Tally]:
    """The tally of each family, by name, and of ``all``."""
    found: dict[str, Tally] = {}
    total = Tally()
    for outcome in outcomes:
        family = suite.family(suite.cases(outcome.kind)[outcome.name])
        found.setdefault(family, Tally()).add(outcome)
        total.add(outcome)
    return {name: found[name] for name in sorted(found)} | {ALL: total}


def outcome(case: TestCase, target: Target | str = "ref", *, symbolic: bool = False) -> Outcome:
    """Runs a case with each of its data sets, under the suite's tolerances; element types must be
    equal. ``symbolic`` runs it with nothing known before the run; see ``suite.generalised``.
    """
    chosen = get_target(target)
    found = _tried(case, chosen, symbolic)
    if found.passed or found.refused:
        return found
    return dataclasses.replace(found, worse=_at_fault(chosen.name, case, symbolic))


def _at_fault(target: str, case: TestCase, symbolic: bool) -> bool:
    """Whether a case that fails on a target fails by its fault, and not as on ``ref``."""
    return target == "ref" or _tried(case, get_target("ref"), symbolic).passed


def _tried(case: TestCase, target: Target, symbolic: bool) -> Outcome:
    model, sets = suite.loaded(case)
    if symbolic:
        model, sets = suite.generalised(model, sets)
    folder = Path(case.model_dir or ".").absolute()
    found = Outcome(case.kind, case.name)
    worst: float | None = None
    try:
        prepared = backend.Prepared(model, target, folder)
        modules = prepared.program.modules.values()
        found = dataclasses.replace(
            found,
            host=any(at.name == "host" for module in modules for at in module),
            fallbacks=tuple(at.name for at in prepared.program.compiled.fallbacks()),
        )
        for inputs, wanted in sets:
            got = list(prepared.run(inputs))
            suite.compare(wanted, got, case)
            errors = [e for e in map(suite.ulps, wanted, got) if e is not None]
            worst = max([worst or 0.0, *errors]) if errors else worst
    except Exception as error:  # noqa: BLE001 - whatever a target raises is the outcome
        refused = isinstance(error, MigxError) and not backend.is_compatible(model, folder=folder)
        return dataclasses.replace(found, why=reason(error), refused=refused)
    return dataclasses.replace(found, ulp=worst)


def reason(error: Exception) -> str:
    """The first lines of an error joined, as far as they say what is wrong."""
    kind = "" if isinstance(error, MigxError | AssertionError) else f"{type(error).__name__}: "
    lines = [line.strip() for line in f"{kind}{error}".splitlines() if line.strip()]
    lines = lines or [type(error).__name__]
    said = " ".join(lines[: 2 if lines[0].startswith(_TITLES) else 1])
    return said if len(said) <= 160 else said[:157] + "..."


def outcomes(
    cases: Iterable[TestCase],
    target: str,
    *,
    jobs: int = 1,
    symbolic: bool = False,
) -> list[Outcome]:
    """The outcome of each case, in order, with several processes. A case that kills its process
    fails, and only that one.
    """
    todo = deque(cases)
    found = dict.fromkeys((case.kind, case.name) for case in todo)
    lanes = [_Lane(target, symbolic) for _ in range(min(jobs, len(todo)))]
    try:
        while busy := [lane for lane in lanes if lane.has_work(todo)]:
            for ready in wait([lane.pipe for lane in busy]):
                lane = next(each for each in busy if each.pipe is ready)
                came = lane.outcome()
                found[came.kind, came.name] = came
    finally:
        for lane in lanes:
            lane.end()
    return [each for each in found.values() if each is not None]


class _Lane:
    """A process that runs one case at a time, so that the case that kills it is known."""

    def __init__(self, target: str, symbolic: bool) -> None:
        self.asked = target, symbolic
        self.case: TestCase | None = None
        self.start()

    def start(self) -> None:
        spawn = get_context("spawn")  # forking with threads or devices in use does not work
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(theirs, *self.asked))
        self.process.start()
        theirs.close()

    def has_work(self, todo: deque[TestCase]) -> bool:
        """Whether a case is running; starts the next one if not."""
        if self.case is None and todo:
            self.case = todo.popleft()
            with suppress(OSError):  # the process has ended, which becomes the case's outcome
                self.pipe.send(self.case)
        return self.case is not None

    def outcome(self) -> Outcome:
        """The outcome of the case that was running."""
        case, self.case = self.case, None
        assert case is not None
        try:
            found: Outcome = self.pipe.recv()
        except (EOFError, OSError):
            self.end()
            code = self.process.exitcode or 0
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            why = f"it ended the process, by {how}"
            self.start()
            target, symbolic = self.asked
            return Outcome(case.kind, case.name, why, worse=_at_fault(target, case, symbolic))
        return found

    def end(self) -> None:
        self.pipe.close()
        if self.case is not None:
            self.process.terminate()
        self.process.join()


def _serve(pipe: Connection, target: str, symbolic: bool) -> None:
    """Runs cases until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it, and ends this process
    chosen = get_target(target)
    try:
        while True:
            pipe.send(outcome(pipe.recv(), chosen, symbolic=symbolic))
    except (EOFError, BrokenPipeError):
        return
