"""Interval arithmetic, for the bounds of dims; ends are inclusive and may be infinite."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TypeAlias

Bounds: TypeAlias = tuple[float, float]


def multiplied(a: Bounds, b: Bounds) -> Bounds:
    """The interval of the products of two numbers."""
    corners = [0 if 0 in (x, y) else x * y for x in a for y in b]
    return min(corners), max(corners)


def divided(a: Bounds, b: Bounds) -> Bounds:
    """The interval of the quotients of two numbers, rounded down; unbounded if the divisor may be
    of either sign.
    """
    if b[0] <= 0:
        return (0, a[1]) if a[0] >= 0 and b[0] == 0 else (-math.inf, math.inf)
    corners = [quotient(x, y) for x in a for y in b]
    return min(corners), max(corners)


def quotient(x: float, y: float) -> float:
    """The quotient by a positive number, rounded down."""
    if math.isinf(x):
        return x
    return (0 if x >= 0 else -1) if math.isinf(y) else x // y


def plus_quotient(whole: Bounds, factor: int, divisor: int) -> Bounds:
    """The interval of ``x + factor*(a//divisor)`` for integers, given that of ``divisor*x +
    factor*a``: ``a//n`` is between ``(a - n + 1)/n`` and ``a/n``.
    """
    least, most = whole
    slack = abs(factor) * (divisor - 1)
    least, most = (least, most + slack) if factor < 0 else (least - slack, most)
    return -quotient(-least, divisor), quotient(most, divisor)


def one_of(function: str, spans: Sequence[Bounds], *, negated: bool = False) -> Bounds:
    """The interval of the ``min`` or ``max`` of some numbers; ``broadcast`` may pick any of them.
    ``negated`` intervals are of the numbers times a negative one, so least and greatest swap.
    """
    lows, highs = zip(*spans, strict=True)
    if function == "broadcast":
        return min(lows), max(highs)
    pick = max if (function == "max") != negated else min
    return pick(lows), pick(highs)


def whole_number(given: object) -> int | None:
    """A number as an ``int``; None if it is not an integer, such as 1.5, 2.0 or True."""
    if type(given) is int:
        return given
    if isinstance(given, bool) or not hasattr(given, "__index__"):
        return None
    try:
        return operator.index(given)
    except TypeError:  # an array of several elements
        return None
