"""The fuzzer: random programs, run through passes or a target, and checked by the oracles."""

from __future__ import annotations

import itertools
import shlex
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from migx import plugins
from migx.base.files import writing
from migx.binding import sizes_told
from migx.debug.bisect import NothingWrong
from migx.debug.case import Case
from migx.debug.reduce import reduced_case
from migx.errors import DataError, MigxError
from migx.events import EventLog
from migx.fields import required
from migx.manager import Pipeline
from migx.pipeline import Approximation
from migx.program import Program
from migx.specialise import bound
from migx.target import Target, get_target, passes_for
from migx.testing.draws import Dice
from migx.testing.law import check_law
from migx.testing.oracles import Inputs, Trial, Violation, run_on_ref
from migx.testing.patterns import draw_match, names_in
from migx.testing.programs import Drawn, draw_program, features
from migx.testing.runs import ORACLES, check_runs
from migx.testing.values import poisoned, special, with_special

ROUND_TRIPS = 8
"""One program in this many also tests the text and file forms, which takes longer."""


@dataclass
class Failure:
    """An oracle's failure, the smallest program found for it, where that was saved, and the command
    that debugs it there.
    """

    passes: str
    seed: str
    oracle: str
    message: str
    text: str
    file: Path | None = None
    command: str = ""
    unsaved: str = ""
    """Why it could not be saved."""

    def __str__(self) -> str:
        where = f"\nsaved in {self.file}" if self.file else f"\n{self.unsaved}".rstrip()
        where += f"; next: {self.command}" if self.command else ""
        head = f"{self.passes}, seed {self.seed}: {self.message}"
        return f"{head}{where}\n\n{self.text}"


