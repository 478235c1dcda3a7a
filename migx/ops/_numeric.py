"""Shared by numeric operations: kinds of element types, extreme values, exact integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from migx.errors import ShapeError
from migx.op import Array, Operation
from migx.ops._rules import wide
from migx.shape import F8E8M0, DType

Kinds: TypeAlias = tuple[str, ...]
FLOAT: Kinds = ("float",)
INTEGER: Kinds = ("int", "uint")
NUMBER: Kinds = ("int", "uint", "float")
LOGICAL: Kinds = ("bool",)
ORDERED: Kinds = (*NUMBER, "bool")
ANY: Kinds = (*ORDERED, "string")


def expect_kind(op: Operation, dtype: DType, kinds: Kinds) -> DType:
    """The element type, which must be of one of the kinds and not packed; else ``ShapeError``."""
    if dtype.kind not in kinds or dtype.is_packed:
        packed = " in whole bytes" if dtype.is_packed else ""
        raise ShapeError(f"{op.name} computes on {' or '.join(kinds)}{packed}, not {dtype}")
    return dtype


def lowest(dtype: np.dtype[Any]) -> Any:
    """The least value of a type: -inf for floats, or the least number if they have no infinity."""
    if dtype.kind in "iu":
        return np.iinfo(dtype).min
    return False if dtype.kind == "b" else -_greatest(dtype)


def highest(dtype: np.dtype[Any]) -> Any:
    """The greatest value of a type: inf for floats, or the greatest number if they have none."""
    if dtype.kind in "iu":
        return np.iinfo(dtype).max
    return True if dtype.kind == "b" else _greatest(dtype)


def _greatest(dtype: np.dtype[Any]) -> float:
    is_finite = np.isnan(np.array(np.inf).astype(dtype))
    return _largest(dtype) if is_finite else np.inf


def quotient(x: Array, y: Array) -> Array:
    """The quotient of integers, truncated toward zero; 0 where y is 0."""
    result: Array = (x - np.fmod(x, y)) // y
    return result


def exactly(multiply: Callable[[Array, Array], Array], x: Array, y: Array, terms: int) -> Array:
    """``multiply(x, y)`` of integers as i64, exact modulo 2**64; a result sums ``terms`` of them.

    BLAS has only floats, and is many times faster than integer loops. So the product is computed in
    the narrowest float that holds every partial sum of the largest magnitudes present.
    """
    bound = terms * _magnitude(x) * _magnitude(y)
    made_in = np.float32 if bound <= 2**24 else np.float64 if bound <= 2**53 else np.int64
    return multiply(x.astype(made_in), y.astype(made_in)).astype(np.int64, copy=False)


def _magnitude(x: Array) -> int:
    return max(abs(int(x.max(initial=0))), abs(int(x.min(initial=0))))


def to_integer(x: Array, to: np.dtype[Any]) -> Array:
    """Floats truncated toward zero, as integers of a type.

    A number goes through i32, or through i64 to u32 and types of 64 bits. If it does not fit there,
    it becomes the least number of that type, as NaN does; then the low bits are taken. From 2**63
    up, u64 converts the number less 2**63 through i64. So x86 converts one number; C leaves
    undefined what does not fit, and numpy's loops differ.
    """
    x = wide(x)
    if to == np.uint64 and not x.max(initial=0) < 2.0**63:
        high = x >= 2.0**63
        low = _signed(np.where(high, x - 2.0**63, x), np.int64).astype(to)
        return np.where(high, low ^ np.uint64(2**63), low)
    whole = _signed(x, np.int64 if to.itemsize == 8 or to == np.uint32 else np.int32)
    return whole.view(to) if whole.itemsize == to.itemsize else whole.astype(to)


def _signed(x: Array, to: type[np.signedinteger[Any]]) -> Array:
    """Floats truncated; those that do not fit become the least number of the type."""
    least = np.iinfo(to).min
    if x.min(initial=0) >= least and x.max(initial=0) < -float(least):
        return x.astype(to)
    fits = np.abs(x) < -float(least)
    return np.where(fits, np.where(fits, x, 0).astype(to), to(least))


def to_float8(x: Array, to: DType, saturate: bool, round_mode: str) -> Array:
    """Numbers as a type of the f8 family, by the tables of ONNX Cast-24."""
    if to is F8E8M0:
        return _to_power_of_two(x.astype(np.float64), saturate, round_mode)
    if saturate and x.dtype != to.numpy:
        largest = np.float32(_largest(to.numpy))
        x = np.clip(wide(x), -largest, largest)
    return x.astype(to.numpy)


def _largest(to: np.dtype[Any]) -> float:
    return float(ml_dtypes.finfo(to).max)  # type: ignore[no-untyped-call]


def _to_power_of_two(x: Array, saturate: bool, round_mode: str) -> Array:
    significand, exponent = np.frexp(x)
    up = {"up": 0.5, "nearest": np.nextafter(0.75, 0), "down": 1.0}[round_mode]
    code = np.where(x == 0, -1e9, np.where(np.isinf(x), 1e9, exponent + (significand > up) + 126.0))
    code = np.clip(code, 0, 254) if saturate else np.where((code >= 0) & (code < 255), code, 255)
    return np.where(np.isnan(x), 255, code).astype(np.uint8).view(F8E8M0.numpy)
