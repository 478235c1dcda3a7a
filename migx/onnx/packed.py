"""Packed types: the types they are unpacked to, and the operations that pack and unpack."""

from __future__ import annotations

from migx.op import Operation
from migx.ops.packing import PackFp4, PackInt2, PackInt4, UnpackFp4, UnpackInt2, UnpackInt4
from migx.shape import DType


def packing(dtype: DType) -> tuple[DType, Operation]:
    """The unpacked type for a packed type, and the operation that packs it."""
    wide, kind = next(
        (wide, kind)
        for kind in (PackInt4, PackInt2, PackFp4)
        for wide, packed in kind.packed.items()
        if packed is dtype
    )
    return wide, kind()


def unpacking(dtype: DType) -> Operation:
    """The operation that unpacks a packed type."""
    kinds = (UnpackInt4, UnpackInt2, UnpackFp4)
    return next(kind for kind in kinds if dtype in kind.packed)()
