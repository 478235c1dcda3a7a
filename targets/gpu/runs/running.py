"""One run of a program: kernels on the device, and on the host what has no kernel."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from migx.argument import Argument
from migx.binding import Sizes
from migx.errors import TargetError
from migx.ir import Instruction, Module
from migx.meaning import as_function, by_meaning, told_by
from migx.op import Runnable
from migx.ops.builtin import GetTupleElem, Literal, Slot
from migx.ops.control import Assume
from migx.profile import Cost, moved
from migx.shape import Shape
from migx.sizes import bound_now
from migx.targets.gpu.devices.device import ENQUEUING, Buffer, flat
from migx.targets.gpu.devices.values import (
    LOADED,
    DeviceArgument,
    downloaded,
    is_on,
    laid_out,
    lies_as,
)
from migx.targets.gpu.operations import CodeObject, CopyFrom, CopyTo, Counted, Sync
from migx.targets.gpu.runs.places import may_be_there
from migx.targets.gpu.runs.plan import Batch, Launch, Place, Plan
from migx.verify import captures_of

if TYPE_CHECKING:
    from migx.targets.gpu.runs.executable import GpuExecutable, Piece

Values = dict[Instruction, Argument]


class Run:
    """A run of a program, and of the modules its instructions run. If it ``waits``, it does so for
    results that stay on the device; a ``watch`` records the cost of each kernel and each host step.
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
        """Allocates memory; if there is no room, idle arenas are freed first."""
        try:
            return self.device.allocate(nbytes)
        except TargetError:
            if not self.executable.forget_idle():
                raise
        return self.device.allocate(nbytes)

    def module(
        self, module: Module, arguments: Sequence[Argument], values: Values, sizes: Sizes
    ) -> list[Argument]:
        """The results of a module; ``values`` are those it captures."""
        for parameter, argument in zip(module.parameters.values(), arguments, strict=True):
            values[parameter] = argument
        for piece in self.executable.pieces[module]:
            plan = piece.plans.at(sizes)
            with piece.arena(plan.arena_bytes, self.device.stream, self.allocate) as arena:
                part = _Part(self, piece, plan, arena, values, sizes)
                part.run()
                for at in piece.late:
                    sizes = {**sizes, **part.late(at)}
        return [values[v] for v in module.outputs]


