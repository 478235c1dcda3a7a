"""Control flow without Python: the modules of ``if``, ``loop`` and ``scan`` as steps of a plan.

If all sizes in a module are known before it runs, and all its instructions are kernels or again
such control flow, its steps are inlined into those of the enclosing module, connected by jumps.
Carried values are copied from where the body computes them to where the next iteration reads them;
rows of scan inputs and outputs are copied from and to their tensors. Memory that a body reads stays
live until the loop has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from migx.binding import Sizes
from migx.dim import Dim, Extent, product
from migx.errors import InputError
from migx.ir import Instruction
from migx.ops.builtin import Literal, Param, Return, Slot, Undefined
from migx.ops.control import CONDITION, ITERATION, If, Loop, Scan
from migx.ops.formats import UnpackWeight
from migx.planning import is_alias, is_memory
from migx.shape import Shape
from migx.sizes import asked_again, check_sizes, symbols_of
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.plans.control_kernels import (
    AGAIN,
    BEGIN,
    COPY,
    COUNT,
    JUMP,
    REFUSED,
    ROW,
    SETTLE,
    UNLESS,
)
from migx.targets.cpu.plans.growth import Growth, beginning
from migx.targets.cpu.plans.iterations import Iterations, Row
from migx.targets.cpu.plans.outline import (
    Cell,
    KernelOf,
    Kind,
    Label,
    Outline,
    Reference,
    Work,
    Writer,
    is_taken_packed,
)
from migx.targets.cpu.plans.rounds import Rounds

# What can become steps.


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


@dataclass(frozen=True)
class Late:
    """Writes the steps of a loop whose run determines dims of its results: its trip count, which is
    the symbol ``length`` if there is one, and the dims of state that grows.
    """

    length: str | None
    growth: Growth

    def __call__(self, o: Outline, at: Instruction) -> None:
        _write_iterations(o, at, self)

    @property
    def names(self) -> set[str]:
        """The symbols that only the run determines."""
        return self.growth.names | ({self.length} if self.length else set())

    @property
    def room(self) -> Extent:
        """The number of iterations there is room for, in terms of a plan's sizes."""
        return Dim(self.length) if self.length else self.growth.room

    def after(self, iterations: int, sizes: Mapping[str, int]) -> Sizes:
        """The sizes after so many iterations."""
        found = self.growth.after(iterations, sizes)
        if self.length:
            found[self.length] = iterations
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
    loop = _write_iterations if rounds is None else rounds
    found: dict[Instruction, Writer] = {at: _write_choice if isinstance(at.op, If) else loop}
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
    """The modules of ``if`` that given sizes refuse, by number, and why: a branch that is not taken
    need not fit the sizes.
    """
    found: dict[tuple[Instruction, int], str] = {}
    for at in o.instructions:
        if at in o.native and isinstance(at.op, If):
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


# The steps.


def _step(
    o: Outline,
    at: Instruction,
    kernel: Kernel,
    reads: Sequence[Reference],
    writes: Sequence[Cell],
    *words: Extent,
) -> None:
    """Adds a step that writes existing cells."""
    for cell in (*(r.cell for r in reads), *writes):
        cell.last = max(cell.last, len(o.works))
    o.works.append(Work(at, replace(kernel, words=words), tuple(reads), tuple(writes)))


def _copy(o: Outline, at: Instruction, value: Reference, cell: Cell) -> None:
    _step(o, at, COPY, [value], [cell], value.shape.nbytes)


def _jump(o: Outline, at: Instruction, to: Label, unless: Reference | None = None) -> None:
    """Adds a jump; given a bool, it is taken only if that is false."""
    reads = () if unless is None else (unless,)
    for reference in reads:
        reference.cell.last = max(reference.cell.last, len(o.works))
    o.works.append(Work(at, UNLESS if reads else JUMP, reads, (), to=to))


def _write_choice(o: Outline, at: Instruction) -> None:
    """The steps of both branches, with the jumps that select one."""
    condition = o.read(at.inputs[0])
    results = [o.cell(at, i, part) for i, part in enumerate(at.shape.parts)]
    otherwise, end = Label(), Label()
    _jump(o, at, otherwise, condition)
    _write_branch(o, at, 0, results)
    _jump(o, at, end)
    otherwise.step = len(o.works)
    _write_branch(o, at, 1, results)
    end.step = len(o.works)


