"""How GPUs multiply matrices: by which units, how fast, and with what memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from migx.dim import Extent, bounds
from migx.shape import F32, DType
from migx.targets.gpu.cost_model import HIDDEN, chosen

DEEP = 32
"""The least depth along which f32 is multiplied as six products of bf16. What these leave out is at
most four units of roundoff of each term; the error of the sum is bounded by as many as the depth.
In attention the depth is that of the tile, a power of two.
"""
SPLIT = 8
"""Operations to split an element of f32 into three of bf16."""
GROUP = 64
"""The rows that a group of four warps multiplies together, where GPUs have groups."""
SINGLY = 0.6
"""The part of its speed that such a GPU reaches where each warp multiplies fewer rows by itself."""
SIX = 0.35e-6
"""Seconds in which six products, one after another, wait for a group's matrix unit."""


@dataclass(frozen=True)
class Arithmetic:
    """How matrices of some type are multiplied: whether by matrix ``units``, and the operations per
    second of a unit. A thread keeps its sums in as many registers times ``copies`` (six products
    have two sums; without matrix units, operands take as many), ``most`` of them for this, and
    needs ``others``. For six products of bf16, elements of operands are ``split``.
    """

    units: bool
    rate: float
    copies: int = 1
    most: int = 128
    others: int = 40
    split: bool = False

    def parts(self, elements: int) -> int:
        """The bytes of the parts that elements of a right operand are split into, three of bf16."""
        return 6 * elements if self.split else 0


def arithmetic(bits: int, depth: Extent) -> Arithmetic:
    """The arithmetic of products of elements of so many bits along a depth."""
    gpu = chosen().gpu
    matrix, plain = gpu.matrix / gpu.units, gpu.plain / gpu.units
    if bits <= 16:
        return Arithmetic(True, matrix)
    how = f32_products(depth) if bits == 32 else ""
    if how == "bf16x6":
        return Arithmetic(True, matrix / 6, copies=2, most=160, others=80, split=True)
    return Arithmetic(True, matrix / 2) if how == "tf32" else Arithmetic(False, plain, copies=2)


def f32_products(depth: Extent) -> str:
    """How products of f32 along a depth are computed: as "tf32", as "bf16x6" or as "ieee", without
    matrix units.
    """
    if chosen().rounds:
        return "tf32"
    return "bf16x6" if chosen().gpu.bf16x6 and bounds(depth)[0] >= DEEP else "ieee"


def products(dtype: DType, depth: Extent) -> str:
    """How matrix units multiply elements of a type: f32 as above, the others as they are, ""."""
    return f32_products(depth) if dtype is F32 else ""


def fitting(
    how: Arithmetic, nbytes: int, sums: int, warps: int, always: int = 0
) -> tuple[int, int]:
    """The loads that run ahead, each of so many bytes of shared memory, and the programs resident
    on a unit; 0 if not one fits. The sums, f32, are exchanged in shared memory before they are
    written.
    """
    gpu = chosen().gpu
    room = (gpu.shared - always) // max(1, nbytes)
    if room < 1 or 4 * sums > gpu.shared:
        return 0, 0
    stages = min(4, room) if gpu.backend == "cuda" else 2  # on AMD, in registers
    nbytes *= stages if gpu.backend == "cuda" else 1
    threads = warps * gpu.warp
    registers = threads * min(255, how.others + how.copies * sums // threads)
    residents = min(
        gpu.shared // (nbytes + always), gpu.threads // threads, gpu.registers // registers
    )
    return stages, max(1, residents)


def efficiency(rows: int, columns: int, threads: int, *, units: bool) -> float:
    """The fraction of its peak that a unit reaches with a tile: less if operands in shared memory
    are read for few products each.

    Without matrix units a thread has a square of sums, and reads its sides four elements at a time.
    Shared memory gives a warp 32 elements at once, and one side of its part of the tile is the same
    for all threads; warps lie along columns first if there are more of these than a warp has.
    """
    if units:
        return min(1.0, rows * columns / (rows + columns) / 32)
    warps = max(1, threads // 32)
    across = min(warps, max(1, columns // 128))
    reading = 4 * (warps // across) / rows + 32 * across / columns
    counted = 1 + 0.5 / math.sqrt(rows * columns / threads)
    return 1 / (max(counted, reading) + HIDDEN * min(counted, reading))


def multiplying(
    how: Arithmetic, rows: int, columns: int, depth: int, threads: int
) -> tuple[float, float]:
    """The seconds in which a unit adds the products along a depth to a tile of sums, while other
    programs fill its gaps; and how much longer a program alone takes.

    Groups of warps split what they share once, and wait for it to be multiplied, while other
    groups work. Warps by themselves lie two by two, or in a line if there are fewer rows or more:
    each splits what it needs.
    """
    gpu = chosen().gpu
    seconds = 2 * rows * columns * depth / how.rate
    if not how.split:
        return seconds / efficiency(rows, columns, threads, units=how.units), 0.0
    lanes = gpu.plain / 2 / gpu.units
    if gpu.groups and rows >= GROUP:
        split = (SPLIT * (rows + columns) * depth + rows * columns) / lanes
        return max(seconds, split), (min(seconds, split) + SIX) / (threads // (4 * gpu.warp))
    across = max(1, GROUP // rows)
    elements = (rows * across + columns * max(1, 4 // across)) * depth
    speed = SINGLY if gpu.groups else 1.0
    return max(seconds / speed, SPLIT * elements / lanes), 0.0
