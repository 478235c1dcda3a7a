"""One run of a program: kernels on the device, and on the host what has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from migx import op as operations
from migx.argument import Argument
from migx.binding import Sizes, sizes_of
from migx.errors import EvaluationError, MigxError
from migx.ir import Instruction, Module
from migx.op import Runnable
from migx.ops.builtin import GetTupleElem, Literal, Slot
from migx.shape import TUPLE, Shape
from migx.targets.gpu.device import Buffer, flat
from migx.targets.gpu.operations import CopyFrom, CopyTo, Sync
from migx.targets.gpu.plan import Launch, Plan, Reference, Step, Workspace
from migx.targets.gpu.values import DeviceArgument, downloaded
from migx.text import draw_instruction
from migx.verify import captures

if TYPE_CHECKING:
    from migx.targets.gpu.executable import GpuExecutable, Piece

Values = dict[Instruction, Argument]
FAILURES = (MigxError, ArithmeticError, LookupError, MemoryError, TypeError, ValueError)
"""What the meaning of an operation raises when its operands do not fit it."""


class Run:
    """A run of a program, and of the modules that its instructions run."""

    def __init__(self, executable: GpuExecutable, slots: Mapping[str, Argument]) -> None:
        assert executable.device is not None
        self.executable, self.device, self.slots = executable, executable.device, slots

    def module(
        self, module: Module, arguments: Sequence[Argument], values: Values, sizes: Sizes
    ) -> list[Argument]:
        """What a module returns; ``values`` are those it captures."""
        for parameter, argument in zip(module.parameters.values(), arguments, strict=True):
            values[parameter] = argument
        for piece in self.executable.pieces[module]:
            plan = piece.plan(self.executable.places[module], sizes)
            try:
                workspace = plan.idle.pop()
            except IndexError:
                workspace = Workspace()
            try:
                part = _Part(self, piece, plan, workspace, values, sizes)
                part.run()
                if piece.late is not None:
                    sizes = part.late(piece.late)
            finally:
                plan.idle.append(workspace)
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
            workspace.arena = self.device.allocate(plan.arena_bytes)
        self.arena: Buffer = workspace.arena
        self.kept = {root: self.device.allocate(size) for root, size in plan.kept.items()}

    def run(self) -> None:
        """Runs every step, and hands over what is read afterwards."""
        with np.errstate(all="ignore"):
            for number, step in enumerate(self.plan.steps):
                if step.at is None:
                    self.launch(number, step)
                else:
                    self.step(step.at)
        for value in self.piece.kept:
            if value not in self.values:
                self.values[value] = self.value(value)

    # Kernels.

    def launch(self, number: int, step: Step) -> None:
        """Enqueues kernels, as a graph where they were enqueued alike before."""
        key = (self.arena.address, *(self.base(root)[1] for root in step.varying))
        seen = self.workspace.recorded.get(number)
        if seen is not None and seen[0] == key:
            replay = seen[1] or self.device.captured(lambda: self.enqueue(step))
            if replay is not None:
                self.workspace.recorded[number] = key, replay
                replay()
                return
        self.workspace.recorded[number] = key, None
        self.enqueue(step)

    def enqueue(self, step: Step) -> None:
        """Enqueues kernels one after another."""
        functions, keys = self.executable.functions, self.executable.keys
        for launch in step.launches:
            function, arguments = functions[keys[launch.at]], self.arguments(launch)
            self.device.launch(function, launch.grid, arguments)

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
            shape = self.plan.bound(at.shape)
            array = self.value(at.inputs[0]).array
            address = self.address(self.plan.reference(at))
            self.device.upload(address, flat(_laid_out(array, shape)))
        elif isinstance(at.op, CopyFrom):
            self.values[at] = self.on_host(at.inputs[0])
        elif isinstance(at.op, Sync):
            self.device.synchronize()
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
        kind: type = type(op)
        evaluate = operations.evaluator(kind)
        try:
            return evaluate(op, self.executable.context, shape, inputs, modules)
        except EvaluationError:
            raise
        except FAILURES as error:
            message = f"{type(error).__name__}: {error}"
            raise EvaluationError(draw_instruction(message, at)) from error

    def runnable(self, module: Module, captured: Values) -> Runnable:
        """A module as a function of its parameters."""

        def call(arguments: Sequence[Argument]) -> list[Argument]:
            pairs = zip(module.parameters.items(), arguments, strict=True)
            inner = sizes_of(((name, p.shape, a.shape) for (name, p), a in pairs), self.sizes)
            return self.of.module(module, arguments, dict(captured), inner)

        return call

    def late(self, at: Instruction) -> Sizes:
        """Runs the instruction that the next piece waits for, and gives the sizes known by its
        result.
        """
        names = {s.name for s in (*at.shape.symbols(), *operations.symbols(at.op))}
        known = {name: size for name, size in self.sizes.items() if name in names}
        op, shape = at.op, at.shape.substitute(known)
        if names <= known.keys():
            op = operations.bind(op, known)
        result = self.computed(at, op, shape)
        result = Argument(_actual(result), result.data)
        self.values[at] = result
        return sizes_of([("its result", shape, result.shape)], self.sizes)


def _laid_out(array: Any, shape: Shape) -> Any:
    """The elements of an array as a shape says they lie, one after another."""
    if shape.dtype.is_packed or shape.standard:
        return array
    space = np.zeros(int(shape.element_space), array.dtype)
    steps = [int(s) * array.itemsize for s in shape.true_strides]
    np.lib.stride_tricks.as_strided(space, array.shape, steps)[...] = array
    return space


def _actual(value: Argument) -> Shape:
    """The shape a value has, whatever was known of it before."""
    if value.shape.dtype is TUPLE:
        return Shape.tuple(*map(_actual, value.parts))
    if value.shape.dtype.is_tensor and not value.shape.dtype.is_packed:
        return Shape(value.shape.dtype, value.array.shape)
    return value.shape
