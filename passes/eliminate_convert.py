"""Removes conversions that change nothing, or that another one covers."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on, var
from migx.ops.pointwise import Convert
from migx.rewrite import Cursor, rule
from migx.shape import DType


@rule(on(Convert, var("x"), name="root"))
def same_type(x: Instruction, root: Instruction) -> Instruction | None:
    """convert(x) to the type of x is x."""
    return x if x.shape.dtype is root.shape.dtype else None


@rule(on(Convert, on(Convert, var("x"), name="inner"), name="outer"))
def nested(
    at: Cursor, x: Instruction, inner: Instruction, outer: Instruction
) -> Instruction | None:
    """convert(convert(x)) is convert(x) where the type between holds every value of x.

    From a float type between, a negative number that the last type lacks would convert differently
    than from an integer. And on its way back to f8, an infinity may become the largest number.
    """
    given, between, to = (i.shape.dtype for i in (x, inner, outer))
    detour = between.is_float and not given.is_float and not to.is_float
    if not holds(between, given) or (to is given and to.is_float and to.bits == 8):
        return None
    if detour and to.kind != "bool" and not holds(to, given):
        return None
    return at(outer.op, x)


def holds(wide: DType, narrow: DType) -> bool:
    """Whether a type has every value of another, infinities and the signs of zeros included."""
    if wide is narrow:
        return True
    if wide.is_packed or narrow.is_packed or not wide.is_tensor:
        return False
    match narrow.kind, wide.kind:
        case "bool", "int" | "uint" | "float":
            return wide.digits != 1  # f8e8m0 has no zero
        case ("uint", "int") | ("int", "int") | ("uint", "uint"):
            return wide.bits > narrow.bits
        case "int" | "uint", "float":
            return wide.digits >= narrow.bits - (narrow.kind == "int")
        case "float", "float":
            return wide.bits > narrow.bits and _covers(wide, narrow)
    return False


def _covers(wide: DType, narrow: DType) -> bool:
    """Whether a float type has the precision and the range of another."""
    high, low = (ml_dtypes.finfo(t.numpy) for t in (wide, narrow))  # type: ignore[no-untyped-call]
    return bool(
        wide.digits >= narrow.digits
        and np.float64(high.max) >= np.float64(low.max)
        and np.float64(high.smallest_subnormal) <= np.float64(low.smallest_subnormal)
    )


class EliminateConvert(Pass):
    """Removes converts to the type of their input, and merges nested ones if the type between loses
    nothing (MIGraphX pass of this name).
    """

    rules = same_type + nested
