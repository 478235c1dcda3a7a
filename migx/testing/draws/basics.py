"""The common types of draws: dice, wants, drafts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

from migx import dim
from migx.dim import Extent
from migx.op import Operation
from migx.shape import (
    BF16,
    BOOL,
    F8E4M3FN,
    F8E4M3FNUZ,
    F8E5M2,
    F8E5M2FNUZ,
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    DType,
    Shape,
)

Dims: TypeAlias = tuple[Extent, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Want:
    """What an input must be: a shape; with ``below``, integers from 0 to less than that limit,
    which is at least 1 at all sizes, or from its negative if they may count ``from_end``;
    ``positive`` or ``constant`` if the operation needs it; or given ``values``, one for each
    element, mostly constant.
    """

    shape: Shape
    below: Extent = 0
    from_end: bool = False
    positive: bool = False
    constant: bool = False
    values: tuple[float, ...] = ()

    def bind(self, sizes: Mapping[str, int]) -> Want:
        """This want at some sizes."""
        return replace(self, shape=self.shape.bind(sizes), below=dim.evaluate(self.below, sizes))


class Dice(random.Random):
    """A random source, the same for the same seed; ``extents`` are the program's symbolic dims, or
    its wide ones. It is ``wide`` if the program has those, or is run at them.
    """

    extents: Dims = ()
    wide = False

    def chance(self, share: float) -> bool:
        """True with this probability."""
        return self.random() < share

    def some(self, low: int, high: int) -> int:
        """An integer between two, both inclusive; faster than ``randint``."""
        return low + int(self.random() * (high - low + 1))

    def size(self, low: int, high: int) -> Extent:
        """A free dim: an integer in the range, or one of the program's ``extents``, if any;
        occasionally 0.
        """
        if self.chance(0.03):
            return 0
        if self.extents and self.chance(0.5):
            return self.one_of(self.extents)
        return self.some(low, high)

    def room(self, low: int, high: int) -> Extent:
        """A dim of at least ``low`` at all sizes: an integer up to ``high``, or one of ``extents``,
        plus as much as it may lack.
        """
        size = self.size(low, high)
        return size if least(size) >= low else low + size

    def count(self, low: int, high: int) -> int:
        """A dim that must be a number and not 0: an integer in the range, or a wide one."""
        size = self.size(low, high)
        return size if isinstance(size, int) and size else self.some(low, high)

    def types(self) -> tuple[DType, ...]:
        """Element types to choose from: ``TYPES`` or, one time in eight, ``RARE`` ones."""
        return RARE if self.chance(1 / 8) else TYPES

    def one_of(self, values: Sequence[T]) -> T:
        """One of some values."""
        return values[int(self.random() * len(values))]


Draft: TypeAlias = tuple[Operation, list[Want]] | None
Draw: TypeAlias = Callable[[Dice, Shape], Draft]

TYPES = (F32, F32, F16, F64, I32, I64, BOOL, I8, U8)
"""Element types of inputs that the result leaves open."""

RARE = (BF16, BF16, I16, U16, U32, U64, F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ)
"""Element types that few models have."""


def least(extent: Extent) -> int:
    """The lower bound of an extent."""
    return int(max(dim.bounds(extent)[0], 0))


def holding(dims: Sequence[Extent], count: int) -> list[int]:
    """The axes with at least this many elements at all sizes."""
    return [i for i, d in enumerate(dims) if least(d) >= count]


def numbers(dims: Sequence[Extent], count: int = 0) -> list[int]:
    """Those of them whose extent is a number."""
    return [i for i in holding(dims, count) if isinstance(dims[i], int)]


def ones(dims: Sequence[Extent]) -> list[int]:
    """The axes of size 1."""
    return [i for i, d in enumerate(dims) if d == 1]


def put(dims: Dims, axis: int, *extents: Extent) -> Dims:
    """Dims with one replaced by others, or by none."""
    return (*dims[:axis], *extents, *dims[axis + 1 :])


def vector(values: Iterable[Any], dtype: DType = I64) -> Want:
    """A vector of numbers as an input."""
    row = tuple(values)
    return Want(Shape(dtype, (len(row),)), values=row)
