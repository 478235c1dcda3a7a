"""Floats of eight bits: where their bits lie. Kernels read them into f32 and write them from it."""

from __future__ import annotations

from dataclasses import dataclass

from migx.shape import F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F8E8M0, DType


@dataclass(frozen=True)
class NarrowFloat:
    """A format: the bits of its mantissa, the bias of its exponent, and the codes without sign of
    ``nan`` and of ``infinity``, if it has one. An ``unsigned`` format has no -0; that code is its
    only NaN.
    """

    mantissa: int
    bias: int
    nan: int
    infinity: int | None = None
    unsigned: bool = False


FORMATS = {
    F8E4M3FN: NarrowFloat(3, 7, 0x7F),
    F8E4M3FNUZ: NarrowFloat(3, 8, 0x80, unsigned=True),
    F8E5M2: NarrowFloat(2, 15, 0x7E, 0x7C),
    F8E5M2FNUZ: NarrowFloat(2, 16, 0x80, unsigned=True),
}
"""The formats of eight bits that have a sign. ``f8e8m0`` is an exponent alone: it has no sign, no
zero and no mantissa, and its last code is NaN.
"""


def is_narrow(dtype: DType) -> bool:
    """Whether elements of a type are floats of eight bits."""
    return dtype in FORMATS or dtype is F8E8M0
