"""The LLVM types that kernels use, and numbers as LLVM writes them."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import ml_dtypes
import numpy as np

FLOATS = {"half": 16, "bfloat": 16, "float": 32, "double": 64}
_SUFFIX = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}


@dataclass(frozen=True)
class Type:
    """A scalar, or a vector of ``lanes`` of them; 0 lanes is a scalar."""

    scalar: str
    lanes: int = 0

    def times(self, lanes: int) -> Type:
        """A vector of this type's scalar."""
        return Type(self.scalar, lanes)

    @property
    def one(self) -> Type:
        """The scalar type."""
        return Type(self.scalar)

    @property
    def bits(self) -> int:
        """Bits of one scalar."""
        if self.scalar == "ptr":
            return 64
        return FLOATS.get(self.scalar) or int(self.scalar[1:])

    @property
    def nbytes(self) -> int:
        """Bytes of the whole in memory; a lane of i1 takes one, as it is stored as i8."""
        return max(1, self.bits // 8) * max(1, self.lanes)

    @property
    def is_float(self) -> bool:
        return self.scalar in FLOATS

    @property
    def suffix(self) -> str:
        """The type in names of intrinsics: ``v16f32``, ``i64``."""
        name = _SUFFIX.get(self.scalar, self.scalar)
        return f"v{self.lanes}{name}" if self.lanes else name

    def __str__(self) -> str:
        return f"<{self.lanes} x {self.scalar}>" if self.lanes else self.scalar


I1, I8, I16, I32, I64 = (Type(f"i{n}") for n in (1, 8, 16, 32, 64))
F16, BF16, F32, F64 = Type("half"), Type("bfloat"), Type("float"), Type("double")
PTR = Type("ptr")
VOID = Type("void")


def literal(type_: Type, number: float) -> str:
    """A number as LLVM writes it, rounded to the type: floats by their bits."""
    match type_.scalar:
        case "float":
            return f"0x{struct.unpack('<Q', struct.pack('<d', np.float32(number)))[0]:016X}"
        case "double":
            return f"0x{struct.unpack('<Q', struct.pack('<d', number))[0]:016X}"
        case "half":
            return f"0xH{int(np.float16(number).view(np.uint16)):04X}"
        case "bfloat":
            return f"0xR{int(np.asarray(number, ml_dtypes.bfloat16).view(np.uint16)):04X}"
        case "i1":
            return "true" if number else "false"
    return str(int(number))


def folded(name: str, x: int, y: int) -> int:
    """The result of an instruction, by LLVM's name, on two whole numbers."""
    match name:
        case "add":
            return x + y
        case "sub":
            return x - y
        case "mul":
            return x * y
        case "udiv":
            return x // y
    return x % y
