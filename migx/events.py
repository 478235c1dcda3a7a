"""The log of rewrites: what each one changed, and a key by which it can be skipped."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from migx.base.order import built_at
from migx.ir import Instruction, Module
from migx.structure import facts_of
from migx.text import Names, show_instruction


@dataclass(frozen=True)
class Event:
    """One application of a rule: its key, the pass, the rule and its source location, the ONNX
    origins, and the change as text.

    A pass that logs no rewrites is one event as a whole, with an empty ``rule``.
    """

    key: str
    pass_name: str
    rule: str
    source: str
    origins: tuple[str, ...]
    before: str
    after: str


@dataclass(frozen=True)
class AllBut:
    """The ``skip`` of a log that keeps only the rewrites with some keys: it contains all others,
    and ``passes`` as a whole.
    """

    kept: frozenset[str]
    passes: frozenset[str] = frozenset()

    def __contains__(self, key: object) -> bool:
        return key in self.passes or ("." in str(key) and key not in self.kept)


@dataclass
class EventLog:
    """The rewrites, in order. Those whose keys are in ``skip`` do not happen.

    A key is the same from run to run, also if other rewrites are skipped. It is made of the pass's
    place in the pipeline, the rule, the matched operations with their shapes and origins, the
    contents of fused modules, and the root's place in the program as it was before the passes; and
    of a number where all these are equal. It is the same in each round of a group, so that a
    rewrite skipped in one does not happen in the next.

    The key of a whole pass is made of its place alone, and is the only one without a dot.
    """

    skip: Container[str] = frozenset()
    events: list[Event] = field(default_factory=list)
    occurrence: str = ""
    _numbers: dict[str, dict[Instruction, int]] = field(default_factory=dict)

    def begin(self, occurrence: str) -> None:
        """Sets the place in the pipeline of the events that follow."""
        self.occurrence = occurrence

    @property
    def pass_key(self) -> str:
        """The key of the current pass as a whole."""
        return hashlib.sha256(self.occurrence.encode()).hexdigest()[:16]

    def key(self, rule: str, matched: Sequence[Instruction]) -> str:
        """The key of a match of some instructions, the root first."""
        facts = [(*facts_of(i), i.origins) for i in matched]
        plain = hashlib.sha256(repr((self.occurrence, rule, facts)).encode()).hexdigest()[:16]
        place = f"{plain}.{built_at(matched[0])}"
        numbers = self._numbers.setdefault(place, {})
        number = numbers.setdefault(matched[0], len(numbers) + 1)
        return place if number == 1 else f"{place}.{number}"

    def show(self, instructions: Iterable[Instruction], names: dict[Module, Names]) -> str:
        """The lines of some instructions, as in the text of their modules, for an event. ``names``
        is as for ``migx.text.show_instruction``.
        """
        return "\n".join(show_instruction(i, origins=False, names=names) for i in instructions)

    def add(self, event: Event, put: Iterable[Instruction] = ()) -> None:
        """Records an event; ``put`` are the instructions that replace the match."""
        self.events.append(event)
