"""A piece of a module prepared to run: a plan for each set of sizes, and idle workspaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from migx.binding import Sizes
from migx.dims.extents import BySizes
from migx.errors import InputError
from migx.ir import Instruction
from migx.sizes import bound, symbols_of
from migx.targets.cpu.plans import control
from migx.targets.cpu.plans.form import Form
from migx.targets.cpu.plans.outline import Outline, Work, captured
from migx.targets.cpu.plans.plan import Plan
from migx.targets.cpu.runs.running import Call, Run, Values, Workspace

if TYPE_CHECKING:
    from migx.targets.cpu.runs.executable import CpuExecutable
    from migx.targets.cpu.runs.growing import Counted, GrowingLoop

Lent: TypeAlias = tuple[Callable[[Workspace], None], Workspace]
"""A workspace, and the function that gives it back."""
PLANS = 128
"""The sets of sizes for which a piece keeps plans; the oldest is evicted first."""


class Piece:
    """A piece of a module with its plans and its idle workspaces.

    ``plain`` is its outline with control flow on the host, for sizes that some module of it
    refuses, which may be one that is not run. ``late`` is the instruction the next piece waits for,
    ``grows`` runs it natively; ``counted`` is one that runs with the piece.
    """

    def __init__(
        self,
        executable: CpuExecutable,
        outline: Outline,
        plain: Outline,
        late: Instruction | None = None,
        grows: GrowingLoop | None = None,
        counted: Counted | None = None,
    ) -> None:
        self.executable, self.outline, self.plain = executable, outline, plain
        self.late, self.grows, self.counted = late, grows, counted
        self.captured = captured(late, executable.kernel_of) if late else []
        self._forms: dict[Outline, Form] = {}
        self.plans = BySizes(outline.symbols, partial(self._planned, outline), PLANS)
        self._late = BySizes(symbols_of(late), partial(bound, late), PLANS) if late else None
        self._idle: list[Workspace] = []

    @property
    def works(self) -> list[Work]:
        """Its steps; the last is the one the next piece waits for."""
        native = self.grows is not None or self.counted is not None
        late = [Work(self.late, None, (), ())] if self.late and not native else []
        return [*self.outline.works, *late]

    def _planned(self, outline: Outline, sizes: Mapping[str, int]) -> Plan:
        try:
            return Plan(self._form(outline), sizes, self.executable.threads)
        except InputError:
            refused = {} if outline.refused else control.refused(outline, sizes)
            other = outline.without(refused) if refused else self.plain
            if other is outline or (other.native and not refused):
                raise
        return self._planned(other, sizes)

    def _form(self, outline: Outline) -> Form:
        """The form of an outline. An outline that omits what some sizes refuse is for these alone,
        so its form is not kept.
        """
        ours, found = self.executable, self._forms.get(outline)
        if found is None:
            found = Form(outline, ours.code_of, ours.literals.address)
            if not outline.refused:
                self._forms[outline] = found
        return found

    def run(
        self, values: Values, sizes: Sizes, call: Call, lent: list[Lent] | None = None
    ) -> Sizes:
        """Adds the results to the values, and gives the sizes known afterwards. A workspace in
        which results lie is ``lent``, to be given back when all their readers have run.
        """
        room = sizes if self.counted is None else self.counted.room(sizes)
        plan = self.plans.at(room)
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = Workspace()
        run = Run(self.executable, plan, workspace, values, room, call)
        if plan.form.runs or plan.handed:
            workspace.serve(plan)
            run.all()
            run.hand_over()
        # A workspace abandoned in the middle of a run is not reused.
        if lent is not None and plan.outline.lends:
            lent.append((self._idle.append, workspace))
        else:
            self._idle.append(workspace)
        if self.counted is not None:
            return self.counted.cut(values, sizes)
        if self.late is None or self._late is None:
            return sizes
        later = None if self.grows is None else self.grows.run(values, sizes, call)
        if later is not None:
            return later
        return run.late(self.late, *self._late.at(sizes), self.captured)
