"""What follows a product: its sums, row by row in scratch, go through the arithmetic of the
epilogue and become the result.

The sums are read once, when they are complete. So the inner loops of products know nothing of what
comes after, and this knows nothing of how sums were made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from migx.argument import Argument
from migx.dim import Extent
from migx.fusion.kernels import PRODUCT, Access, FusedKernel, Node, row_and_column_axes
from migx.fusion.stages import below
from migx.fusion.tables import tabled
from migx.targets.cpu.emit import Function, Value, lookup
from migx.targets.cpu.kernel import Frame, memory_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.matrix import Matrix
from migx.targets.cpu.parts.tile import Tile


@dataclass(frozen=True)
class Block:
    """Sums that are complete: where they lie, in rows of ``tile.columns``; which row and column of
    the product they begin at; and how many rows and columns of it they are.
    """

    sums: Value
    row: Value
    column: Value
    rows: Value
    columns: Value


class Epilogue:
    """Writes the results of a description that ``migx.fusion.kernels.epilogue`` has made."""

    def __init__(self, frame: Frame, kernel: FusedKernel, tile: Tile, columns: Extent) -> None:
        self.frame, self.f, self.tile = frame, frame.function, tile
        self.kernel = tabled(kernel, lookup.cost(frame.machine))
        self.whole_vectors = isinstance(columns, int) and columns % tile.lanes == 0
        self.row_axes, _ = row_and_column_axes(kernel)

    def write(self, block: Block) -> None:
        """Writes the results of a block of sums."""
        f, tile = self.f, self.tile
        with f.loop(0, block.rows) as row:
            places = self.frame.places(block.row + row.index, self.kernel.dims, self.row_axes)
            starts = starts_of(self.frame, self.kernel, places)
            line = f.element(block.sums, row.index * tile.columns, tile.sum)
            full = block.columns // tile.lanes * tile.lanes

            def write(within: Value, mask: Value | None = None) -> None:
                column = block.column + within
                total = f.load(f.element(line, within, tile.sum), tile.vector)
                write_results(self.frame, self.kernel, starts, column, total, mask)

            with f.loop(0, full, tile.lanes) as at:
                write(at.index)
            if not self.whole_vectors:
                with f.when(block.columns > full):
                    write(full, f.first_lanes(block.columns - full, tile.lanes))


def starts_of(
    frame: Frame, kernel: FusedKernel, places: Mapping[int, Value]
) -> dict[Access, Value]:
    """Where a row of each operand and result begins that is at some places along the row axes."""
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
    """Writes what becomes of a vector of sums, from a column of a row on; only the lanes of a mask.
    The row begins at ``starts`` in each operand and result.
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
    """The values of nodes by number, in their computing types, for operands as ``read`` gives them:
    of all, or of those that are wanted and what they are computed from.
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
    """The step of an operand from one column to the next."""
    return next((access.strides[i] for i in row_and_column_axes(kernel)[1]), 0)


def writable(kernel: FusedKernel, machine: Machine) -> bool:
    """Whether ``Epilogue`` can write a description: its types and operations have instructions, and
    its results have neighbours side by side, along at most one axis.
    """
    _, columns = row_and_column_axes(kernel)
    if len(columns) > 1 or any(along(kernel, a) not in (0, 1) for _, a in kernel.outputs):
        return False
    return emittable(kernel.nodes, machine)


def emittable(nodes: Sequence[Node], machine: Machine) -> bool:
    """Whether a machine has instructions for all types and operations but reductions."""
    return all(
        elements.computable(n.dtype, machine)
        and (
            isinstance(n.of, Access | Argument)
            or n.folds
            or elements.has(n.of, [nodes[i].dtype for i in n.inputs], n.dtype)
        )
        for n in nodes
    )


def in_place(kernel: FusedKernel) -> tuple[int, ...]:
    """The inputs that lie as the one result does, each element read before it is written."""
    if len(kernel.outputs) != 1:
        return ()
    ((_, result),) = kernel.outputs
    return tuple(
        a.operand
        for a in kernel.accesses
        if a.operand not in (PRODUCT, result.operand)
        and (a.strides, a.dtype) == (result.strides, result.dtype)
    )
