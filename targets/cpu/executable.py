"""A program made ready to run on the CPU, and its runs.

A run takes the plan for its sizes, a workspace of its own, and calls the compiled loop over steps
once for every stretch of kernels: between two kernels there is no Python. What has no kernel, and
control flow, runs on the host, by the meanings of the operations; their modules are run here again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from migx.argument import Argument
from migx.binding import Sizes, sizes_of
from migx.ir import Instruction, Module, Program
from migx.profile import Profile
from migx.target import NO_SLOTS, Context
from migx.targets.cpu import jit
from migx.targets.cpu.alike import Recent
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.kernels import kernel_for
from migx.targets.cpu.machine import host
from migx.targets.cpu.peaks import peaks
from migx.targets.cpu.plan import (
    Outline,
    Plan,
    Work,
    is_alias,
    packed,
    pieces,
    symbols_of,
)
from migx.targets.cpu.pool import wanted_threads
from migx.targets.cpu.running import Call, Run, Values, Watch, Workspace, captured_by
from migx.targets.cpu.weights import Literals

PLANS = 16
"""How many sets of sizes a piece keeps plans for; the one made first goes first."""


class CpuExecutable:
    """A program run by native code. Runs may overlap: each has its own workspaces."""

    def __init__(self, program: Program, context: Context) -> None:
        self.program, self.context = program, context
        self.threads = wanted_threads(context.options.num_threads)
        self.kernels: dict[Instruction, Kernel] = {}
        self.literals = Literals()
        self.pieces: dict[Module, list[Piece]] = {}
        self._sizes: Recent[tuple[Any, ...], Sizes] = Recent(PLANS)
        self._prepare(program.main, set())
        texts = [kernel.text for kernel in self.kernels.values()]
        self._codes = jit.load(texts)
        self.code_of = {text: code.address for text, code in self._codes.items()}

    def _prepare(self, module: Module, known: set[str]) -> None:
        """Cuts a module, and those its instructions run, into pieces, and makes their kernels."""
        machine = host()
        for at in module:
            kernel = None if is_alias(at) else kernel_for(at, machine)
            if kernel is not None and all(
                packed(at.inputs[i], form) is not None for i, form in kernel.formats
            ):
                self.kernels[at] = kernel
        if module not in self.pieces:
            cut = _cut(module, known, self.kernels.get)
            self.pieces[module] = [Piece(self, outline, late) for outline, late in cut]
        inside = known | {n for at in module for n in symbols_of(at)}
        for at in module:
            if at not in self.kernels:
                for inner in at.modules:
                    self._prepare(inner, inside)

    def run(
        self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument] = NO_SLOTS
    ) -> list[Argument]:
        """The results for arguments that have been checked against the parameters."""
        main = self.program.main
        given = list(arguments.values())
        key = tuple(a.shape.dims for a in given)
        sizes = self._sizes.get(key)
        if sizes is None:
            pairs = zip(main.parameters.items(), given, strict=True)
            sizes = sizes_of((name, p.shape, a.shape) for (name, p), a in pairs)
            self._sizes[key] = sizes
        return self.run_module(main, given, {}, sizes, Call(slots))

    def profile(self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument]) -> Profile:
        """Runs once, each kernel by itself, and says what each took."""
        main = self.program.main
        pairs = [(n, p.shape, arguments[n].shape) for n, p in main.parameters.items()]
        watch = Watch()
        self.run_module(main, list(arguments.values()), {}, sizes_of(pairs), Call(slots, watch))
        plans = [plan for parts in self.pieces.values() for p in parts for plan in p.plans.values()]
        arena = sum(plan.total_bytes for plan in plans)
        return Profile(tuple(watch.costs), arena, self.literals.nbytes, *peaks(self.threads))

    def run_module(
        self,
        module: Module,
        arguments: Sequence[Argument],
        values: Values,
        sizes: Sizes,
        call: Call,
    ) -> list[Argument]:
        """What a module returns; ``values`` are those it captures."""
        for parameter, argument in zip(module.parameters.values(), arguments, strict=True):
            values[parameter] = argument
        for piece in self.pieces[module]:
            sizes = piece.run(values, sizes, call)
        return [values[v] for v in module.outputs]

    @property
    def absorbed(self) -> frozenset[Instruction]:
        """The readings of packed constants that no run does: kernels take them as they lie."""
        outlines = [piece.outline for parts in self.pieces.values() for piece in parts]
        return frozenset(at for outline in outlines for at in outline.absorbed)

    def fallbacks(self) -> list[Instruction]:
        """The instructions that run on the host because they have no kernel."""
        return [
            work.at
            for parts in self.pieces.values()
            for piece in parts
            for work in piece.works
            if work.kernel is None
        ]


def _cut(
    module: Module, known: set[str], kernel_of: Callable[[Instruction], Kernel | None]
) -> list[tuple[Outline, Instruction | None]]:
    """The outlines of a module's pieces, each with the instruction on which the next waits."""
    parts = pieces(module, known)
    made: list[tuple[Outline, Instruction | None]] = []
    read_later = dict.fromkeys(module.outputs)
    for instructions, late in reversed(parts):
        if late is not None:
            read_later.pop(late, None)
            read_later |= dict.fromkeys((*late.inputs, *captured_by(late)))
        own = set(instructions)
        results = [v for v in read_later if v in own]
        outline = Outline(instructions, results, kernel_of)
        made.insert(0, (outline, late))
        read_later = {v: None for v in (*read_later, *outline.given) if v not in own}
    return made


class Piece:
    """A piece of a module with its plans and its idle workspaces."""

    def __init__(
        self, executable: CpuExecutable, outline: Outline, late: Instruction | None
    ) -> None:
        self.executable, self.outline, self.late = executable, outline, late
        self.plans: Recent[tuple[int | None, ...], Plan] = Recent(PLANS)
        self._idle: list[Workspace] = []

    @property
    def works(self) -> list[Work]:
        """Its steps, the last of which is what the next piece waits for."""
        late = [] if self.late is None else [Work(self.late, None, (), ())]
        return [*self.outline.works, *late]

    def plan(self, sizes: Mapping[str, int]) -> Plan:
        """The plan for some sizes."""
        key = tuple(map(sizes.get, self.outline.symbols))
        found = self.plans.get(key)
        if found is None:
            ours = self.executable
            found = Plan(self.outline, sizes, ours.code_of, ours.literals.address, ours.threads)
            self.plans[key] = found
        return found

    def run(self, values: Values, sizes: Sizes, call: Call) -> Sizes:
        """Adds the results to the values, and gives the sizes known afterwards."""
        plan = self.plan(sizes)
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = Workspace()
        try:
            workspace.serve(plan)
            run = Run(self.executable, plan, workspace, values, sizes, call)
            run.all()
            run.hand_over()
        finally:
            self._idle.append(workspace)
        return sizes if self.late is None else run.late(self.late)
