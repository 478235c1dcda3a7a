"""The types of elements in memory and in computation, by Triton's names."""

from __future__ import annotations

from migx.fusion.narrow_floats import is_narrow
from migx.shape import F32, F64, I32, I64, DType

NARROW = tuple(name for name, dtype in DType.known.items() if is_narrow(dtype))
"""Floats of eight bits, stored as bytes; only elementwise arithmetic computes with them."""
POINTERS = {
    "f16": "fp16",
    "bf16": "bf16",
    "f32": "fp32",
    "f64": "fp64",
    "bool": "u8",
    "i4": "u8",
    "u4": "u8",
    **{f"{sign}{bits}": f"{sign}{bits}" for sign in "iu" for bits in (8, 16, 32, 64)},
}
"""The element types in memory, by Triton's names for pointers to them."""
COMPUTING = {
    **dict.fromkeys(NARROW, "tl.float32"),
    "f16": "tl.float32",
    "bf16": "tl.float32",
    "f32": "tl.float32",
    "f64": "tl.float64",
    "bool": "tl.int1",
    **{f"i{bits}": f"tl.int{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"tl.uint{bits}" for bits in (8, 16, 32, 64)},
}
"""The types elements are computed in: floats under 32 bits in f32."""
STORED = {
    **COMPUTING,
    **dict.fromkeys(NARROW, "tl.uint8"),
    "f16": "tl.float16",
    "bf16": "tl.bfloat16",
    "bool": "tl.uint8",
}


def storable(dtype: DType) -> bool:
    """Whether kernels of all families can compute with elements of a type."""
    return dtype.name in COMPUTING and not is_narrow(dtype)


def stored(text: str, dtype: DType) -> str:
    """A value in its computing type, converted to its type in memory."""
    return f"{text}.to({STORED[dtype.name]})"


def summed(dtype: DType) -> DType:
    """The type of sums and products of many elements: integers wrap, at their width or more."""
    if dtype.is_float:
        return F64 if dtype is F64 else F32
    return I64 if dtype.bits == 64 else I32
