"""The kernel of ``dim_literal``: sizes, which the plan knows, as a tensor."""

from __future__ import annotations

from migx.ir import Instruction
from migx.ops.dims import DimLiteral
from migx.targets.cpu.emit import F64, I64
from migx.targets.cpu.kernel import Frame, Kernel, type_of
from migx.targets.cpu.machine import Machine

MOST = 64
"""More values than these are a large text for little work."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """One tile that writes every value."""
    to = type_of(at.shape.dtype)
    if not isinstance(at.op, DimLiteral) or to not in (I64, F64) or len(at.op.values) > MOST:
        return None
    frame = Frame(at, machine)
    f = frame.function
    with f.loop(frame.begin, frame.end):
        for index, value in enumerate(at.op.values):
            number = f.cast(frame.extent(value), to)
            f.store(number, f.element(frame.operands[0], index, to))
    return frame.finished("dim_literal", tiles=1)
