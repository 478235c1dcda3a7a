"""What rules often add to a program, a call each.

They take the ``Cursor`` that a rule has, and add what is needed: nothing, where the value is as it
should be already.
"""

from __future__ import annotations

from collections.abc import Sequence

from migx.dim import Extent
from migx.ir import Instruction
from migx.ops.layout import Concat, Multibroadcast, Slice
from migx.ops.pointwise import Convert
from migx.rewrite import Cursor
from migx.shape import F32, Dims, DType


def at_least_f32(dtype: DType) -> DType:
    """The float type to compute in: f32 for narrower ones."""
    return F32 if dtype.bits < F32.bits else dtype


def astype(at: Cursor, x: Instruction, dtype: DType) -> Instruction:
    """A value in an element type; itself where it has that one."""
    return x if x.shape.dtype is dtype else at(Convert(dtype), x)


def broadcast_to(at: Cursor, x: Instruction, dims: Dims) -> Instruction:
    """A value broadcast to dims; itself where it has these."""
    return x if x.shape.dims == dims else at(Multibroadcast(dims), x)


def full_like(at: Cursor, like: Instruction, number: float) -> Instruction:
    """A number with the type and dims of a value."""
    return broadcast_to(at, at.literal(number, like.shape.dtype), like.shape.dims)


def concatenate(at: Cursor, axis: int, values: Sequence[Instruction]) -> Instruction:
    """Values one after another along an axis; itself where there is but one."""
    return values[0] if len(values) == 1 else at(Concat(axis), *values)


def sliced(at: Cursor, x: Instruction, spans: Sequence[tuple[int, Extent, Extent]]) -> Instruction:
    """What lies on some axes from one place to before another; the value itself for no axes."""
    return at(Slice(*zip(*spans, strict=True)), x) if spans else x
