"""A chain of instructions to edit."""

from __future__ import annotations

from migx import ops
from migx.ir import Instruction
from migx.program import Program
from migx.shape import F32, Shape

VECTOR = Shape(F32, (3,))


def chain(count: int) -> tuple[Program, list[Instruction]]:
    """x, relu(x), relu(relu(x)), ... and the return of the last."""
    program = Program()
    made = [program.main.add_parameter("x", VECTOR)]
    for _ in range(count):
        made.append(program.main.add_instruction(ops.Relu(), made[-1]))
    program.main.add_return(made[-1])
    return program, made
