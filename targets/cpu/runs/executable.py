"""A program prepared to run on the CPU, and its runs.

A run takes the plan for its sizes and a workspace of its own, and calls the compiled loop over
steps once for every stretch of kernels: there is no Python between two kernels. Instructions
without a kernel, and control flow that cannot be steps, run on the host by the meanings of the
operations, whose modules are run by this executable again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from migx.argument import Argument
from migx.base.memory import Memory
from migx.binding import Sizes, Told
from migx.ir import Instruction, Module
from migx.ops.builtin import Param
from migx.ops.formats import UnpackWeight
from migx.planning import is_alias, is_block, pieces, root, with_known
from migx.profile import Profile
from migx.program import Program
from migx.shape import Shape
from migx.target import NO_SLOTS, Context, PreparedRun
from migx.targets.cpu.code import jit
from migx.targets.cpu.code.saved import Kernels, objects_of, saved_as
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.kernels import kernel_for
from migx.targets.cpu.machine import host
from migx.targets.cpu.plans import control, control_kernels
from migx.targets.cpu.plans.finding import finding
from migx.targets.cpu.plans.lengths import Lengths
from migx.targets.cpu.plans.outline import (
    Outline,
    Writer,
    is_taken_packed,
    lies_in_literal,
    packed,
)
from migx.targets.cpu.runs.endings import Counted, GrowingLoop, OnHost
from migx.targets.cpu.runs.peaks import peaks
from migx.targets.cpu.runs.piece import Ending, Lent, Piece
from migx.targets.cpu.runs.prepared import prepared
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

    @property
    def _every(self) -> list[Piece]:
        """The pieces of all modules."""
        return [piece for parts in self.pieces.values() for piece in parts]

    def _texts(self) -> dict[str, str]:
        """The texts of the kernels and of the runtime, by their symbols."""
        made = self._every
        flows = any(piece.outline.native for piece in made)
        kernels = [*self.kernels.values(), *(control_kernels.KERNELS if flows else ())]
        kernels += [e.begins for p in made for e in p.endings if isinstance(e, GrowingLoop)]
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
        """Cuts a module, and those that the host may run for its instructions, into pieces."""
        if module not in self.pieces:
            self.pieces[module], self.outputs[module] = _cut(self, module, known), module.outputs
        late = {ending.at for piece in self.pieces[module] for ending in piece.endings}
        steps = self.pieces[module][0].outline.native.keys() - late
        for at, told in with_known(module, known):
            if self.kernels.get(at) is None and at not in steps:
                for inner in at.modules:
                    self._prepare(inner, set(told))

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
        with np.errstate(all="ignore"):  # here, as it takes as long as a small operation
            return self.run_module(self.program.main, given, {}, sizes, call)

    def prepared(self, shapes: Sequence[Shape]) -> PreparedRun | None:
        """A run for inputs of these shapes, if it can be prepared; see ``prepared.py``."""
        return None if self._lengths.names else prepared(self, shapes)

    def profile(self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument]) -> Profile:
        """Runs once, kernel by kernel, and reports the cost of each."""
        watch = Watch()
        self._run([*arguments.values()], Call(slots, watch))
        arena = sum(plan.total_bytes for p in self._every for plan in p.plans.values())
        weights = self.literals.nbytes + sum(int(v.shape.nbytes) for v in slots.values())
        best = peaks(pool().useful(self.threads))
        return Profile(tuple(watch.costs), arena, weights, *best)

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
        outlines = [piece.outline for piece in self._every]
        read = {at for outline in outlines for at in outline.given}
        return frozenset(at for outline in outlines for at in outline.absorbed if at not in read)

    def fallbacks(self) -> list[Instruction]:
        """The instructions that run on the host because they have no kernel."""
        found: list[Instruction] = []
        for piece in self._every:
            found += [work.at for work in piece.outline.works if work.kernel is None]
            found += [each.at for each in piece.endings if type(each) is OnHost]
        return found


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
    given_away = {root(v) for v in module.outputs}
    for part in reversed(pieces(module, known)):
        endings = [_ending(executable, at, flow) for at in part.late]
        counted = [each.at for each in endings if isinstance(each, Counted)]
        for each in endings:
            if isinstance(each, OnHost):
                read_later.pop(each.at, None)
                read_later |= dict.fromkeys((*each.at.inputs, *each.captured))
            else:
                read_later[each.at] = None
        instructions = [*part.instructions, *counted]
        own = set(instructions)
        results = [v for v in read_later if v in own and _is_handed_on(v, module)]
        # What is counted lies in a larger buffer, and is copied.
        lasting = [v for v in results if root(v) in given_away and v not in counted]
        kernel_of = partial(_kernel_in, executable, frozenset(counted))
        outline = Outline(instructions, results, kernel_of, flow, lasting=lasting)
        made.insert(0, Piece(executable, outline, endings))
        read_later = {v: None for v in (*read_later, *outline.given) if v not in own}
    return made


def _kernel_in(
    executable: CpuExecutable, counted: frozenset[Instruction], at: Instruction
) -> Kernel | None:
    """The kernel of an instruction in a piece that ends with some that are ``counted``."""
    return executable.kernels.get(at) if at in counted else executable.kernel_of(at)


def _ending(
    executable: CpuExecutable, late: Instruction, flow: Mapping[Instruction, Writer]
) -> Ending:
    """How the instruction that the next piece waits for is run."""
    if late in flow:
        return GrowingLoop(executable, late, flow)
    kernel = executable.kernels.get(late)
    if kernel is None or kernel.most is None:
        return OnHost(executable, late)
    return Counted(late, kernel.most)
