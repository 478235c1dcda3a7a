"""Arithmetic on intervals, whose ends are inclusive and may be infinite: bounds are made of it."""

from __future__ import annotations

import math
from typing import TypeAlias

Bounds: TypeAlias = tuple[float, float]


def multiplied(a: Bounds, b: Bounds) -> Bounds:
    """Where the products of two numbers lie."""
    corners = [0 if 0 in (x, y) else x * y for x in a for y in b]
    return min(corners), max(corners)


def divided(a: Bounds, b: Bounds) -> Bounds:
    """Where the quotients of two numbers lie, rounded down; anywhere, where the divisor may be of
    either sign.
    """
    if b[0] <= 0:
        return (0, a[1]) if a[0] >= 0 and b[0] == 0 else (-math.inf, math.inf)
    corners = [quotient(x, y) for x in a for y in b]
    return min(corners), max(corners)


def quotient(x: float, y: float) -> float:
    """A number divided by one above 0, rounded down."""
    if math.isinf(x):
        return x
    return (0 if x >= 0 else -1) if math.isinf(y) else x // y
