"""Numbers at the end of the range of their type, and beyond it, and what lies between two.

An infinity or NaN is the same on both sides if it results from exact numbers, or for any values of
the others. If a number is so near the end of its range that a different order of factors, or a
rounding, may overflow, its bound is infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from migx.ops.quantization import limits
from migx.shape import F32, DType

Doubles: TypeAlias = NDArray[Any]
TINY = float(np.finfo(np.float32).tiny)
"""The least magnitude used as a divisor."""


def largest(array: NDArray[Any]) -> float:
    """The largest finite magnitude of an array; 0 if it is empty."""
    sizes = np.abs(array.astype(np.float64))
    return float(np.max(sizes, initial=0.0, where=np.isfinite(sizes)))


@cache
def ends(dtype: DType) -> tuple[float, float]:
    """Two magnitudes of a float type: up to the first, no reordering takes a number out of range;
    from the second on, none brings it back. The margin is a sixth of the exponents either way,
    which leaves room for squares; f8, which saturates, has its end for both. A kernel may hold f16
    values of a program as f32, so for these the second is that of f32.
    """
    with np.errstate(over="ignore"):
        limit = np.float64(limits(dtype)[1])
        margin = limit ** (1 / 6) if dtype.bits > 8 else 1.0
        beyond = ends(F32)[1] if dtype.bits == 16 else limit * margin
        return float(limit / margin), float(beyond)


def at_the_end(values: Doubles, dtype: DType) -> NDArray[np.bool_]:
    """Where numbers are at the end of the range of a type, beyond it, or NaN."""
    return np.asarray(~(np.abs(values) <= ends(dtype)[0]))


def apart(made: Doubles, centre: Doubles, dtype: DType) -> Doubles:
    """The distance of results in double precision from those of a type: 0 if both are the same
    infinity or NaN, infinite if only one is.
    """
    if dtype.is_float:
        made = np.where(np.abs(made) > ends(dtype)[1], np.copysign(np.inf, made), made)
    alike = (made == centre) | (np.isnan(made) & np.isnan(centre))
    return np.where(alike, 0.0, np.nan_to_num(np.abs(made - centre), nan=np.inf, posinf=np.inf))


def within_a_turn(name: str, ends: Sequence[Doubles], error: Doubles) -> Doubles:
    """The largest difference of a periodic function between the ends of its input."""
    if name == "tan":
        low, high = (np.floor(end / np.pi + 0.5) for end in (ends[0], ends[-1]))
        return np.where(low == high, 0.0, np.inf)  # infinite if there is a pole in between
    return np.where(error < 1, 0.0, np.minimum(error, 2.0))


def across_multiples(x: Sequence[Doubles], y: Sequence[Doubles]) -> Doubles:
    """The largest difference of a remainder between the ends of its operands: twice the divisor, if
    the quotient passes a whole number in between.
    """
    with np.errstate(all="ignore"):
        quotients = [np.floor(a / b) for a in x for b in y]
    same = np.minimum.reduce(quotients) == np.maximum.reduce(quotients)
    return np.where(same, 0.0, 2 * np.maximum.reduce([np.abs(b) for b in y]))
