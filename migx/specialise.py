"""Programs with some symbols replaced by numbers or other extents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from migx.dim import Dim, Extent
from migx.dims.intervals import whole_number
from migx.dims.symbol import listed
from migx.errors import DimError, ShapeError
from migx.ir import Instruction
from migx.op import Operation, substitute
from migx.program import Program
from migx.shape import Shape
from migx.sizes import given_symbols
from migx.structure import emptied, in_order
from migx.text import draw_instruction

Sizes = Mapping[str, int]
Extents = Mapping[str, Extent]
Change: TypeAlias = Callable[[Operation], Operation]


def bound(program: Program, sizes: Sizes) -> Program:
    """A copy of a program in which each symbol in ``sizes`` is replaced by its number.

    Shapes are inferred again, literals are shared. ``DimError`` for a name that is no symbol or a
    size outside its bounds; ``ShapeError``, drawn, if an operation refuses the sizes.
    """
    sizes = check_sizes(program, sizes)
    return remade(program, lambda op: substitute(op, sizes), f"with {listed(sizes)}")


def remade(program: Program, change: Change, why: str) -> Program:
    """A copy of a program with each operation replaced by what ``change`` returns, and shapes
    inferred again. ``ShapeError``, drawn, says ``why`` if an operation refuses its new inputs.
    """
    made, modules = emptied(program)
    values: dict[Instruction, Instruction] = {}
    for module, at in in_order(program):
        inputs = tuple(values[v] for v in at.inputs)
        held = tuple(modules[m] for m in at.modules)
        try:
            op = change(at.op)
            shape = op.compute_shape([v.shape for v in inputs], held)
        except (DimError, ShapeError) as error:
            message = f"{why}: {error}{_way_round(at)}"
            raise ShapeError(draw_instruction(message, at)) from error
        values[at] = modules[module].append_known(op, inputs, held, shape, at.origins)
    return made


def substitute_symbols(program: Program, extents: Extents) -> None:
    """Replaces symbols by extents throughout a program, in place; shapes are inferred again.

    ``ShapeError``, drawn, if an operation refuses them; the program is then unchanged.
    """
    before: dict[Instruction, tuple[Operation, Shape]] = {}
    try:
        for _, at in in_order(program):
            before[at] = at.op, at.shape
            at.op = substitute(at.op, extents)
            at.shape = at.op.compute_shape([v.shape for v in at.inputs], at.modules)
    except (DimError, ShapeError):
        for at, (op, shape) in before.items():
            at.op, at.shape = op, shape
        raise


def _way_round(at: Instruction) -> str:
    """What else may be done if sizes are refused in a branch that may never be taken."""
    holders = (module.parent for module in at.owner.enclosing())
    if not any(holder is not None and holder.name == "if" for holder in holders):
        return ""
    return (
        "; this is in a branch: if no run takes it, leave the dims unbound, or give them to "
        "parse_onnx as input_dims"
    )


def check_sizes(program: Program, sizes: Sizes) -> dict[str, int]:
    """The sizes as ``int``; ``DimError`` for a name that is no symbol of the program, or a size out
    of bounds.
    """
    symbols, found = program.symbols(), {}
    given: Mapping[str, object] = sizes
    for name, size in given.items():
        if name not in symbols:
            known = ", ".join(sorted(given_symbols(program))) or "none"
            raise DimError(f"the program has no dim named {name!r}; its inputs have: {known}")
        number = None if isinstance(size, Dim) else whole_number(size)
        if number is None:
            raise DimError(f"dim {symbols[name]} is a number, not {size!r}")
        low, high = symbols[name].bounds
        if not low <= number <= high:
            raise DimError(f"dim {symbols[name]} cannot be {size}: its bounds are {low}..{high}")
        found[name] = number
    return found
