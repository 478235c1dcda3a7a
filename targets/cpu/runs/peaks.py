"""The machine's peaks, measured: multiply-adds in f32, and bytes copied, per second."""

from __future__ import annotations

import time
from functools import cache

import numpy as np

from migx.targets.cpu.code import jit
from migx.targets.cpu.emit import F32, I64, PTR, Module
from migx.targets.cpu.kernel import PARAMETERS
from migx.targets.cpu.machine import host
from migx.targets.cpu.plans.memory import address, allocated
from migx.targets.cpu.threads.pool import pool
from migx.targets.cpu.threads.runtime import STEP_WORDS, runtime

CHAINS = 12
"""Independent sums: more than the latency of a multiply-add times those started per cycle."""
TURNS = 1 << 18
"""Enough to make the start negligible and to reach the full clock."""
COPIED = 256 << 20


@cache
def peaks(threads: int) -> tuple[float, float]:
    """Operations and bytes per second on so many threads: the best of some short trials."""
    lanes = host().lanes(F32)
    flops = 2.0 * CHAINS * lanes * TURNS * threads
    source, target = allocated(COPIED), allocated(COPIED)
    source[:] = 1
    words = [address(source), address(target)]
    share = COPIED // threads // 64
    arithmetic = _best(_multiply_adds(), words, threads, threads)
    copying = _best(_copy(share), words, threads, threads)
    return flops / arithmetic, 2.0 * share * 64 * threads / copying


def _best(text: str, words: list[int], tiles: int, threads: int) -> float:
    """The fewest seconds that a kernel of some tiles took."""
    code = jit.load([text])[text]
    args = np.array(words, np.int64)
    steps = np.zeros(STEP_WORDS, np.int64)
    steps[:3] = code.address, address(args), tiles
    state = pool()
    state.provide(threads)
    call = np.array([address(steps), 0, 1, state.address, threads, address(args), 0], np.int64)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        runtime().run(address(call))
        best = min(best, time.perf_counter() - start)
    return best


def _multiply_adds() -> str:
    module = Module()
    f = module.function("kernel", PARAMETERS)
    args, begin, end, _ = f.parameters
    vector = F32.times(host().lanes(F32))
    with f.loop(begin, end) as tile:
        factor = f.splat(f.cast(tile.index, F32), vector.lanes)
        starts = [f.const(vector, n) for n in range(CHAINS)]
        with f.loop(0, TURNS, 1, starts) as turn:
            turn.carry(*(f.fma(sum_, factor, factor) for sum_ in turn.carried))
        total = turn.carried[0]
        for one in turn.carried[1:]:
            total = total + one
        at = f.load(f.element(args, 1, I64), PTR)
        f.store(total, f.element(at, tile.index * 64, F32), align=4)
    return module.text


def _copy(lines: int) -> str:
    """A kernel whose tiles each copy so many lines of 64 bytes."""
    module = Module()
    f = module.function("kernel", PARAMETERS)
    args, begin, end, _ = f.parameters
    source, target = (f.load(f.element(args, k, I64), PTR) for k in (0, 1))
    line = F32.times(16)
    with f.loop(begin * lines * 16, end * lines * 16, 16) as at:
        value = f.load(f.element(source, at.index, F32), line, align=64)
        f.store(value, f.element(target, at.index, F32), align=64)
    return module.text