def _write_branch(o: Outline, at: Instruction, index: int, results: Sequence[Cell]) -> None:
    """The steps of one branch. It computes its results in place where it can."""
    if (why := o.refused.get((at, index))) is not None:
        o.works.append(Work(at, replace(REFUSED, fault=why), (), ()))
        return
    before, module = len(o.cells), at.modules[index]
    for inner in module:
        o.outline(inner)
    own = {cell for cell in o.cells[before:] if cell.kind is Kind.ARENA}
    for value, cell in zip(module.outputs, results, strict=True):
        found = o.read(value)
        root = found.cell.root
        if root in own and root.nbytes == cell.nbytes and found.offset == 0:
            root.same_as = cell
            cell.last = max(cell.last, len(o.works))
            own.remove(root)
        else:
            _copy(o, at, found, cell)


def _write_iterations(o: Outline, at: Instruction, late: Late | None = None) -> None:
    """The steps of a body, with the jumps that repeat it."""
    iterations = Iterations.of(at)
    length = iterations.length if late is None else late.room
    first, before = len(o.works), len(o.cells)
    nothing = Reference(Cell(Kind.OBJECT, CONDITION, (at, -1)), 0, CONDITION)
    trips = nothing if iterations.trips is None else o.read(iterations.trips)
    starts = nothing if iterations.starts is None else o.read(iterations.starts)
    own = len(o.cells)
    state = _state(o, at, iterations)
    carried = _carried(o, at, iterations)
    results = [
        o.cell(at, len(carried) + i, part) for i, part in enumerate(at.shape.parts[len(carried) :])
    ]
    rows = [o.cell(row.value, -1, row.value.shape) for row in iterations.given]
    kept = o.cells[own:]
    _step(o, at, BEGIN, [trips, starts], state, length)
    for (_, value, _), cell in zip(iterations.carried, carried, strict=True):
        _copy(o, at, o.read(value), cell)

    top, end = Label(len(o.works)), Label()
    number, _, going = (Reference(cell, 0, cell.shape) for cell in state)
    _jump(o, at, end, going)
    begins, inside = len(o.works), len(o.cells)
    growth = late.growth if late is not None and late.growth.first else None
    if growth is not None:
        o.works.append(Work(at, None, (), ()))  # until the steps after it are known
    _write_body(o, at, iterations, rows, results, number)
    _write_over(o, iterations, carried, begins)
    turns = {} if growth is None else _in_turn(o, iterations, carried, o.cells[inside:])
    goes_on = _carry(o, at, iterations, carried, state, nothing, turns)
    _step(o, at, AGAIN, [trips, goes_on], state, length)
    _jump(o, at, top)
    end.step = len(o.works)
    for cell, other in turns.items():
        _step(o, at, SETTLE, [Reference(other, 0, other.shape), number], [cell], other.nbytes)
    if growth is not None:
        body, after = o.works[begins + 1 : end.step], o.works[end.step :]
        o.works[begins] = beginning(growth, at, body, after, number, turns)
    if results and late is None:
        _step(o, at, COUNT, [number], [], 0, length)
    for cell in (*(c for c in o.cells[:before] if c.last >= first), *o.cells[before:own], *kept):
        cell.last = max(cell.last, end.step)


def _write_body(
    o: Outline,
    at: Instruction,
    iterations: Iterations,
    rows: Sequence[Cell],
    results: Sequence[Cell],
    number: Reference,
) -> None:
    """The steps of one iteration, from reading rows to writing rows."""
    for row, cell in zip(iterations.given, rows, strict=True):
        assert row.whole is not None
        _row(o, at, row, row.whole.shape, o.read(row.whole), number, cell, out=False)
    for inner in iterations.body:
        if type(inner.op) is not Param:
            o.outline(inner)
    for row, cell in zip(iterations.made, results, strict=True):
        _row(o, at, row, cell.shape, o.read(row.value), number, cell, out=True)


