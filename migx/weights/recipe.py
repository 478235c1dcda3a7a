"""How a program's slots are computed from its weights, and which of them are shared by programs.

Slots that are computed in the same way from the same bytes of the same files are one array for all
programs of a process.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

from migx import op as operations
from migx.argument import Argument
from migx.base.memory import THREADS
from migx.ir import Instruction, Module
from migx.ops.builtin import AssumeEqual
from migx.planning import viewed
from migx.weights import is_weight, label_of
from migx.weights.constants import connected, tree
from migx.weights.evaluation import evaluated, settled

Arguments = Mapping[str, Argument]

_shared: weakref.WeakValueDictionary[Hashable, Argument] = weakref.WeakValueDictionary()
"""The shared values behind slots that are computed from files alone, by recipe and bytes."""


class Recipe:
    """Which slots and assumptions depend on which weights, and how they are computed."""

    def __init__(self, module: Module | None, context: Any) -> None:
        self._context = context
        self.sources: dict[str, Instruction] = {}
        self.slots: dict[str, Instruction] = {}
        self._checks: list[Instruction] = []
        self._names: dict[Instruction, str] = {}
        self._of: dict[Instruction, frozenset[str]] = {}
        if module is None:
            return
        for at in module:
            names = frozenset().union(*(self._of[v] for v in at.inputs))
            if is_weight(at):
                names = frozenset([label_of(at)])
                self.sources.setdefault(label_of(at), at)
                self._names[at] = label_of(at)
            self._of[at] = names
        self.slots = dict(zip(module.output_names, module.outputs, strict=True))
        self._checks = [at for at in module if type(at.op) is AssumeEqual]

    def due(
        self, changed: Iterable[str], weights: Arguments, had: Arguments
    ) -> dict[str, Instruction]:
        """The slots that depend on a changed weight or had no value, and whose weights all have
        values.

        ``AssumptionError`` if a weight is not what a pass relied on.
        """
        names = set(changed)

        def due(at: Instruction, fresh: bool) -> bool:
            of = self._of[at]
            return of <= weights.keys() and (fresh or not of.isdisjoint(names))

        evaluated([at for at in self._checks if due(at, False)], self._known(weights))
        return {name: at for name, at in self.slots.items() if due(at, name not in had)}

    def batches(
        self, slots: Mapping[str, Instruction], nbytes: int
    ) -> Iterator[dict[str, Instruction]]:
        """Slots in batches of about ``nbytes``; those that share computed values go together."""
        names, links = list(slots), [_steps(at) for at in slots.values()]
        batch: dict[str, Instruction] = {}
        size = 0
        for places in connected(links):
            batch |= {names[i]: slots[names[i]] for i in places}
            size += sum(int(slots[names[i]].shape.nbytes) for i in places)
            if size >= nbytes:
                yield batch
                batch, size = {}, 0
        if batch:
            yield batch

    def given(self, slot: str, weights: Arguments) -> list[Argument]:
        """The values of the weights that a slot is computed from."""
        return [weights[name] for name in self._of[self.slots[slot]]]

    def values(
        self, slots: Mapping[str, Instruction], weights: Arguments
    ) -> tuple[dict[str, Argument], dict[str, Argument]]:
        """The values of some slots: a weight itself; shared with another program that computed the
        same from the same files; or computed now. Also the values they are views of, if these can
        be shared.
        """
        known = self._known(weights)
        wholes = {name: _whole(at) for name, at in slots.items()}
        keys = {at: self._key(at, weights) for at in wholes.values() if at not in known}
        known |= {at: value for at, key in keys.items() if (value := _shared.get(key)) is not None}
        for roots in (wholes, slots):
            left = [at for at in dict.fromkeys(roots.values()) if at not in known]
            made = evaluated(left, known, context=self._context, threads=THREADS)
            for at in made.keys() & keys.keys():
                if (key := keys[at]) is not None:
                    made[at].freeze()
                    _shared[key] = made[at]
            known |= made
        values = {n: settled(known[at], at.shape.as_standard()) for n, at in slots.items()}
        return values, {n: known[at] for n, at in wholes.items() if keys.get(at) is not None}

    def _key(self, at: Instruction, weights: Arguments) -> Hashable | None:
        """A key for how a value is computed and from what; None if not all of that is in files."""
        places: dict[Instruction, int] = {}
        key: list[Hashable] = [str(type(getattr(self._context, "target", None)))]
        for place, below in enumerate(tree(at)):
            places[below] = place
            if (name := self._names.get(below)) is None:
                key.append((operations.key(below.op), *(places[v] for v in below.inputs)))
                continue
            value = weights[name]
            if value.mapped is None:
                return None
            key.append((value.mapped, value.source, value.shape))
        return tuple(key)

    def _known(self, weights: Arguments) -> dict[Instruction, Argument]:
        return {at: weights[name] for at, name in self._names.items() if name in weights}


def _steps(at: Instruction) -> list[Instruction]:
    """The instructions that compute a value, itself included."""
    return [v for v in tree(at) if v.inputs] or [at]


def _whole(at: Instruction) -> Instruction:
    """The value of which this one is a view with the same bytes in other dims."""
    while (below := viewed(at)) is not None:
        apart = below.shape.parts or at.shape.nbytes != below.shape.nbytes
        if apart or at.shape.strides is not None:
            break
        at = below
    return at
