"""Kernels of copies that interleave a few sources: doubling an image by its nearest elements, pixel
shuffles, joining real and imaginary parts.

The last axis is short and has any stride, and the one before it is contiguous: a vector is read for
each index of the last axis, and their lanes are interleaved in the result.
"""

from __future__ import annotations

from migx.dim import product
from migx.fusion.kernels import FusedKernel, described
from migx.ir import Instruction
from migx.ops.layout import Contiguous, Reshape
from migx.targets.cpu.emit import Type, Value
from migx.targets.cpu.kernel import Frame, Kernel, Rows, type_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts.transpose import interleaved

WAYS = (2, 4)
"""The lengths the last axis may have."""
TILE = 16384
"""Elements of a tile."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a copy whose last axis is short; None for others."""
    if not isinstance(at.op, Contiguous | Reshape):
        return None
    copy = described(at)
    if copy is None or len(copy.nodes) != 1 or len(copy.dims) < 2 or copy.dims[-1] not in WAYS:
        return None
    read, written = copy.accesses
    memory = type_of(read.dtype)
    ways = copy.dims[-1]
    if memory is None or read.strides[-2] != 1 or written.strides[-2:] != (ways, 1):
        return None
    return _Writer(at, machine, copy, memory).kernel()


class _Writer:
    """Writes the kernel of one copy."""

    def __init__(self, at: Instruction, machine: Machine, copy: FusedKernel, memory: Type) -> None:
        self.copy, self.frame, self.memory = copy, Frame(at, machine), memory
        self.f, self.lanes = self.frame.function, machine.lanes(memory)
        ways = copy.dims[-1]
        assert isinstance(ways, int)
        self.ways = ways

    def kernel(self) -> Kernel:
        """The kernel."""
        f, e, copy = self.f, self.frame.extent, self.copy
        width = copy.dims[-2]
        rows = Rows(product(copy.dims[:-2]), width * self.ways, TILE)
        with self.frame.rows(rows) as row:
            places = self.frame.places(row, copy.dims, range(len(copy.dims) - 2))
            given, made = (self.frame.start(access, places) for access in copy.accesses)
            for at, mask in f.under_masks(e(width), self.lanes):
                self._vectors(given, made, at, mask)
        return self.frame.finished("interleave", rows.tiles)

    def _vectors(self, given: Value, made: Value, at: Value, mask: Value | None) -> None:
        """A vector of elements of the long axis; with a mask, the rest of them."""
        f, lanes, ways = self.f, self.lanes, self.ways
        vector = self.memory.times(lanes)
        lines, step = [], self.frame.extent(self.copy.accesses[0].strides[-1])
        left = self.frame.extent(self.copy.dims[-2]) - at
        for way in range(ways):
            line = f.element(given, at + step * way, self.memory)
            lines.append(f.load(line, vector, mask=mask))
        for number, mixed in enumerate(interleaved(f, lines)):
            there = f.element(made, at * ways + number * lanes, self.memory)
            within = None if mask is None else f.first_lanes(left * ways - number * lanes, lanes)
            f.store(mixed, there, mask=within)