def _state(o: Outline, at: Instruction, iterations: Iterations) -> list[Cell]:
    """The cells of the iteration number, the condition, and whether the iteration is to be run."""
    number, condition = iterations.state or (at, at)
    return [
        o.cell(number, -1 if iterations.state else -2, ITERATION),
        o.cell(condition, -1 if iterations.state else -3, CONDITION),
        o.cell(at, -4, CONDITION),
    ]


def _carried(o: Outline, at: Instruction, iterations: Iterations) -> list[Cell]:
    """The cells in which iterations find the carried values, and after the last, the results."""
    cells = [o.cell(parameter, -1, parameter.shape) for parameter, _, _ in iterations.carried]
    for i, cell in enumerate(cells):
        o.where[at, i] = Reference(cell, 0, at.shape.parts[i])
    return cells


def _row(
    o: Outline,
    at: Instruction,
    row: Row,
    whole: Shape,
    value: Reference,
    number: Reference,
    cell: Cell,
    *,
    out: bool,
) -> None:
    """Copies a row out of a tensor, or into one."""
    dims, axis = whole.dims, row.axis
    nbytes = product(dims[axis + 1 :]) * whole.dtype.bits // 8
    there = (
        dims[axis] * nbytes,
        (dims[axis] - 1) * nbytes if row.back else 0,
        -nbytes if row.back else nbytes,
    )
    alone = (nbytes, 0, 0)
    places = (*alone, *there) if out else (*there, *alone)
    _step(o, at, ROW, [value, number], [cell], product(dims[:axis]), nbytes, *places)


def _write_over(o: Outline, iterations: Iterations, carried: Sequence[Cell], begins: int) -> None:
    """Lets the steps of a body, from ``begins`` on, overwrite carried values in place."""
    agains = [o.read(again).cell for _, _, again in iterations.carried]
    if iterations.goes_on is not None:
        o.read(iterations.goes_on)
    handed_on = dict(zip(carried, agains, strict=True))
    for step in range(begins, len(o.works)):
        for written, cell in o.overwritten(step, o.works[step]):
            if handed_on.get(cell) is written and written.kind is Kind.ARENA:
                written.same_as = cell
                break


def _in_turn(
    o: Outline, iterations: Iterations, carried: Sequence[Cell], made: Sequence[Cell]
) -> dict[Cell, Cell]:
    """A second cell for each carried value that an iteration computes afresh, by the first:
    successive iterations alternate between the two, so nothing is copied.
    """
    own = {cell for cell in made if cell.kind is Kind.ARENA and cell.same_as is None}
    found: dict[Cell, Cell] = {}
    for (_, _, again), cell in zip(iterations.carried, carried, strict=True):
        new = o.read(again)
        if new.cell in own and new.shape.nbytes == new.cell.nbytes:
            own.remove(new.cell)
            new.cell.kind = Kind.RESULT  # so that nobody else uses its memory in between
            found[cell] = new.cell
    return found


def _carry(
    o: Outline,
    at: Instruction,
    iterations: Iterations,
    carried: Sequence[Cell],
    state: Sequence[Cell],
    nothing: Reference,
    turns: Mapping[Cell, Cell],
) -> Reference:
    """Copies carried values to where the next iteration reads them, none over a value still to be
    read, and gives the condition for another iteration.
    """
    overwritten = {*carried, *state[:2]} - turns.keys()

    def aside(value: Instruction) -> Reference:
        found = o.read(value)
        if found.cell not in overwritten:
            return found
        between = o.cell(at, -5, value.shape)
        _copy(o, at, found, between)
        return Reference(between, 0, value.shape)

    moves = [
        (aside(again), cell)
        for (parameter, _, again), cell in zip(iterations.carried, carried, strict=True)
        if again is not parameter and cell not in turns and o.read(again).cell.root is not cell
    ]
    goes_on = nothing
    if iterations.goes_on is not None:
        goes_on = o.read(iterations.goes_on)
        if goes_on.cell in carried:
            goes_on = aside(iterations.goes_on)
    for value, cell in moves:
        _copy(o, at, value, cell)
    return goes_on
