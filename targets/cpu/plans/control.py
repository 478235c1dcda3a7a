"""Control flow without Python: which modules of ``if``, ``loop`` and ``scan`` are steps of a plan.

If all sizes in a module are known before it runs, and all its instructions are kernels or again
such control flow, its steps are inlined into those of the enclosing module (``control_steps.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from migx.dim import Dim, Extent
from migx.errors import InputError
from migx.ir import Instruction
from migx.iterations import Iterations, Row
from migx.ops.builtin import Literal, Param, Return, Slot, Undefined
from migx.ops.control import If, Loop, Scan
from migx.ops.formats import UnpackWeight
from migx.planning import is_alias, is_memory
from migx.shape import Shape
from migx.sizes import asked_again, check_sizes, symbols_of
from migx.targets.cpu.plans.control_steps import Late, write_choice, write_iterations
from migx.targets.cpu.plans.growth import Growth
from migx.targets.cpu.plans.outline import KernelOf, Outline, Writer, is_taken_packed
from migx.targets.cpu.plans.rounds import Rounds


def native(
    instructions: Iterable[Instruction], known: set[str], kernel_of: KernelOf
) -> dict[Instruction, Writer]:
    """The control flow among the instructions of a module whose modules can become steps, nested
    control flow included, each with the writer of its steps; ``known`` are the symbols known around
    the module.
    """
    found: dict[Instruction, Writer] = {}
    sizes = set(known)
    for at in instructions:
        if isinstance(at.op, If | Loop | Scan):
            late = _late(at, sizes, kernel_of) if isinstance(at.op, Loop) else None
            told = set[str]() if late is None else late.names
            made = _native(at, sizes | told, kernel_of, late) or {}
            if made and late is not None:
                made[at] = late
            found |= made
        sizes |= symbols_of(at)
    return found


def _late(at: Instruction, known: set[str], kernel_of: KernelOf) -> Late | None:
    """The dims that the run of a loop determines, if everything else is known before; else None."""
    iterations, kept = Iterations.of(at), len(at.inputs) - 2
    lengths = {part.dims[0] for part in at.shape.parts[kept:] if part.dims}
    symbols = [length.symbol if isinstance(length, Dim) else None for length in lengths]
    length = symbols[0].name if len(symbols) == 1 and symbols[0] is not None else None
    growth = Growth.of(iterations.carried, at.shape.parts, known)
    if length in known or (lengths and length is None):
        return None
    if growth.first and not growth.suits([*_within(at)], known, kernel_of):
        return None
    return Late(length, growth) if length or growth.first else None


def _within(at: Instruction) -> Iterator[Instruction]:
    """The instructions in the modules of an instruction, including those of nested control flow."""
    for inner in (inner for module in at.modules for inner in module):
        yield inner
        if isinstance(inner.op, If | Loop | Scan):
            yield from _within(inner)


def _native(
    at: Instruction,
    known: set[str],
    kernel_of: KernelOf,
    late: Late | None = None,
    *,
    grows: bool = False,
) -> dict[Instruction, Writer] | None:
    """The writers of an instruction and of the control flow in its modules; None if these cannot
    become steps. An enclosing loop may have state that ``grows``.
    """
    growth = Growth() if late is None else late.growth
    if not symbols_of(at) <= known or not _fits(at, growth):
        return None
    grows |= bool(growth.first)
    rounds = None if grows or late is not None else Rounds.of(at, kernel_of)
    loop = write_iterations if rounds is None else rounds
    found: dict[Instruction, Writer] = {at: write_choice if isinstance(at.op, If) else loop}
    for inner in (inner for module in at.modules for inner in module):
        if isinstance(inner.op, If | Loop | Scan):
            nested = _native(inner, known, kernel_of, grows=grows)
            if nested is None:
                return None
            found |= nested
        elif not symbols_of(inner) <= known or not _is_step(inner, kernel_of):
            return None
    return found


def refused(o: Outline, sizes: Mapping[str, int]) -> dict[tuple[Instruction, int], str]:
    """The modules of control flow that given sizes refuse, by number, and why: a module that is not
    run need not fit the sizes.
    """
    found: dict[tuple[Instruction, int], str] = {}
    for at in o.instructions:
        if at in o.native and not isinstance(o.native[at], Late):
            for index, module in enumerate(at.modules):
                try:
                    for inner in asked_again(module):
                        check_sizes(inner, sizes)
                except InputError as error:
                    found[at, index] = str(error)
    return found


def _is_step(at: Instruction, kernel_of: KernelOf) -> bool:
    if type(at.op) in (Param, Literal, Slot, Undefined, Return):
        return True
    if isinstance(at.op, UnpackWeight):
        return is_taken_packed(at, kernel_of)
    return is_alias(at) or kernel_of(at) is not None


def _fits(at: Instruction, growth: Growth) -> bool:
    """Whether the values that enter and leave the modules of an instruction have the layout in
    which they are read, and the same dims in each iteration, except for state that grows.
    """
    if isinstance(at.op, If):
        outputs = [v.shape for m in at.modules for v in m.outputs]
        return all(map(_alike, outputs, at.shape.parts * 2))
    parts, iterations = at.shape.parts, Iterations.of(at)
    kept = len(iterations.carried)
    handed_on = [
        pair
        for (parameter, first, again), part in zip(iterations.carried, parts[:kept], strict=True)
        for pair in (
            (first.shape, growth.first_of(parameter.shape)),
            (again.shape, growth.next_of(parameter.shape)),
            (growth.inside(part), parameter.shape),
        )
    ]
    rows = [
        *((row, row.whole.shape) for row in iterations.given if row.whole),
        *zip(iterations.made, parts[kept:], strict=True),
    ]
    return all(_alike(value, wanted) for value, wanted in handed_on) and all(
        _is_row(row.value.shape, whole, row, iterations.length) for row, whole in rows
    )


def _alike(given: Shape, wanted: Shape) -> bool:
    """Whether a value of one shape is, byte for byte, one of the other."""
    return (
        is_memory(given)
        and given.dtype is wanted.dtype
        and given.dims == wanted.dims
        and given.true_strides == wanted.true_strides
    )


def _is_row(value: Shape, whole: Shape, row: Row, length: Extent) -> bool:
    """Whether a value has exactly the bytes of a row of a tensor."""
    dims, axis = whole.dims, row.axis
    rest = Shape(whole.dtype, (*dims[:axis], *dims[axis + 1 :]))
    standard = whole.strides is None and not whole.dtype.is_packed
    return standard and dims[axis] == length and _alike(value, rest)
