"""Adds the copies to standard layout that operations need."""

from __future__ import annotations

from migx import op as operations
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.ops.control import If, Loop, Scan
from migx.ops.layout import Contiguous


class AutoContiguous(Pass):
    """Puts ``contiguous`` before operations that read standard layout only and would read another;
    with ``outputs``, before what a module returns as well (MIGraphX pass of this name); with
    ``control``, before what goes into modules of control flow, and what they return.
    """

    outputs: bool = False
    control: bool = False
    variants = ("outputs=true", "control=true")

    def apply(self, module: Module, manager: PassManager) -> bool:
        copies: dict[Instruction, Instruction] = {}
        for at in module:
            if self._needs_standard(at):
                for i, value in enumerate(at.inputs):
                    if not value.shape.standard:
                        module.replace_input(at, i, _copied(copies, value, at))
        return bool(copies)

    def _needs_standard(self, at: Instruction) -> bool:
        returned = at.op.name == "@return"
        held = self.control and (_is_control(at) or (returned and _is_body(at.module)))
        return held or (self.outputs if returned else operations.traits(at.op).standard_inputs)


def _is_control(at: Instruction) -> bool:
    return isinstance(at.op, If | Loop | Scan)


def _is_body(module: Module | None) -> bool:
    return module is not None and any(map(_is_control, module.parents))


def _copied(
    copies: dict[Instruction, Instruction], value: Instruction, at: Instruction
) -> Instruction:
    """The one copy of a value that all share who come after the first that needs it."""
    if value not in copies and at.module is not None:
        origins = value.origins
        copies[value] = at.module.insert_instruction(at, Contiguous(), value, origins=origins)
    return copies[value]
