"""A program made ready to run on the CPU, and its runs.

A run takes the plan for its sizes, a workspace of its own, and calls the compiled loop over steps
once for every stretch of kernels: between two kernels there is no Python. What has no kernel, and
control flow, runs on the host, by the meanings of the operations; their modules are run here again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from migx.argument import Argument
from migx.binding import Sizes, sizes_of
from migx.errors import InputError
from migx.ir import Instruction, Module
from migx.op import Operation
from migx.planning import is_alias, pieces
from migx.profile import Profile
from migx.program import Program
from migx.shape import Shape
from migx.sizes import bound_now, symbols_of
from migx.target import NO_SLOTS, Context
from migx.targets.cpu import control, control_kernels, jit
from migx.targets.cpu.alike import Recent
from migx.targets.cpu.counting import Counted, counted
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.kernels import kernel_for
from migx.targets.cpu.machine import host
from migx.targets.cpu.outline import Outline, Work, Writer, captured, lies_in_literal, packed
from migx.targets.cpu.peaks import peaks
from migx.targets.cpu.plan import Plan
from migx.targets.cpu.pool import wanted_threads
from migx.targets.cpu.running import Call, Run, Values, Watch, Workspace
from migx.targets.cpu.runtime import runtime, runtime_texts
from migx.targets.cpu.saved import Kernels, objects_of, saved_as
from migx.targets.cpu.weights import Literals

PLANS = 16
"""How many sets of sizes a piece keeps plans for; the one made first goes first."""
SHORTEST = 64
"""How many iterations a loop is given room for at first."""


class CpuExecutable:
    """A program run by native code. Runs may overlap: each has its own workspaces."""

    def __init__(self, program: Program, context: Context) -> None:
        self.program, self.context = program, context
        self.threads = wanted_threads(context.options.num_threads)
        self.kernels: dict[Instruction, Kernel | None] = {}
        self.counting: dict[Instruction, Kernel] = {}
        self.literals = Literals()
        self.pieces: dict[Module, list[Piece]] = {}
        self._sizes: Recent[tuple[Any, ...], Sizes] = Recent(PLANS)
        known = objects_of(context.saved)
        self._saved = Kernels(context.saved, program) if context.saved else None
        self._prepare(program.main, set())
        self._codes = jit.codes(self._texts(), known)
        runtime()
        self.code_of = {symbol: code.address for symbol, code in self._codes.items()}
        jit.give_back()

    def _texts(self) -> dict[str, str]:
        """The texts of the kernels, and of what runs them, by their symbols."""
        made = [piece for parts in self.pieces.values() for piece in parts]
        flows = any(p.outline.native or isinstance(p.grows, GrowingLoop) for p in made)
        kernels = [*self.every.values(), *(control_kernels.KERNELS if flows else ())]
        return runtime_texts() | {k.symbol: k.text for k in kernels if k is not None}

    @property
    def every(self) -> dict[Instruction, Kernel | None]:
        """The kernels of instructions, and of those whose results are as long as they turn out."""
        return {**self.kernels, **self.counting}

    def save_code(self) -> dict[str, bytes]:
        """What to keep in a file so that loading it compiles nothing; see ``saved.py``."""
        known = objects_of(self.context.saved)
        return saved_as(self.every, jit.objects(self._texts(), known))

    def _prepare(self, module: Module, known: set[str]) -> None:
        """Cuts a module, and those its instructions run, into pieces, and makes their kernels."""
        self._find_kernels(module)
        if module not in self.pieces:
            self.pieces[module] = _cut(self, module, known)
        inside = known | {n for at in module for n in symbols_of(at)}
        for at in module:
            if self.kernels.get(at) is None:
                for inner in at.modules:
                    self._prepare(inner, inside)

    def _find_kernels(self, module: Module) -> None:
        """Makes the kernels of a module, and of those that its instructions run."""
        for at in module:
            if not is_alias(at) and at not in self.kernels:
                kernel = self._kernel(at)
                counts = kernel is not None and kernel.most != 0
                self.kernels[at] = None if counts else kernel
                if kernel is not None and counts:
                    self.counting[at] = kernel
            if self.kernels.get(at) is None:
                for inner in at.modules:
                    self._find_kernels(inner)

    def _kernel(self, at: Instruction) -> Kernel | None:
        """The kernel of an instruction, if there is one and its constants are packed for it."""
        is_known, kernel = (False, None) if self._saved is None else self._saved.find(at)
        if not is_known:
            kernel = kernel_for(at, host())
        formats = () if kernel is None else kernel.formats
        fits = all(packed(at.inputs[i], form) is not None for i, form in formats)
        return kernel if fits else None

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
        read = {at for outline in outlines for at in outline.given}
        return frozenset(at for outline in outlines for at in outline.absorbed if at not in read)

    def fallbacks(self) -> list[Instruction]:
        """The instructions that run on the host because they have no kernel."""
        return [
            work.at
            for parts in self.pieces.values()
            for piece in parts
            for work in piece.works
            if work.kernel is None
        ]


def _cut(executable: CpuExecutable, module: Module, known: set[str]) -> list[Piece]:
    """The pieces of a module."""
    kernel_of = executable.kernels.get
    flow = control.native(module, known, kernel_of)
    made: list[Piece] = []
    read_later = dict.fromkeys(module.outputs)
    for instructions, late in reversed(pieces(module, known)):
        if late is not None:
            read_later.pop(late, None)
            read_later |= dict.fromkeys((*late.inputs, *captured(late, kernel_of)))
        own = set(instructions)
        results = [
            v for v in read_later if v in own and (v in module.outputs or not lies_in_literal(v))
        ]
        inside = {at: flow[at] for at in flow if at in own}
        plain = Outline(instructions, results, kernel_of)
        outline = Outline(instructions, results, kernel_of, flow) if inside else plain
        grows = GrowingLoop(executable, late, flow) if late in flow else counted(executable, late)
        made.insert(0, Piece(executable, outline, plain, late, grows))
        read_later = {v: None for v in (*read_later, *outline.given) if v not in own}
    return made


class Piece:
    """A piece of a module with its plans and its idle workspaces.

    ``plain`` is its outline in which control flow is for the host: for sizes that some module of it
    refuses, which may be one that is not run. ``late`` is what the next piece waits for,
    ``grows`` what runs that natively.
    """

    def __init__(
        self,
        executable: CpuExecutable,
        outline: Outline,
        plain: Outline,
        late: Instruction | None = None,
        grows: GrowingLoop | Counted | None = None,
    ) -> None:
        self.executable, self.outline, self.plain = executable, outline, plain
        self.late, self.grows = late, grows
        self.captured = captured(late, executable.kernels.get) if late else []
        self.plans: Recent[tuple[int | None, ...], Plan] = Recent(PLANS)
        self._late_symbols = list(symbols_of(late)) if late else []
        self._late: Recent[tuple[int | None, ...], tuple[Operation, Shape]] = Recent(PLANS)
        self._idle: list[Workspace] = []

    @property
    def works(self) -> list[Work]:
        """Its steps, the last of which is what the next piece waits for."""
        late = [Work(self.late, None, (), ())] if self.late and not self.grows else []
        return [*self.outline.works, *late]

    def plan(self, sizes: Mapping[str, int]) -> Plan:
        """The plan for some sizes."""
        key = tuple(map(sizes.get, self.outline.symbols))
        found = self.plans.get(key)
        if found is None:
            found = self._planned(self.outline, sizes)
            self.plans[key] = found
        return found

    def _planned(self, outline: Outline, sizes: Mapping[str, int]) -> Plan:
        ours = self.executable
        try:
            return Plan(outline, sizes, ours.code_of, ours.literals.address, ours.threads)
        except InputError:
            refused = {} if outline.refused else control.refused(outline, sizes)
            other = outline.without(refused) if refused else self.plain
            if other is outline or (other.native and not refused):
                raise
        return self._planned(other, sizes)

    def run(self, values: Values, sizes: Sizes, call: Call) -> Sizes:
        """Adds the results to the values, and gives the sizes known afterwards."""
        plan = self.plan(sizes)
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = Workspace()
        workspace.serve(plan)
        run = Run(self.executable, plan, workspace, values, sizes, call)
        run.all()
        run.hand_over()
        self._idle.append(workspace)  # one that was left in the middle of a run is not used again
        if self.late is None:
            return sizes
        later = None if self.grows is None else self.grows.run(values, sizes, call)
        if later is not None:
            return later
        return run.late(self.late, *self._bound_late(self.late, sizes), self.captured)

    def _bound_late(self, late: Instruction, sizes: Sizes) -> tuple[Operation, Shape]:
        """The operation and the shape of what is waited for, as far as the sizes are known."""
        key = tuple(map(sizes.get, self._late_symbols))
        found = self._late.get(key)
        if found is None:
            found = self._late[key] = bound_now(late.op, late.shape, sizes)
        return found


class GrowingLoop:
    """A loop whose scan outputs are as long as it turns out to run. They are given a length, which
    is a power of two, and where that was not enough, twice that; the next run begins with it.
    """

    def __init__(
        self, executable: CpuExecutable, at: Instruction, flow: Mapping[Instruction, Writer]
    ) -> None:
        self.at, self.length = at, control.growing(at) or ""
        self.state = list(at.modules[0].parameters.values())[:2]
        outline = Outline([at], [at, *self.state], executable.kernels.get, flow)
        self.piece = Piece(executable, outline, outline)
        self.most = SHORTEST

    def run(self, values: Values, sizes: Sizes, call: Call) -> Sizes | None:
        """Adds the result to the values and gives the sizes known by it; None where the module
        refuses the sizes.
        """
        most = self.room(values)
        while True:
            try:
                self.piece.run(values, {**sizes, self.length: most}, call)
            except InputError:
                return None
            count, holds = (values.pop(at).array.item() for at in self.state)
            result = values.pop(self.at)
            if not holds or count < most:
                break
            most *= 2
        self.most = max(most, SHORTEST) if 4 * count > most else max(self.most // 2, SHORTEST)
        kept = len(self.at.inputs) - 2
        cut = [Argument.of(part.array[:count]) for part in result.parts[kept:]]
        values[self.at] = Argument.tuple([*result.parts[:kept], *cut])
        return {**sizes, self.length: count}

    def room(self, values: Values) -> int:
        """The length to begin with: what has been needed, but little more than the trip count."""
        trips = values.get(self.at.inputs[0])
        if trips is None or not trips.shape.dtype.is_tensor:
            return self.most
        return min(self.most, 1 << max(int(trips.array.item()), 0).bit_length())
