"""Functions that add instructions: any, and common ones such as broadcasts and slices.

They take a ``Builder``, such as the ``Cursor`` of a rule, and add nothing if the value already is
as it should be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from migx.argument import Argument
from migx.dim import Extent, broadcast, offsets
from migx.ir import Instruction, Module
from migx.op import Operation, attributes, traits
from migx.ops.builtin import Literal
from migx.ops.dims import DimLiteral, DynamicRange
from migx.ops.layout import Concat, Multibroadcast, Slice, Squeeze, Unsqueeze
from migx.ops.logic import Less
from migx.ops.pointwise import Add, Convert, Where
from migx.shape import F32, Dims, DType

LISTED = 1 << 16
"""Longer ranges of integers are no literals, but computed when the program runs."""


class Builder:
    """Adds an instruction at each call, with given origins: before a ``place`` or, without one, at
    the end of the module, before its return.
    """

    def __init__(
        self, module: Module, place: Instruction | None = None, origins: tuple[str, ...] = ()
    ) -> None:
        self.module, self.place = module, place
        self._origins = origins

    @classmethod
    def before(cls, place: Instruction, origins: tuple[str, ...] | None = None) -> Builder:
        """A builder before an instruction, with that one's origins unless others are given."""
        return Builder(place.owner, place, place.origins if origins is None else origins)

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of what it adds."""
        return self._origins

    def __call__(
        self, op: Operation, *inputs: Instruction, modules: Sequence[Module] = ()
    ) -> Instruction:
        place = self.place or self.module.returned
        return self.module.insert_instruction(
            place, op, *inputs, modules=modules, origins=self.origins
        )

    def literal(self, value: ArrayLike | Argument, dtype: DType | str | None = None) -> Instruction:
        """Adds a literal."""
        return self(Literal(Argument.of(value, dtype)))


class Arithmetic(Builder):
    """A builder whose operations also take numbers and arrays, which get the type of the last
    operand that is an instruction. Operands of a pointwise operation are broadcast to their common
    dims, as in numpy (ONNX "multidirectional").
    """

    def __call__(
        self, op: Operation, *operands: Instruction | ArrayLike, modules: Sequence[Module] = ()
    ) -> Instruction:
        """Adds an instruction, and literals and broadcasts for its operands."""
        return self.added(op, self.operands_of(op, operands), modules)

    def added(
        self, op: Operation, inputs: Sequence[Instruction], modules: Sequence[Module] = ()
    ) -> Instruction:
        """Adds an instruction with the inputs it takes."""
        return super().__call__(op, *inputs, modules=modules)

    def operands_of(
        self, op: Operation, given: Sequence[Instruction | ArrayLike]
    ) -> Sequence[Instruction]:
        """The operands as an operation takes them."""
        values = [v for v in given if isinstance(v, Instruction)]
        if len(given) == 1:
            return values
        if len(values) < len(given):
            dtype = values[-1].shape.dtype
            values = [v if isinstance(v, Instruction) else self.literal(v, dtype) for v in given]
        return self.broadcast(*values) if traits(op).pointwise else values

    def broadcast(self, *values: Instruction) -> list[Instruction]:
        """The values broadcast to their common dims."""
        given = [v.shape.dims for v in values]
        if given.count(given[0]) == len(given):
            return [*values]
        dims = common_dims(*given)
        return [broadcast_to(self, v, dims) for v in values]


def at_least_f32(dtype: DType) -> DType:
    """The float type to compute in: f32 for narrower types."""
    return F32 if dtype.bits < F32.bits else dtype


def astype(at: Builder, x: Instruction, dtype: DType) -> Instruction:
    """A value converted to an element type; itself if it has that type."""
    return x if x.shape.dtype is dtype else at(Convert(dtype), x)


def broadcast_to(at: Builder, x: Instruction, dims: Dims) -> Instruction:
    """A value broadcast to dims; itself if it has them."""
    return x if x.shape.dims == dims else at(Multibroadcast(dims), x)


def common_dims(*dims: Dims) -> Dims:
    """The dims that some broadcast to, as in numpy. ``DimError`` if two provably do not."""
    rank = max(map(len, dims))
    padded = [(1,) * (rank - len(each)) + each for each in dims]
    return tuple(broadcast(*column) for column in zip(*padded, strict=True))


def full(at: Builder, number: float, dtype: DType, dims: Dims) -> Instruction:
    """A number of a type, broadcast to dims."""
    return broadcast_to(at, at.literal(number, dtype), dims)


def full_like(at: Builder, like: Instruction, number: float) -> Instruction:
    """A number broadcast to the type and dims of a value."""
    return full(at, number, like.shape.dtype, like.shape.dims)


def number(at: Builder, extent: Extent) -> Instruction:
    """An extent as i64[]."""
    known = isinstance(extent, int)
    return at.literal(np.array(extent, np.int64)) if known else at(DimLiteral((extent,), ()))


def arange(at: Builder, count: Extent, start: int = 0) -> Instruction:
    """``count`` consecutive integers from ``start`` on, as i64[count]."""
    if isinstance(count, int) and count <= LISTED:
        return at.literal(np.arange(start, start + count, dtype=np.int64))
    bounds = (number(at, extent) for extent in (start, count + start, 1))
    return at(DynamicRange(count), *bounds)


def from_front(at: Builder, index: Instruction, extent: Extent) -> Instruction:
    """Indices, i64, of an axis of some extent; negative ones, which count from its end, counted
    from its front.
    """
    zero, size = (broadcast_to(at, number(at, n), index.shape.dims) for n in (0, extent))
    return at(Where(), at(Less(), index, zero), at(Add(), index, size), index)


def concatenate(at: Builder, axis: int, values: Sequence[Instruction]) -> Instruction:
    """The concatenation of values along an axis; a single value itself."""
    return values[0] if len(values) == 1 else at(Concat(axis), *values)


def parted(
    at: Builder, x: Instruction, extents: Iterable[Extent], axis: int = -1
) -> list[Instruction]:
    """A value split along an axis into parts of the given extents."""
    place = axis % x.shape.rank
    spans = pairwise(offsets(extents))
    return [at(Slice((place,), (start,), (end,)), x) for start, end in spans]


def at_index(at: Builder, x: Instruction, axis: int, index: int) -> Instruction:
    """What a value has at one index of an axis, without the axis."""
    return at(Squeeze((axis,)), at(Slice((axis,), (index,), (index + 1,)), x))


def stacked(at: Builder, axis: int, values: Sequence[Instruction]) -> Instruction:
    """Values of equal dims along a new axis."""
    return concatenate(at, axis, [at(Unsqueeze((axis,)), v) for v in values])


def folded(at: Builder, op: Operation, x: Instruction) -> Instruction:
    """The result of a reduction, or of an operation such as ``argmax``, without the axes that have
    size 1 then.
    """
    held = attributes(op)
    axes = held["axes"] if "axes" in held else (held["axis"],)
    return at(Squeeze(axes), at(op, x))


def sliced(at: Builder, x: Instruction, spans: Sequence[tuple[int, Extent, Extent]]) -> Instruction:
    """A slice of a value, by (axis, start, end); the value itself if there are none."""
    return at(Slice(*zip(*spans, strict=True)), x) if spans else x
