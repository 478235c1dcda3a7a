"""Kernels along one axis: ``argmax`` and ``argmin``, running sums and products.

A line is all elements along the axis at one index of the others. Running results walk along it in
order, by vectors if lines are adjacent, one line in each lane. ``argmax`` is two reductions: the
first finds the greatest value, and the second its first index. It reads a line twice, but each pass
does so little that this is faster than keeping a value and its index in every lane.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from migx import op as operations
from migx.dim import Extent, bounds, product
from migx.fusion.kernels import Access, FusedKernel, Node, collapsed
from migx.ir import Instruction
from migx.ops.pointwise import Convert
from migx.ops.reduce import (
    Argmax,
    Argmin,
    PrefixScan,
    PrefixScanProd,
    PrefixScanSum,
    ReduceMax,
    ReduceMin,
)
from migx.planning import results
from migx.shape import DType
from migx.targets.cpu.emit import I64, Type, Value
from migx.targets.cpu.kernel import Frame, Kernel, KernelWriter, Rows, memory_of
from migx.targets.cpu.kernels.fused import Point, Writer
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements

ELEMENTS = 1 << 13
"""About how many elements a tile walks over."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of one of these on elements that the machine computes with."""
    match at.op:
        case Argmax() as op if elements.computable(at.inputs[0].shape.dtype, machine):
            return _Extreme(at, op, machine).kernel()
        case PrefixScanSum() | PrefixScanProd() if elements.computable(at.shape.dtype, machine):
            return _Scan(at, machine).kernel()
    return None


class Lines(KernelWriter):
    """Writes the kernel of one instruction, which walks along each line separately."""

    def __init__(self, at: Instruction, machine: Machine) -> None:
        super().__init__(at, machine)
        self.given = at.inputs[0].shape
        self.dtype = self.given.dtype
        self.axis = int(operations.attributes(at.op)["axis"]) % self.given.rank
        self.length = self.frame.extent(self.given.dims[self.axis])
        self.step = self.frame.extent(self.given.true_strides[self.axis])
        last = self.given.rank - 1
        self.side_by_side = self.axis != last and self.given.true_strides[last] == 1
        self.lanes = machine.lanes(I64) * 2

    @abstractmethod
    def line(self, given: Value, made: Sequence[Value], lanes: int) -> None:
        """Walks along the line that begins at an address, or ``lanes`` adjacent ones, and writes
        its results to others.
        """

    def kernel(self) -> Kernel:
        frame, dims = self.frame, self.given.dims
        rank = len(dims) - int(self.side_by_side)
        counted = [i for i in range(rank) if i != self.axis]
        across: Extent = dims[-1] if self.side_by_side else 1
        rows = Rows(product(dims[i] for i in counted), dims[self.axis] * across, ELEMENTS)
        with frame.rows(rows) as row:
            self._row(row, counted)
        flops = self.given.elements
        return frame.finished(self.at.name, rows.tiles, flops=flops)

    def _row(self, row: Value, counted: Sequence[int]) -> None:
        f, frame = self.f, self.frame
        places = frame.places(row, self.given.dims, counted)
        values = [(0, self.given), *enumerate(results(self.at), len(self.at.inputs))]
        starts = [frame.start(Access(n, s.dtype, s.true_strides), places) for n, s in values]
        if not self.side_by_side:
            self.line(starts[0], starts[1:], 0)
            return
        types = [memory_of(shape.dtype) for _, shape in values]
        for at, lanes in f.by_vectors(0, frame.extent(self.given.dims[-1]), self.lanes):
            moved = [f.element(s, at, t) for s, t in zip(starts, types, strict=True)]
            self.line(moved[0], moved[1:], lanes)

    def read(self, given: Value, index: Value | int, lanes: int) -> Value:
        """The elements at an index of lines, in their computing type."""
        memory = memory_of(self.dtype)
        place = self.f.element(given, self.step * index, memory)
        return elements.loaded(self.f, self.f.load(place, memory.times(lanes)), self.dtype)


class _Extreme(Writer):
    """The index of the greatest or the least: one reduction finds its value, and a second one the
    first or the last index at which nothing is less, or greater.
    """

    def __init__(self, at: Instruction, op: Argmax, machine: Machine) -> None:
        self.is_least, self.is_last = isinstance(op, Argmin), op.select_last_index
        super().__init__(Frame(at, machine), self._described(at, op))

    def _described(self, at: Instruction, op: Argmax) -> FusedKernel:
        given, axes = at.inputs[0].shape, (op.axis % at.inputs[0].shape.rank,)
        longest = bounds(given.dims[axes[0]])[1]
        place = DType.of("i32" if longest < 2**31 else "i64")
        best = ReduceMin(axes) if self.is_least else ReduceMax(axes)
        one = ReduceMax(axes) if self.is_last else ReduceMin(axes)
        nodes = (
            Node(Access(0, given.dtype, given.true_strides), given.dtype, False),
            Node(best, given.dtype, True, (0,)),
            Node(op, place, False, (0, 1)),
            Node(one, place, True, (2,)),
            Node(Convert(at.shape.dtype), at.shape.dtype, True, (3,)),
        )
        folded = tuple(i in axes for i in range(given.rank))
        strides = (0 if i in axes else s for i, s in enumerate(at.shape.true_strides))
        result = (4, Access(1, at.shape.dtype, tuple(strides)))
        return collapsed(FusedKernel(given.dims, folded, nodes, (result,)))

    def _value(self, number: int, values: dict[int, Value], point: Point) -> Value:
        """For the operation itself: the index of an element if it is the best, else a number beyond
        all.
        """
        node = self.nodes[number]
        if not isinstance(node.of, Argmax):
            return super()._value(number, values, point)
        f, here = self.f, elements.computing(node.dtype)
        x, best = (self._spread(values[i], point) for i in node.inputs)
        is_less = f.compare("ne", x, best)
        if x.type.is_float:  # NaN, if there is one, is the best
            is_less = is_less & f.compare("eq", x, x)
        beyond = -1 if self.is_last else 2 ** (here.bits - 1) - 1
        return f.select(is_less, beyond, self._place(point, here))

    def _place(self, point: Point, one: Type) -> Value:
        """The index of a point along the folded axis."""
        f = self.f
        if self.cut.by_row:
            first = f.splat(f.cast(point.first, one), point.lanes * self.abreast.rows)
            return first + self.abreast.iota(one) if point.lanes else first
        (axis,) = self.cut.outer_folds or (None,)
        place = f.as_index(0) if axis is None else point.places[axis]
        return f.splat(f.cast(place, one), point.lanes)


class _Scan(Lines):
    """Running sums and products."""

    def line(self, given: Value, made: Sequence[Value], lanes: int) -> None:
        f, op = self.f, self.at.op_as(PrefixScan)
        adds = isinstance(op, PrefixScanSum)
        one = elements.computing(self.dtype)
        to = self.frame.extent(self.at.shape.true_strides[self.axis])
        total = f.const(one.times(lanes), 0 if adds else 1)
        with f.loop(0, self.length, carry=[total]) as k:
            index = self.length - 1 - k.index if op.reverse else k.index
            value = self.read(given, index, lanes)
            (before,) = k.carried
            after = before + value if adds else before * value
            result = elements.stored(f, before if op.exclusive else after, self.dtype)
            f.store(result, f.element(made[0], to * index, memory_of(self.dtype)))
            k.carry(after)
