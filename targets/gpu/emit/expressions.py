"""Pieces of Triton text for the indices and values of a tile, with what is known of them.

A tile has axes, and each index or value varies over some of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from migx.dim import Extent

ROWS = frozenset({0})
BOTH = frozenset({0, 1})


@dataclass(frozen=True)
class Expr:
    """A piece of text, the axes of the tile it varies over, and its ``number`` if that is known.

    An index that runs over whole pairs may know the index of these ``pairs``. An index may know the
    ``outer`` index it has when divided by a number, which varies over fewer axes. A condition that
    varies knows the part of it that is ``alike`` for the whole tile.
    """

    text: str
    over: frozenset[int] = frozenset()
    number: int | None = None
    pairs: Pairs | None = None
    outer: tuple[Expr, int] | None = None
    alike: Expr | None = None

    def __add__(self, other: Expr | int) -> Expr:
        other = expr(other)
        if self.number == 0 or other.number == 0:
            return other if self.number == 0 else self
        return _combined(self, "+", other)

    def __sub__(self, other: Expr | int) -> Expr:
        other = expr(other)
        return self if other.number == 0 else _combined(self, "-", other)

    def __mul__(self, other: Expr | int) -> Expr:
        other = expr(other)
        if self.number == 0 or other.number == 0:
            return expr(0)
        if self.number == 1 or other.number == 1:
            return other if self.number == 1 else self
        return _combined(self, "*", other)

    def __floordiv__(self, other: Expr | int) -> Expr:
        other = expr(other)
        return self if other.number == 1 else _combined(self, "//", other)

    def __mod__(self, other: Expr | int) -> Expr:
        other = expr(other)
        return expr(0) if other.number == 1 else _combined(self, "%", other)

    def below(self, other: Expr | int) -> Expr:
        """Whether it is less than another."""
        return _combined(self, "<", expr(other))

    def inside(self, extent: Expr | int) -> Expr:
        """Whether it is a valid index: at least 0, and less than an extent."""
        text = f"(({self.text} >= 0) & ({self.text} < {expr(extent).text}))"
        return Expr(text, self.over)

    def __and__(self, other: Expr) -> Expr:
        made = _combined(self, "&", other)
        if not made.over:
            return made
        first, second = (x.alike if x.over else x for x in (self, other))
        return replace(made, alike=first if second is None else both(first, second))


@dataclass(frozen=True)
class Pairs:
    """The index of pairs of elements, which are adjacent along an ``axis`` of a tile of so many
    axes.
    """

    index: Expr
    axis: int
    of: int

    def of_halves(self, x: str, y: str) -> str:
        """The elements, given the first and the second of all pairs."""
        if self.axis == self.of - 1:
            return f"tl.interleave({x}, {y})"
        every = list(range(self.of))
        order = [*every[: self.axis + 1], self.of, *every[self.axis + 1 :]]
        dims = [f"({x}).shape[{i}]{' * 2' * (i == self.axis)}" for i in every]
        return f"tl.reshape(tl.permute(tl.join({x}, {y}), {order}), [{', '.join(dims)}])"


def expr(value: Expr | int) -> Expr:
    """An expression, or a number as one."""
    return value if isinstance(value, Expr) else Expr(str(value), number=value)


def _combined(x: Expr, sign: str, y: Expr) -> Expr:
    if x.number is not None and y.number is not None and sign in ("+", "-", "*"):
        found = {"+": x.number + y.number, "-": x.number - y.number, "*": x.number * y.number}
        return expr(found[sign])
    return Expr(f"({x.text} {sign} {y.text})", x.over | y.over)


@dataclass(frozen=True)
class Part:
    """An index that runs over several adjacent axes at once."""

    index: Expr
    dims: tuple[Extent, ...]


def by_axis(places: Iterable[Expr], dims: Sequence[Extent]) -> list[Part]:
    """An index for each axis."""
    return [Part(place, (extent,)) for place, extent in zip(places, dims, strict=True)]


def both(x: Expr | None, y: Expr) -> Expr:
    """The conjunction of two conditions; None is true."""
    return y if x is None else x & y


def over_any(values: Iterable[Expr]) -> frozenset[int]:
    """The axes over which any of some values varies."""
    return frozenset[int]().union(*(v.over for v in values))
