"""Kernels of copies that transpose.

Squares of as many rows as a vector has lanes are read along one side, transposed in registers and
written along the other, so each cache line is read once and written once, whole. The edges are
copied element by element.
"""

from __future__ import annotations

from dataclasses import dataclass

from migx.dim import Extent, bounds, maximum, product
from migx.fusion.kernels import described
from migx.ir import Instruction
from migx.ops.layout import Contiguous, Reshape
from migx.shape import Dims
from migx.targets.cpu.emit import Type, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, bits_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts.transpose import turned

MOST_LANES = 16
ELEMENTS = 1 << 14
"""About how many elements a tile has."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a ``contiguous`` or ``reshape`` whose last axis is not the contiguous one of
    its input, if both are, or may be, as long as a side of a square.
    """
    copy = _copy(at)
    if copy is None:
        return None
    lanes = min(machine.lanes(copy.memory), MOST_LANES)
    sides = (copy.dims[copy.across], copy.dims[-1])
    if lanes < 2 or any(bounds(side)[1] < lanes for side in sides):
        return None
    return _Writer(at, machine, copy, lanes).kernel()


@dataclass(frozen=True)
class _Copy:
    """What is copied: the dims, the strides of what is read and of the result, and the axis
    ``across``, which is contiguous in what is read.
    """

    dims: Dims
    given: Dims
    made: Dims
    across: int
    memory: Type


def _copy(at: Instruction) -> _Copy | None:
    if type(at.op) not in (Contiguous, Reshape):
        return None
    fused = described(at)
    if fused is None or len(fused.nodes) != 1 or not fused.dims:
        return None
    read, result = fused.accesses
    last = len(fused.dims) - 1
    found = [i for i, step in enumerate(read.strides[:last]) if step == 1]
    if not found or result.strides[last] != 1 or read.strides[last] in (0, 1):
        return None
    return _Copy(fused.dims, read.strides, result.strides, found[0], bits_of(read.dtype))


class _Writer(KernelWriter):
    """Writes the kernel of one copy."""

    def __init__(self, at: Instruction, machine: Machine, copy: _Copy, lanes: int) -> None:
        super().__init__(at, machine)
        self.copy, self.lanes = copy, lanes
        self.wide = self.frame.extent(copy.dims[-1])
        self.high = self.frame.extent(copy.dims[copy.across])
        self.across = self.frame.extent(copy.made[copy.across])
        self.along = self.frame.extent(copy.given[-1])

    def kernel(self) -> Kernel:
        f, frame, copy = self.f, self.frame, self.copy
        counted = [i for i in range(len(copy.dims) - 1) if i != copy.across]
        share: Extent = maximum(ELEMENTS // maximum(copy.dims[-1], 1) // self.lanes, 1)
        height = share * self.lanes
        strips = (copy.dims[copy.across] + height - 1) // height
        with f.loop(frame.begin, frame.end) as tile:
            many = frame.extent(strips)
            top = tile.index % many * frame.extent(height)
            bottom = f.minimum(top + frame.extent(height), self.high)
            self._strip(tile.index // many, counted, top, bottom)
        return frame.finished(frame.at.name, product(copy.dims[i] for i in counted) * strips)

    def _strip(self, number: Value, counted: list[int], top: Value, bottom: Value) -> None:
        """A half-open range of rows of the result, at one index on the other axes."""
        f, frame, copy, lanes = self.f, self.frame, self.copy, self.lanes
        places = frame.places(number, copy.dims, counted)
        given, made = (
            f.element(operand, frame.offset(strides, places), copy.memory)
            for operand, strides in zip(frame.operands, (copy.given, copy.made), strict=True)
        )
        whole = top + (bottom - top) // lanes * lanes
        wide = self.wide // lanes * lanes
        with f.loop(top, whole, lanes) as row, f.loop(0, wide, lanes) as column:
            self._square(given, made, row.index, column.index)
        self._rest(given, made, (top, whole), (wide, self.wide))
        self._rest(given, made, (whole, bottom), (f.as_index(0), self.wide))

    def _square(self, given: Value, made: Value, row: Value, column: Value) -> None:
        f, vector = self.f, self.copy.memory.times(self.lanes)
        lines = [f.load(self._given(given, row, column + k), vector) for k in range(self.lanes)]
        for k, line in enumerate(turned(f, lines)):
            f.store(line, self._made(made, row + k, column))

    def _rest(
        self, given: Value, made: Value, rows: tuple[Value, Value], columns: tuple[Value, Value]
    ) -> None:
        f, memory = self.f, self.copy.memory
        with f.loop(*rows) as row, f.loop(*columns) as column:
            one = f.load(self._given(given, row.index, column.index), memory)
            f.store(one, self._made(made, row.index, column.index))

    def _given(self, start: Value, row: Value, column: Value) -> Value:
        return self.f.element(start, row + column * self.along, self.copy.memory)

    def _made(self, start: Value, row: Value, column: Value) -> Value:
        return self.f.element(start, row * self.across + column, self.copy.memory)
