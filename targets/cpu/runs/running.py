"""One run of a piece: its kernels in the compiled loop, and on the host what has no kernel."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from migx import op as operations
from migx.argument import Argument
from migx.base.memory import HUGE, ROOMY, Memory
from migx.binding import Sizes
from migx.dim import Extent
from migx.errors import EvaluationError
from migx.ir import Instruction, Module
from migx.meaning import as_function, by_meaning, failed, told_by
from migx.op import Operation, Runnable
from migx.ops.builtin import GetTupleElem, Literal, Slot, Undefined
from migx.planning import is_memory
from migx.profile import Cost, moved
from migx.shape import TUPLE, Shape
from migx.targets.cpu.plans.form import Form
from migx.targets.cpu.plans.memory import Layout, address, allocated, laid_out
from migx.targets.cpu.plans.outline import Cell, Kind, Work
from migx.targets.cpu.plans.plan import Patch, Plan
from migx.targets.cpu.threads.pool import pool
from migx.targets.cpu.threads.runtime import CALL_WORDS
from migx.text import draw_instruction
from migx.weights.epochs import Slots

if TYPE_CHECKING:
    from migx.targets.cpu.runs.executable import CpuExecutable

Values = dict[Instruction, Argument]


class Call(NamedTuple):
    """What one call of a program shares: its weights, and its profiler."""

    slots: Mapping[str, Argument]
    watch: Watch | None = None


class Watch:
    """Records the time of each instruction of a call, without that of instructions it runs."""

    def __init__(self) -> None:
        self.costs: list[Cost] = []
        self._inner = [0.0]

    @contextmanager
    def __call__(
        self, at: Instruction, kernel: str, flops: int = 0, nbytes: int = 0
    ) -> Iterator[None]:
        self._inner.append(0.0)
        start = time.perf_counter()
        yield
        took = time.perf_counter() - start
        own = took - self._inner.pop()
        self._inner[-1] += took
        self.costs.append(Cost(at, kernel, own, flops, nbytes))


class Workspace:
    """Memory for one run of a piece at a time: the arena, and the words kernels are called with. An
    arena of which many consecutive runs have needed less than half is shrunk.
    """

    def __init__(self) -> None:
        self.arena: NDArray[np.uint8] = allocated(0)
        self.args: NDArray[np.int64] = np.empty(0, np.int64)
        self.words = self.args.data
        self.form: Form | None = None
        self.plan: Plan | None = None
        self.call = self.roomy = 0
        self._slots: weakref.ref[Slots] | None = None

    def serve(self, plan: Plan) -> None:
        """Prepares it for a plan."""
        if self.plan is plan and not self.roomy:
            return
        self.roomy = self.roomy + 1 if len(self.arena) > 2 * plan.total_bytes + HUGE else 0
        if self.plan is plan and self.roomy <= ROOMY:
            return
        self.plan = None  # until all is done, so that a failure leaves none
        self._slots = None
        if len(self.arena) < plan.total_bytes or self.roomy > ROOMY:
            self.form = None
            self.arena, self.roomy = allocated(plan.total_bytes), 0
        if self.form is not plan.form:
            self._begin(plan.form)
        many = len(plan.args)
        np.add(plan.args, self._starts, out=self.args[:many])
        self.words[many + 5], self.words[many + 6] = self._arena + plan.arena_bytes, plan.scratch
        self.plan = plan

    def _begin(self, form: Form) -> None:
        """Allocates the words for plans of a form, and finds the base addresses to add to them."""
        many, self._arena = len(form.words), address(self.arena)
        self.args = np.zeros(many + CALL_WORDS, np.int64)
        self.words = self.args.data  # set three times as fast as elements of the array
        steps = self.words[many] = address(self.args)
        self._starts = np.zeros(many, np.int64)
        self._starts[form.in_arena.words] = self._arena
        self._starts[form.in_args] = steps
        self.call = steps + many * self.args.itemsize
        self.form = form

    def has(self, slots: Mapping[str, Argument]) -> bool:
        """Whether the words hold the addresses of these slots."""
        return self._slots is not None and self._slots() is slots

    def keep(self, slots: Mapping[str, Argument]) -> None:
        """Records that they do, if the slots are immutable."""
        self._slots = weakref.ref(slots) if isinstance(slots, Slots) else None

    def write(self, patch: Patch, base: int) -> None:
        """Writes the addresses of a patch, in memory that begins at ``base``."""
        words = self.words
        for word, offset in patch:
            words[word] = base + offset

    def results(self, plan: Plan, reused: Memory) -> list[NDArray[Any]]:
        """Memory for the results of a run, whose addresses are written."""
        reused.need(plan.mapped)
        made: list[NDArray[Any]] = []
        for block in plan.blocks:
            memory, base = block.allocated(reused)
            made.append(memory)
            self.write(block.patch, base)
        return made

    def run_steps(self, executable: CpuExecutable, first: int, last: int) -> int:
        """Runs some steps in the compiled loop, and gives the one it has reached. Raises
        ``EvaluationError`` if a kernel has found its operands wrong.
        """
        assert self.form is not None
        state, words, at = pool(), self.words, len(self.form.words)
        words[at + 1], words[at + 2], words[at + 3] = first, last, state.address
        words[at + 4] = state.provide(executable.threads)
        reached: int = executable.loop(self.call)
        for word in self.form.faults:
            if words[word]:
                self._fail(self.form.faults, word)
        return reached

    def _fail(self, faults: Mapping[int, Work], word: int) -> None:
        """Raises the error of a kernel that found its operands wrong and set this word."""
        for each in faults:
            self.words[each] = 0
        at, kernel = faults[word].at, faults[word].kernel
        assert kernel is not None
        raise EvaluationError(draw_instruction(kernel.fault, at))


class Run:
    """One run of a piece."""

    def __init__(
        self,
        executable: CpuExecutable,
        plan: Plan,
        workspace: Workspace,
        values: Values,
        sizes: Sizes,
        call: Call,
    ) -> None:
        self.executable, self.plan, self.workspace = executable, plan, workspace
        self.values, self.sizes, self.call = values, sizes, call
        self.objects: dict[tuple[Instruction, int], Argument] = {}
        self.memory: list[NDArray[Any]] = []

    def all(self) -> None:
        """Writes the words, and runs every step."""
        plan = self.plan
        self.memory = self.workspace.results(plan, self.executable.results)
        self.patch_slots()
        self.patch(plan.patches)
        self.steps()

    def steps(self) -> None:
        """Runs every step, of which the words are written."""
        for part in self.plan.form.runs:
            if isinstance(part, Work):
                self.on_host(part)
            else:
                self.native(*part)

    def patch_slots(self) -> None:
        """Writes the addresses of slots, unless they are there: later runs find them."""
        if not self.plan.slots or self.workspace.has(self.call.slots):
            return
        self.patch(self.plan.slots)
        if not self.objects:  # otherwise some are copies for this run alone
            self.workspace.keep(self.call.slots)

    def patch(self, patches: Mapping[Cell, Patch]) -> None:
        """Writes the addresses of values from outside into the words."""
        for cell, patch in patches.items():
            self.workspace.write(patch, address(self.given(cell)))

    def native(self, first: int, last: int) -> None:
        """Runs the kernels from one step to before another; one by one if profiled."""
        if (watch := self.call.watch) is not None:
            self.watched(watch, first, last)
            return
        while first < last:
            first = self.workspace.run_steps(self.executable, first, last)

    def watched(self, watch: Watch, step: int, last: int) -> None:
        """Runs the kernels one by one."""
        while step < last:
            work = self.plan.form.works[step]
            assert work.kernel is not None
            nbytes: Extent = 0
            if work.at not in self.plan.outline.native and work.finds is None:
                nbytes = moved(work.at) * (1 if work.times is None else work.times)
            amounts = map(self.plan.number, (work.kernel.flops, nbytes))
            with watch(work.at, work.kernel.name, *amounts):
                step = self.workspace.run_steps(self.executable, step, step + 1)

    def hand_over(self) -> None:
        """Adds the results to the values."""
        values, memory, blocks = self.values, self.memory, self.plan.blocks
        for at, shape, places in self.plan.handed:
            if shape.parts and places:
                parts = [Argument(lie.shape, lie.of(memory[number])) for number, lie in places]
                values[at] = Argument(shape, tuple(parts))
            elif places:
                number, lie = places[0]
                made = memory[number]
                whole = blocks[number].alone is lie
                values[at] = Argument(lie.shape, made if whole else lie.of(made))
            else:
                values[at] = self.value(at)

    def given(self, cell: Cell) -> NDArray[Any]:
        """The array of a cell from outside, in the layout that kernels rely on."""
        at, index = cell.of
        argument = self.values[at] if at in self.values else self.value(at)
        argument = argument if index < 0 else argument.parts[index]
        array = argument.array
        if array.flags.c_contiguous and cell.shape.strides is None:
            return array
        made = laid_out(array, self.plan.layout(cell.shape))
        if made is not array:
            self.objects[at, index] = Argument(argument.shape, made)  # kept for this run
        return made

    def value(self, at: Instruction, index: int = -1) -> Argument:
        """A value as the host reads it: a view of its memory."""
        if index < 0 and at in self.values:
            return self.values[at]
        if (found := self.objects.get((at, index))) is not None:
            return found
        if (place := self.plan.lies((at, index))) is not None:
            return Argument(place[1].shape, self.seen(*place))
        if index < 0 and at.shape.parts and (at, -1) not in self.plan.outline.where:
            parts = [self.value(at, i) for i in range(len(at.shape.parts))]
            return Argument(Shape.tuple(*(p.shape for p in parts)), tuple(parts))
        return self._outside(at, index)

    def _outside(self, at: Instruction, index: int) -> Argument:
        """A value that is a literal, a slot, an object, given, or a view of one of these."""
        if type(at.op) is Literal:
            return at.op.value
        if type(at.op) is Slot:
            return self.call.slots[at.op.slot]
        if type(at.op) is Undefined:
            return Argument(at.shape)
        if type(at.op) is GetTupleElem:
            return self.value(at.inputs[0], at.op.index)
        if index >= 0:
            return self.values[at].parts[index]
        # A view's other inputs have given its sizes, and need no longer exist.
        op, shape = self.plan.bound_view(at, self.sizes)
        source = self.value(at.inputs[0])
        return operations.evaluator(type(op))(op, self.executable.context, shape, [source], [])

    def seen(self, cell: Cell, layout: Layout) -> NDArray[Any]:
        """The array that lies in a cell of this run."""
        made = cell.kind is Kind.RESULT
        return layout.of(self.memory[self.plan.block_of[cell]] if made else self.workspace.arena)

    # On the host.

    def on_host(self, work: Work) -> None:
        """Runs an instruction by its own meaning, and stores the result where its users expect
        it.
        """
        at = work.at
        op, shape = self.plan.bound_op(at)
        result = self.evaluate(at, op, shape, work.captured, work.lasting)
        parts = result.parts if work.writes and work.writes[0].of[1] >= 0 else [result]
        for cell, part in zip(work.writes, parts, strict=True):
            if cell.kind is Kind.OBJECT:
                self.objects[cell.of] = part
                if cell.of[1] < 0:
                    self.values[at] = part
                continue
            place = self.plan.lies(cell.of)
            assert place is not None
            target, array = self.seen(*place), part.array
            target[...] = array

    def evaluate(
        self, at: Instruction, op: Any, shape: Shape, reads: Sequence[Instruction], lasting: bool
    ) -> Argument:
        """The result of an instruction by its meaning; its modules capture ``reads``. A ``lasting``
        result shares no memory with the workspace.
        """
        if (watch := self.call.watch) is None:
            return self.computed(at, op, shape, reads, lasting)
        with watch(at, ""):
            return self.computed(at, op, shape, reads, lasting)

    def computed(
        self, at: Instruction, op: Any, shape: Shape, reads: Sequence[Instruction], lasting: bool
    ) -> Argument:
        """The result of an instruction by its meaning."""
        read = self.lasting if lasting else self.value
        inputs, captured = [read(v) for v in at.inputs], {v: read(v) for v in reads}
        modules = [self.runnable(m, captured) for m in at.modules]
        return by_meaning(at, op, self.executable.context, shape, inputs, modules)

    def lasting(self, at: Instruction) -> Argument:
        """A value in memory that no later run writes."""
        return at.op.value if type(at.op) is Literal else own(self.value(at))

    def runnable(self, module: Module, captured: Values) -> Runnable:
        """A module as a function of its parameters."""

        def run(arguments: Sequence[Argument], inner: Sizes) -> list[Argument]:
            return self.executable.run_module(module, arguments, dict(captured), inner, self.call)

        return as_function(module, self.sizes, run)

    def late(
        self, at: Instruction, op: Operation, shape: Shape, captured: Sequence[Instruction]
    ) -> Sizes:
        """Runs the instruction that the next piece waits for, whose operation and shape are bound
        as far as possible, and gives the sizes known by its result. The result is copied to memory
        of its own, if anything reads it; for an object, which may hold its inputs, these are
        copied.
        """
        holds = not all(map(is_memory, shape.parts or (shape,)))
        result = self.evaluate(at, op, shape, captured, lasting=holds)
        try:
            result = own(result) if at.users else result
        except MemoryError as error:
            raise failed(at, error) from error
        self.values[at], sizes = told_by(result, shape, self.sizes)
        return sizes


def own(value: Argument) -> Argument:
    """The value in memory of its own, in standard layout."""
    if value.shape.dtype is TUPLE:
        return Argument(value.shape, tuple(map(own, value.parts)))
    if not is_memory(value.shape):
        return value
    return Argument(value.shape.as_standard(), np.array(value.array, order="C"))
