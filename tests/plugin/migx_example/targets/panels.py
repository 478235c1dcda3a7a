"""A target with kernels of its own for a few operations; the rest runs on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from migx import Argument, Program
from migx.binding import Sizes, sizes_of
from migx.ir import Instruction, Module
from migx.manager import Pipeline
from migx.meaning import actual, as_function, by_meaning
from migx.op import Array, Runnable, traits
from migx.ops.builtin import Param, Return, Slot
from migx.sizes import bound_now
from migx.target import NO_SLOTS, CompileOptions, Context, Target

Values = Mapping[Instruction, Argument]
Slots = Mapping[str, Argument]


def product(at: Instruction, x: Array, w: Array) -> Array:
    """The product of x and w, by panels where w lies in panels."""
    if at.inputs[1].name != "unpack_weight":
        return x @ w
    return np.concatenate([x @ panel for panel in w], axis=-1)[..., : int(at.shape.dims[-1])]


KERNELS: Mapping[str, Callable[..., Array]] = {
    "add": lambda at, x, y: x + y,
    "relu": lambda at, x: np.maximum(x, x.dtype.type(0)),
    "dot": product,
    "unpack_weight": lambda at, x: x,
}


@dataclass(frozen=True)
class Panels(Target):
    """Numpy kernels for a few operations, which read weights in panels of so many columns."""

    columns: int = 16

    def get_passes(self, context: Context, options: CompileOptions) -> Pipeline:
        return Pipeline.parse("optimize_module,hoist_weights")

    def make_executable(self, program: Program, context: Context) -> PanelsExecutable:
        return PanelsExecutable(program, context)

    def supports(self, instruction: Instruction) -> bool:
        if instruction.name == "unpack_weight":
            return all(
                u.name == "dot" and u.inputs[0] is not instruction for u in instruction.users
            )
        known = instruction.name in KERNELS and instruction.shape.dtype.name == "f32"
        return known or traits(instruction.op).view is not None

    def preferred_weight_format(self, instruction: Instruction, index: int) -> str | None:
        right = instruction.inputs[1] if (instruction.name, index) == ("dot", 1) else None
        if right is None or traits(right.op).view is not None or right.shape.rank != 2:
            return None
        return f"Ba{self.columns}b" if self.supports(instruction) else None


class PanelsExecutable:
    """Walks a program: each instruction is a kernel's, or runs by its own meaning."""

    def __init__(self, program: Program, context: Context) -> None:
        self.program, self.context = program, context
        packed = [at for m in program.modules.values() for at in m if at.name == "unpack_weight"]
        self.absorbed = frozenset(filter(context.target.supports, packed))

    def run(self, arguments: Mapping[str, Argument], slots: Slots = NO_SLOTS) -> list[Argument]:
        main = self.program.main
        sizes = sizes_of((n, p.shape, arguments[n].shape) for n, p in main.parameters.items())
        with np.errstate(all="ignore"):
            return self._module(main, list(arguments.values()), sizes, {}, slots)

    def _module(
        self, module: Module, given: Sequence[Argument], sizes: Sizes, around: Values, slots: Slots
    ) -> list[Argument]:
        """What a module returns; ``around`` has what it may capture."""
        values = {**around, **dict(zip(module.parameters.values(), given, strict=True))}
        for at in module:
            inputs = [values[v] for v in at.inputs]
            if isinstance(at.op, Slot):
                values[at] = slots[at.op.slot]
            elif at.name in KERNELS and self.context.target.supports(at):
                values[at] = Argument.of(KERNELS[at.name](at, *(v.array for v in inputs)))
            elif not isinstance(at.op, Param | Return):
                modules = [self._function(m, sizes, values, slots) for m in at.modules]
                op, shape = bound_now(at.op, at.shape, sizes)
                values[at] = by_meaning(at, op, self.context, shape, inputs, modules)
                sizes = sizes_of([(at.name, shape, actual(values[at]))], sizes)
        return [values[v] for v in module.outputs]

    def _function(self, module: Module, sizes: Sizes, around: Values, slots: Slots) -> Runnable:
        return as_function(
            module, sizes, lambda given, known: self._module(module, given, known, around, slots)
        )
