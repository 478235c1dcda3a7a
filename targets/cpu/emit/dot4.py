"""Dot products of four bytes per lane, for which CPUs have an instruction.

    signs = Signs.chosen(machine, lanes, x=False, w=True)
    totals = dot4(f, totals, x, w, signs)

adds, in each lane of a vector of i32, the four products of the bytes of ``x`` and ``w`` in that
lane; both are vectors of as many i32, whose bytes are signed or not. The sum is exact modulo 2**32
and has the same bits on every CPU. VNNI (x86) and dotprod (NEON) do it in one instruction, but not
each for every pair of signs: if ``signs.flip``, it is cheaper to pass x with the upper bit of each
byte inverted (``x ^ FLIP``), which then has the other sign, and to subtract ``signs.surplus`` times
the sum of the bytes of w.
"""

from __future__ import annotations

from dataclasses import dataclass

from migx.targets.cpu.emit import I8, I16, Function, Type, Value
from migx.targets.cpu.machine import Machine

BYTES = 4
"""Bytes in a lane."""
FLIP = -0x7F7F7F80
"""The upper bit of each of four bytes, as i32. A byte with it inverted, read with the other sign,
is 128 more or less than it was.
"""
ONES = 0x01010101
"""Four bytes of 1; a product with it sums bytes."""


@dataclass(frozen=True)
class Signs:
    """Whether bytes of x and of w are signed, and whether the upper bits of x are inverted before
    multiplying.
    """

    x: bool
    w: bool
    flip: bool = False

    @classmethod
    def chosen(cls, machine: Machine, lanes: int, *, x: bool, w: bool) -> Signs:
        """The signs for x and w, which are multiplied as vectors of so many i32."""
        has = [_instruction(machine.features, lanes, pair) for pair in ((x, w), (not x, w))]
        return cls(x, w, flip=has[0] is None and has[1] is not None)

    @property
    def multiplied(self) -> tuple[bool, bool]:
        """Whether bytes of x and of w are signed as they are multiplied."""
        return self.x != self.flip, self.w

    @property
    def surplus(self) -> int:
        """What inverting the upper bit adds to each byte of x: 128 if it was signed, -128 if
        not.
        """
        return 128 if self.x else -128


def dot4(f: Function, totals: Value, x: Value, w: Value, signs: Signs) -> Value:
    """The totals plus, in each lane, the four products of bytes of x and w."""
    signed, whole, lanes = signs.multiplied, totals.type, totals.type.lanes
    name = _instruction(f.module.features, lanes, signed)
    if name is None:
        return _by_hand(f, totals, x, w, signed)
    if name.startswith("x86") and signed == (True, False):
        x, w = w, x
    parts = I8.times(BYTES * lanes)
    name = name if name.startswith("x86") else f"{name}.{whole.suffix}.{parts.suffix}"
    return f.call(f"llvm.{name}", whole, totals, f.bitcast(x, parts), f.bitcast(w, parts))


def _instruction(has: frozenset[str], lanes: int, signed: tuple[bool, bool]) -> str | None:
    """The intrinsic for so many i32 lanes and bytes of these signs, on a CPU with some features."""
    mixed = signed[0] != signed[1]
    if "neon" in has:
        if lanes != 4 or (mixed and "i8mm" not in has) or "dotprod" not in has:
            return None
        kind = "usdot" if mixed else "sdot" if signed[0] else "udot"
        return None if mixed and signed[0] else f"aarch64.neon.{kind}"
    wide = "avx512vnni" in has and (lanes == 16 or "avx512vl" in has)
    if mixed and (wide or "avxvnni" in has) and lanes in (4, 8, 16):
        return f"x86.avx512.vpdpbusd.{32 * lanes}" if lanes < 16 or wide else None
    if not mixed and "avxvnniint8" in has and lanes in (4, 8):
        return f"x86.avx2.vpdpb{'ss' if signed[0] else 'uu'}d.{32 * lanes}"
    return None


def _by_hand(f: Function, totals: Value, x: Value, w: Value, signed: tuple[bool, bool]) -> Value:
    """The same without the instruction: the even bytes and then the odd ones, widened in place."""
    lanes = totals.type.lanes
    pairs = I16.times(2 * lanes)
    a, b = f.bitcast(x, pairs), f.bitcast(w, pairs)
    for odd in (False, True):
        left, right = (_half(f, v, s, odd) for v, s in ((a, signed[0]), (b, signed[1])))
        totals = totals + _multiplied(f, left, right, totals.type)
    return totals


def _half(f: Function, pairs: Value, signed: bool, odd: bool) -> Value:
    """Every second byte as i16."""
    shift = "ashr" if signed else "lshr"
    if odd:
        return f.op(shift, pairs, 8)
    return f.op("ashr", pairs << 8, 8) if signed else pairs & 0xFF


def _multiplied(f: Function, a: Value, b: Value, to: Type) -> Value:
    """Products of i16, those of each pair added; two products of bytes never overflow i32."""
    names = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}
    needs = {4: "sse2", 8: "avx2", 16: "avx512bw"}
    if to.lanes in names and needs[to.lanes] in f.module.features:
        return f.call(f"llvm.x86.{names[to.lanes]}", to, a, b)
    total = f.const(to, 0)
    for odd in (False, True):
        left, right = (_word(f, f.bitcast(v, to), odd) for v in (a, b))
        total = total + left * right
    return total


def _word(f: Function, pairs: Value, odd: bool) -> Value:
    """Every second i16 as i32."""
    return f.op("ashr", pairs if odd else pairs << 16, 16)
