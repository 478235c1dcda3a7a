"""The symbols of instructions, and shape rules asked again when their sizes are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from migx import op as operations
from migx.errors import DimError, EvaluationError, InputError, ShapeError
from migx.ir import Instruction, Module
from migx.memory import installed
from migx.op import Operation
from migx.ops.builtin import Param, Return, Slot
from migx.shape import Shape
from migx.text import draw_instruction


def symbols_of(at: Instruction) -> frozenset[str]:
    """The symbols in an instruction's shape and attributes."""
    return symbols_in(at.shape) | {s.name for s in operations.symbols(at.op)}


def symbols_in(shape: Shape) -> frozenset[str]:
    """The symbols in a shape."""
    return frozenset(s.name for s in shape.symbols())


def read_symbols(at: Instruction) -> frozenset[str]:
    """These, and those in what it reads."""
    return symbols_of(at).union(*(symbols_of(v) for v in at.inputs))


def symbols_within(module: Module) -> set[str]:
    """All that are read in a module and in those it holds."""
    found = set[str]()
    for at in module:
        found |= read_symbols(at)
        for inner in at.modules:
            found |= symbols_within(inner)
    return found


def bound_now(op: Operation, shape: Shape, sizes: Mapping[str, int]) -> tuple[Operation, Shape]:
    """An operation and its shape with the sizes that are known: where one of its symbols has none
    yet, the operation as it is, and those that have put into its shape.
    """
    names = symbols_in(shape) | {s.name for s in operations.symbols(op)}
    known = {name: sizes[name] for name in names if name in sizes}
    if len(known) == len(names):
        return operations.bind(op, sizes), shape.bind(sizes)
    return op, shape.substitute(known)


Checks = dict[object, Instruction]


def asked_again(instructions: Iterable[Instruction], found: Checks) -> Checks:
    """The instructions whose shape rules must be asked again when sizes are known, those of fused
    modules included; of several that are alike, one.
    """
    for at in instructions:
        plain = not at.modules and type(at.op) not in (Param, Slot, Return)
        if plain and any(map(symbols_of, (at, *at.inputs))):
            key = (operations.key(at.op), tuple(v.shape for v in at.inputs), at.shape)
            found.setdefault(key, at)
        if at.op.name in ("pointwise", "fused_reduce", "group"):
            for module in at.modules:
                asked_again(module, found)
    return found


def check_sizes(at: Instruction, sizes: Mapping[str, int]) -> None:
    """Raises ``InputError``, drawn, where sizes are such that a shape rule refuses them."""
    try:
        op = operations.bind(at.op, sizes)
        inferred = op.compute_shape([v.shape.bind(sizes) for v in at.inputs], ())
        same = inferred.same_type(at.shape.bind(sizes))
    except (ShapeError, DimError) as error:
        raise InputError(draw_instruction(f"with {_listed(sizes)}: {error}", at)) from error
    if not same:
        message = f"with {_listed(sizes)}: {inferred} instead of {at.shape.bind(sizes)}"
        raise InputError(draw_instruction(message, at))


def check_room(nbytes: int, sizes: Mapping[str, int]) -> None:
    """Raises ``EvaluationError`` where values are larger than the memory of the machine, before any
    of it is taken.
    """
    if nbytes > installed():
        raise EvaluationError(
            f"with {_listed(sizes)}: values that are needed at one time take {nbytes:,} bytes, the "
            f"machine has {installed():,}"
        )


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items()) or "these sizes"
