"""Inputs that hold what arithmetic has rules of its own for."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from migx.argument import Argument
from migx.shape import F16, DType
from migx.testing.draws import Dice


def special(inputs: Mapping[str, Argument], dice: Dice) -> dict[str, Argument]:
    """Inputs with some of their floats replaced: by infinities, NaN or zeros of either sign, or
    numbers so large that their squares are out of range, or so small that these are 0.
    """
    return {name: _replaced(value, dice) for name, value in inputs.items()}


def _replaced(value: Argument, dice: Dice) -> Argument:
    dtype = value.shape.dtype
    if not dtype.is_tensor or not dtype.is_float or dtype.is_packed or dtype.bits < F16.bits:
        return value
    kinds = dice.sample(_kinds(dtype), dice.some(1, 3))
    array = value.array.copy()
    for place in np.ndindex(array.shape):
        if dice.chance(0.3):
            array[place] = dice.one_of(dice.one_of(kinds))
    return Argument(value.shape, array)


def _kinds(dtype: DType) -> tuple[tuple[float, ...], ...]:
    # With 0.8 of the exponents there is room for sums, and for factors that are no inputs.
    large = float(ml_dtypes.finfo(dtype.numpy).max) ** 0.8  # type: ignore[no-untyped-call]
    return (np.inf, -np.inf), (np.nan,), (0.0, -0.0), (large, -large), (1 / large, -1 / large)
