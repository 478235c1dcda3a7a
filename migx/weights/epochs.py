"""The weights of a running program: epochs of values, and what commits new ones.

An epoch never changes. A run reads the epoch that is current when it starts, to its end; an update
computes the slots that depend on what changed, and commits by switching one reference.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from types import MappingProxyType
from typing import Self, TypeAlias

from numpy.typing import ArrayLike

from migx.argument import Argument
from migx.base.mapping import MappedFile
from migx.base.memory import Memory
from migx.errors import WeightError
from migx.ir import Instruction, Module
from migx.ops.builtin import Literal
from migx.program import Program
from migx.shape import Shape
from migx.target import Context, placed
from migx.weights.fitting import fitted, own, unknown, without_values
from migx.weights.hoisting import names_of_weights, weights_of
from migx.weights.overwriting import AT_ONCE, Overwriting, is_made
from migx.weights.recipe import Arguments, Recipe
from migx.weights.running import Running
from migx.weights.update import Update

NOTHING: Arguments = MappingProxyType({})
Computed: TypeAlias = tuple[dict[str, Argument], dict[str, Argument]]
"""The values of some slots, and the values they are views of that other programs may share."""


class Slots(dict[str, Argument]):
    """The slots of an epoch by name. Never changed, so whoever has read this object need not do so
    again. A subclass of dict, because it must support weak references.
    """

    __slots__ = ("__weakref__",)


@dataclass(frozen=True, eq=False)
class Epoch:
    """One set of weights: their values by name, and the slots that the program reads.

    ``slots`` holds only those whose weights all have values; ``wholes`` has, by slot, the values
    they are views of that other programs may share; ``given`` names the weights with values from
    updates, ``lost`` those that an interrupted update in place has left half written.
    """

    number: int
    weights: Arguments
    slots: Arguments
    wholes: Arguments = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    files: tuple[MappedFile, ...] = ()
    running: Running = field(default_factory=Running)

    def __post_init__(self) -> None:
        if type(self.slots) is not Slots:
            object.__setattr__(self, "slots", Slots(self.slots))

    @classmethod
    def of(
        cls,
        number: int,
        weights: Arguments,
        slots: Arguments,
        wholes: Arguments,
        given: frozenset[str],
        lost: frozenset[str],
    ) -> Self:
        """An epoch that records the files its values are mapped from. ``DataError`` if one of them
        has been written to.
        """
        files = files_of((*weights.values(), *slots.values()))
        return cls(number, weights, slots, wholes, given, lost, files)


class LiveWeights:
    """The weights module of a compiled program, and its current values, with slots where the target
    reads them.

    ``original`` is the program before passes, some of whose weights they may have found
    unnecessary: these may be given, too. ``carried`` are values from updates of an earlier
    compilation. Thread-safe: updates are serialised, and runs go on meanwhile.
    """

    def __init__(
        self,
        module: Module | None,
        context: Context,
        original: Program | None = None,
        carried: Arguments = NOTHING,
    ) -> None:
        self.context, self.original = context, original
        self._recipe = Recipe(module, context)
        self._memory = Memory()
        self.committing = threading.RLock()  # held while values are committed
        self.current = Epoch(0, carried, NOTHING, given=frozenset(carried))
        self.replaced = False  # by those of a later compilation
        _LIVE.add(self)

    @cached_property
    def sources(self) -> dict[str, Instruction]:
        """The weights that may be given, by name."""
        declared = {} if self.original is None else weights_of(self.original)
        return {**declared, **self._recipe.sources}

    def names(self) -> set[str]:
        """The names of all weights, fixed ones included."""
        return set() if self.original is None else names_of_weights(self.original)

    @property
    def missing(self) -> list[str]:
        """The weights that have no value yet."""
        return [name for name in self._recipe.sources if name not in self.current.weights]

    @property
    def given(self) -> dict[str, Argument]:
        """The values from updates, by weight. ``WeightError`` if one in place was interrupted."""
        epoch = self.current
        if epoch.lost:
            raise WeightError(without_values(sorted(epoch.lost), lost=True))
        return {name: epoch.weights[name] for name in epoch.weights if name in epoch.given}

    @property
    def slots(self) -> dict[str, Shape]:
        """The shape of each slot."""
        return {name: at.shape.as_standard() for name, at in self._recipe.slots.items()}

    def start(self, slots: Arguments = NOTHING) -> None:
        """Computes the slots from the weights' values in the program, except those given."""
        with self.committing:
            if len(self.current.slots) < len(self._recipe.slots):
                given = {name: self._placed(value) for name, value in slots.items()}
                began = replace(self.current, slots={**self.current.slots, **given})
                values = {**self._held(), **self.current.weights}
                self.current = self._after(began, values, True)

    def reading(self) -> Reading:
        """A context for one run that yields the slots of the current epoch. ``WeightError`` if some
        have no value, ``DataError`` if a file they are mapped from has been written to.
        """
        return Reading(self)

    def checked_slots(self, epoch: Epoch) -> Arguments:
        """The slots of an epoch, checked to be readable."""
        if len(epoch.slots) < len(self._recipe.slots):
            raise WeightError(self._unready())
        for file in epoch.files:
            file.check()
        return epoch.slots

    def _unready(self) -> str:
        """Why slots have no value: their weights have none, or they have not been computed yet."""
        if lost := sorted(self.current.lost):
            return without_values(lost, lost=True)
        if missing := [name for name in self.missing if name not in self._held()]:
            return without_values(missing)
        return (
            "the weights have values, but nothing is computed from them yet: call "
            f"program.finalize({self.context.target.name!r}), or save the program and load it"
        )

    def update(
        self, *, check_finite: bool = False, in_place: bool = False, copy: bool = True
    ) -> Update:
        """A transaction: ``with weights.update() as new: new[name] = array``.

        When the block ends, the slots that depend on the new values are computed, and everything is
        committed at once; if it raises, or a value is refused, nothing has changed. Runs in flight
        end with the weights they began with. ``check_finite`` refuses NaN and infinities.
        ``in_place`` waits for runs to end and writes over the memory of the old values while new
        runs wait, for weights of which two copies do not fit: it cannot be rolled back, and if a
        signal such as Ctrl-C interrupts it, or memory runs out, runs raise ``WeightError`` until
        these weights are given again. ``copy=False`` uses arrays as they are; they must not be
        written to any more.
        """
        if in_place and not copy:
            raise WeightError("an update in place copies what it is given: leave out copy=False")
        return Update(self, check_finite=check_finite, in_place=in_place, copy=copy)

    def checked(self, name: str, value: ArrayLike | Argument) -> Argument:
        """A value as one for the weight, of its type and dims; otherwise ``WeightError``."""
        if name not in self.sources:
            raise WeightError(unknown(name, self.sources))
        remedy = "give it by update(values, convert=True)"
        return fitted(name, value, self.sources[name].shape, remedy=remedy)

    def value(self, name: str) -> Argument:
        """A copy of the current value of a weight. ``WeightError`` if there is no such weight, or
        it has no value yet.
        """
        if name not in self.sources:
            raise WeightError(unknown(name, self.sources))
        with self.committing:
            found, op = self.current.weights.get(name), self.sources[name].op
            if found is None and name not in self._recipe.sources and isinstance(op, Literal):
                found = op.value
            if found is None:
                raise WeightError(without_values([name], lost=name in self.current.lost))
            files_of([found])
            return own(found, mapped=False)

    def _held(self) -> dict[str, Argument]:
        """The values stored in the program itself, without weights that are half written."""
        lost = self.current.lost
        found = {name: at.op for name, at in self.sources.items() if name not in lost}
        return {name: op.value for name, op in found.items() if isinstance(op, Literal)}

    def _after(self, before: Epoch, changes: Arguments, first: bool = False) -> Epoch:
        """The epoch in which some weights have new values; nothing is committed. The ``first`` one
        computes only the slots that have no value.
        """
        weights, changed = {**before.weights, **changes}, () if first else changes.keys()
        files_of(weights.values())
        wanted = self._recipe.due(changed, weights, before.slots)
        slots, wholes = self._computed(wanted, weights)
        slots, wholes = {**before.slots, **slots}, {**before.wholes, **wholes}
        given = before.given if first else before.given | changes.keys()
        lost = before.lost - changes.keys()
        return Epoch.of(before.number + 1, weights, slots, wholes, given, lost)

    def commit(self, changes: Arguments, *, copy: bool = True) -> tuple[Epoch, Epoch]:
        """Commits new values, copied or as they are; returns the epochs before and after."""
        with self.committing, enough_memory(changes):
            before = self.current
            given = owned(changes, self._memory) if copy else frozen(changes)
            self.current = self._after(before, given)
            return before, self.current

    def commit_in_place(self, changes: Arguments) -> None:
        """Writes new values over the memory of the old ones while nothing runs; computed slots
        replace the old ones a few at a time. A failure in the first batch changes nothing. After a
        later failure or interruption, these weights have no value until they are given again.
        """
        with self.committing, enough_memory(changes, in_place=True):
            weights = {**self.current.weights, **changes}
            files_of(weights.values())
            wanted = self._recipe.due(changes, weights, self.current.slots)
            batches = self._recipe.batches(wanted, AT_ONCE)
            first = self._computed(next(batches, {}), weights)
            with self.current.running.stopped():
                rest = (self._computed(each, weights) for each in batches)
                self.current = self._written(weights, changes, wanted, chain([first], rest))

    def _computed(self, slots: Mapping[str, Instruction], weights: Arguments) -> Computed:
        """The values of slots, where the target reads them, and the values they are views of."""
        values, wholes = self._recipe.values(slots, weights)
        return {name: self._placed(value) for name, value in values.items()}, wholes

    def _placed(self, value: Argument) -> Argument:
        return placed(self.context.target, value)

    def _written(
        self,
        weights: Arguments,
        changes: Arguments,
        wanted: Collection[str],
        computed: Iterable[Computed],
    ) -> Epoch:
        """The epoch in which changed weights, and the slots that are wanted, are written over those
        they replace, or replace them.
        """
        before, over = self.current, Overwriting()
        number, given = before.number + 1, before.given | changes.keys()
        rest, slots, wholes = (
            {n: v for n, v in held.items() if n not in gone}
            for held, gone in (
                (before.weights, changes),
                (before.slots, wanted),
                (before.wholes, wanted),
            )
        )
        old = {name: before.slots[name] for name in wanted if name in before.slots}
        was = {name: before.weights[name] for name in changes if name in before.weights}
        # the state if this is interrupted: what is half written has no value
        lost = before.lost | changes.keys()
        self.current = replace(before, weights=rest, slots=slots, wholes={**wholes}, lost=lost)
        left = before.lost - changes.keys()
        del before  # so that each old value is freed when its replacement is there
        for values, shown in computed:
            for name, value in values.items():
                made = is_made(value, self._recipe.given(name, weights))
                slots[name] = value if made else over.kept(old.get(name), value)
                old.pop(name, None)
            wholes |= {n: v for n, v in shown.items() if not slots[n].elsewhere}
        held = {n: over.kept(was.get(n), v) if n in changes else v for n, v in weights.items()}
        return Epoch.of(number, held, slots, wholes, given, left)

    def restore(self, before: Epoch, after: Epoch) -> None:
        """Returns to an earlier epoch, unless others have been committed since."""
        with self.committing:
            if self.current is not after:
                raise WeightError(
                    f"cannot roll back to epoch {before.number}: epoch {self.current.number} has "
                    f"been committed since epoch {after.number}"
                )
            self.current = replace(before, number=after.number + 1, running=Running())

    def forked(self) -> None:
        """Resets locks in the child of a fork, which does not have the threads that held them."""
        self.committing, self._memory = threading.RLock(), Memory()
        self.current = replace(self.current, running=Running())