@dataclass
class Report:
    """The result of fuzzing: ``fired`` counts the rewrites of each rule, ``features`` what the
    programs contained; ``silent`` are the rules that no program fired, ``idle`` the passes without
    rules that changed no program, ``left`` the subjects abandoned after too many failures.
    """

    programs: int = 0
    changed: int = 0
    seconds: float = 0.0
    features: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)
    silent: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Programs per second."""
        return self.programs / self.seconds if self.seconds else 0.0


@dataclass
class Subject:
    """What is fuzzed: a pipeline, or a target if one is given; or the law of weights on a target,
    after a pipeline if there is one.

    ``special`` is the share of programs whose inputs get special values: none for the law, or if a
    pass states its error as a number, which holds only for values in range.
    """

    pipeline: Pipeline
    target: Target | None = None
    law: bool = False
    special: float = 0.25

    def __post_init__(self) -> None:
        passes = self.pipeline.passes()
        run = self.pipeline
        if self.target is not None:
            run = passes_for(self.target)
        stated = [error for errors in run.approximations().values() for error in errors]
        if self.law or not all(isinstance(error, Approximation) for error in stated):
            self.special = 0.0
        self.rules = {f"{p.name}.{rule.name}": rule for p in passes for rule in p.rules}
        self.focus = {
            p.name: tuple(dict.fromkeys(n for r in p.rules for n in names_in(r.pattern)))
            for p in passes
        }
        self.without_rules = {p.name for p in passes if not p.rules}
        self.tried: Counter[str] = Counter()
        self.fired: Counter[str] = Counter()
        self.changing: set[str] = set()
        self.failed = 0

    def __str__(self) -> str:
        if self.law and self.pipeline:
            return f"the law of weights after {self.pipeline}"
        what = str(self.pipeline) if self.target is None else f"target {self.target.name}"
        return f"the law of weights on {what}" if self.law else what

    def draw(self, seed: str) -> Drawn:
        """A program, and inputs that it runs with."""
        drawn, dice = self._drawn(Dice(seed)), Dice(f"{seed}.values")
        if dice.chance(self.special):
            inputs = special(drawn.inputs, dice)
            program = with_special(drawn.program, dice) if dice.chance(0.5) else drawn.program
            with suppress(MigxError):  # data-dependent sizes may be invalid now
                run_on_ref(program, inputs, program)
                drawn.program, drawn.inputs = program, inputs
        # Errors stated as a number hold in range: at the sizes drawn, but not surely at others.
        drawn.others = [self._others(o, dice) for o in drawn.others if self.special]
        return _bound(drawn, drawn.others[0]) if drawn.others and dice.chance(0.4) else drawn

    def _others(self, inputs: Inputs, dice: Dice) -> Inputs:
        """Inputs of other sizes, half of them with special values."""
        if dice.chance(0.5):
            return inputs
        empty = any(v.shape.elements == 0 for v in inputs.values())
        return poisoned(inputs) if empty and dice.chance(0.7) else special(inputs, dice)

    def _drawn(self, dice: Dice) -> Drawn:
        """A program: half of them are drawn to match the rule that has had the fewest."""
        if self.rules and dice.chance(0.5):
            name = min(self.rules, key=lambda n: (self.fired[n] + self.tried[n], n))
            self.tried[name] += 1
            found = draw_match(dice, self.rules[name], self._focus(dice, name))
            if found is not None:
                return found
        return draw_program(dice)

    def _focus(self, dice: Dice, name: str) -> Sequence[str]:
        """The operations that a rule's free inputs are drawn from: those its pattern names, or
        those of all rules of its pass.
        """
        own = names_in(self.rules[name].pattern)
        return own if own and dice.chance(0.5) else self.focus[name.partition(".")[0]]

    def check(
        self, program: Program, inputs: Inputs, others: Sequence[Inputs] = (), full: bool = False
    ) -> bool:
        """Checks one program by the oracles, also at other sizes; returns whether passes changed
        it.
        """
        trial, changed, log = Trial(program, inputs, others), False, EventLog()
        if self.law:
            target = self.target or get_target("ref")
            changed = bool(check_law(program, inputs, target, self.pipeline or None))
        elif self.target is None:
            changed = trial.passes(self.pipeline, log)
            self.fired.update(f"{e.pass_name}.{e.rule}" for e in log.events if e.rule)
            self.changing |= {e.pass_name for e in log.events}
        else:
            made = program.copy().compile(self.target).compiled
            check_runs(made, inputs)
            trial.compiled(made)
        if full:
            trial.round_trips()
        return changed

    def failure(self, case: Case) -> Exception | None:
        """The failure of a program, if any; None if it does not even run on ``ref``."""
        inputs = case.inputs or {}
        try:
            run_on_ref(case.program, inputs, case.program)
        except MigxError:
            return None
        try:
            self.check(case.program, inputs, full=True)
        except Exception as error:  # noqa: BLE001 - whatever a pass raises is the failure
            return error
        return None


def _bound(drawn: Drawn, inputs: Inputs) -> Drawn:
    """The program bound to the sizes of other inputs; unchanged if it refuses them."""
    main = drawn.program.main
    try:
        sizes = sizes_told(main, [inputs[name] for name in main.parameters])
        made = bound(drawn.program, sizes)
        run_on_ref(made, inputs, made)
    except MigxError:
        return drawn
    return Drawn(made, dict(inputs), features(made))


def fuzz(
    subjects: Iterable[Subject],
    *,
    seconds: float | None = None,
    programs: int | None = None,
    seed: int = 0,
    folder: Path | None = None,
    enough: int = 5,
) -> Report:
    """Draws programs for several subjects in turn until time or programs are used up. A subject
    with ``enough`` failures is abandoned. The same seed draws the same programs.

    A reduced case of each failure is saved in ``folder``, if given.
    """
    report, listed = Report(), list(subjects)
    start = time.perf_counter()
    for number in itertools.count():
        report.left = [str(subject) for subject in listed if subject.failed >= enough]
        if len(report.left) == len(listed):
            break
        report.seconds = time.perf_counter() - start
        if seconds is not None and report.seconds >= seconds:
            break
        if programs is not None and report.programs >= programs:
            break
        subject = listed[number % len(listed)]
        if subject.failed < enough:
            _one(subject, f"{seed}.{number}", report, folder)
    report.seconds = time.perf_counter() - start
    for subject in listed:
        report.fired += subject.fired
    held = [subject for subject in listed if not subject.law]
    rules = {name for subject in held for name in subject.rules}
    report.silent = sorted(name for name in rules if not report.fired[name])
    without = {name for subject in held for name in subject.without_rules}
    report.idle = sorted(without.difference(*(subject.changing for subject in held)))
    return report


def _one(subject: Subject, seed: str, report: Report, folder: Path | None) -> None:
    drawn = subject.draw(seed)
    report.features += Counter({"programs": 1}) + drawn.features
    full = report.programs % ROUND_TRIPS == 0
    report.programs += 1
    try:
        report.changed += subject.check(drawn.program, drawn.inputs, drawn.others, full)
    except Exception as error:  # noqa: BLE001 - whatever a pass raises is the failure
        known = {f.message.splitlines()[0] for f in report.failures}
        if not (message := _message(error)) or message.splitlines()[0] not in known:
            report.failures.append(_found(subject, seed, drawn, error, folder))
            subject.failed += 1


def _found(
    subject: Subject, seed: str, drawn: Drawn, error: Exception, folder: Path | None
) -> Failure:
    """A failure, reduced and saved."""
    oracle = _oracle(error)

    def fails(case: Case) -> bool:
        again = subject.failure(case)
        return again is not None and _oracle(again) == oracle

    cases = [Case(drawn.program, inputs) for inputs in (drawn.inputs, *drawn.others)]
    case = next(filter(fails, cases), cases[0])
    with suppress(NothingWrong):
        case = reduced_case(case, fails)
        error = subject.failure(case) or error
    failure = Failure(str(subject), seed, oracle, _message(error), str(case.program))
    if folder is not None:
        file = folder / f"{oracle.replace(' ', '-')}-{seed}.migx"
        try:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            case.save(file, None if subject.target is not None else str(subject.pipeline))
        except DataError as error:  # the failure matters more than the file
            failure.unsaved = str(error)
        else:
            failure.file, failure.command = file, _command(subject, file, oracle)
    return failure


def _command(subject: Subject, case: Path, oracle: str) -> str:
    """The command that debugs a saved case; empty for the law of weights and for dependent runs,
    for which there is none.
    """
    if subject.law or oracle in ORACLES:
        return ""
    if subject.target is not None:
        return shlex.join(["migx", "bisect", str(case), "--target", subject.target.name])
    if oracle == "same outputs":
        return shlex.join(["migx", "bisect", str(case)])
    return shlex.join(["migx", "opt", str(case), "--verify-each", "--trace"])


def _oracle(error: Exception) -> str:
    return error.oracle if isinstance(error, Violation) else type(error).__name__


def _message(error: Exception) -> str:
    notes = [n for n in getattr(error, "__notes__", ()) if not n.startswith("reproduce")]
    if isinstance(error, Violation):
        return "\n".join([str(error), *notes])
    said = f"{type(error).__name__}: {error}"
    if not isinstance(error, MigxError):  # which itself says where it is
        last = traceback.extract_tb(error.__traceback__)[-1]
        notes.append(f"raised by {last.name}, {last.filename}:{last.lineno}")
    return "\n".join([said, *notes])


def each_pass() -> list[Pipeline]:
    """Each pass that exists, with its defaults and its variants."""
    found = []
    for name in plugins.names("passes"):
        cls = plugins.load("passes", name)
        if not required(cls):
            found.append(Pipeline.parse(name))
        found += [Pipeline.parse(f"{name}{{{options}}}") for options in cls.variants]
    return found


def subjects_for(
    passes: Iterable[Pipeline] = (), target: Target | str | None = None, *, law: bool = False
) -> list[Subject]:
    """A subject for each pipeline, and one for the target; for the ``law`` of weights, one for each
    pipeline on the target, or one for the target's own.
    """
    if law:
        on = None if target is None else get_target(target)
        return [Subject(pipeline, on, law=True) for pipeline in list(passes) or [Pipeline()]]
    found = [Subject(pipeline) for pipeline in passes]
    return [*found, Subject(Pipeline(), get_target(target))] if target is not None else found
