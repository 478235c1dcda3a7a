"""LLVM IR as text, written by ordinary Python expressions over typed values.

A ``Module`` holds functions; a ``Function`` appends instructions to itself::

    module = Module()
    f = module.function("scale", [("x", PTR), ("n", I64), ("by", F32)])
    x, n, by = f.parameters
    with f.loop(0, n, 16) as loop:  # over vectors of 16; whole ones, here
        at = f.element(x, loop.index, F32)
        f.store(f.load(at, F32.times(16)) * by, at)
    text = module.text

Operators on values append the corresponding instruction; a Python number beside a value is a
constant of its type, broadcast to its lanes. Integer types have no sign: ``//``, ``%`` and ``>>``
are unsigned, comparisons signed; ``Function.op`` and ``Function.compare`` offer the others.
Arithmetic on constants, and with 0 and 1, is folded here, so generators need no special cases.
"""

from migx.targets.cpu.emit.function import Function
from migx.targets.cpu.emit.module import Module
from migx.targets.cpu.emit.types import (
    BF16,
    F16,
    F32,
    F64,
    FLOATS,
    I1,
    I8,
    I16,
    I32,
    I64,
    PTR,
    VOID,
    Type,
    literal,
)
from migx.targets.cpu.emit.values import Loop, Operand, Value

__all__ = [
    "BF16",
    "F16",
    "F32",
    "F64",
    "FLOATS",
    "I1",
    "I8",
    "I16",
    "I32",
    "I64",
    "PTR",
    "VOID",
    "Function",
    "Loop",
    "Module",
    "Operand",
    "Type",
    "Value",
    "literal",
]
