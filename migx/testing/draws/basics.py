"""What every draw is given and answers with: dice, wants, drafts."""

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
    """What an input must be: a shape; with ``below``, integers from 0 up to that, the limit not
    included, which is 1 or more at all sizes, and as many below 0 where they count ``from_end``
    too; ``positive`` or ``constant`` where the operation needs it; or just ``values``, one for each
    element, constant mostly.
    """

    shape: Shape
    below: Extent = 0
    from_end: bool = False
    positive: bool = False
    constant: bool = False
    values: tuple[float, ...] = ()

    def bind(self, sizes: Mapping[str, int]) -> Want:
        """The same at some sizes."""
        return replace(self, shape=self.shape.bind(sizes), below=dim.evaluate(self.below, sizes))


class Dice(random.Random):
    """A source of choices, the same for the same seed; ``extents`` are the dims of unknown size
    that the program has, or its wide ones. It has these, or is run at them, where it is ``wide``.
    """

    extents: Dims = ()
    wide = False

    def chance(self, share: float) -> bool:
        """True in that share of all cases."""
        return self.random() < share

    def some(self, low: int, high: int) -> int:
        """A number between two, both included; faster than ``randint``."""
        return low + int(self.random() * (high - low + 1))

    def size(self, low: int, high: int) -> Extent:
        """A dim that is free: such a number, or one of ``extents``, where the program has any; 0
        now and then.
        """
        if self.chance(0.03):
            return 0
        if self.extents and self.chance(0.5):
            return self.one_of(self.extents)
        return self.some(low, high)

    def room(self, low: int, high: int) -> Extent:
        """A dim that has at least ``low`` elements at all sizes: a number up to ``high``, or one of
        ``extents``, with so many more where it may have fewer.
        """
        size = self.size(low, high)
        return size if least(size) >= low else low + size

    def count(self, low: int, high: int) -> int:
        """A dim that must be known, and not 0: such a number, or a wide one."""
        size = self.size(low, high)
        return size if isinstance(size, int) and size else self.some(low, high)

    def types(self) -> tuple[DType, ...]:
        """Element types to choose from: ``TYPES``, or, one time in eight, ``RARE`` ones."""
        return RARE if self.chance(1 / 8) else TYPES

    def one_of(self, values: Sequence[T]) -> T:
        """One of some values."""
        return values[int(self.random() * len(values))]


Draft: TypeAlias = tuple[Operation, list[Want]] | None
Draw: TypeAlias = Callable[[Dice, Shape], Draft]

TYPES = (F32, F32, F16, F64, I32, I64, BOOL, I8, U8)
"""Element types that inputs have where the result leaves the choice."""

RARE = (BF16, BF16, I16, U16, U32, U64, F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ)
"""Those that few models have."""


def least(extent: Extent) -> int:
    """How large an extent is at all sizes, at least."""
    return int(max(dim.bounds(extent)[0], 0))


def holding(dims: Sequence[Extent], count: int) -> list[int]:
    """The axes that have at least so many elements at all sizes."""
    return [i for i, d in enumerate(dims) if least(d) >= count]


def numbers(dims: Sequence[Extent], count: int = 0) -> list[int]:
    """Those among them whose extent is a number."""
    return [i for i in holding(dims, count) if isinstance(dims[i], int)]


def ones(dims: Sequence[Extent]) -> list[int]:
    """The axes of one element."""
    return [i for i, d in enumerate(dims) if d == 1]


def put(dims: Dims, axis: int, *extents: Extent) -> Dims:
    """Dims with others, or none, in the place of one."""
    return (*dims[:axis], *extents, *dims[axis + 1 :])


def vector(values: Iterable[Any], dtype: DType = I64) -> Want:
    """A row of numbers as an input."""
    row = tuple(values)
    return Want(Shape(dtype, (len(row),)), values=row)
