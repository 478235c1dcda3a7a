"""How a fused computation is cut: the lanes of an iteration, the rows processed abreast, and the
tiles.
"""

from __future__ import annotations

from migx import dim
from migx.argument import Argument
from migx.dim import Extent, product
from migx.fusion.kernels import Access, FusedKernel, Node
from migx.fusion.stages import effort, stages_of, weight
from migx.fusion.tables import tabled
from migx.ops.reduce import ReduceMean
from migx.targets.cpu.emit import F32, I64, Type, lookup
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements

TILE = 16384
"""Elements of a tile: some microseconds of work, so that sharing costs little."""
LONG = 20
"""The additions of an iteration beyond which a CPU hardly overlaps it with the next."""
ROWS, TURNS = 16, 32
"""The most rows that are reduced abreast, and the most iterations they may have."""


def total_type(node: Node) -> Type:
    """The type in which a reduction accumulates: 64 bits for means of integers, else its own."""
    one = elements.computing(node.dtype)
    return I64 if isinstance(node.of, ReduceMean) and not one.is_float else one


class Cut:
    """The form of a fused computation on a machine, with functions of bytes as tables if that is
    cheaper.

    The ``last`` axis is that of vectors, ``inner`` elements long; if it is folded, the computation
    goes ``by_row``. ``row_axes`` count the rows, ``outer_folds`` are the other folded axes. An
    iteration has ``lanes`` lanes, 0 for a single element; rows are ``exact`` if iterations fill
    them. ``most_rows`` short rows are processed abreast. ``spilled`` values are kept from one of
    the ``stages`` for a later one.
    """

    def __init__(self, machine: Machine, fused: FusedKernel) -> None:
        if not fused.dims:
            fused = fused.with_axis(folded=False)
        fused = tabled(fused, lookup.cost(machine))
        self.machine, self.fused, self.nodes = machine, fused, fused.nodes
        self.last = len(fused.dims) - 1
        self.by_row = fused.folded[self.last]
        self.row_axes = [
            i
            for i, folded in enumerate(fused.folded)
            if not folded and (self.by_row or i != self.last)
        ]
        self.outer_folds = [i for i, f in enumerate(fused.folded) if f and i != self.last]
        self.inner = fused.dims[self.last]
        self.stages, self.spilled = stages_of(fused)
        self.lanes = self._lanes()
        self.exact = self.inner % self.step == 0
        self.most_rows = self._most_rows()

    @property
    def step(self) -> int:
        """Elements of one iteration."""
        return max(1, self.lanes)

    @property
    def odd(self) -> bool:
        """Whether the rest of a row is reduced one by one."""
        return self.lanes > 0 and not self.exact and not self.machine.masks

    @property
    def row_count(self) -> Extent:
        """The number of rows."""
        return product(self.fused.dims[i] for i in self.row_axes)

    @property
    def _row_size(self) -> Extent:
        """The elements of a row."""
        folds = product(self.fused.dims[i] for i in self.outer_folds)
        return dim.maximum(folds * self.inner, 1)

    @property
    def tile(self) -> tuple[Extent, Extent, Extent]:
        """The rows of a tile, the elements of each, and the number of tiles across a row."""
        rows = self.most_rows
        height = dim.maximum(TILE // self._row_size // rows, 1) * rows
        if self.by_row:
            return height, self.inner, 1
        width = self._width(product(self.fused.dims[i] for i in self.outer_folds))
        return height, width, (self.inner + width - 1) // width

    @property
    def tiles(self) -> Extent:
        """The number of tiles."""
        height, _, across = self.tile
        return (self.row_count + height - 1) // height * across

    def _width(self, folds: Extent) -> Extent:
        """The elements that a tile has of a vector axis that is not folded."""
        most = TILE // max(1, folds) if isinstance(folds, int) else 1
        most = max(self.step, most // self.step * self.step)
        return max(1, self.inner) if isinstance(self.inner, int) and self.inner <= most else most

    # Register use.

    def _lanes(self) -> int:
        """Lanes of one iteration: some registers of the widest type, or what makes the fewest
        iterations. A bool counts as the byte that stores it. Elements that may not be contiguous
        are gathered by address, one instruction for each lane that is narrower than 32 bits, so
        more lanes would only be more text.
        """
        machine = self.machine
        apart = any(a.strides[self.last] not in (0, 1) for a in self.fused.accesses)
        widest = max((elements.computing(n.dtype).bits for n in self.nodes), default=32)
        one = machine.vector_bytes * 8 // max(widest, 32 if apart else 8)
        lanes = one * self._registers()
        if isinstance(inner := self.inner, int):
            fewer = (1 << k for k in range(lanes.bit_length()))
            lanes = min(fewer, key=lambda n: self._turns(inner, n), default=0)
        return lanes if lanes > 1 else 0

    def _most_rows(self) -> int:
        """The rows processed abreast: short ones, as many as fit in registers. They are adjacent
        along one axis, and in one tile.
        """
        inner, machine = self.inner, self.machine
        if not (self.by_row and self.lanes and self.row_axes) or self.odd:
            return 1
        if not isinstance(inner, int) or inner > TURNS * self.lanes:
            return 1
        if any(by_lane(n) for n in self.nodes):
            return 1
        widest = max(total_type(n).bits for n in self.nodes)
        room = machine.vector_bytes * 8 // widest * machine.registers // self._parts(inner)
        most = min(dim.bounds(self.row_count)[1], TILE // dim.bounds(self._row_size)[1])
        down = self.fused.dims[self.row_axes[-1]] if len(self.row_axes) > 1 else 0
        rows = min(ROWS, room // self.lanes)
        while rows > 1 and (rows > most or down % rows != 0):
            rows //= 2
        return max(1, rows)

    def _parts(self, inner: int) -> int:
        """The divisor of the registers that a value of rows abreast may take: larger if totals stay
        in some of them while many values come and go.
        """
        work = max(effort(self.nodes, s.nodes)[0] for s in self.stages)
        return 4 if inner > self.lanes and work > LONG // 2 else 2

    def _turns(self, count: int, step: int) -> int:
        """The iterations for so many elements: the rest takes one, or one each."""
        whole, rest = divmod(count, step)
        return whole + (min(rest, 1) if self.machine.masks else rest)

    def _registers(self) -> int:
        """The registers that each value of an iteration has.

        Several if little is done, so that the loop itself costs little, and if much is done in
        dependent operations: then the others fill the pipelines. Eight must fit beside about three
        values inside an operation. What is computed lane by lane gains nothing.
        """
        if sum(weight(n) for n in self.nodes) <= 4:
            return 4
        efforts = (effort(self.nodes, s.nodes) for s in self.stages)
        work, depth, values = max(efforts, default=(0, 0, 0))
        if work <= LONG:
            return 2
        if any(by_lane(n) for n in self.nodes):
            return 1
        if work < 2 * depth:
            return 8 if 8 * (values + 3) <= self.machine.registers else 4
        return 2 if work < 4 * depth else 1


def by_lane(node: Node) -> bool:
    """Whether LLVM computes a node lane by lane: remainders, and most functions of f64."""
    if isinstance(node.of, Access | Argument) or weight(node) == 1:
        return False
    return node.of.name in ("fmod", "mod") or elements.computing(node.dtype) != F32
