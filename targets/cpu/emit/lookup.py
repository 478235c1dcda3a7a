"""Lookups in tables of 256 bytes, one per lane of a vector.

    made = looked_up(f, table, bytes)

On a CPU with VBMI one instruction permutes 128 bytes in two registers, so two of these and a select
by the upper bit of the index suffice. Elsewhere each lane loads its element, from the L1 cache.
"""

from __future__ import annotations

import numpy as np

from migx.op import Array
from migx.targets.cpu.emit import I8, I64, PTR, Function, Value
from migx.targets.cpu.machine import Machine

WIDE = 64
"""Bytes of a register; the permutation takes two."""
PERMUTE = "llvm.x86.avx512.vpermi2var.qi.512"


def cost(machine: Machine) -> int:
    """The approximate cost of a lookup, in additions of vectors with as many bytes as a register
    has floats.
    """
    return 6 if machine.has("avx512vbmi") else 3 * max(1, machine.vector_bytes // 4)


def looked_up(f: Function, table: Array, x: Value) -> Value:
    """The entries of a table of 256 bytes at each byte, read as unsigned."""
    start = Value(f.module.constant(I8, table.view(np.int8).tolist()), PTR, f)
    if x.type.lanes and "avx512vbmi" in f.module.features:
        return _permuted(f, start, x)
    if not x.type.lanes:
        return _read(f, start, x)
    made = f.poison(x.type)
    for lane in range(x.type.lanes):
        made = f.insert(made, _read(f, start, f.extract(x, lane)), lane)
    return made


def _read(f: Function, table: Value, x: Value) -> Value:
    """The entry at one byte."""
    return f.load(f.element(table, f.cast(x, I64, signed=False), I8), I8)


def _permuted(f: Function, table: Value, x: Value) -> Value:
    """The same by permutations, one register of bytes at a time."""
    lanes, whole = x.type.lanes, I8.times(WIDE)
    a, b, c, d = (f.load(f.element(table, WIDE * i, I8), whole, align=WIDE) for i in range(4))
    made = list[Value]()
    for first in range(0, lanes, WIDE):
        places = [i if i < lanes else -1 for i in range(first, first + WIDE)]
        at = f.shuffle(x, f.poison(x.type), places)
        low, high = f.call(PERMUTE, whole, a, at, b), f.call(PERMUTE, whole, c, at, d)
        made.append(f.select(at < 0, high, low))
    while len(made) > 1:
        made += [f.poison(made[0].type)] * (len(made) % 2)
        both = range(2 * made[0].type.lanes)
        made = [f.shuffle(*pair, both) for pair in zip(made[::2], made[1::2], strict=True)]
    return f.shuffle(made[0], made[0], range(lanes))
