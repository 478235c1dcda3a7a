"""What follows a product or a convolution: the epilogue's arithmetic turns its sums, in registers
or row by row in scratch, into the result.

The sums are read once, when they are complete. So the inner loops of products are independent of
the epilogue, and the epilogue of how the sums were made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from migx.argument import Argument
from migx.dim import Extent
from migx.fusion.kernels import PRODUCT, Access, FusedKernel, Node, row_and_column_axes
from migx.fusion.stages import below, weight
from migx.fusion.tables import tabled
from migx.shape import F8E8M0
from migx.targets.cpu.emit import Function, Type, Value, lookup
from migx.targets.cpu.kernel import Frame, memory_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.matrix import Matrix

LIGHT = 6
"""The operations per element up to which the arithmetic is repeated in the code of each vector of a
strip.
"""


@dataclass(frozen=True)
class Destination:
    """The destination of sums: the item, its first row and column, and the number of rows. For a
    convolution rows are output channels, and columns pixels.
    """

    item: Value
    row: Value
    column: Value
    rows: Value


class Epilogue:
    """Writes the results of a description made by ``migx.fusion.kernels.epilogue``, whose items
    have ``rows`` rows each; a ``light`` one takes little arithmetic.
    """

    def __init__(
        self, frame: Frame, kernel: FusedKernel, sum_: Type, lanes: int, rows: Extent
    ) -> None:
        self.frame, self.f = frame, frame.function
        self.kernel = tabled(kernel, lookup.cost(frame.machine))
        self.sum, self.lanes, self.rows = sum_, lanes, rows
        self.row_axes, _ = row_and_column_axes(kernel)
        self.light = sum(weight(node) for node in self.kernel.nodes) <= LIGHT

    def write(self, to: Destination, sums: list[Value], rows: int, columns: Value | None) -> None:
        """Writes a strip of sums of so many rows; of each, all columns or the first ``columns``."""
        f, lanes = self.f, self.lanes
        vectors = len(sums) // rows
        masks: list[Value | None] = [None] * vectors
        if columns is not None:
            masks = [f.first_lanes(columns - j * lanes, lanes) for j in range(vectors)]
        self._row(to, f.as_index(0), sums[:vectors], masks)
        for i in range(1, rows):
            with f.when(to.rows > i):
                self._row(to, f.as_index(i), sums[i * vectors : (i + 1) * vectors], masks)

    def write_lines(
        self, to: Destination, lines: Value, pitch: int, columns: Value, *, whole: bool = False
    ) -> None:
        """Writes sums from memory with stride ``pitch`` between rows, ``columns`` of each, which
        may be known to be ``whole`` vectors.
        """
        f, lanes = self.f, self.lanes
        with f.loop(0, to.rows) as row:
            line = f.element(lines, row.index * pitch, self.sum)
            starts = self._starts(to, to.row + row.index)
            for at, mask in f.under_masks(columns, lanes, whole=whole):
                total = f.load(f.element(line, at, self.sum), self.sum.times(lanes))
                write_results(self.frame, self.kernel, starts, to.column + at, total, mask)

    def _row(
        self, to: Destination, row: Value, line: list[Value], masks: list[Value | None]
    ) -> None:
        """One row."""
        starts = self._starts(to, to.row + row)
        for j, (total, mask) in enumerate(zip(line, masks, strict=True)):
            column = to.column + j * self.lanes
            write_results(self.frame, self.kernel, starts, column, total, mask)

    def _starts(self, to: Destination, row: Value) -> dict[Access, Value]:
        """The start of a row in each operand."""
        frame, dims, axes = self.frame, self.kernel.dims, self.row_axes
        if axes and dims[axes[-1]] == self.rows:
            places = {axes[-1]: row} | frame.places(to.item, dims, axes[:-1])
        else:
            places = frame.places(to.item * frame.extent(self.rows) + row, dims, axes)
        return starts_of(frame, self.kernel, places)


def starts_of(
    frame: Frame, kernel: FusedKernel, places: Mapping[int, Value]
) -> dict[Access, Value]:
    """The start of a row in each operand and result, given its indices along the row axes."""
    given = [a for a in kernel.accesses if a.operand != PRODUCT]
    return {access: frame.start(access, places) for access in given}


def write_results(
    frame: Frame,
    kernel: FusedKernel,
    starts: Mapping[Access, Value],
    column: Value,
    total: Value,
    mask: Value | None,
) -> None:
    """Writes the results of a vector of sums, from a column of a row on; with a mask, only its
    lanes. The row begins at ``starts`` in each operand and result.
    """
    f, lanes = frame.function, total.type.lanes

    def read(access: Access) -> Value:
        if access.operand == PRODUCT:
            return f.cast(total, elements.computing(access.dtype))
        step = frame.extent(along(kernel, access))
        row = Matrix(starts[access], f.as_index(0), step, access.dtype)
        return row.loaded(0, column, lanes, mask)

    values = evaluated(f, kernel.nodes, read)
    for number, access in kernel.outputs:
        value = elements.stored(f, f.splat(values[number], lanes), access.dtype)
        there = f.element(starts[access], column, memory_of(access.dtype))
        f.store(value, there, mask=mask)


def evaluated(
    f: Function,
    nodes: Sequence[Node],
    read: Callable[[Access], Value],
    wanted: Iterable[int] | None = None,
) -> dict[int, Value]:
    """The values of nodes by number, in their computing types, for operands given by ``read``: of
    all nodes, or of those that are wanted and their inputs.
    """
    values: dict[int, Value] = {}
    for number in range(len(nodes)) if wanted is None else below(nodes, wanted, ()):
        node = nodes[number]
        match node.of:
            case Access():
                values[number] = read(node.of)
            case Argument():
                constant = node.of.array.reshape(-1)[0]
                values[number] = elements.splat_constant(f, constant, node.dtype)
            case _:
                given = [values[i] for i in node.inputs]
                types = [nodes[i].dtype for i in node.inputs]
                values[number] = elements.apply(f, node.of, given, types, node.dtype)
    return values


def along(kernel: FusedKernel, access: Access) -> Extent:
    """The stride of an operand between columns."""
    return next((access.strides[i] for i in row_and_column_axes(kernel)[1]), 0)


def writable(kernel: FusedKernel, machine: Machine) -> bool:
    """Whether ``Epilogue`` can write a description: its types and operations have instructions, and
    its results are contiguous along at most one column axis.
    """
    _, columns = row_and_column_axes(kernel)
    if len(columns) > 1 or any(along(kernel, a) not in (0, 1) for _, a in kernel.outputs):
        return False
    return emittable(kernel.nodes, machine)


def emittable(nodes: Sequence[Node], machine: Machine) -> bool:
    """Whether a machine has instructions for all types, and all operations but reductions."""
    return all(
        (elements.computable(n.dtype, machine) or (n.reads() and n.dtype is F8E8M0))
        and (
            isinstance(n.of, Access | Argument)
            or n.folds
            or elements.has(n.of, [nodes[i].dtype for i in n.inputs], n.dtype)
        )
        for n in nodes
    )
