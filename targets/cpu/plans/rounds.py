"""A scan whose body is one kernel, with the loops interchanged: each tile runs all iterations.

Tiles of a kernel are independent. So if the kernel writes carried values over those it reads, a
tile depends only on what it has itself written in the iteration before, and the loop over tiles may
become the outer one. **Why it is fast.** The carried values of a tile stay in one core's L1 and L2
caches, threads do not synchronise between iterations, and rows are read and written in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from migx.dim import Extent, product
from migx.ir import Instruction
from migx.iterations import Iterations, Row
from migx.ops.builtin import Literal, Param, Return
from migx.ops.control import Scan
from migx.planning import is_alias, lies_in, results, root
from migx.shape import Shape
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.plans.control_kernels import COPY
from migx.targets.cpu.plans.control_steps import write_iterations
from migx.targets.cpu.plans.outline import (
    Cell,
    KernelOf,
    Outline,
    Reference,
    Round,
    Work,
    operands,
    parts_of,
)


@dataclass(frozen=True)
class Rounds:
    """Writes the steps of such a scan: ``kernel`` is that of the instruction ``inner``; ``carried``
    maps the numbers of its results to those of carried values, ``made`` to those of rows.
    """

    iterations: Iterations
    inner: Instruction
    kernel: Kernel
    carried: dict[int, int]
    made: dict[int, int]

    @classmethod
    def of(cls, at: Instruction, kernel_of: KernelOf) -> Rounds | None:
        """The rounds of a scan; None if its body is something else, or rows are not contiguous."""
        if not isinstance(at.op, Scan):
            return None
        iterations, still = Iterations.of(at), (Param, Return, Literal)
        steps = [v for v in iterations.body if type(v.op) not in still and not is_alias(v)]
        inner = steps[0] if len(steps) == 1 else None
        kernel = None if inner is None else kernel_of(inner)
        if inner is None or kernel is None or not _is_plain(kernel):
            return None
        stacks = at.shape.parts[len(iterations.carried) :]
        wholes = [row.whole.shape for row in iterations.given if row.whole]
        rows = zip((*iterations.given, *iterations.made), (*wholes, *stacks), strict=True)
        if not all(product(whole.dims[: row.axis]) == 1 for row, whole in rows):
            return None
        pairs = enumerate(iterations.carried)
        changing = {i: again for i, (parameter, _, again) in pairs if again is not parameter}
        values = [*changing.values(), *(row.value for row in iterations.made)]
        numbers = [n for n in (_part(value, inner) for value in values) if n is not None]
        if len({*numbers}) < len(values):
            return None
        carried = dict(zip(numbers, changing, strict=False))
        made = {number: i for i, number in enumerate(numbers[len(changing) :])}
        found = cls(iterations, inner, kernel, carried, made)
        return found if all(map(found._is_written_over, carried)) else None

    def _is_written_over(self, number: int) -> bool:
        """Whether a result is written over the carried value it replaces, which is read once."""
        parameter, _, _ = self.iterations.carried[self.carried[number]]
        places = [i for i, v in enumerate(self.inner.inputs) if root(v) is parameter]
        if len(places) != 1 or (places[0], number) not in self.kernel.over:
            return False
        read, made = self.inner.inputs[places[0]].shape, results(self.inner)[number]
        return read.dims == made.dims and read.true_strides == made.true_strides

    def __call__(self, o: Outline, at: Instruction) -> None:
        """Adds the steps: a copy of each first value, and one step for all the rest."""
        if (at, 0) in o.refused:
            write_iterations(o, at)
            return
        iterations, inner = self.iterations, self.inner
        carried = [o.cell(parameter, -1, parameter.shape) for parameter, _, _ in iterations.carried]
        stacks = [
            o.cell(at, len(carried) + i, part)
            for i, part in enumerate(at.shape.parts[len(carried) :])
        ]
        for i, ((_, value, _), cell) in enumerate(zip(iterations.carried, carried, strict=True)):
            o.where[at, i] = Reference(cell, 0, at.shape.parts[i])
            first = o.read(value)
            kernel = replace(COPY, words=(first.shape.nbytes,))
            o.works.append(Work(at, kernel, (first,), (cell,)))
        moved = self._read_rows(o)
        for each in iterations.body:
            if each is not inner and type(each.op) is not Param and root(each) is not inner:
                o.outline(each)
        reads = tuple(o.read(taken or value) for value, taken in operands(inner, self.kernel))
        writes = self._written(o, carried, stacks)
        moved += self._write_rows(len(reads), stacks)
        for cell in (*carried, *writes):
            cell.last = max(cell.last, len(o.works))
        kernel = replace(self.kernel, flops=self.kernel.flops * iterations.length)
        times = iterations.length
        o.works.append(Work(inner, kernel, reads, writes, times=times, moved=tuple(moved)))

    def _read_rows(self, o: Outline) -> list[Round]:
        """Makes readers of a row read the first one; gives how these operands advance."""
        steps: dict[Instruction, Extent] = {}
        for row in self.iterations.given:
            assert row.whole is not None
            whole = o.read(row.whole)
            start, step = _moves(row, row.whole.shape, self.iterations.length)
            o.where[row.value, -1] = Reference(whole.cell, whole.offset + start, row.value.shape)
            steps[row.value] = step * row.value.shape.dtype.bits // 8
        roots = [root(value) for value in self.inner.inputs]
        return [Round(i, 0, steps[root]) for i, root in enumerate(roots) if root in steps]

    def _written(
        self, o: Outline, carried: Sequence[Cell], stacks: Sequence[Cell]
    ) -> tuple[Cell, ...]:
        """The cells that the results are written to."""
        known = {number: carried[i] for number, i in self.carried.items()}
        known |= {number: stacks[i] for number, i in self.made.items()}
        return tuple(
            known[number] if number in known else o.cell(self.inner, index, shape)
            for number, (index, shape) in enumerate(parts_of(self.inner).items())
        )

    def _write_rows(self, first: int, stacks: Sequence[Cell]) -> list[Round]:
        """How the results that are rows advance; ``first`` is the number of the first result's
        operand.
        """
        found = []
        for number, i in self.made.items():
            moves = _moves(self.iterations.made[i], stacks[i].shape, self.iterations.length)
            start, step = (n * stacks[i].shape.dtype.bits // 8 for n in moves)
            found.append(Round(first + number, start, step))
        return found


def _is_plain(kernel: Kernel) -> bool:
    """Whether a kernel needs only its operands, and cannot fail."""
    return not kernel.fault and kernel.shared == 0 and kernel.most is None and not kernel.finds


def _part(value: Instruction, inner: Instruction) -> int | None:
    """The number of the result of an instruction that a value is, whole and in order; else None."""
    root, member = lies_in(value)
    if root is not inner:
        return None
    number = member[0] if member else 0
    made = results(inner)[number]
    whole = made.standard and value.shape.standard and made.elements == value.shape.elements
    return number if whole else None


def _moves(row: Row, whole: Shape, length: Extent) -> tuple[Extent, Extent]:
    """The offset of the first row taken of a tensor, and the step to the next, in elements."""
    elements = product(whole.dims[row.axis + 1 :])
    return ((length - 1) * elements, -elements) if row.back else (0, elements)
