"""Dot products of four bytes per lane, for which CPUs have an instruction.

    signs = Signs.chosen(machine, lanes, x=False, w=True)
    totals = dot4(f, totals, x, w, signs)

adds, in each lane of a vector of i32, the four products of the bytes of ``x`` and ``w`` in that
lane; both are vectors of as many i32, whose bytes are signed or not. The sum is exact modulo 2**32
and has the same bits on every CPU. VNNI (x86) and dotprod (NEON) do it in one instruction, but not
each for every pair of signs: if ``signs.flip``, it is cheaper to pass x with the upper bit of each
byte inverted (``x ^ FLIP``), which then has the other sign, and to subtract ``signs.surplus`` times
the sum of the bytes of w.

Where there is none, and the bytes of x are small, x86 has an instruction for half of it: if
``signs.short``, ``SHORT`` products are added in 16 bits, exactly, and widened together.

    few = dot4_short(f, few, x, w)  # vectors of twice as many i16, from zeros on
    totals = widened(f, totals, few)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from migx.targets.cpu.emit import I8, I16, Function, Type, Value
from migx.targets.cpu.machine import Machine

BYTES = 4
"""Bytes in a lane."""
FLIP = -0x7F7F7F80
"""The upper bit of each of four bytes, as i32. A byte with it inverted, read with the other sign,
is 128 more or less than it was.
"""
SMALL = 16
"""What small bytes are under."""
SHORT = 2**15 // (2 * (SMALL - 1) * 128)
"""The most products of small bytes whose sum fits in 16 bits, two bytes of a lane in each half."""
ONES = 0x01010101
"""Four bytes of 1; a product with it sums bytes."""


@dataclass(frozen=True)
class Signs:
    """Whether bytes of x and of w are signed, whether the upper bits of x are inverted before
    multiplying, and whether products are summed in 16 bits first.
    """

    x: bool
    w: bool
    flip: bool = False
    short: bool = False

    @classmethod
    def chosen(
        cls, machine: Machine, lanes: int, *, x: bool, w: bool, small: bool = False
    ) -> Signs:
        """The signs for x, whose bytes may be ``small``, and w, which are multiplied as vectors of
        so many i32.
        """
        has = [_instruction(machine.features, lanes, pair) for pair in ((x, w), (not x, w))]
        short = has == [None, None] and small and w and _has(machine.features, _PAIRS, lanes)
        return cls(x, w, flip=has[0] is None and has[1] is not None, short=short)

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


def dot4_short(f: Function, totals: Value, x: Value, w: Value) -> Value:
    """The totals plus, in each half of a lane, the two products of small bytes of x and signed
    bytes of w.
    """
    lanes = x.type.lanes
    parts = I8.times(BYTES * lanes)
    return totals + f.call(
        f"llvm.x86.{_PAIRS[lanes][1]}", totals.type, f.bitcast(x, parts), f.bitcast(w, parts)
    )


def widened(f: Function, totals: Value, few: Value) -> Value:
    """The totals plus the halves of the lanes of sums in 16 bits."""
    return totals + _multiplied(f, few, f.const(few.type, 1), totals.type)


_PAIRS = {
    4: ("ssse3", "ssse3.pmadd.ub.sw.128"),
    8: ("avx2", "avx2.pmadd.ub.sw"),
    16: ("avx512bw", "avx512.pmaddubs.w.512"),
}
_WORDS = {
    4: ("sse2", "sse2.pmadd.wd"),
    8: ("avx2", "avx2.pmadd.wd"),
    16: ("avx512bw", "avx512.pmaddw.d.512"),
}
"""The feature and the name of x86's products of pairs, of bytes or of i16, by the number of i32."""


def _has(features: frozenset[str], names: Mapping[int, tuple[str, str]], lanes: int) -> bool:
    """Whether a CPU has an instruction for so many lanes."""
    return lanes in names and names[lanes][0] in features


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
    if _has(f.module.features, _WORDS, to.lanes):
        return f.call(f"llvm.x86.{_WORDS[to.lanes][1]}", to, a, b)
    total = f.const(to, 0)
    for odd in (False, True):
        left, right = (_word(f, f.bitcast(v, to), odd) for v in (a, b))
        total = total + left * right
    return total


def _word(f: Function, pairs: Value, odd: bool) -> Value:
    """Every second i16 as i32."""
    return f.op("ashr", pairs if odd else pairs << 16, 16)
