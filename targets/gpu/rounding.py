"""The error of multiplying f32 as tf32."""

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
"""The largest relative error of an operand: 10 of its 23 mantissa bits are kept, and where some
units round, others truncate.
"""


@dataclass(frozen=True)
class RoundedToTf32(Approximation):
    """The error that multiplying f32 as tf32 causes in the sums of a ``dot`` or a ``convolution``:
    a relative error of each term.
    """

    def of_elements(
        self, at: Instruction, inputs: Sequence[Argument], result: Argument
    ) -> Array | None:
        """The error bounds, from sums of magnitudes; for a convolution, with the image's maximum
        throughout.
        """
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
        """The relative error of both operands together."""
        return 2 * CUT if at.shape.dtype is F32 else 0.0
