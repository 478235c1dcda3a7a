"""Indices read by a kernel: one that is out of range ends the run."""

from __future__ import annotations

from collections.abc import Iterable

from migx.dim import Extent
from migx.targets.cpu.emit import I64, Value
from migx.targets.cpu.kernel import Frame, memory_of


def index_at(
    frame: Frame, place: Value, extent: Extent, lanes: int = 0, operand: int = 1
) -> tuple[Value, Value]:
    """The index at an offset of an input, or a vector of those from there on, counted from the
    front of an axis of this extent, and whether it is in range.
    """
    f, dtype = frame.function, frame.at.inputs[operand].shape.dtype
    memory = memory_of(dtype)
    raw = f.load(f.element(frame.operands[operand], place, memory), memory.times(lanes))
    index, length = f.cast(raw, I64, signed=dtype.kind == "int"), frame.extent(extent)
    if dtype.kind == "int":
        index = f.select(index < 0, index + length, index)
    return index, f.compare("lt", index, length, signed=False)


def fail_outside(frame: Frame, inside: Value, axes: Iterable[int]) -> None:
    """Ends the run if an index is out of range on some axes of the first input."""
    shape, which = frame.at.inputs[0].shape, ", ".join(map(str, axes))
    outside = frame.function.any_of(~inside)
    frame.fails(outside, f"{frame.at.name}: an index is outside axis {which} of {shape.text}")
