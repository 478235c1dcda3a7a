"""Error messages for invalid instructions."""

from __future__ import annotations

from collections.abc import Iterable

from migx.errors import IRError, MigxError, ShapeError
from migx.ir import Instruction, Module
from migx.op import Operation
from migx.text import draw


def refuse(
    error: Exception,
    module: Module,
    op: Operation,
    inputs: tuple[Instruction, ...],
    modules: Iterable[Module],
    origins: tuple[str, ...],
) -> None:
    """Raises an error that explains why an instruction is invalid, from the original error: that an
    argument is not an operation, instruction or module; or the error of the shape rule, drawn.

    Returns if the original error is clear enough to be raised again.
    """
    _refuse_misuse(op, inputs, modules)
    if isinstance(error, ShapeError):
        raise ShapeError(draw(str(error), module, op, inputs, origins)) from error
    if not isinstance(error, MigxError):
        message = f"the shape rule of {op.name} failed: {type(error).__name__}: {error}"
        raise IRError(draw(message, module, op, inputs, origins)) from error


def _refuse_misuse(op: object, inputs: tuple[object, ...], modules: object) -> None:
    """``IRError`` if an argument is not an operation, instruction or module, as it should be."""
    name = getattr(op, "name", None)
    if isinstance(op, type) or not isinstance(name, str):
        made = f"{op.__name__}()" if isinstance(op, type) else "migx.ops.Relu()"
        raise IRError(f"{op!r} is no operation; one is made first, as in {made}")
    for place, value in enumerate(inputs):
        if not isinstance(value, Instruction):
            right = "add_literal makes one of an array, add_parameter one of an input"
            if isinstance(value, int | float):
                right = "migx.builders.Arithmetic takes numbers, full_like makes an instruction"
            elif isinstance(value, list | tuple):
                right = "inputs are given one by one, as add_instruction(op, x, y)"
            given = type(value).__name__
            raise IRError(
                f"input {place} of {name} is of type {given}, not an instruction: {right}"
            )
    if isinstance(modules, Module) or not isinstance(modules, Iterable):
        given = type(modules).__name__
        raise IRError(f"the modules of {name} are a list, such as [body], not of type {given}")
    for place, module in enumerate(modules):
        if not isinstance(module, Module):
            given = type(module).__name__
            raise IRError(f"module {place} of {name} is of type {given}, not a module")
