"""A program prepared to run on the CPU, and its runs.

A run takes the plan for its sizes and a workspace of its own, and calls the compiled loop over
steps once for every stretch of kernels: there is no Python between two kernels. Instructions
without a kernel, and control flow, run on the host by the meanings of the operations, whose modules
are run by this executable again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from migx.argument import Argument
from migx.base.memory import Memory
from migx.binding import Sizes, Told
from migx.ir import Instruction, Module
from migx.ops.builtin import Param
from migx.ops.formats import UnpackWeight
from migx.planning import is_alias, is_block, lies_in, pieces
from migx.profile import Profile
from migx.program import Program
from migx.sizes import symbols_of
from migx.target import NO_SLOTS, Context
from migx.targets.cpu.code import jit
from migx.targets.cpu.code.saved import Kernels, objects_of, saved_as
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.kernels import kernel_for
from migx.targets.cpu.machine import host
from migx.targets.cpu.plans import control, control_kernels
from migx.targets.cpu.plans.finding import finding
from migx.targets.cpu.plans.lengths import Lengths
from migx.targets.cpu.plans.outline import (
    KernelOf,
    Outline,
    captured,
    is_taken_packed,
    lies_in_literal,
    packed,
)
from migx.targets.cpu.runs.growing import Counted, GrowingLoop
from migx.targets.cpu.runs.peaks import peaks
from migx.targets.cpu.runs.piece import Lent, Piece
from migx.targets.cpu.runs.running import Call, Values, Watch
from migx.targets.cpu.runs.weights import Literals
from migx.targets.cpu.threads.pool import pool, wanted_threads
from migx.targets.cpu.threads.runtime import runtime, runtime_texts


class CpuExecutable:
    """A program run by native code. Runs may overlap: each has its own workspaces."""

    def __init__(self, program: Program, context: Context) -> None:
        self.program, self.context = program, context
        self.threads = wanted_threads(context.options.num_threads)
        self.kernels: dict[Instruction, Kernel | None] = {}
        self.literals, self.results = Literals(), Memory(lazy=False)
        self.pieces: dict[Module, list[Piece]] = {}
        self.outputs: dict[Module, tuple[Instruction, ...]] = {}
        self._sizes, self._lengths = Told(program.main), Lengths(program.main)
        known = objects_of(context.saved)
        self._saved = Kernels(context.saved, program) if context.saved else None
        self._find_kernels(program.main)
        self._find_blocks()
        self._prepare(program.main, self._lengths.names)
        self._codes = jit.codes(self._texts(), known)
        self.loop = runtime().run
        self.code_of = {symbol: code.address for symbol, code in self._codes.items()}
        jit.give_back()

    def _texts(self) -> dict[str, str]:
        """The texts of the kernels and of the runtime, by their symbols."""
        made = [piece for parts in self.pieces.values() for piece in parts]
        flows = any(p.outline.native or isinstance(p.grows, GrowingLoop) for p in made)
        kernels = [*self.kernels.values(), *(control_kernels.KERNELS if flows else ())]
        kernels += [p.grows.begins for p in made if isinstance(p.grows, GrowingLoop)]
        return runtime_texts() | {k.symbol: k.text for k in kernels if k is not None}

    def kernel_of(self, at: Instruction) -> Kernel | None:
        """The kernel of an instruction that is a step like any other; one that counts its results
        ends its piece.
        """
        kernel = self.kernels.get(at)
        return None if kernel is None or kernel.most is not None else kernel

    def save_code(self) -> dict[str, bytes]:
        """What to save so that loading compiles nothing; see ``saved.py``."""
        known = objects_of(self.context.saved)
        return saved_as(self.kernels, jit.objects(self._texts(), known))

    def _prepare(self, module: Module, known: set[str]) -> None:
        """Cuts a module, and those its instructions run, into pieces."""
        if module not in self.pieces:
            self.pieces[module], self.outputs[module] = _cut(self, module, known), module.outputs
        inside = known | {n for at in module for n in symbols_of(at)}
        for at in module:
            if self.kernels.get(at) is None:
                for inner in at.modules:
                    self._prepare(inner, inside)

    def _find_kernels(self, module: Module) -> None:
        """Makes the kernels of a module, and of those its instructions run."""
        for at in module:
            if not is_alias(at) and at not in self.kernels:
                self.kernels[at] = self._kernel(at)
            if self.kernels.get(at) is None:
                for inner in at.modules:
                    self._find_kernels(inner)

    def _find_blocks(self) -> None:
        """Lets blocks picked from packed constants be read in place."""
        for at in self.kernels:
            of_packed = is_block(at) and isinstance(at.inputs[0].op, UnpackWeight)
            if of_packed and is_taken_packed(at, self.kernel_of):
                self.kernels[at] = finding(at)

    def _kernel(self, at: Instruction) -> Kernel | None:
        """The kernel of an instruction, if it has one and its constants are packed for it."""
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
        return self._run([*arguments.values()], Call(slots))

    def _run(self, given: Sequence[Argument], call: Call) -> list[Argument]:
        sizes = self._lengths.told(given, self._sizes(given))
        return self.run_module(self.program.main, given, {}, sizes, call)

    def profile(self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument]) -> Profile:
        """Runs once, kernel by kernel, and reports the cost of each."""
        watch = Watch()
        self._run([*arguments.values()], Call(slots, watch))
        plans = [plan for parts in self.pieces.values() for p in parts for plan in p.plans.values()]
        arena = sum(plan.total_bytes for plan in plans)
        best = peaks(pool().useful(self.threads))
        return Profile(tuple(watch.costs), arena, self.literals.nbytes, *best)

    def run_module(
        self,
        module: Module,
        arguments: Sequence[Argument],
        values: Values,
        sizes: Sizes,
        call: Call,
    ) -> list[Argument]:
        """The results of a module; ``values`` are those it captures."""
        for i, parameter in enumerate(module.parameters.values()):
            values[parameter] = arguments[i]
        lent: list[Lent] = []
        for piece in self.pieces[module]:
            sizes = piece.run(values, sizes, call, lent)
        for give_back, workspace in lent:
            give_back(workspace)
        return [values[v] for v in self.outputs[module]]

    @property
    def absorbed(self) -> frozenset[Instruction]:
        """The unpackings of packed constants that no run does: kernels read the packed form."""
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


def _is_handed_on(at: Instruction, module: Module) -> bool:
    """Whether a value read after its piece must be handed on: not parameters, nor, unless the
    module returns them, values that lie in literals.
    """
    return type(at.op) is not Param and (at in module.outputs or not lies_in_literal(at))


def _cut(executable: CpuExecutable, module: Module, known: set[str]) -> list[Piece]:
    """The pieces of a module."""
    flow = control.native(module, known, executable.kernel_of)
    made: list[Piece] = []
    read_later = dict.fromkeys(module.outputs)
    given_away = {lies_in(v)[0] for v in module.outputs}
    for instructions, late in reversed(pieces(module, known)):
        counted: Counted | None = None
        kernel_of: KernelOf = executable.kernel_of
        kernel = None if late is None else executable.kernels.get(late)
        if late is not None and kernel is not None and kernel.most is not None:
            counted = Counted(late, kernel)
            instructions, kernel_of = [*instructions, late], executable.kernels.get
        elif late is not None:
            read_later.pop(late, None)
            read_later |= dict.fromkeys((*late.inputs, *captured(late, kernel_of)))
        own = set(instructions)
        results = [v for v in read_later if v in own and _is_handed_on(v, module)]
        lasting = [v for v in results if lies_in(v)[0] in given_away]
        if counted is not None:  # the part of its buffer in use is copied
            results, lasting = (
                [*dict.fromkeys((*results, counted.at))],
                [v for v in lasting if v is not counted.at],
            )
        inside = {at: flow[at] for at in flow if at in own}
        plain = Outline(instructions, results, kernel_of, lasting=lasting)
        outline = plain
        if inside:
            outline = Outline(instructions, results, kernel_of, flow, lasting=lasting)
        grows = GrowingLoop(executable, late, flow) if late in flow else None
        made.insert(0, Piece(executable, outline, plain, late, grows, counted))
        read_later = {v: None for v in (*read_later, *outline.given) if v not in own}
    return made
