"""Makes operations that take their sizes as inputs static, where those inputs are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from migx import dim, ops
from migx.dim import Dim, Extent
from migx.dims.symbol import Symbol
from migx.errors import DimError, EvaluationError, ShapeError
from migx.ir import Instruction
from migx.manager import Pass, PassManager
from migx.match import on, var
from migx.passes.simplify_dyn_ops.forms import FORMS, kept, rely_on, static_form
from migx.program import Program
from migx.rewrite import Cursor, Declined, rule
from migx.sizes import given_symbols
from migx.specialise import substitute_symbols
from migx.weights import looked_at


@rule(on(tuple(FORMS), name="root"))
def known_sizes(at: Cursor, root: Instruction) -> Instruction | Declined | None:
    """An operation whose sizes are known has them as attributes."""
    found = static_form(root, SimplifyDynOps.name)
    if found is None:
        return None
    chain, shape = found
    if not shape.same_type(root.shape):
        return Declined("the dims of its result are not the known ones")
    rely_on(root, SimplifyDynOps.name)
    inputs = kept(root)
    for op in chain:
        inputs = (at(op, *inputs),)
    return inputs[0]


@rule(on(ops.DimensionsOf, var("x"), name="root"))
def known_dims(at: Cursor, x: Instruction, root: Instruction) -> Instruction:
    """The dims of a tensor are known as extents."""
    op = root.op_as(ops.DimensionsOf)
    return at(ops.DimLiteral(x.shape.dims[op.start : op.end], (op.end - op.start,)))


class SimplifyDynOps(Pass):
    """Replaces operations that take sizes as inputs by static ones where these inputs are literals
    or dims, and the symbols of their results by the dims they turn out to be (MIGraphX pass of this
    name).
    """

    rules = known_sizes + known_dims

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        changed = False
        while found := equations(program, sizes_of):
            try:
                substitute_symbols(program, {name: known for name, (known, _) in found.items()})
            except (DimError, ShapeError):
                return changed
            changed = True
            for _, at in found.values():
                rely_on(at, self.name)
            manager.apply(self)
        return changed


def equations(
    program: Program, sizes_of: Callable[[Instruction], Iterable[tuple[Extent, Extent]]]
) -> dict[str, tuple[Extent, Instruction]]:
    """Symbols that no caller gives, by name, with their known extents and the instructions that
    determine them. ``sizes_of`` gives dims of an instruction's result with their known extents.
    """
    found: dict[str, tuple[Extent, Instruction]] = {}
    given = {*given_symbols(program)}
    every = program.instructions()
    for at, mine, known in ((each, *pair) for each in every for pair in sizes_of(each)):
        symbol = mine.symbol if isinstance(mine, Dim) else None
        if symbol is None or symbol.name in given or not within(known, symbol):
            continue
        # One that depends on another waits for the next round.
        if not found.keys() & {s.name for s in (symbol, *dim.symbols(known))}:
            found[symbol.name] = known, at
            given |= {s.name for s in dim.symbols(known)}
    return found


def within(known: Extent, symbol: Symbol) -> bool:
    """Whether an extent may replace a symbol: it is within its bounds, and does not contain it."""
    (low, high), (least, most) = dim.bounds(known), symbol.bounds
    return least <= low and high <= most and symbol not in dim.symbols(known)


def sizes_of(at: Instruction) -> Iterator[tuple[Extent, Extent]]:
    """The dims of a result with their known extents."""
    if isinstance(at.op, ops.DynamicRange) and isinstance(at.op.count, Dim):
        known = [looked_at(v, relied_on_by=SimplifyDynOps.name) for v in at.inputs]
        try:
            if all(v is not None for v in known):
                yield at.op.count, at.op.compute(*(v.array for v in known if v is not None)).size
        except EvaluationError:
            return  # it fails when it runs, and says so then
    elif (found := static_form(at, SimplifyDynOps.name)) is not None:
        _, shape = found
        for mine, its in zip(at.shape.parts or (at.shape,), shape.parts or (shape,), strict=True):
            if mine.rank == its.rank:
                yield from zip(mine.dims, its.dims, strict=True)
