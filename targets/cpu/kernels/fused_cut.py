"""How a fused computation goes through its space: how many lanes a turn has, how many rows are read
abreast, and how tiles share it out.
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
"""Additions of a turn, after which a CPU hardly begins the next one before this one is done."""
ROWS, TURNS = 16, 32
"""Of rows that are folded at most so many are read abreast, where they have no more turns."""


def total_type(node: Node) -> Type:
    """What a reduction adds up in: means of integers in 64 bits, the rest as it is."""
    one = elements.computing(node.dtype)
    return I64 if isinstance(node.of, ReduceMean) and not one.is_float else one


class Cut:
    """The form of a fused computation on a machine, its bytes looked up where that is cheaper.

    The ``last`` axis is that of vectors, ``inner`` places long; where it is folded, the computation
    goes ``by_row``. ``row_axes`` count the rows, ``outer_folds`` are the others that are folded. A
    turn has so many ``lanes``, 0 where it is of one element; rows are ``exact`` where turns fill
    them. Where rows are short, ``most_rows`` are read abreast. What is ``spilled`` is kept from one
    of the ``stages`` for a later one.
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
        """Elements of one turn."""
        return max(1, self.lanes)

    @property
    def odd(self) -> bool:
        """Whether what is left of a row is folded one by one."""
        return self.lanes > 0 and not self.exact and not self.machine.masks

    @property
    def row_count(self) -> Extent:
        """How many rows there are."""
        return product(self.fused.dims[i] for i in self.row_axes)

    @property
    def _row_size(self) -> Extent:
        """How many elements a row has."""
        folds = product(self.fused.dims[i] for i in self.outer_folds)
        return dim.maximum(folds * self.inner, 1)

    @property
    def tile(self) -> tuple[Extent, Extent, Extent]:
        """How many rows a tile has, how many places of each, and into how many tiles that cuts a
        row.
        """
        rows = self.most_rows
        height = dim.maximum(TILE // self._row_size // rows, 1) * rows
        if self.by_row:
            return height, self.inner, 1
        width = self._width(product(self.fused.dims[i] for i in self.outer_folds))
        return height, width, (self.inner + width - 1) // width

    @property
    def tiles(self) -> Extent:
        """How many tiles there are."""
        height, _, across = self.tile
        return (self.row_count + height - 1) // height * across

    def _width(self, folds: Extent) -> Extent:
        """How many places of a vector axis that is not folded a tile has."""
        most = TILE // max(1, folds) if isinstance(folds, int) else 1
        most = max(self.step, most // self.step * self.step)
        return max(1, self.inner) if isinstance(self.inner, int) and self.inner <= most else most

    # What registers have room for.

    def _lanes(self) -> int:
        """Lanes of one turn: some registers of the widest type, or what makes the fewest turns.

        A truth value counts as the byte it lies in. What may lie apart is gathered by addresses,
        one instruction for each lane that is narrower than 32 bits: more lanes would only be text.
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
        """How many rows are read abreast: short ones, as many as registers have room for. They are
        neighbours along one axis, and in one tile.
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
        """Of how many parts of the registers a value of rows abreast takes one: more where totals
        stay in some of them while many values come and go.
        """
        work = max(effort(self.nodes, s.nodes)[0] for s in self.stages)
        return 4 if inner > self.lanes and work > LONG // 2 else 2

    def _turns(self, count: int, step: int) -> int:
        """How many turns so many elements are: what is left of them is one, or one each."""
        whole, rest = divmod(count, step)
        return whole + (min(rest, 1) if self.machine.masks else rest)

    def _registers(self) -> int:
        """How many registers of each value a turn has.

        Several where little is done, so that the loop itself costs little, and where much is done
        of which each operation waits for the one before it: then others fill the pipelines. Eight
        must have room beside about three values inside an operation. What goes by lanes gains
        nothing.
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
    """Whether LLVM computes a node a lane at a time: remainders, and most functions of f64."""
    if isinstance(node.of, Access | Argument) or weight(node) == 1:
        return False
    return node.of.name in ("fmod", "mod") or elements.computing(node.dtype) != F32
