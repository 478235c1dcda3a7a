"""The plan of constant folding: which instructions literals may replace."""

from __future__ import annotations

from collections.abc import Iterable

from migx import op as operations
from migx.ir import Instruction
from migx.manager import PassManager
from migx.ops.builtin import Literal, Slot
from migx.weights import is_source, is_weight
from migx.weights.constants import ALLOWANCE, SMALL, Made, is_stored_narrow, related


class Plan:
    """The instructions that depend on literals alone, and those of them that stay.

    Literals replace the *roots*: instructions that are read by one that stays or is not constant. A
    root that breaks the law of ``migx.weights.constants`` stays, and its inputs become roots
    instead. These may take no more than they free (single numbers excepted), lest each run add
    another allowance, and stay if they come from packed storage, lest the next run take them for
    any other constant.

    With ``weights``, slots replace what depends on weights, whose values need not be known; the
    rest stays.

    After ``roots``, ``beyond`` has the largest trees that the law alone refuses and that are made
    of little.
    """

    def __init__(
        self,
        manager: PassManager,
        skip_ops: tuple[str, ...] = (),
        allowance: int = ALLOWANCE,
        *,
        weights: bool = False,
    ) -> None:
        self.manager, self.allowance, self.weights = manager, allowance, weights
        self.constant = _constants(manager, frozenset(skip_ops), weights)
        narrow: dict[Instruction, bool] = {}
        self.kept = {at for at in self.constant if _stays(at, narrow)}
        if (log := manager.log) is not None and log.skip != frozenset():
            # The inputs of a root that stays become roots, which the log may skip as well.
            while left := {at for at in self._cut()[0] if log.key("fold", [at]) in log.skip}:
                self.kept |= left
        self.largest = set(self._cut()[0])
        self.made: dict[Instruction, Made] = {}
        self.beyond: list[Instruction] = []

    def keep(self, these: Iterable[Instruction]) -> None:
        """Lets some instructions stay."""
        self.kept.update(these)

    def roots(self) -> list[Instruction]:
        """The instructions that literals may replace, in order."""
        while True:
            roots, gone = self._cut()
            refused = self._refused(roots, gone)
            if not refused:
                return roots
            whole = (at for at in refused if at in self.largest)
            self.beyond += [at for at in whole if self._made(at).is_made_of_little]
            self.keep(refused)

    def _cut(self) -> tuple[list[Instruction], set[int]]:
        """The roots, and the ids of the values that nothing would read any more."""
        running: set[Instruction] = set()
        roots = []
        for at in reversed(self.constant):
            if any(u not in self.constant or u in running for u in at.users):
                if at in self.kept or is_source(at) or self.constant[at] is not self.weights:
                    running.add(at)
                else:
                    roots.append(at)
        held = self.manager.constants.held
        sources = {at: id(held(at)) for at in self.constant if is_source(at)}
        sources |= {at: id(held(at)) for at in self.manager.program.literals}
        left = {v for at, v in sources.items() if at in running or at not in self.constant}
        return roots[::-1], set(sources.values()) - left

    def _refused(self, roots: list[Instruction], gone: set[int]) -> list[Instruction]:
        """The roots that each break the law, or else those that do together."""
        by_made = {self._made(at): at for at in roots}
        alone = [
            at
            for m, at in by_made.items()
            if m.excess(gone, self._allowance([at])) > 0 or (m.unpacks and at not in self.largest)
        ]
        if alone:
            return alone
        found: list[Instruction] = []
        for each in related(list(by_made)):
            members = [by_made[m] for m in each.made]
            if each.excess(gone, self._allowance(members)) > 0:
                found += members
        return found

    def _made(self, at: Instruction) -> Made:
        if at not in self.made:
            self.made[at] = self.manager.constants.made(at)
        return self.made[at]

    def _allowance(self, roots: list[Instruction]) -> int:
        counted = (at for at in roots if self._made(at).nbytes > SMALL)
        return self.allowance if self.largest.issuperset(counted) else 0


def _constants(
    manager: PassManager, skip_ops: frozenset[str], weights: bool
) -> dict[Instruction, bool]:
    """The instructions that can be evaluated now, inputs before users, modules before those inside
    them; and whether each depends on weights.
    """
    found: dict[Instruction, bool] = {}
    for module in reversed(manager.modules()):
        for at in module:
            if weights and (type(at.op) is Slot or is_weight(at)):
                found[at] = True
            elif (
                not module.bypass and _computes(at, skip_ops) and all(v in found for v in at.inputs)
            ):
                found[at] = any(found[v] for v in at.inputs)
    return found


def _computes(at: Instruction, skip_ops: frozenset[str]) -> bool:
    if type(at.op) is Literal:
        return not at.op.replaceable and at.shape.dtype.is_tensor and at.op.value.available
    return (
        at.computes()
        and at.op.name not in skip_ops
        and operations.can_evaluate(at.op)
        and at.shape.static
        and not any(True for _ in operations.symbols(at.op))
    )


def _stays(at: Instruction, narrow: dict[Instruction, bool]) -> bool:
    """Whether a value is better recomputed than stored, whatever its size."""
    shape = at.shape
    if not shape.dtype.is_tensor or is_stored_narrow(at, narrow):
        return True
    return shape.broadcasted and shape.element_space != shape.elements
