"""Bisection: the smallest set of rewrites that makes an answer wrong.

    found = bisected(program, "optimize_module", against_ref(program, inputs))

Events are skipped by key, see ``migx.events.EventLog``: those of rules one by one, a pass that
logs none as a whole. The result is a set, not a position in the order, so two rewrites that are
wrong only together are both found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from migx.binding import check_inputs
from migx.compiler import assembled, ready
from migx.debug.compared import beside_ref
from migx.errors import MigxError
from migx.events import AllBut, Event, EventLog
from migx.manager import PassManager
from migx.pipeline import Element, Pipeline
from migx.program import Program
from migx.target import Target, context_for, get_target
from migx.testing.bounds import NONE, Approximations
from migx.testing.oracles import Violation, bounded, expect_same, run_on_ref

T = TypeVar("T")

FAULTS = (
    MigxError, ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
"""What a wrong pass or target may raise, which is then the symptom."""


@dataclass(frozen=True)
class Symptom:
    """What goes wrong: ``kind`` distinguishes failures, and is empty if there is none; then
    ``detail`` may say that the bounds are too wide to tell.
    """

    kind: str = ""
    detail: str = ""


Judge: TypeAlias = Callable[[Program], Symptom]
"""What is wrong with a program that the passes have changed; raises ``CannotJudge`` if that cannot
be determined.
"""


@dataclass(frozen=True)
class Found:
    """The ``events`` that are wrong, together if they are several; none if the passes fail without
    any.

    ``needed`` are those without which the program would not get as far as failing, such as its
    lowering for a target. ``skipped`` are the keys of passes that were skipped as a whole.
    ``recorded`` counts the events of the whole run, ``fired`` those of each rule, and ``trials``
    the runs of the search.
    """

    symptom: Symptom
    events: tuple[Event, ...]
    needed: tuple[Event, ...]
    skipped: frozenset[str]
    recorded: int
    trials: int
    fired: Counter[str]

    @property
    def before(self) -> AllBut:
        """What a log skips to stop just before the failure."""
        return self._with((*self.needed, *self.events[:-1]))

    @property
    def after(self) -> AllBut:
        """What a log skips to keep only what causes the failure."""
        return self._with((*self.needed, *self.events))

    def _with(self, events: Sequence[Event]) -> AllBut:
        kept = frozenset(event.key for event in events)
        whole = {event.key for event in (*self.needed, *self.events) if not event.rule}
        rules = frozenset(event.key for event in events if event.rule)
        return AllBut(rules, (self.skipped | whole) - kept)


def bisected(program: Program, passes: Pipeline | str | Sequence[Element], judge: Judge) -> Found:
    """The smallest set of rewrites with which the passes fail as they do with all of them.

    ``NothingWrong`` if they do not fail. No rewrite can be removed from the set. Each run of the
    passes is one trial; their number is about the size of the set times the logarithm of the number
    of all rewrites.
    """
    trials = _Trials(program, Pipeline.of(passes), judge)
    symptom, log = trials.run(frozenset())
    if not symptom.kind:
        unsure = f"; {symptom.detail}" if symptom.detail else ""
        raise NothingWrong(f"nothing is wrong after {trials.pipeline or 'no passes'}{unsure}")
    events = list({event.key: event for event in log.events}.values())
    whole = frozenset(event.key for event in events if not event.rule)

    def symptom_with(chosen: Sequence[Event]) -> str:
        kept = frozenset(event.key for event in chosen)
        return trials.kind(AllBut(kept - whole, whole - kept))

    least = smallest(events, lambda chosen: symptom_with(chosen) == symptom.kind)
    # Those whose removal makes the answer right are wrong; the others were only needed.
    guilty = [e for e in least if not symptom_with([other for other in least if other is not e])]
    if not guilty:
        guilty = least
    needed = tuple(event for event in least if event not in guilty)
    left_out = whole - {event.key for event in least}
    fired = Counter(f"{event.pass_name}.{event.rule}" for event in events if event.rule)
    return Found(symptom, tuple(guilty), needed, left_out, len(events), trials.count, fired)


class CannotJudge(MigxError):
    """The judge itself fails to run, which says nothing about a program."""


class NothingWrong(MigxError):
    """There is no failure to look for."""


def smallest(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """A set of items, in order, that fails, and from which none can be removed. All of them
    together fail.

    Delta debugging: the last item of the shortest failing prefix is a member; with it kept, so is
    that of the next shortest prefix, and so on. If failures are not monotonic, the result is still
    such a set.
    """
    kept: list[T] = []
    rest = list(items)
    while rest and not fails(kept):
        passing, failing = 0, len(rest)
        while failing - passing > 1:
            middle = (passing + failing) // 2
            if fails([*rest[:middle], *kept]):
                failing = middle
            else:
                passing = middle
        kept.insert(0, rest[failing - 1])
        rest = rest[: failing - 1]
    at = 0
    while at < len(kept):
        without = kept[:at] + kept[at + 1 :]
        kept, at = (without, 0) if fails(without) else (kept, at + 1)
    return kept


def outcome(
    program: Program,
    passes: Pipeline | str | Sequence[Element],
    inputs: Mapping[str, Any],
    target: Target | str = "ref",
    *,
    by_element: bool = False,
) -> Symptom:
    """What is wrong with a program after some passes, run on a target."""
    pipeline = Pipeline.of(passes)
    chosen = by_element_of_ref if by_element else against_ref
    judge = chosen(program, inputs, target, pipeline.approximations())
    return _Trials(program, pipeline, judge).run(frozenset())[0]


def against_ref(
    program: Program,
    inputs: Mapping[str, Any],
    target: Target | str = "ref",
    approximations: Approximations = NONE,
) -> Judge:
    """A judge that compares with the results on ``ref`` before any pass, under the bounds of
    ``migx.testing.bounds``; ``approximations`` are those of the passes, see ``Pass``.
    """
    chosen, beside = get_target(target), beside_ref(program, inputs, approximations)

    def judge(lowered: Program) -> Symptom:
        unsure = ""
        for found in beside(ready(assembled(program, lowered, context_for(chosen))).eval(inputs)):
            if not found.passed:
                return Symptom("wrong", f"{found.name}: {found.problem}")
            if found.doubt:
                unsure = f"undecided: {found.name}: {found.doubt}"
            elif found.undecided:
                unsure = f"undecided: {found.name} may be off by {found.tolerance:.3g}, and "
                unsure += f"max|expected| is {found.magnitude:.3g}"
        return Symptom(detail=unsure)

    return judge


def by_element_of_ref(
    program: Program,
    inputs: Mapping[str, Any],
    target: Target | str = "ref",
    approximations: Approximations = NONE,
) -> Judge:
    """As ``against_ref``, under a bound for each element, as the fuzzer judges: an exact zero must
    have its sign. For programs as small as the fuzzer's.
    """
    chosen, given = get_target(target), check_inputs(program.main, inputs)
    expected = run_on_ref(program, given, program, approximations)

    def judge(lowered: Program) -> Symptom:
        found = ready(assembled(program, lowered, context_for(chosen))).eval(inputs)
        try:
            results = bounded(found, lowered, given, program, expected)
            expect_same("wrong", "after the passes", results, expected)
        except Violation as violation:
            return Symptom("wrong", str(violation).removeprefix("wrong: "))
        return Symptom()

    return judge


@dataclass
class _Trials:
    """Runs of passes over copies of a program, each judged; the same skips run once."""

    program: Program
    pipeline: Pipeline
    judge: Judge
    count: int = 0
    known: dict[AllBut, str] = field(default_factory=dict)

    def kind(self, skip: AllBut) -> str:
        """The kind of failure without some events."""
        if skip not in self.known:
            self.known[skip] = self.run(skip)[0].kind
        return self.known[skip]

    def run(self, skip: AllBut | frozenset[str]) -> tuple[Symptom, EventLog]:
        """The failure without some events, and the log of those that happened."""
        self.count += 1
        made, log = self.program.copy(), EventLog(skip)
        try:
            PassManager(made, log=log).run(self.pipeline)
            return self.judge(made), log
        except CannotJudge:
            raise
        except FAULTS as error:
            notes = "\n".join([str(error), *getattr(error, "__notes__", ())])
            return Symptom(type(error).__name__, notes), log
