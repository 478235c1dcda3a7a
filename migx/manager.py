"""Passes, pipelines, and the manager that runs them over every module.

A pass is a frozen dataclass whose fields are its options and whose name is that of its file.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, dataclass_transform

import numpy as np

from migx.base import collector
from migx.base.order import relabel
from migx.dead_code import remove_dead_code, remove_dead_modules
from migx.errors import IRError, PassError, RewriteLoop
from migx.events import Event, EventLog
from migx.fields import Frozen, expect_values, thaw
from migx.ir import Instruction, Module
from migx.op import freeze, know_fields, snake_case
from migx.pipeline import Approximation, Element, Fixpoint, Pipeline, enable_if, with_options
from migx.program import Program
from migx.rewrite import RuleSet, rewrite
from migx.text import draw_instruction
from migx.verify import captures
from migx.weights import DEBUG, sealed
from migx.weights.constants import ALLOWANCE, Constants

__all__ = [
    "Approximation",
    "Fixpoint",
    "Observer",
    "Pass",
    "PassManager",
    "Pipeline",
    "Step",
    "enable_if",
    "run_passes",
]


@dataclass_transform(frozen_default=True)
@dataclass(frozen=True)
class Pass(Frozen):
    """A named transformation of a program. A subclass is a frozen dataclass of its options, unless
    it has its own ``__init__``. It has ``rules``, or defines one of the two methods; an ``apply``
    of its own applies the rules, if there are any, by ``super().apply(module, manager)``.

    Passes are deterministic and idempotent: run again, they report that nothing changed.
    ``constant_allowance`` is the number of bytes by which new constants may exceed the sources they
    free: see ``migx.weights.constants``. ``variants`` are options, as text, that the fuzzer tries
    besides the defaults.
    """

    name: ClassVar[str]
    rules: ClassVar[RuleSet] = RuleSet()
    constant_allowance: ClassVar[int] = ALLOWANCE
    variants: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        if not thaw(cls):
            expect_values(cls)
            freeze(cls, "pass ")
        if "name" not in cls.__dict__:
            cls.name = snake_case(cls.__name__)
        if not isinstance(cls.rules, RuleSet):
            raise TypeError(
                f"{cls.__name__}.rules is no RuleSet: write rules = RuleSet(rule, another)"
            )

    def apply(self, module: Module, manager: PassManager) -> bool:
        """Changes one module in place, by default by its rules; returns whether it did."""
        log, options = manager.log, vars(self)
        return bool(self.rules) and rewrite(module, self.rules, self.name, log, options)

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        """Changes the whole program, after ``apply`` ran on each module; returns whether it did."""
        return False

    @property
    def approximations(self) -> Mapping[str, float | Approximation]:
        """How much it changes the results of operations on purpose, by operation name; by default
        only rounding changes. The effect on the program's results is derived.
        """
        return {}

    def pipeline(self) -> Pipeline | None:
        """The passes this one abbreviates, which the manager runs instead; otherwise None."""
        return None

    def __str__(self) -> str:
        return with_options(self.name, self)


know_fields(Pass, "pass ")


@dataclass(frozen=True)
class Step:
    """What an observer is given: the pass, how many ran before it, its place in the pipeline, the
    program, and the log of rewrites if there is one.
    """

    of: Pass
    index: int
    pipeline: Pipeline
    program: Program
    place: str = ""
    log: EventLog | None = None


class Observer:
    """Watches passes run, to print, time, verify or write crash files: ``migx.observers``."""

    def started(self, program: Program, pipeline: Pipeline) -> None:
        """Before the first pass of a pipeline."""

    def before(self, step: Step) -> None:
        """Before a pass."""

    def after(self, step: Step, changed: bool, seconds: float) -> None:
        """After a pass and the removal of dead code."""

    def failed(self, step: Step, error: Exception) -> None:
        """After a pass, or an observer after it, has raised; the caller gets the error then."""


class PassManager:
    """Runs pipelines over a program: each pass over every module, submodules first, then over the
    program. If a pass changes anything, it runs again on modules with captures.

    A ``log`` records each rewrite, and skips those with the given keys. Modules marked ``bypass``
    are left alone. Dead code is removed after each pass that reports a change. A pass after which
    constants take more bytes than allowed raises ``ConstantGrowth``.
    """

    def __init__(
        self, program: Program, observers: Sequence[Observer] = (), log: EventLog | None = None
    ) -> None:
        if not isinstance(program, Program):
            raise TypeError(f"passes run on a program, not on {program!r:.60}")
        self.program, self.observers, self.log = program, listed(observers), log
        self.constants = Constants(program)
        self._running: list[Pass] = []
        self._allow_changes()

    def run(
        self,
        passes: Pipeline | str | Iterable[Element | Pipeline | str],
        *,
        stop_after: int | None = None,
    ) -> bool:
        """Runs passes in order; returns whether any changed anything. With ``stop_after``, only
        that many passes run; those in groups count each time they run.
        """
        pipeline, count = Pipeline.of(passes), itertools.count()
        if self.log is not None:
            for module in self.program.modules.values():
                relabel(module._ends)  # so that keys are those of a copy, whatever came before
        for observer in self.observers:
            observer.started(self.program, pipeline)

        def run_one(of: Pass, place: str) -> bool:
            index = next(count)
            if stop_after is not None and index >= stop_after:
                return False
            return self._run_step(Step(of, index, pipeline, self.program, place, self.log))

        return pipeline.drive(run_one)

    def _run_step(self, step: Step) -> bool:
        log, before = self.log, self.program.size
        if log is not None:
            log.begin(f"{step.place}:{step.of}")
            if log.pass_key in log.skip:
                return False
        logged = 0 if log is None else len(log.events)
        for observer in self.observers:
            observer.before(step)
        start = time.perf_counter()
        try:
            with collector.paused():
                changed = self.run_pass(step.of)
            if changed and log is not None and len(log.events) == logged:
                sizes = before, self.program.size
                log.add(_whole(step.of, log.pass_key, *sizes))
            for observer in self.observers:
                observer.after(step, changed, time.perf_counter() - start)
        except Exception as error:
            for observer in self.observers:
                observer.failed(step, error)
            error.add_note(f"in pass {step.of}, number {step.index + 1} of {step.pipeline}")
            raise
        return changed

    def run_pass(self, step: Pass) -> bool:
        """Runs one pass without observers; a pass calls it to run another."""
        if (inner := step.pipeline()) is not None:
            return inner.drive(lambda each, _: self.run_pass(each))
        self._check_constants()
        self._running.append(step)
        try:
            with sealed(self.program) if DEBUG else nullcontext():
                changed = self._applied(step)
            self._check_constants()
        finally:
            self._running.pop()
        return changed

    def _check_constants(self) -> None:
        """Checks the running pass, if there is one, by the law of ``migx.weights.constants``."""
        if self._running:
            around = self._running[-1]
            self.constants.check(around.name, around.constant_allowance)
        else:
            self.constants.start()

    def _applied(self, step: Pass) -> bool:
        own = (
            type(step).apply is not Pass.apply or type(step).apply_program is not Pass.apply_program
        )
        if not (own or step.rules):
            raise IRError(f"pass {step.name} has no rules, and neither apply nor apply_program")
        changed = again = self.apply(step)
        inner = [m for m in self.modules() if _captures(m)] if changed else []
        # Captures may now see changes in the enclosing modules, which were visited after them.
        for _ in range(max((len([*module.enclosing()]) for module in inner), default=0)):
            again = again and self.apply(step, inner)
        before = self.program.revision
        answer = step.apply_program(self.program, self)
        changed |= self._answer(answer, before, step, "apply_program")
        if changed:
            remove_dead_modules(self.program)
            for module in self.modules():
                if not module.bypass:
                    remove_dead_code(module)
        return changed

    def apply(self, step: Pass, modules: Iterable[Module] | None = None) -> bool:
        """Runs a pass over some modules, by default all, except those marked ``bypass``; returns
        whether it changed any.
        """
        self._allow_changes()
        changed = False
        for module in self.modules() if modules is None else modules:
            if module.bypass or self.program.modules.get(module.name) is not module:
                continue
            before = self.program.revision
            if self._answer(step.apply(module, self), before, step, "apply"):
                remove_dead_code(module)
                changed = True
        return changed

    def _allow_changes(self) -> None:
        """Resets the limit on the number of changes a pass may make."""
        self._changes_left = 1000 + 20 * self.program.size

    def _answer(self, answer: Any, revision: int, step: Pass, method: str) -> bool:
        """A pass method's answer to whether it changed anything; ``PassError`` if it denies a
        change it made, or the answer is not a truth value.
        """
        if answer is not None and not isinstance(answer, (int, np.bool_)):
            raise PassError(
                f"pass {step.name}: {method} returns whether it changed anything, True or False, "
                f"not {answer!r:.60}"
            )
        if not answer and self.program.revision != revision:
            raise PassError(
                f"pass {step.name} changed the program and said it did not: {method} returns True "
                "where it changed anything (did it return None?)"
            )
        return bool(answer)

    def modules(self) -> list[Module]:
        """All modules, each once, submodules before the modules that use them."""
        found: dict[Module, None] = {}
        for module in self.program.modules.values():
            if module not in found:
                found.update(dict.fromkeys(self.program.submodules(module)))
        return list(found)

    def create_module(self, name: str) -> Module:
        """A new module; if the name is taken, a number is appended."""
        return self.program.add_module(name)

    def rename_module(self, module: Module, name: str) -> None:
        """Renames a module; ``IRError`` if the name is taken."""
        self.program.rename_module(module, name)

    def common_parent(self, module: Module) -> Module:
        """The innermost module that contains, at any depth, every instruction this one is an
        argument of (MIGraphX ``get_common_parent``).
        """
        holders = [at.owner for at in module.parents]
        if not holders:
            raise IRError(f"module {module.name} is not an argument of any instruction")
        chains = [[*holder.enclosing(), self.program.main] for holder in holders]
        return next(m for m in chains[0] if all(m in chain for chain in chains))

    def change(
        self, of: Pass, name: str, at: Instruction, make: Callable[[], Sequence[Instruction]]
    ) -> bool:
        """Makes a change at an instruction without a rule, unless the log skips it; returns whether
        it did. ``make`` returns the new instructions, the last of which replaces the old one. The
        log records one event with the given name.

        ``RewriteLoop`` if the pass does not end: after more than 1000 changes plus 20 for each
        instruction.
        """
        self._changes_left -= 1
        if self._changes_left < 0:
            message = f"pass {of.name} makes changes forever, the last, {name}, at"
            unread = "" if at.users else "\n  which has no users: it stays until the pass is done"
            raise RewriteLoop(draw_instruction(message, at) + unread)
        log = self.log
        if log is None:
            make()
            return True
        key = log.key(name, [at])
        if key in log.skip:
            return False
        before, put = log.show([at], {}), make()
        after = log.show(put, {})
        log.add(Event(key, of.name, name, _source(of), put[-1].origins, before, after), put)
        return True


def run_passes(
    program: Program,
    passes: Pipeline | str | Iterable[Element | Pipeline | str],
    observers: Sequence[Observer] = (),
) -> bool:
    """Runs passes over a program in place, without a target; returns whether anything changed."""
    return PassManager(program, observers).run(passes)


def listed(observers: Sequence[Observer]) -> tuple[Observer, ...]:
    """The observers as a tuple; ``TypeError`` if they are not a list of observers."""
    if not isinstance(observers, Iterable):
        cls = observers if isinstance(observers, type) else type(observers)
        name = cls.__name__ if issubclass(cls, Observer) else "Time"
        raise TypeError(f"observers are given in a list, such as [{name}()]")
    for each in observers:
        if isinstance(each, type):
            raise TypeError(f"{each.__name__} is a class; an observer is {each.__name__}()")
        if not isinstance(each, Observer):
            raise TypeError(f"{each!r} is no observer: give an instance of a subclass of Observer")
    return tuple(observers)


def _whole(of: Pass, key: str, before: int, after: int) -> Event:
    """The single event of a pass that logged no rewrites."""
    counts = f"{before} instructions", f"{after} instructions"
    return Event(key, of.name, "", _source(of), (), *counts)


def _source(of: Pass) -> str:
    """The file and line where a pass without rules is defined."""
    function = type(of).apply if type(of).apply is not Pass.apply else type(of).apply_program
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def _captures(module: Module) -> bool:
    """Whether a module that passes may change reads values of enclosing modules."""
    return bool(module.parents) and not module.bypass and any(True for _ in captures(module))
