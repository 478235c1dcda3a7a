"""What is said of numbers at the end of the range of their type, and beyond it.

An infinity or NaN is the same on both sides where it comes of exact numbers, or of others whichever
they are. Where a number is so near the end of the range that another order of factors, or a
rounding, may take it beyond, nothing is said: the bound is infinite.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from migx.ops.quantization import limits
from migx.shape import F32, DType

Doubles: TypeAlias = NDArray[Any]
TINY = float(np.finfo(np.float32).tiny)
"""What a magnitude counts for at least where something is divided by it."""


def largest(array: NDArray[Any]) -> float:
    """The greatest finite magnitude of some numbers; 0 of none."""
    sizes = np.abs(array.astype(np.float64))
    return float(np.max(sizes, initial=0.0, where=np.isfinite(sizes)))


@cache
def ends(dtype: DType) -> tuple[float, float]:
    """Magnitudes of a float type: up to the first, no reordering takes a number out of range, and
    from the second on, none takes it in. That is a sixth of the exponents either way, which leaves
    room for squares; f8, which saturates, has its end for both. What is f16 in a program may be f32
    between the operations of a kernel, and is out of range where that is.
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
    """How far results in double precision are from those of a type: 0 for an infinity or NaN where
    both have it, and infinite where one does.
    """
    if dtype.is_float:
        made = np.where(np.abs(made) > ends(dtype)[1], np.copysign(np.inf, made), made)
    alike = (made == centre) | (np.isnan(made) & np.isnan(centre))
    return np.where(alike, 0.0, np.nan_to_num(np.abs(made - centre), nan=np.inf, posinf=np.inf))
