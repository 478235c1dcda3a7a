"""Where it hangs on rounding which elements are chosen, or in which order.

What sorts and picks answers with places, which are the same on both sides as long as the elements
lie further apart than rounding moves them. Where they do not, what follows may be quite another
value, and neither side is wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from migx import op as operations
from migx.argument import Argument
from migx.ir import Instruction

CHOOSING = {"topk": 0, "argmax": 0, "argmin": 0, "nonmaxsuppression": 1}
"""What chooses by the order of elements along an axis, and which input these are."""


def nearest(at: Instruction, given: Argument, result: Argument) -> float:
    """How far those elements are apart, at least, whose order decides what is chosen."""
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
    """The least difference of neighbours among finite elements."""
    finite = np.isfinite(ordered[..., 1:]) & np.isfinite(ordered[..., :-1])
    with np.errstate(invalid="ignore"):
        return float(np.min(np.diff(ordered), initial=np.inf, where=finite))
