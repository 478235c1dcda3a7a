"""Choices that depend on rounding: which elements are chosen, or in which order.

Operations that sort and pick return indices, which agree as long as elements differ by more than
rounding changes them. If they do not, later values may be entirely different, and neither side is
wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from migx import op as operations
from migx.argument import Argument
from migx.ir import Instruction


def nearest(at: Instruction, given: Argument, result: Argument) -> float:
    """The least difference between elements whose order determines what is chosen."""
    x = given.array.astype(np.float64)
    attributes = operations.attributes(at.op)
    axis = attributes.get("axis", -1)
    rising = at.name == "argmin" or not attributes.get("largest", True)
    count = result.parts[0].shape.dims[axis] if at.name == "topk" else 1
    best = np.sort(x if rising else -x, axis)
    if at.name != "nonmaxsuppression":
        best = np.moveaxis(best, axis, -1)[..., : int(count) + 1]
    return _least_step(best)


def _least_step(ordered: NDArray[Any]) -> float:
    """The least difference between adjacent finite elements."""
    finite = np.isfinite(ordered[..., 1:]) & np.isfinite(ordered[..., :-1])
    with np.errstate(invalid="ignore"):
        return float(np.min(np.diff(ordered), initial=np.inf, where=finite))


def unsure(x: NDArray[Any], error: NDArray[Any], axis: int, rising: bool) -> NDArray[np.bool_]:
    """Where another element may come, once elements that may be this far off are put in order:
    where the range of an element meets that of one before or after it.
    """
    order = np.argsort(x, axis)
    value, off = (np.moveaxis(np.take_along_axis(v, order, axis), axis, -1) for v in (x, error))
    low, high = value - off, value + off
    found = np.zeros(low.shape, bool)
    found[..., 1:] |= np.fmax.accumulate(high, -1)[..., :-1] > low[..., 1:]
    found[..., :-1] |= np.fmin.accumulate(low[..., ::-1], -1)[..., ::-1][..., 1:] < high[..., :-1]
    return np.moveaxis(found if rising else found[..., ::-1], -1, axis)