_LIVE: weakref.WeakSet[LiveWeights] = weakref.WeakSet()


def _after_fork() -> None:
    for weights in tuple(_LIVE):
        weights.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Reading:
    """The slots of one epoch during a run. No generator, because every run makes one."""

    __slots__ = ("_epoch", "_weights")

    def __init__(self, weights: LiveWeights) -> None:
        self._weights, self._epoch = weights, weights.current

    def __enter__(self) -> Arguments:
        while True:
            self._epoch = epoch = self._weights.current
            epoch.running.__enter__()
            try:
                if epoch is self._weights.current:
                    return self._weights.checked_slots(epoch)
            except BaseException:
                epoch.running.__exit__()
                raise
            epoch.running.__exit__()

    def __exit__(self, *_: object) -> None:
        self._epoch.running.__exit__()


def files_of(values: Iterable[Argument]) -> tuple[MappedFile, ...]:
    """The files that values are mapped from. ``DataError`` if one has been written to."""
    files = dict.fromkeys(value.mapped for value in values)
    found = tuple(file for file in files if file is not None)
    for file in found:
        file.check()
    return found


def owned(values: Arguments, memory: Memory) -> Arguments:
    """Copies that nobody else can write to; values mapped from files count as such."""
    copied = {name: v for name, v in values.items() if v.source is None}
    arrays = memory.copies([v.array for v in copied.values()])
    pairs = zip(copied.items(), arrays, strict=True)
    return {**values, **{n: Argument(v.shape.as_standard(), array) for (n, v), array in pairs}}


def frozen(values: Arguments) -> Arguments:
    """The values themselves, read-only here from now on."""
    given = {n: v if v.source is not None else Argument(v.shape, v.data) for n, v in values.items()}
    for value in given.values():
        value.freeze()
    return given


@contextmanager
def enough_memory(values: Arguments, *, in_place: bool = False) -> Iterator[None]:
    """Turns a lack of memory for new values into a ``WeightError``."""
    try:
        yield
    except MemoryError as error:
        size = sum(value.nbytes for value in values.values())
        else_ = "" if in_place else ", or write over the old ones with in_place=True"
        raise WeightError(
            f"there is no memory for {size:,} bytes of weights beside those that are in use: give "
            f"fewer at a time{else_}"
        ) from error
