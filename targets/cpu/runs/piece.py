"""A piece of a module prepared to run: a plan for each set of sizes, and idle workspaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeAlias

from migx.binding import Sizes
from migx.dims.extents import BySizes
from migx.errors import InputError
from migx.ir import Instruction
from migx.targets.cpu.plans import control
from migx.targets.cpu.plans.form import Form
from migx.targets.cpu.plans.outline import Outline
from migx.targets.cpu.plans.plan import Plan
from migx.targets.cpu.runs.running import Call, Run, Values, Workspace

if TYPE_CHECKING:
    from migx.targets.cpu.runs.executable import CpuExecutable

Lent: TypeAlias = tuple[Callable[[Workspace], None], Workspace]
"""A workspace, and the function that gives it back."""
PLANS = 128
"""The sets of sizes for which a piece keeps plans; the oldest is evicted first."""


class Ending(Protocol):
    """An instruction whose result tells sizes that the next piece needs, and how it is run; see
    ``endings.py``.
    """

    at: Instruction

    def room(self, sizes: Sizes) -> Sizes:
        """The sizes to plan the piece with."""
        ...

    def run(self, run: Run) -> Sizes:
        """Adds the result to the values of a run, and gives the sizes it tells."""
        ...


class Piece:
    """A piece of a module with its plans and its idle workspaces."""

    def __init__(
        self, executable: CpuExecutable, outline: Outline, endings: Sequence[Ending] = ()
    ) -> None:
        self.executable, self.outline, self.endings = executable, outline, endings
        self.plans = BySizes(outline.symbols, self._planned, PLANS)
        self.idle: list[Workspace] = []

    @cached_property
    def _form(self) -> Form:
        return self._form_of(self.outline)

    def _form_of(self, outline: Outline) -> Form:
        return Form(outline, self.executable.code_of, self.executable.literals.address)

    def _planned(self, sizes: Mapping[str, int]) -> Plan:
        """The plan for some sizes. If modules of control flow refuse these, which may not be run,
        it has errors in their place, and a form of its own that is not kept.
        """
        try:
            return Plan(self._form, sizes, self.executable.threads)
        except InputError:
            if not (refused := control.refused(self.outline, sizes)):
                raise
        form = self._form_of(self.outline.without(refused))
        return Plan(form, sizes, self.executable.threads)

    def workspace(self) -> Workspace:
        """An idle workspace, which no other run takes until it is idle again."""
        try:
            return self.idle.pop()
        except IndexError:
            return Workspace()

    def run(
        self, values: Values, sizes: Sizes, call: Call, lent: list[Lent] | None = None
    ) -> Sizes:
        """Adds the results to the values, and gives the sizes known afterwards. A workspace in
        which results lie is ``lent``, to be given back when all their readers have run.
        """
        room = sizes
        for ending in self.endings:
            room = ending.room(room)
        plan = self.plans.at(room)
        workspace = self.workspace()
        run = Run(self.executable, plan, workspace, values, room, call)
        if plan.form.runs or plan.handed:
            workspace.serve(plan)
            run.all()
            run.hand_over()
        # A workspace abandoned in the middle of a run is not reused.
        if lent is not None and plan.outline.lends:
            lent.append((self.idle.append, workspace))
        else:
            self.idle.append(workspace)
        for ending in self.endings:
            sizes = {**sizes, **ending.run(run)}
        return sizes
