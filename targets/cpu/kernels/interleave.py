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
from migx.targets.cpu.kernel import Frame, Kernel, Rows, memory_of, type_of
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
    ways = copy.dims[-1]
    if type_of(read.dtype) is None or read.strides[-2] != 1 or written.strides[-2:] != (ways, 1):
        return None
    return _written(Frame(at, machine), copy, int(ways))


def _written(frame: Frame, copy: FusedKernel, ways: int) -> Kernel:
    """The kernel that interleaves so many ``ways``."""
    f, read, width = frame.function, copy.accesses[0], copy.dims[-2]
    memory = memory_of(read.dtype)
    lanes = frame.machine.lanes(memory)
    rows = Rows(product(copy.dims[:-2]), width * ways, TILE)
    with frame.rows(rows) as row:
        places = frame.places(row, copy.dims, range(len(copy.dims) - 2))
        given, made = (frame.start(access, places) for access in copy.accesses)
        for at, mask in f.under_masks(frame.extent(width), lanes):
            step, left = frame.extent(read.strides[-1]), frame.extent(width) - at
            sources = (f.element(given, at + step * way, memory) for way in range(ways))
            lines = [f.load(source, memory.times(lanes), mask=mask) for source in sources]
            for number, mixed in enumerate(interleaved(f, lines)):
                there = f.element(made, at * ways + number * lanes, memory)
                within = (
                    None if mask is None else f.first_lanes(left * ways - number * lanes, lanes)
                )
                f.store(mixed, there, mask=within)
    return frame.finished("interleave", rows.tiles)
