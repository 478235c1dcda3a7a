"""A target with kernels of its own for a few operations; the rest runs on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from migx import Argument, Program
from migx.ir import Instruction
from migx.manager import Pipeline
from migx.meaning import run_with_kernels
from migx.op import Array, traits
from migx.target import NO_SLOTS, CompileOptions, Context, Target


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
        return instruction.name in KERNELS and instruction.shape.dtype.name == "f32"

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

    def run(
        self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument] = NO_SLOTS
    ) -> list[Argument]:
        return run_with_kernels(self.program, self.kernel, self.context, arguments, slots)

    def kernel(self, at: Instruction) -> Callable[..., Array] | None:
        if at.name not in KERNELS or not self.context.target.supports(at):
            return None
        return partial(KERNELS[at.name], at)
