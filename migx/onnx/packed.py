"""Types of less than a byte: what their elements are computed in, and the operations between."""

from __future__ import annotations

from migx.op import Operation
from migx.ops.packing import PackFp4, PackInt2, PackInt4, UnpackFp4, UnpackInt2, UnpackInt4
from migx.shape import DType


def packing(dtype: DType) -> tuple[DType, Operation]:
    """The type that elements of a packed type are computed in, and what packs these."""
    wide, kind = next(
        (wide, kind)
        for kind in (PackInt4, PackInt2, PackFp4)
        for wide, packed in kind.packed.items()
        if packed is dtype
    )
    return wide, kind()


def unpacking(dtype: DType) -> Operation:
    """What unpacks a packed type."""
    kinds = (UnpackInt4, UnpackInt2, UnpackFp4)
    return next(kind for kind in kinds if dtype in kind.packed)()
