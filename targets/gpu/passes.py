"""The pass that lowers a program to kernels, allocations and copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from migx import op as operations
from migx.dead_code import remove_dead_code
from migx.errors import TargetError
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.ops.builtin import GetTupleElem, Literal, Param, Return, Slot
from migx.ops.control import Assume, Loop
from migx.ops.fused import Fused
from migx.ops.layout import Contiguous
from migx.passes.dissolve import take_apart
from migx.pipeline import Approximation
from migx.planning import is_alias, is_memory, pieces, results, with_known
from migx.program import Program
from migx.sizes import asked_again
from migx.targets.gpu.cost_model import around
from migx.targets.gpu.emit.text import Kernel, is_aligned, operands
from migx.targets.gpu.kernels import kernel_for
from migx.targets.gpu.operations import (
    Allocate,
    CodeObject,
    CopyFrom,
    CopyTo,
    Counted,
    DeviceLiteral,
    Sync,
)
from migx.targets.gpu.rounding import RoundedToTf32
from migx.targets.gpu.tuning import Tuner

FEW = 64
"""Values of up to so many elements are copied to the device only if a kernel reads them."""


CARRIED = 2
"""The first input of a loop that is carried."""
WHOLE = ("bool", "int", "uint")
"""The kinds of integer element types, and bool."""


class Lower(Pass):
    """Replaces each instruction that has a kernel by a ``gpu::code_object``, with ``gpu::allocate``
    for its results, and inserts ``gpu::copy_to`` and ``gpu::copy_from`` where values move between
    host and device. Instructions without a kernel stay, and run on the host. Results of kernels in
    a branch or in a loop's body, and values that a loop carries, stay on the device.

    Without ``offload_copy``, parameters and results of ``main`` stay on the device. Tiles are those
    that a model finds best on the first of ``arch`` among those that fit all; with ``tune``, those
    measured best on the device. ``fast_math`` rounds the factors of f32 products to tf32, except in
    recurrent layers, if all of ``arch`` support it.
    """

    name = "gpu::lower"
    offload_copy: bool = True
    arch: tuple[str, ...] = ()
    tune: bool = False
    fast_math: bool = False

    @property
    def approximations(self) -> Mapping[str, Approximation]:
        """What ``fast_math`` rounds."""
        return dict.fromkeys(("dot", "convolution"), RoundedToTf32()) if self.fast_math else {}

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        if any(type(at.op) is CodeObject for m in program.modules.values() for at in m):
            return False
        find, archs = kernel_for, self.arch
        if self.tune:
            tuner = _tuner()
            find, archs = tuner.kernel, (tuner.device.arch, *archs)
        with around(*archs, fast_math=self.fast_math):
            return _Lowering(program, self.offload_copy, find).run()


def _tuner() -> Tuner:
    """The tuner, which measures kernels; raises ``TargetError`` without a device."""
    from migx.targets.gpu.devices.cupy_device import found

    device, missing = found()
    if device is None:
        raise TargetError(f"{missing}. tune measures kernels on a device: leave it out here")
    return Tuner(device)


class _Lowering:
    """Tracks where each value of a program is: on the host, on the device, or both."""

    def __init__(
        self,
        program: Program,
        offload_copy: bool,
        find: Callable[[Instruction], Kernel | None],
    ) -> None:
        self.program, self.offload_copy, self.find = program, offload_copy, find
        self.host: dict[Instruction, Instruction] = {}
        self.device: dict[Instruction, Instruction] = {}
        self.made_there: set[Instruction] = set()
        """Values computed on the device, of which the host has at most a copy."""
        self.late: set[Instruction] = set()
        """Instructions the host must run, as only their results determine sizes."""
        self.changed = False
        self.seen: set[Module] = set()

    def run(self) -> bool:
        """Lowers all modules that are run by themselves."""
        self.module(self.program.main, set())
        for module in self.seen:
            remove_dead_code(module)
        return self.changed

    def module(self, module: Module, known: set[str]) -> None:
        """Lowers a module, and those its instructions run; ``known`` are the symbols around it."""
        self.seen.add(module)
        self.late |= {at for part in pieces(module, known) for at in part.late}
        for at, told in with_known(module, known):
            if type(at.op) is Return:
                self.results(at)
            elif type(at.op) is Param:
                self.start(at, module is self.program.main and not self.offload_copy)
            elif isinstance(at.op, (Slot, Literal)):
                self.start(at, isinstance(at.op, Slot) or at.op.replaceable)
            elif self.is_view(at) and at.inputs[0] in self.made_there:
                self.made_there.add(at)
                self.device[at] = self.moved(at)
            elif type(at.op) is Assume and self.stays(at):
                self.made_there.add(at)
                self.device[at] = at
            elif isinstance(at.op, Fused) and self.is_little(at):
                self.few(at, told)
            elif (
                is_alias(at)
                or self.is_little(at)
                or (kernel := self.kernel(at)) is None
                or kernel.counts != (at in self.late)
            ):
                self.on_host(at, told)
            elif kernel.counts:
                self.count(at, kernel)
            else:
                self.device[at] = self.launch(at, kernel)
                self.made_there.add(at)

    def kernel(self, at: Instruction) -> Kernel | None:
        """The kernel of an instruction, if all its operands can be on the device."""
        every = [v.shape for v in operands(at)] + list(results(at))
        return self.find(at) if all(map(is_memory, every)) else None

    def is_view(self, at: Instruction) -> bool:
        """Whether a value aliases its first input, on either side."""
        return is_alias(at) and at not in self.late

    def start(self, at: Instruction, there: bool) -> None:
        """Records where a given value is."""
        if there and is_memory(at.shape):
            self.device[at] = at
            self.made_there.add(at)
        else:
            self.host[at] = at

    def is_little(self, at: Instruction) -> bool:
        """Whether an instruction computes a few numbers from a few that are on the host: mostly
        sizes. They stay there until a kernel reads them.
        """
        counts = [s.elements for s in (*(v.shape for v in at.inputs), *results(at)) if is_memory(s)]
        few = all(isinstance(n, int) and n <= FEW for n in counts)
        return few and all(v in self.host and not self.is_given(v) for v in at.inputs)

    def few(self, at: Instruction, known: set[str]) -> None:
        """Leaves the parts of a fused instruction to the host, which would run it as a module."""
        self.host[at], self.changed = at, True
        for each in take_apart(at):
            self.on_host(each, known)

    def is_given(self, value: Instruction) -> bool:
        """Whether a value is an argument, other than the integers, such as iteration numbers, that
        are given to a submodule.
        """
        counts = value.module is not self.program.main and value.shape.dtype.kind in WHOLE
        return type(value.op) is Param and not counts

    def results(self, at: Instruction) -> None:
        """Moves the results of a module to where they are wanted."""
        module = at.owner
        main = module is self.program.main
        for index, value in enumerate(at.inputs):
            stays = value in self.made_there or self.is_of_modules(value)
            if main and not self.offload_copy and stays:
                made = self.to_device(value)
                if type(made.op) is not Param:
                    made = module.insert_instruction(at, Sync(), made, origins=made.origins)
            elif not main and self.is_made_in(module, value):
                made = self.to_device(value)
            else:
                made = self.to_host(value)
            if made is not value:
                module.replace_input(at, index, made)

    def is_of_modules(self, value: Instruction) -> bool:
        """Whether a value is the result of an instruction that runs modules, and may be on the
        device.
        """
        while self.is_view(value) and not value.inputs[0].modules:
            value = value.inputs[0]
        return bool(value.inputs and value.inputs[0].modules) and is_memory(value.shape)

    def is_made_in(self, module: Module, value: Instruction) -> bool:
        """Whether a value is written by a kernel of this module, so its memory is not aliased."""
        while self.is_view(value) or type(value.op) is Assume:
            value = value.inputs[0]
        given = isinstance(value.op, (Param, Slot, Literal))
        return value in self.made_there and value.module is module and not given

    def stays(self, at: Instruction) -> bool:
        """Whether the value of an ``assume``, which is in standard layout, can stay on the device,
        while the host checks the condition.
        """
        module, (value, condition) = at.owner, at.inputs
        if value not in self.made_there:
            return False
        made = self.to_device(value)
        if not value.shape.standard:
            copy = module.insert_instruction(at, Contiguous(), value, origins=at.origins)
            if (kernel := self.kernel(copy)) is None:
                return False
            made = self.launch(copy, kernel)
        module.replace_input(at, 0, made)
        module.replace_input(at, 1, self.to_host(condition))
        return True

    def count(self, at: Instruction, kernel: Kernel) -> None:
        """Replaces an instruction by a code object that counts its results, and what that tells. It
        counts as on the host, which learns the number, but lies on the device.
        """
        module, made = at.owner, self.launch(at, kernel)
        room, number = (
            module.insert_instruction(at, GetTupleElem(i), made, origins=at.origins)
            for i in range(2)
        )
        told = module.insert_instruction(at, CopyFrom(), number, origins=at.origins)
        count = operations.attributes(at.op)["count"]
        op = Counted(axis=at.shape.dims.index(count), count=count)
        found = module.insert_instruction(at, op, room, told, origins=at.origins)
        module.replace_instruction(at, found)
        self.host[found] = found

    def launch(self, at: Instruction, kernel: Kernel) -> Instruction:
        """The code object of an instruction."""
        module = at.owner
        given = operands(at)
        reads = [self.to_device(v) for v in given]
        for before, now in zip(given, reads, strict=True):
            if before.shape.true_strides != now.shape.true_strides:
                raise TargetError(f"{before.shape} is laid out as {now.shape} on the device")
        shapes = (*kernel.writes, *kernel.scratch)
        writes = [module.insert_instruction(at, Allocate(s), origins=at.origins) for s in shapes]
        inputs, rules = (*reads, *writes), [] if kernel.counts else _relied_on(at)
        op = replace(kernel.op, aligned=tuple(i for i, v in enumerate(inputs) if is_aligned(v)))
        self.changed = True
        return module.insert_instruction(at, op, *inputs, modules=rules, origins=at.origins)

    def on_host(self, at: Instruction, known: set[str]) -> None:
        """Leaves an instruction to the host, and its operands too."""
        module = at.owner
        for index, value in enumerate(at.inputs):
            carried = isinstance(at.op, Loop) and index >= CARRIED
            there = carried and value in self.made_there
            made = self.to_device(value) if there else self.to_host(value)
            if made is not value:
                module.replace_input(at, index, made)
        self.host[at] = at
        for inner in at.modules:
            if not inner.bypass and inner not in self.seen:
                self.module(inner, set(known))

    def to_device(self, value: Instruction) -> Instruction:
        """The value on the device, copied right after it is computed."""
        if value not in self.device:
            module = value.owner
            if self.is_view(value) and not value.inputs[0].shape.parts:
                self.to_device(value.inputs[0])
                self.device[value] = self.moved(value)
            elif type(value.op) is Literal:
                made = DeviceLiteral(**operations.attributes(value.op))
                self.device[value] = module.insert_instruction(value, made, origins=value.origins)
            else:
                last = [*module.parameters.values()][-1] if type(value.op) is Param else value
                after = next(module.following(last), None)
                copy = module.insert_instruction(after, CopyTo(), value, origins=value.origins)
                self.device[value] = copy
            self.changed = True
        return self.device[value]

    def to_host(self, value: Instruction) -> Instruction:
        """The value on the host, copied right after it is computed."""
        if value not in self.host:
            source = value.inputs[0] if self.is_view(value) else None
            if source in self.host and value.module is not None:
                view = value.module.insert_instruction(
                    value, value.op, self.host[source], origins=value.origins
                )
                self.host[value] = view
                return view
            there = self.to_device(value)
            if there.shape.parts:
                raise TargetError(f"{there.name}: the host takes no tuple")
            self.host[value] = there.owner.insert_instruction(
                next(there.owner.following(there), None), CopyFrom(), there, origins=value.origins
            )
            self.changed = True
        return self.host[value]

    def moved(self, view: Instruction) -> Instruction:
        """A view of a value on the device."""
        source = self.device[view.inputs[0]]
        if source is view.inputs[0]:
            return view
        return view.owner.insert_instruction(view, view.op, source, origins=view.origins)


def _relied_on(at: Instruction) -> list[Module]:
    """The module of an instruction, or one that has it alone, if sizes may break shape rules in it:
    a kernel has none of its own, and would read out of bounds.
    """
    if not asked_again([at]):
        return []
    if at.modules:
        return list(at.modules)
    module = at.owner.program.add_module(at.name, bypass=True)
    given = {
        v: module.add_parameter(f"x{i}", v.shape) for i, v in enumerate(dict.fromkeys(at.inputs))
    }
    inputs = [given[v] for v in at.inputs]
    module.add_return(module.add_instruction(at.op, *inputs, origins=at.origins))
    return [module]
