"""One run of a program: kernels on the device, and on the host what has none."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from migx import op as operations
from migx.argument import Argument
from migx.binding import Sizes, sizes_of
from migx.errors import TargetError
from migx.ir import Instruction, Module
from migx.meaning import actual, as_function, by_meaning
from migx.op import Runnable
from migx.ops.builtin import GetTupleElem, Literal, Slot
from migx.ops.control import Assume
from migx.profile import Cost
from migx.shape import Shape
from migx.sizes import bound_now
from migx.targets.gpu.device import ENQUEUING, Buffer, flat
from migx.targets.gpu.operations import CodeObject, CopyFrom, CopyTo, Sync
from migx.targets.gpu.plan import Launch, Plan, Reference, Step, Workspace
from migx.targets.gpu.values import DeviceArgument, downloaded, laid_out, lies_as
from migx.verify import captures

if TYPE_CHECKING:
    from migx.targets.gpu.executable import GpuExecutable, Piece

Values = dict[Instruction, Argument]


class Run:
    """A run of a program, and of the modules that its instructions run. It ``waits`` for results
    that stay on the device, or not; a ``watch`` is told what each kernel and each step of the host
    takes.
    """

    def __init__(
        self,
        executable: GpuExecutable,
        slots: Mapping[str, Argument],
        *,
        waits: bool = True,
        watch: list[Cost] | None = None,
    ) -> None:
        assert executable.device is not None
        self.executable, self.device, self.slots = executable, executable.device, slots
        self.waits, self.watch = waits, watch

    def allocate(self, nbytes: int) -> Buffer:
        """Memory; where there is no room, that of workspaces which no run has is given back."""
        try:
            return self.device.allocate(nbytes)
        except TargetError:
            if not self.executable.forget_idle():
                raise
        return self.device.allocate(nbytes)

    def module(
        self, module: Module, arguments: Sequence[Argument], values: Values, sizes: Sizes
    ) -> list[Argument]:
        """What a module returns; ``values`` are those it captures."""
        for parameter, argument in zip(module.parameters.values(), arguments, strict=True):
            values[parameter] = argument
        for piece in self.executable.pieces[module]:
            plan = piece.plan(self.executable.places[module], sizes)
            idle = plan.idle.setdefault(self.device.stream, [])
            try:
                workspace = idle.pop()
            except IndexError:
                workspace = Workspace()
            try:
                part = _Part(self, piece, plan, workspace, values, sizes)
                part.run()
                if piece.late is not None:
                    sizes = part.late(piece.late)
            finally:
                idle.append(workspace)
        return [values[v] for v in module.outputs]


class _Part:
    """One run of a piece."""

    def __init__(
        self,
        run: Run,
        piece: Piece,
        plan: Plan,
        workspace: Workspace,
        values: Values,
        sizes: Sizes,
    ) -> None:
        self.of, self.piece, self.plan, self.workspace = run, piece, plan, workspace
        self.values, self.sizes, self.device = values, sizes, run.device
        self.executable = run.executable
        if workspace.arena is None or workspace.arena.nbytes < plan.arena_bytes:
            workspace.arena = run.allocate(plan.arena_bytes)
        self.arena: Buffer = workspace.arena
        self.kept = {root: run.allocate(size) for root, size in plan.kept.items()}

    def run(self) -> None:
        """Runs every step, and hands over what is read afterwards."""
        with np.errstate(all="ignore"):
            for number, step in enumerate(self.plan.steps):
                if self.of.watch is not None:
                    self.watched(step, self.of.watch)
                elif step.at is None:
                    self.launch(number, step)
                else:
                    self.step(step.at)
        for root, buffer in self.kept.items():
            shape = self.plan.bound(root.shape)
            self.values[root] = DeviceArgument(shape, self.device, buffer, buffer.address)
        for value in self.piece.kept:
            if value not in self.values:
                self.values[value] = self.value(value)

    # Kernels.

    def launch(self, number: int, step: Step) -> None:
        """Enqueues kernels, as a graph where they were enqueued alike before."""
        key = (number, self.arena.address, *(self.base(root)[1] for root in step.varying))
        replay = self.workspace.replay(
            key, lambda: self.device.captured(lambda: self.enqueue(step.launches))
        )
        if replay is not None:
            replay()
        else:
            self.enqueue(step.launches)

    def enqueue(self, launches: Sequence[Launch]) -> None:
        """Enqueues kernels one after another."""
        functions, keys = self.executable.functions, self.executable.keys
        for launch in launches:
            function, arguments = functions[keys[launch.at]], self.arguments(launch)
            self.device.launch(function, launch.grid, arguments)

    def watched(self, step: Step, costs: list[Cost]) -> None:
        """Runs a step, each kernel by itself, and notes what it costs."""
        if step.at is not None:
            begin = time.perf_counter()
            self.step(step.at)
            nbytes = sum(int(self.plan.bound(v.shape).nbytes) for v in _tensors(step.at))
            costs.append(Cost(step.at, "", time.perf_counter() - begin, 0, nbytes))
            return
        for at, turns in groupby(step.launches, lambda launch: launch.at):
            launches, op = list(turns), at.op
            assert isinstance(op, CodeObject)
            self.device.synchronize()
            enqueue, host = partial(self.enqueue, launches), len(launches) * ENQUEUING
            taken = self.device.elapsed(enqueue, host)
            moved = at.inputs[: len(at.inputs) - op.scratch]
            nbytes = sum(int(self.plan.bound(v.shape).nbytes) for v in moved)
            costs.append(Cost(at, op.kernel, taken, self.plan.number(op.flops), nbytes))

    def arguments(self, launch: Launch) -> tuple[int, ...]:
        """The addresses and words of a kernel."""
        return (*map(self.address, launch.operands), *launch.words)

    def address(self, reference: Reference) -> int:
        """Where a value on the device is."""
        return self.base(reference.root)[1] + reference.offset

    def base(self, root: Instruction) -> tuple[Any, int]:
        """What holds the memory of a root, and where it begins."""
        if (offset := self.plan.offsets.get(root)) is not None:
            return self.arena, self.arena.address + offset
        if (buffer := self.kept.get(root)) is not None:
            return buffer, buffer.address
        if (literal := self.executable.literals.get(root)) is not None:
            return literal, literal.address
        if root not in self.values and isinstance(root.op, Slot):
            self.values[root] = self.of.slots[root.op.slot]
        if root not in self.values and isinstance(root.op, Literal):
            self.values[root] = root.op.value
        found = self.values[root]
        if not isinstance(found, DeviceArgument) or found.device is not self.device:
            found = self.values[root] = DeviceArgument.of_host(found, self.device)
            assert isinstance(found, DeviceArgument)
        return found.buffer, found.address

    # The host.

    def step(self, at: Instruction) -> None:
        """Runs one step that the host has a part in."""
        if isinstance(at.op, CopyTo):
            shape, value = self.plan.bound(at.shape), self.value(at.inputs[0])
            address = self.address(self.plan.reference(at))
            if lies_as(value, shape, self.device):
                self.device.move(address, value.address, int(shape.nbytes))
            else:
                self.device.upload(address, flat(laid_out(value.array, shape)))
        elif isinstance(at.op, CopyFrom):
            self.values[at] = self.on_host(at.inputs[0])
        elif isinstance(at.op, Sync):
            if self.of.waits:
                self.device.synchronize()
        elif isinstance(at.op, Assume) and at in self.executable.places[self.module_of(at)].roots:
            condition = self.value(at.inputs[1]).array
            at.op.compute(condition, condition)
        else:
            op = operations.bind(at.op, self.plan.sizes)
            self.values[at] = self.computed(at, op, self.plan.bound(at.shape))

    def value(self, at: Instruction) -> Argument:
        """A value, where it is."""
        if at in self.values:
            return self.values[at]
        if isinstance(at.op, Literal) and at not in self.executable.literals:
            return at.op.value
        if at in self.executable.places[self.module_of(at)].roots:
            reference = self.plan.reference(at)
            holder, start = self.base(reference.root)
            shape = self.plan.bound(at.shape)
            return DeviceArgument(shape, self.device, holder, start + reference.offset)
        if isinstance(at.op, GetTupleElem):
            return self.value(at.inputs[0]).parts[at.op.index]
        raise KeyError(at)

    def module_of(self, at: Instruction) -> Module:
        assert at.module is not None
        return at.module

    def on_host(self, at: Instruction) -> Argument:
        """A value on the device, copied to the host."""
        shape = self.plan.bound(at.shape)
        address = self.address(self.plan.reference(at))
        return Argument(shape.as_standard(), downloaded(self.device, address, shape))

    def computed(self, at: Instruction, op: Any, shape: Shape) -> Argument:
        """The result of an instruction by its meaning."""
        inputs = [self.value(v) for v in at.inputs]
        inside = dict.fromkeys(v for m in at.modules for v in captures(m))
        captured = {v: self.value(v) for v in inside}
        modules = [self.runnable(m, captured) for m in at.modules]
        return by_meaning(at, op, self.executable.context, shape, inputs, modules)

    def runnable(self, module: Module, captured: Values) -> Runnable:
        """A module as a function of its parameters."""

        def run(arguments: Sequence[Argument], inner: Sizes) -> list[Argument]:
            return self.of.module(module, arguments, dict(captured), inner)

        return as_function(module, self.sizes, run)

    def late(self, at: Instruction) -> Sizes:
        """Runs the instruction that the next piece waits for, and gives the sizes known by its
        result.
        """
        op, shape = bound_now(at.op, at.shape, self.sizes)
        begin = time.perf_counter()
        result = self.computed(at, op, shape)
        if self.of.watch is not None:
            self.of.watch.append(Cost(at, "", time.perf_counter() - begin))
        result = Argument(actual(result), result.data)
        self.values[at] = result
        return sizes_of([("its result", shape, result.shape)], self.sizes)


def _tensors(at: Instruction) -> list[Instruction]:
    """The operands and the result of an instruction that have bytes."""
    return [v for v in (*at.inputs, at) if v.shape.dtype.is_tensor]
