"""Has instructions compute in a narrower float type."""

from __future__ import annotations

import math
from collections.abc import Mapping

from migx.errors import FieldError
from migx.ir import Instruction
from migx.ops.builtin import GetTupleElem
from migx.ops.pointwise import Convert
from migx.ops.quantization import DequantizeLinear
from migx.passes._retyping import Retyping
from migx.shape import DType, Shape
from migx.weights.constants import is_unpacked

STEEP = ("acosh", "atanh", "div", "fmod", "log", "mod", "pow", "recip", "rsqrt", "tan")
"""Operations that jump, or grow beyond any bound, where an input moves as little as by one rounding
to 8 digits.
"""


class TruncateFloat(Retyping):
    """Has instructions compute in the float type ``to``, f16 or bf16: their wider inputs are
    converted, their results converted back (MIGraphX truncate_float).

    ``ops`` are the operations to convert, all if it is empty. Constants beyond the range of
    ``to`` become its least or greatest number, because an infinity would spread. A single
    number that would round to zero becomes the nearest that is none, because it may be what
    keeps a divisor from being zero. Left as they are: instructions that depend only on
    constants, and so are computed once; those that dequantise, or read dequantised values or
    four-bit weights, which other passes turn into products of bytes; those with modules; and
    those that differ in another type, such as random numbers.
    """

    left = (Convert, GetTupleElem, DequantizeLinear)
    variants = ("to=f16", "to=bf16", "to=bf16,ops=(dot,add,mul)")

    def __post_init__(self) -> None:
        if self.to not in ("f16", "bf16"):
            raise FieldError(f"pass truncate_float: to is f16 or bf16, not {self.to}")
        super().__post_init__()

    @property
    def approximations(self) -> Mapping[str, float]:
        """Errors of other results follow from the converts."""
        return dict.fromkeys(STEEP, math.inf)

    def replaced(self, dtype: DType) -> bool:
        """Whether it is a wider float type."""
        return dtype.is_float and dtype.bits > DType.of(self.to).bits

    def takes(self, at: Instruction, made: Shape) -> bool:
        """Whether its results are narrower; not where what it reads is dequantised."""
        return not made.same_type(at.shape) and not any(map(_is_dequantised, at.inputs))


def _is_dequantised(value: Instruction) -> bool:
    return isinstance(value.op, DequantizeLinear) or is_unpacked(value)
