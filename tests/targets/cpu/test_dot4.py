"""Products of bytes are the same by every instruction, and by none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from migx.targets.cpu.code import jit
from migx.targets.cpu.emit import I16, I32, I64, PTR, Module
from migx.targets.cpu.emit.dot4 import (
    BYTES,
    FLIP,
    ONES,
    SHORT,
    SMALL,
    Signs,
    dot4,
    dot4_short,
    widened,
)
from migx.targets.cpu.machine import Machine, host

SIGNS = [(False, True), (True, False), (True, True), (False, False)]
PLAIN = replace(host(), features=frozenset())
OTHERS = {
    "plain": PLAIN,
    "avx2": replace(host(), features=host().features - {"avx512vnni", "avxvnni", "avxvnniint8"}),
    "host": host(),
}


def text(machine: Machine, lanes: int, signed: tuple[bool, bool]) -> str:
    """Code that adds products, of bytes turned over where that is cheaper."""
    module = Module(machine.features)
    f = module.function("kernel", [("args", PTR), ("a", I64), ("b", I64), ("s", PTR)])
    args, vector = f.parameters[0], I32.times(lanes)
    x, w, to = (f.load(f.element(args, i, I64), PTR) for i in range(3))
    total, left, right = f.load(to, vector), f.load(x, vector), f.load(w, vector)
    signs = Signs.chosen(machine, lanes, x=signed[0], w=signed[1])
    if signs.flip:
        left = left ^ FLIP
        total = total - dot4(f, 0 * total, f.const(vector, ONES), right, signs) * signs.surplus
    f.store(dot4(f, total, left, right, signs), to)
    return module.text


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("signed", SIGNS)
def test_all_ways_agree(signed: tuple[bool, bool], lanes: int) -> None:
    rng = np.random.default_rng(7)
    x, w = (
        np.where(rng.random((BYTES * lanes,)) < 0.5, rng.integers(0, 256, BYTES * lanes), 128 + k)
        for k in (0, 127)
    )
    x, w = (
        v.astype(np.uint8).view(np.int8 if s else np.uint8)
        for v, s in zip((x, w), signed, strict=True)
    )
    start = rng.integers(-(2**31), 2**31, lanes).astype(np.int32)
    products = x.astype(np.int64) * w
    wanted = (start + products.reshape(lanes, BYTES).sum(1)).astype(np.int32)
    for machine in OTHERS.values():
        if 4 * lanes > host().vector_bytes:
            continue
        total = start.copy()
        code = jit.load([text(machine, lanes, signed)])
        run(next(iter(code.values())).address, x, w, total)
        np.testing.assert_array_equal(total, wanted)


def run(address: int, *arrays: np.ndarray) -> None:
    """Calls code that takes the addresses of arrays."""
    import ctypes

    args = np.array([a.ctypes.data for a in arrays], np.int64)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(args.ctypes.data)


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("w", [-128, 127])
def test_as_many_products_as_may_be_are_exact_in_16_bits(w: int, lanes: int) -> None:
    machine = OTHERS["avx2"]
    if not Signs.chosen(machine, lanes, x=False, w=True, small=True).short:
        pytest.skip("this CPU has no such instruction")
    module = Module(machine.features)
    f = module.function("kernel", [("args", PTR), ("a", I64), ("b", I64), ("s", PTR)])
    x, of, to = (f.load(f.element(f.parameters[0], i, I64), PTR) for i in range(3))
    left, right, few = (
        *(f.load(p, I32.times(lanes)) for p in (x, of)),
        f.const(I16.times(2 * lanes), 0),
    )
    for _ in range(SHORT):
        few = dot4_short(f, few, left, right)
    f.store(widened(f, f.load(to, I32.times(lanes)), few), to)
    code = jit.load([module.text])[module.text]
    levels, bytes_ = np.full(BYTES * lanes, SMALL - 1, np.uint8), np.full(BYTES * lanes, w, np.int8)
    total = np.full(lanes, 7, np.int32)
    run(code.address, levels, bytes_, total)
    assert (total == 7 + SHORT * BYTES * (SMALL - 1) * w).all()


def test_an_instruction_for_four_is_preferred() -> None:
    machine = replace(host(), features=frozenset({"avx2", "avxvnni"}))
    assert not Signs.chosen(machine, 8, x=False, w=True, small=True).short
    without = replace(host(), features=frozenset({"avx2"}))
    assert Signs.chosen(without, 8, x=False, w=True, small=True).short
    assert not Signs.chosen(without, 8, x=False, w=True).short
