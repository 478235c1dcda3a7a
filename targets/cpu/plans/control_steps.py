"""The steps of control flow: those of both branches of an ``if``, and those of a loop's body, with
the jumps that select or repeat them.

Carried values are copied from where the body computes them to where the next iteration reads them,
unless it may compute them there; rows of scan inputs and outputs are copied from and to their
tensors. Memory that a body reads stays live until the loop has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from migx.binding import Sizes
from migx.dim import Dim, Extent, product
from migx.ir import Instruction
from migx.iterations import Iterations, Row
from migx.ops.builtin import Param
from migx.ops.control import CONDITION, ITERATION
from migx.shape import Shape
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
from migx.targets.cpu.plans.outline import Cell, Kind, Label, Outline, Reference, Work


def write_choice(o: Outline, at: Instruction) -> None:
    """Adds the steps of both branches of an ``if``, with the jumps that select one."""
    _Choice(o, at).write()


def write_iterations(o: Outline, at: Instruction) -> None:
    """Adds the steps of a loop or a scan, with the jumps that repeat its body."""
    _Circle(o, at).write()


@dataclass(frozen=True)
class Late:
    """Writes the steps of a loop whose run determines dims of its results: its trip count, which is
    the symbol ``length`` if there is one, and the dims of state that grows.
    """

    length: str | None
    growth: Growth

    def __call__(self, o: Outline, at: Instruction) -> None:
        _Circle(o, at, self).write()

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


class _Steps:
    """Adds the steps of one instruction to an outline."""

    def __init__(self, o: Outline, at: Instruction) -> None:
        self.o, self.at = o, at

    def step(
        self, kernel: Kernel, reads: Sequence[Reference], writes: Sequence[Cell], *words: Extent
    ) -> None:
        """Adds a step that writes existing cells."""
        o = self.o
        for cell in (*(r.cell for r in reads), *writes):
            cell.last = max(cell.last, len(o.works))
        o.works.append(Work(self.at, replace(kernel, words=words), tuple(reads), tuple(writes)))

    def copy(self, value: Reference, cell: Cell) -> None:
        """Adds a copy of a value to a cell."""
        self.step(COPY, [value], [cell], value.shape.nbytes)

    def jump(self, to: Label, unless: Reference | None = None) -> None:
        """Adds a jump; given a bool, it is taken only if that is false."""
        o, reads = self.o, () if unless is None else (unless,)
        for reference in reads:
            reference.cell.last = max(reference.cell.last, len(o.works))
        o.works.append(Work(self.at, UNLESS if reads else JUMP, reads, (), to=to))

    def refuses(self, index: int) -> bool:
        """Whether a module cannot be run; if so, adds a step that says why."""
        why = self.o.refused.get((self.at, index))
        if why is not None:
            self.o.works.append(Work(self.at, replace(REFUSED, fault=why), (), ()))
        return why is not None


class _Choice(_Steps):
    def write(self) -> None:
        o, at = self.o, self.at
        condition = o.read(at.inputs[0])
        results = [o.cell(at, i, part) for i, part in enumerate(at.shape.parts)]
        otherwise, end = Label(), Label()
        self.jump(otherwise, condition)
        self._write_branch(0, results)
        self.jump(end)
        otherwise.step = len(o.works)
        self._write_branch(1, results)
        end.step = len(o.works)

    def _write_branch(self, index: int, results: Sequence[Cell]) -> None:
        """The steps of one branch. It computes its results in place where it can."""
        o, at = self.o, self.at
        if self.refuses(index):
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
                self.copy(found, cell)


class _Circle(_Steps):
    """``state`` are the cells of the iteration number, the condition, and whether the iteration is
    to be run; ``carried`` those in which iterations find the carried values, and after the last,
    the results; ``rows`` those of rows that an iteration reads, ``results`` of the stacked rows.
    """

    def __init__(self, o: Outline, at: Instruction, late: Late | None = None) -> None:
        super().__init__(o, at)
        self.iterations, self.late = Iterations.of(at), late
        self.growth = late.growth if late is not None and late.growth.first else None
        self.length = self.iterations.length if late is None else late.room
        self.first, self._before = len(o.works), len(o.cells)
        self.nothing = Reference(Cell(Kind.OBJECT, CONDITION, (at, -1)), 0, CONDITION)
        self.trips, self.starts = map(self._told, (self.iterations.trips, self.iterations.starts))
        self._own = len(o.cells)
        self.state = self._state()
        self.number, _, self.going = (Reference(cell, 0, cell.shape) for cell in self.state)
        self.carried = self._carried()
        stacks = enumerate(at.shape.parts[len(self.carried) :], len(self.carried))
        self.results = [o.cell(at, i, part) for i, part in stacks]
        self.rows = [o.cell(row.value, -1, row.value.shape) for row in self.iterations.given]
        self._kept = o.cells[self._own :]
        self.turns: dict[Cell, Cell] = {}

    def _told(self, value: Instruction | None) -> Reference:
        return self.nothing if value is None else self.o.read(value)

    def _state(self) -> list[Cell]:
        o, at, state = self.o, self.at, self.iterations.state
        number, condition = state or (at, at)
        return [
            o.cell(number, -1 if state else -2, ITERATION),
            o.cell(condition, -1 if state else -3, CONDITION),
            o.cell(at, -4, CONDITION),
        ]

    def _carried(self) -> list[Cell]:
        o, at, carried = self.o, self.at, self.iterations.carried
        cells = [o.cell(parameter, -1, parameter.shape) for parameter, _, _ in carried]
        for i, cell in enumerate(cells):
            o.where[at, i] = Reference(cell, 0, at.shape.parts[i])
        return cells

    def write(self) -> None:
        o = self.o
        self.step(BEGIN, [self.trips, self.starts], self.state, self.length)
        for (_, value, _), cell in zip(self.iterations.carried, self.carried, strict=True):
            self.copy(o.read(value), cell)
        top, end = Label(len(o.works)), Label()
        self.jump(end, self.going)
        begins = len(o.works)
        if not self.refuses(0):
            goes_on = self._write_turn()
            self.step(AGAIN, [self.trips, goes_on], self.state, self.length)
            self.jump(top)
        end.step = len(o.works)
        self._settle(begins, end.step)
        if self.results and self.late is None:
            self.step(COUNT, [self.number], [], 0, self.length)
        read = (cell for cell in o.cells[: self._before] if cell.last >= self.first)
        for cell in (*read, *o.cells[self._before : self._own], *self._kept):
            cell.last = max(cell.last, end.step)

    def _write_turn(self) -> Reference:
        """The steps of one iteration; gives the condition for another."""
        o, begins, inside = self.o, len(self.o.works), len(self.o.cells)
        if self.growth is not None:
            o.works.append(Work(self.at, None, (), ()))  # until the steps after it are known
        self._write_body()
        self._write_over(begins)
        if self.growth is not None:
            self.turns = self._in_turn(o.cells[inside:])
        return self._carry()

    def _write_body(self) -> None:
        """The steps of one iteration, from reading rows to writing rows."""
        o, iterations = self.o, self.iterations
        for row, cell in zip(iterations.given, self.rows, strict=True):
            assert row.whole is not None
            self._copy_row(row, row.whole.shape, o.read(row.whole), cell, out=False)
        for inner in iterations.body:
            if type(inner.op) is not Param:
                o.outline(inner)
        for row, cell in zip(iterations.made, self.results, strict=True):
            self._copy_row(row, cell.shape, o.read(row.value), cell, out=True)

    def _copy_row(self, row: Row, whole: Shape, value: Reference, cell: Cell, *, out: bool) -> None:
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
        self.step(ROW, [value, self.number], [cell], product(dims[:axis]), nbytes, *places)

    def _write_over(self, begins: int) -> None:
        """Lets the steps of a body, from ``begins`` on, overwrite carried values in place."""
        o, iterations = self.o, self.iterations
        agains = [o.read(again).cell for _, _, again in iterations.carried]
        if iterations.goes_on is not None:
            o.read(iterations.goes_on)
        handed_on = dict(zip(self.carried, agains, strict=True))
        for step in range(begins, len(o.works)):
            for written, cell in o.overwritten(step, o.works[step]):
                if handed_on.get(cell) is written and written.kind is Kind.ARENA:
                    written.same_as = cell
                    break

    def _in_turn(self, made: Sequence[Cell]) -> dict[Cell, Cell]:
        """A second cell for each carried value that an iteration computes afresh, by the first:
        successive iterations alternate between the two, so nothing is copied.
        """
        own = {cell for cell in made if cell.kind is Kind.ARENA and cell.same_as is None}
        found: dict[Cell, Cell] = {}
        for (_, _, again), cell in zip(self.iterations.carried, self.carried, strict=True):
            new = self.o.read(again)
            if new.cell in own and new.shape.nbytes == new.cell.nbytes:
                own.remove(new.cell)
                new.cell.kind = Kind.RESULT  # so that nobody else uses its memory in between
                found[cell] = new.cell
        return found

    def _carry(self) -> Reference:
        """Copies carried values to where the next iteration reads them, none over a value still to
        be read, and gives the condition for another iteration.
        """
        o, iterations, turns = self.o, self.iterations, self.turns
        overwritten = {*self.carried, *self.state[:2]} - turns.keys()

        def aside(value: Instruction) -> Reference:
            found = o.read(value)
            if found.cell not in overwritten:
                return found
            between = o.cell(self.at, -5, value.shape)
            self.copy(found, between)
            return Reference(between, 0, value.shape)

        moves = [
            (aside(again), cell)
            for (parameter, _, again), cell in zip(iterations.carried, self.carried, strict=True)
            if again is not parameter and cell not in turns and o.read(again).cell.root is not cell
        ]
        goes_on = self._told(iterations.goes_on)
        if iterations.goes_on is not None and goes_on.cell in self.carried:
            goes_on = aside(iterations.goes_on)
        for value, cell in moves:
            self.copy(value, cell)
        return goes_on

    def _settle(self, begins: int, end: int) -> None:
        """Copies alternating values that lie in their second cell to the first; and, the steps of
        an iteration being known, fills in the step that makes state grow.
        """
        o, number = self.o, self.number
        for cell, other in self.turns.items():
            self.step(SETTLE, [Reference(other, 0, other.shape), number], [cell], other.nbytes)
        if self.growth is not None:
            body, after = o.works[begins + 1 : end], o.works[end:]
            o.works[begins] = beginning(self.growth, self.at, body, after, number, self.turns)
