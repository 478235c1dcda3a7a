"""The architectures that kernels are compiled for, and what each can do: one table."""

from __future__ import annotations

from dataclasses import dataclass

from migx.errors import TargetError


@dataclass(frozen=True)
class Architecture:
    """A kind of GPU. ``number`` is what Triton calls it, ``warp`` how many threads run together,
    ``shared`` the bytes of shared memory that one program may have. ``products`` are the element
    types that it multiplies on matrix units, ``code`` the kind of binary it takes.
    """

    name: str
    backend: str
    number: int | str
    warp: int
    shared: int
    products: tuple[str, ...]
    code: str
    example: str


_NVIDIA = ("f16", "bf16", "i8", "tf32")
ARCHITECTURES = {
    a.name: a
    for a in (
        Architecture("sm_80", "cuda", 80, 32, 166_912, _NVIDIA, "cubin", "A100"),
        Architecture("sm_86", "cuda", 86, 32, 101_376, _NVIDIA, "cubin", "RTX 30"),
        Architecture("sm_89", "cuda", 89, 32, 101_376, (*_NVIDIA, "f8"), "cubin", "L4, RTX 40"),
        Architecture("sm_90", "cuda", 90, 32, 232_448, (*_NVIDIA, "f8"), "cubin", "H100, H200"),
        Architecture("sm_100", "cuda", 100, 32, 232_448, (*_NVIDIA, "f8"), "cubin", "B200"),
        Architecture(
            "gfx90a", "hip", "gfx90a", 64, 65_536, ("f16", "bf16", "i8"), "hsaco", "MI250"
        ),
        Architecture(
            "gfx942", "hip", "gfx942", 64, 65_536, ("f16", "bf16", "i8", "f8"), "hsaco", "MI300"
        ),
        Architecture(
            "gfx1100", "hip", "gfx1100", 32, 65_536, ("f16", "bf16", "i8"), "hsaco", "RX 7900"
        ),
    )
}


def architecture(name: str) -> Architecture:
    """The architecture of a name; ``TargetError`` lists what there is."""
    if name not in ARCHITECTURES:
        known = ", ".join(f"{a.name} ({a.example})" for a in ARCHITECTURES.values())
        raise TargetError(f"no architecture {name!r}; the gpu target compiles for {known}")
    return ARCHITECTURES[name]