class _Part:
    """One run of a piece."""

    def __init__(
        self,
        run: Run,
        piece: Piece,
        plan: Plan,
        arena: Buffer,
        values: Values,
        sizes: Sizes,
    ) -> None:
        self.of, self.piece, self.plan, self.arena = run, piece, plan, arena
        self.values, self.sizes, self.device = values, sizes, run.device
        self.executable = run.executable
        self.bases = _Bases(run, plan, arena, values)
        for root, size in plan.kept.items():
            buffer = run.allocate(piece.roomy(size))
            self.bases[root] = buffer, buffer.address

    def run(self) -> None:
        """Runs every step, and hands on what is read afterwards."""
        with np.errstate(all="ignore"):
            for step in self.plan.steps:
                if self.of.watch is not None:
                    self.watched(step, self.of.watch)
                elif isinstance(step, Batch):
                    self.launch(step)
                else:
                    self.step(step)
        for root in self.plan.kept:
            self.values[root] = self.there(root)
        for value in self.piece.kept:
            if value not in self.values:
                self.values[value] = self.value(value)

    # Kernels.

    def launch(self, batch: Batch) -> None:
        """Enqueues kernels, as one graph if they were enqueued with the same addresses before."""
        bases = self.bases
        addresses = (self.arena.address, *[bases[root][1] for root in batch.varying])
        replay = batch.replay(
            addresses, lambda: self.device.captured(lambda: self.enqueue(batch.launches))
        )
        if replay is not None:
            replay()
        else:
            self.enqueue(batch.launches)

    def enqueue(self, launches: Sequence[Launch]) -> None:
        """Enqueues kernels one after another."""
        kernels, bases = self.executable.kernels, self.bases
        for at, grid, operands, words in launches:
            addresses = [bases[root][1] + offset for root, offset in operands]
            self.device.launch(kernels[at], grid, (*addresses, *words))

    def watched(self, step: Batch | Instruction, costs: list[Cost]) -> None:
        """Runs a step, kernel by kernel, and records its cost."""
        if isinstance(step, Instruction):
            begin = time.perf_counter()
            self.step(step)
            took, nbytes = time.perf_counter() - begin, self.plan.number(moved(step))
            costs.append(Cost(step, "", took, 0, nbytes))
            return
        for at, turns in groupby(step.launches, lambda launch: launch.at):
            launches, op = list(turns), at.op_as(CodeObject)
            self.device.synchronize()
            enqueue, host = partial(self.enqueue, launches), len(launches) * ENQUEUING
            taken = self.device.elapsed(enqueue, host)
            read = at.inputs[: len(at.inputs) - op.scratch]
            nbytes = sum(int(self.plan.bound(v.shape).nbytes) for v in read)
            costs.append(Cost(at, op.kernel, taken, self.plan.number(op.flops), nbytes))

    def address(self, place: Place) -> int:
        """The address of a value on the device."""
        return self.bases[place.root][1] + place.offset

    def there(self, at: Instruction) -> DeviceArgument:
        """A value on the device."""
        root, offset, shape = self.plan.place(at)
        holder, start = self.bases[root]
        return DeviceArgument(shape, self.device, holder, start + offset)

    # The host.

    def step(self, at: Instruction) -> None:
        """Runs one step in which the host takes part."""
        if isinstance(at.op, CopyTo):
            self.copy_to(at, self.value(at.inputs[0]))
        elif isinstance(at.op, CopyFrom):
            self.values[at] = self.on_host(at.inputs[0])
        elif isinstance(at.op, Sync):
            if self.of.waits:
                self.device.synchronize()
        elif isinstance(at.op, Assume) and at in self.executable.places[at.owner].roots:
            condition = self.value(at.inputs[1]).array
            at.op.compute(condition, condition)
        else:
            self.values[at] = self.computed(at, self.plan.op(at), self.plan.bound(at.shape))

    def copy_to(self, at: Instruction, value: Argument) -> None:
        """Copies a value to the device, or uses it in place if it is there."""
        place = self.plan.place(at)
        if not is_on(value, self.device) or not lies_as(value.shape, place.shape):
            self.device.upload(self.address(place), flat(laid_out(value.array, place.shape)))
        elif may_be_there(at) and value.address % LOADED == 0:
            self.bases[at] = value.buffer, value.address
        else:
            self.device.move(self.address(place), value.address, int(place.shape.nbytes))

    def value(self, at: Instruction) -> Argument:
        """A value, on host or device."""
        if at in self.values:
            return self.values[at]
        if isinstance(at.op, Literal) and at not in self.executable.literals:
            return at.op.value
        if at in self.executable.places[at.owner].roots:
            return self.there(at)
        if isinstance(at.op, GetTupleElem):
            return self.value(at.inputs[0]).parts[at.op.index]
        raise KeyError(at)

    def on_host(self, at: Instruction) -> Argument:
        """A value on the device, copied to the host."""
        place = self.plan.place(at)
        found = downloaded(self.device, self.address(place), place.shape)
        return Argument(place.shape.as_standard(), found)

    def computed(self, at: Instruction, op: Any, shape: Shape) -> Argument:
        """The result of an instruction by its meaning."""
        inputs = [self.value(v) for v in at.inputs]
        if not at.modules:
            inputs = [self.executable.target.copy_from(v) for v in inputs]
        around = {v: self.value(v) for v in dict.fromkeys(captures_of(at))}
        modules = [self.runnable(m, around) for m in at.modules]
        return by_meaning(at, op, self.executable.context, shape, inputs, modules)

    def runnable(self, module: Module, captured: Values) -> Runnable:
        """A module as a function of its parameters."""

        def run(arguments: Sequence[Argument], inner: Sizes) -> list[Argument]:
            return self.of.module(module, arguments, dict(captured), inner)

        return as_function(module, self.sizes, run)

    def counted(self, at: Instruction, op: Counted) -> DeviceArgument:
        """The part of a kernel's results that is in use."""
        room, told = (self.value(v) for v in at.inputs)
        assert isinstance(room, DeviceArgument)
        # Without room there was no launch.
        count = int(told.array.item()) if room.shape.elements else 0
        dims = (*room.shape.dims[: op.axis], count, *room.shape.dims[op.axis + 1 :])
        return DeviceArgument(room.shape.with_dims(dims), self.device, room.buffer, room.address)

    def late(self, at: Instruction) -> Sizes:
        """Runs an instruction that the next piece waits for, and gives the sizes known by its
        result.
        """
        if isinstance(at.op, Counted):
            self.values[at], sizes = told_by(self.counted(at, at.op), at.shape, self.sizes)
            return sizes
        op, shape = bound_now(at.op, at.shape, self.sizes)
        begin = time.perf_counter()
        result = self.computed(at, op, shape)
        if self.of.watch is not None:
            self.of.watch.append(Cost(at, "", time.perf_counter() - begin))
        self.values[at], sizes = told_by(result, shape, self.sizes)
        return sizes


class _Bases(dict[Instruction, tuple[Any, int]]):
    """The owner of each root's memory in a run of a piece, and its address."""

    def __init__(self, of: Run, plan: Plan, arena: Buffer, values: Values) -> None:
        super().__init__()
        self._of, self._offsets, self._arena, self._values = of, plan.offsets, arena, values

    def __missing__(self, root: Instruction) -> tuple[Any, int]:
        if (offset := self._offsets.get(root)) is not None:
            found = self._arena, self._arena.address + offset
        else:
            value = self._of.executable.literals.get(root) or self._value(root)
            found = value.buffer, value.address
        self[root] = found
        return found

    def _value(self, root: Instruction) -> DeviceArgument:
        """A value that the host, another piece or another module has made, on the device."""
        values, device = self._values, self._of.device
        if root not in values and isinstance(root.op, Slot):
            values[root] = self._of.slots[root.op.slot]
        if root not in values and isinstance(root.op, Literal):
            values[root] = root.op.value
        found = values[root]
        if not is_on(found, device):
            found = values[root] = DeviceArgument.of_host(found, device)
            assert isinstance(found, DeviceArgument)
        return found
