"""The table of architectures that kernels are compiled for, with their capabilities."""

from __future__ import annotations

import timeit
from dataclasses import dataclass

import numpy as np

from migx.errors import TargetError


@dataclass(frozen=True)
class Architecture:
    """A kind of GPU. ``warp`` is the threads that run together, ``shared`` the bytes of shared
    memory that one program may have.

    The rest are inputs of the cost model, for the GPU named first in ``example``: the
    number of ``units``; operations per second on f16 by ``matrix`` units and on f32 without; bytes
    per second of memory; and the ``threads`` of a unit. ``bf16x6`` says that matrix units multiply
    f32 faster, as six products of bf16, than it is multiplied without them.
    """

    name: str
    example: str
    warp: int
    shared: int
    units: int
    matrix: float
    plain: float
    bandwidth: float
    threads: int = 2048
    f8: bool = False
    bf16x6: bool = False

    @property
    def backend(self) -> str:
        """Triton's name for the vendor's runtime."""
        return "cuda" if self.name.startswith("sm_") else "hip"

    @property
    def number(self) -> int | str:
        """Triton's name for the architecture."""
        return int(self.name[3:]) if self.backend == "cuda" else self.name

    @property
    def code(self) -> str:
        """The kind of binary it loads."""
        return "cubin" if self.backend == "cuda" else "hsaco"

    @property
    def products(self) -> tuple[str, ...]:
        """The element types that its matrix units multiply."""
        exact = ("f16", "bf16", "i8")
        rounded = ("tf32",) if self.backend == "cuda" or self.name == "gfx942" else ()
        return (*exact, *rounded, *(("f8",) if self.f8 else ()))

    @property
    def groups(self) -> bool:
        """Whether four warps multiply together, with an operand in shared memory."""
        return self.name == "sm_90"

    @property
    def registers(self) -> int:
        """The 32-bit registers of a unit."""
        return 65_536 if self.backend == "cuda" else 131_072


ARCHITECTURES = {
    a.name: a
    for a in (
        Architecture("sm_80", "A100", 32, 166_912, 108, 312e12, 19.5e12, 2.0e12, bf16x6=True),
        Architecture("sm_86", "RTX 30", 32, 101_376, 82, 71e12, 35e12, 0.94e12, 1536),
        Architecture("sm_89", "L4, RTX 40", 32, 101_376, 58, 121e12, 30e12, 0.3e12, 1536, f8=True),
        Architecture(
            "sm_90", "H100, H200", 32, 232_448, 132, 989e12, 67e12, 3.35e12, f8=True, bf16x6=True
        ),
        Architecture("sm_100", "B200", 32, 232_448, 148, 2250e12, 75e12, 8.0e12, f8=True),
        Architecture("gfx90a", "MI250", 64, 65_536, 104, 181e12, 24e12, 1.6e12),
        Architecture("gfx942", "MI300", 64, 65_536, 304, 1307e12, 82e12, 5.3e12, f8=True),
        Architecture("gfx1100", "RX 7900", 32, 65_536, 96, 123e12, 61e12, 0.96e12),
    )
}


def architecture(name: str) -> Architecture:
    """The architecture of a name; raises ``TargetError``, which lists the known ones."""
    if name not in ARCHITECTURES:
        known = ", ".join(f"{a.name} ({a.example})" for a in ARCHITECTURES.values())
        raise TargetError(f"no architecture {name!r}; the gpu target compiles for {known}")
    return ARCHITECTURES[name]


def peaks(name: str) -> tuple[float, float]:
    """Peak operations on f32 and bytes per second, as the vendor states them; for the host, where
    the interpreter runs, as measured now by a product and a copy.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name].plain, ARCHITECTURES[name].bandwidth
    side, block = 256, np.ones(1 << 22, np.float32)
    matrix, to = np.ones((side, side), np.float32), np.empty_like(block)
    product = min(timeit.repeat(lambda: matrix @ matrix, number=1, repeat=5))
    copy = min(timeit.repeat(lambda: np.copyto(to, block), number=1, repeat=5))
    return 2.0 * side**3 / product, 2.0 * to.nbytes / copy
