"""What it costs to multiply f32 as tf32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from migx.argument import Argument
from migx.ir import Instruction
from migx.op import Array
from migx.pipeline import Approximation
from migx.shape import F32

CUT = 2.0**-10
"""By how much of itself an operand is off at most: 10 of its 23 bits of mantissa are left, and
where some units round, others cut off.
"""


@dataclass(frozen=True)
class RoundedToTf32(Approximation):
    """What multiplying f32 as tf32 comes to in the sums of a ``dot`` or a ``convolution``: each
    term is off by so much of itself.
    """

    def of_elements(
        self, at: Instruction, inputs: Sequence[Argument], result: Argument
    ) -> Array | None:
        """The sums of the magnitudes; of a convolution, with the greatest of the image for all."""
        if result.shape.dtype is not F32:
            return None
        left, right = (np.abs(v.array.astype(np.float64)) for v in inputs)
        if at.op.name == "dot":
            sums: Array = np.matmul(left, right)
        else:
            greatest = np.max(left, initial=0.0, where=np.isfinite(left))
            sums = greatest * right.reshape(len(right), -1).sum(axis=1)
            sums = sums.reshape(-1, *[1] * (result.shape.rank - 2))
        return sums * ((1 + CUT) ** 2 - 1)

    def of_tensor(self, at: Instruction) -> float:
        """What both operands are off by."""
        return 2 * CUT if at.shape.dtype is F32 else 0.0
