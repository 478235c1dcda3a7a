"""How reductions fold: in which type, by which operation of ``Function.fold``, and from what on."""

from __future__ import annotations

import math

from migx.fusion.kernels import Node
from migx.ops.reduce import ReduceAll, ReduceAny, ReduceMax, ReduceMean, ReduceMin, ReduceProd
from migx.shape import BOOL
from migx.targets.cpu.emit import I64, Type
from migx.targets.cpu.parts import elements


def total_type(node: Node) -> Type:
    """What a reduction adds up in: means of integers in 64 bits, the rest as it is."""
    one = elements.computing(node.dtype)
    return I64 if isinstance(node.of, ReduceMean) and not one.is_float else one


def folding(node: Node) -> tuple[str, float]:
    """How the lanes of a reduction are folded, and what it starts from."""
    dtype = node.dtype
    unsigned, bits = dtype.kind == "uint", dtype.bits
    low, high = -math.inf, math.inf
    if not dtype.is_float:
        low = 0 if unsigned else -(1 << (bits - 1))
        high = (1 << bits) - 1 if unsigned else (1 << (bits - 1)) - 1
    match node.of:
        case ReduceMax():
            return ("or", 0) if dtype is BOOL else ("umax" if unsigned else "max", low)
        case ReduceMin():
            return ("and", 1) if dtype is BOOL else ("umin" if unsigned else "min", high)
        case ReduceProd():
            return "mul", 1
        case ReduceAll():
            return "and", 1
        case ReduceAny():
            return "or", 0
    return "add", 0
