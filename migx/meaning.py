"""Runs what has no kernel, on the host, as ``ref`` does: one instruction, or a program of which a
target has kernels for some instructions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import as_strided

from migx import op as operations
from migx.argument import Argument
from migx.binding import Sizes, sizes_of, sizes_told
from migx.errors import DimError, EvaluationError, InputError, MigxError, ShapeError
from migx.ir import Instruction, Module
from migx.op import Array, Operation, Runnable, result_of
from migx.ops.builtin import Slot
from migx.ops.formats import UnpackWeight
from migx.program import Program
from migx.shape import TUPLE, Shape
from migx.target import NO_SLOTS, Context, Seen
from migx.text import draw_instruction, noted

Kernel: TypeAlias = Callable[..., Array | Sequence[Array]]
"""A function from an instruction's operands, as arrays it must not write to, to its result, or to
a sequence of several.
"""
Kernels: TypeAlias = Callable[..., Kernel | None]
"""The kernel of an instruction, its only argument; None if there is none. With a parameter
``sizes``, it is also given the size of each symbol that is known by then.
"""
Values: TypeAlias = Mapping[Instruction, Argument]

FAILURES = (MigxError, ArithmeticError, LookupError, MemoryError, TypeError, ValueError)
"""What the meaning of an operation raises for operands that do not fit it."""


def by_meaning(
    at: Instruction,
    op: Operation,
    context: Context,
    shape: Shape,
    inputs: Sequence[Argument],
    modules: Sequence[Runnable] = (),
) -> Argument:
    """The result of an instruction, whose operation and shape are given as far as they are bound.

    ``modules`` are those of the instruction, each through ``as_function``. Failures raise
    ``EvaluationError`` with the instruction drawn, after the one in a module that failed.
    """
    if type(op) is Slot:
        message = f"slot {op.slot!r} is not computed here: its value is given to run"
        raise EvaluationError(draw_instruction(message, at))
    if len(modules) < len(at.modules):
        message = f"{op.name} needs its {len(at.modules)} modules, each through as_function"
        raise EvaluationError(draw_instruction(message, at))
    try:
        result = result_of(op, shape, inputs, context, modules)
        if shape.static:
            expect_result(shape, result)
    except FAILURES as error:
        if isinstance(error, DimError) and any(True for _ in operations.symbols(op)):
            raise EvaluationError(draw_instruction(untold(op), at)) from error
        raise failed(at, error) from error
    return result


def by_kernel(
    at: Instruction, kernel: Kernel, shape: Shape, inputs: Sequence[Argument]
) -> Argument:
    """The result of an instruction, computed by a kernel. ``EvaluationError``, with the instruction
    drawn, if it does not have the expected shape; the kernel's own errors get the instruction as a
    note. The result of ``unpack_weight`` is not checked: a weight may stay packed for its readers.
    """
    operands = [value.read_only().array for value in inputs]
    with noted("the kernel of", at):
        given = kernel(*operands)
    try:
        result = _result(shape, given)
        if shape.static and not isinstance(at.op, UnpackWeight):
            expect_result(shape, result)
    except MigxError as error:
        raise EvaluationError(draw_instruction(f"the kernel of {at.name}: {error}", at)) from error
    return result


def _result(shape: Shape, given: Any) -> Argument:
    """What a kernel returned, as a value; ``ShapeError`` if it is not as many results as wanted."""
    if shape.dtype is not TUPLE:
        return Argument.packed(shape, given) if shape.dtype.is_packed else Argument.of(given)
    if not isinstance(given, tuple | list) or len(given) != len(shape.parts):
        what = f"{len(given)}" if isinstance(given, tuple | list) else type(given).__name__
        raise ShapeError(f"returns {what}, not a tuple of {len(shape.parts)} results")
    return Argument.tuple([_result(*each) for each in zip(shape.parts, given, strict=True)])


def failed(at: Instruction, error: BaseException) -> EvaluationError:
    """The ``EvaluationError`` for an instruction whose meaning has raised an error."""
    if isinstance(error, EvaluationError | InputError):
        return EvaluationError(draw_instruction(str(error), at))
    what = "out of memory" if isinstance(error, MemoryError) else type(error).__name__
    return EvaluationError(draw_instruction(f"{what}: {error}", at))


def untold(op: Operation) -> str:
    """What is wrong with an operation that needs the sizes of symbols it still has."""
    names = ", ".join(sorted({symbol.name for symbol in operations.symbols(op)}))
    return f"no parameter or earlier result tells the size of {names}, by having it as a dim"


def as_function(
    module: Module, sizes: Sizes, run: Callable[[Sequence[Argument], Sizes], list[Argument]]
) -> Runnable:
    """A module as a function of its parameters. ``run`` gets their values and the known sizes,
    including those that follow from the values. Results are read-only: two may be one value.
    """

    def call(arguments: Sequence[Argument]) -> list[Argument]:
        inner = sizes_told(module, arguments, sizes)
        return [result.read_only() for result in run(arguments, inner)]

    return call


def actual(value: Argument) -> Shape:
    """The shape a value actually has."""
    if value.shape.dtype is TUPLE:
        return Shape.tuple(*map(actual, value.parts))
    if value.elsewhere:
        return value.shape
    if value.shape.dtype.is_tensor and not value.shape.dtype.is_packed:
        return Shape(value.shape.dtype, value.array.shape)
    return value.shape


def told_by(result: Argument, shape: Shape, sizes: Sizes) -> tuple[Argument, Sizes]:
    """A result with the shape it actually has, of which only ``shape`` was known, and the sizes
    known then.
    """
    made = result if result.elsewhere else Argument(actual(result), result.data)
    return made, sizes_of([("its result", shape, made.shape)], sizes)


def expect_result(shape: Shape, result: Argument) -> None:
    """Raises ``ShapeError`` unless a result has the shape that was inferred for it."""
    data = None if result.elsewhere else result.data
    if result.shape is shape and isinstance(data, np.ndarray):
        same = data.dtype == shape.dtype.numpy and (
            data.shape == shape.dims or shape.dtype.is_packed
        )
        if same:
            return
        raise ShapeError(
            f"computed {data.dtype} {list(data.shape)}, its shape rule says {shape.text}"
        )
    if not is_like(actual(result), shape):
        raise ShapeError(f"computed {actual(result).text}, its shape rule says {shape.text}")


def is_like(shape: Shape, wanted: Shape) -> bool:
    """Whether a value of one shape may be one of another; host values are compared by kind only."""
    if wanted.dtype.is_tensor:
        return wanted.may_match(shape)
    if shape.dtype is not wanted.dtype or wanted.dtype is not TUPLE:
        return shape.dtype is wanted.dtype
    return len(shape.parts) == len(wanted.parts) and all(map(is_like, shape.parts, wanted.parts))


def run_with_kernels(
    program: Program,
    kernels: Kernels,
    context: Context,
    arguments: Mapping[str, Argument],
    slots: Mapping[str, Argument] = NO_SLOTS,
    seen: Seen | None = None,
) -> list[Argument]:
    """The results of a program: computed by kernels for instructions that have one, and by meaning
    for the rest, control flow included. Everything is in host memory. ``kernels`` may ask for the
    sizes of symbols, see ``Kernels``; ``seen`` is called with each parameter and instruction, and
    its value. Raises the errors of ``by_meaning`` and ``by_kernel``, and ``InputError`` for sizes
    that a shape rule refuses.
    """
    from migx.interpreter import Interpreter

    return Interpreter(program, context, _with_sizes(kernels)).trace(arguments, seen, slots)


def laid_out(x: Array, shape: Shape) -> Array:
    """An array whose elements lie where a shape of known sizes says: the one given if its elements
    do, or else a copy. A kernel whose strides are those of shapes, such as what
    ``migx.fusion.kernels.described`` describes, reads such arrays.
    """
    steps = [int(stride) * x.itemsize for stride in shape.true_strides]
    apart = zip(x.shape, x.strides, steps, strict=True)
    if x.flags.aligned and all(n == 1 or given == step for n, given, step in apart):
        return x
    memory = np.empty(int(shape.element_space), x.dtype)
    made = as_strided(memory, x.shape, steps)
    made[...] = x
    return made


def _with_sizes(kernels: Kernels) -> Callable[[Instruction, Sizes], Kernel | None]:
    """The function, given sizes too if it has a parameter for them; one of an extension may not
    say.
    """
    with suppress(ValueError):
        if "sizes" in inspect.signature(kernels).parameters:
            return lambda at, sizes: kernels(at, sizes=sizes)
    return lambda at, sizes: kernels(at)
