"""Runs one instruction by its own meaning, on the host: as what has no kernel is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from migx.argument import Argument
from migx.binding import Sizes, sizes_of
from migx.errors import EvaluationError, MigxError
from migx.ir import Instruction, Module
from migx.op import Operation, Runnable, evaluator
from migx.shape import TUPLE, Shape
from migx.target import Context
from migx.text import draw_instruction

FAILURES = (MigxError, ArithmeticError, LookupError, MemoryError, TypeError, ValueError)
"""What the meaning of an operation raises when its operands do not fit it."""


def by_meaning(
    at: Instruction,
    op: Operation,
    context: Context,
    shape: Shape,
    inputs: Sequence[Argument],
    modules: Sequence[Runnable] = (),
) -> Argument:
    """The result of an instruction, its operation and shape being given with what is bound by now.

    What fails raises ``EvaluationError``, with the instruction drawn: the innermost, where that is
    in a module.
    """
    kind: type = type(op)
    try:
        return evaluator(kind)(op, context, shape, inputs, modules)
    except EvaluationError:
        raise
    except FAILURES as error:
        raise failed(at, error) from error


def failed(at: Instruction, error: BaseException) -> EvaluationError:
    """The error of an instruction whose meaning has raised another: it drawn, and what that
    says.
    """
    what = "out of memory" if isinstance(error, MemoryError) else type(error).__name__
    return EvaluationError(draw_instruction(f"{what}: {error}", at))


def as_function(
    module: Module, sizes: Sizes, run: Callable[[Sequence[Argument], Sizes], list[Argument]]
) -> Runnable:
    """A module as a function of its parameters. ``run`` gets their values, and the sizes that are
    known with them besides those given. Results are read-only: two may be one.
    """

    def call(arguments: Sequence[Argument]) -> list[Argument]:
        pairs = zip(module.parameters.items(), arguments, strict=True)
        inner = sizes_of(((name, p.shape, a.shape) for (name, p), a in pairs), sizes)
        return [result.read_only() for result in run(arguments, inner)]

    return call


def actual(value: Argument) -> Shape:
    """The shape a value has, whatever was known of it before."""
    if value.shape.dtype is TUPLE:
        return Shape.tuple(*map(actual, value.parts))
    if value.shape.dtype.is_tensor and not value.shape.dtype.is_packed:
        return Shape(value.shape.dtype, value.array.shape)
    return value.shape
