"""The builder of IR: constants, what is simplified, loops and casts, by what the code computes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from migx.targets.cpu.code import jit
from migx.targets.cpu.emit import (
    BF16,
    F16,
    F32,
    F64,
    I8,
    I32,
    I64,
    Function,
    Module,
    Value,
    literal,
    reductions,
)


def run(write: Callable[[Function, Value], Value], x: int) -> int:
    """What a function of one i64 gives."""
    module = Module()
    f = module.function("kernel", [("x", I64)], I64)
    f.do(f"ret i64 {write(f, f.parameters[0]).text}")
    code = jit.load([module.text])[module.text]
    found: int = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(code.address)(x)
    return found


def test_what_is_known_needs_no_instruction() -> None:
    f = Module().function("f", [("x", I64), ("y", F32)])
    x, y = f.parameters
    three = f.const(I64, 3)
    assert all(v is x for v in (x + 0, 0 + x, x * 1, x // 1, x - 0))
    assert [(v.number, v.text) for v in (x * 0, x % 1, three * 4 + 1)] == [
        (0, "0"),
        (0, "0"),
        (13, "13"),
    ]
    assert "mul" not in f.text
    assert (y * 1.0) is not y, "a float may be NaN, so its arithmetic stays"


@pytest.mark.parametrize(
    ("type_", "number", "text"),
    [
        (F32, 0.1, "0x3FB99999A0000000"),
        (F64, 0.1, "0x3FB999999999999A"),
        (F16, 1.0, "0xH3C00"),
        (BF16, -2.0, "0xRC000"),
        (F32, float("-inf"), "0xFFF0000000000000"),
        (I8, -1, "-1"),
    ],
)
def test_literals_are_rounded_and_written_by_their_bits(
    type_: Any, number: float, text: str
) -> None:
    assert literal(type_, number) == text


def test_a_loop_carries_values_from_turn_to_turn() -> None:
    def factorial(f: Function, x: Value) -> Value:
        with f.loop(1, x + 1, 1, [f.const(I64, 1)]) as loop:
            loop.carry(loop.carried[0] * loop.index)
        return loop.carried[0]

    assert [run(factorial, n) for n in (0, 1, 5, 10)] == [1, 1, 120, 3628800]


@pytest.mark.parametrize(
    ("begin", "lanes", "end", "visits"),
    [
        (0, 4, 9, [40, 44, 8]),
        (3, 4, 13, [43, 47, 11, 12]),
        (3, 0, 5, [3, 4]),
        (0, 4, 0, []),
        (3, 4, 1, []),
    ],
)
def test_what_vectors_leave_goes_one_by_one(
    begin: int, lanes: int, end: int, visits: list[int]
) -> None:
    def visited(f: Function, x: Value) -> Value:
        seen = f.local(I64)
        f.store(f.const(I64, 0), seen)
        for at, many in f.by_vectors(begin, x, lanes):
            f.store(f.load(seen, I64) * 100 + many * 10 + at, seen)
        return f.load(seen, I64)

    assert run(visited, end) == sum(n * 100**k for k, n in enumerate(reversed(visits)))


def test_what_is_done_under_a_condition() -> None:
    def clipped(f: Function, x: Value) -> Value:
        place = f.local(I64)
        f.store(x, place)
        with f.when(x > 10):
            f.store(f.const(I64, 10), place)
        with f.unless(x > 0):
            f.store(f.const(I64, 0), place)
        return f.load(place, I64)

    assert [run(clipped, n) for n in (-5, 0, 7, 11)] == [0, 0, 7, 10]


def test_a_condition_carries_values() -> None:
    def halved(f: Function, x: Value) -> Value:
        even = f.compare("eq", x % 2, 0)
        with f.when(even, [x]) as one:
            one.carry(x // 2)
        with f.unless(even, one.carried) as other:
            other.carry(other.carried[0] * 3 + 1)
        return other.carried[0]

    assert [run(halved, n) for n in (4, 7)] == [2, 22]


@pytest.mark.parametrize("name", ["add", "min", "max", "mul"])
@pytest.mark.parametrize("lanes", [2, 8, 16])
def test_lanes_are_folded(name: str, lanes: int) -> None:
    def folded(f: Function, x: Value) -> Value:
        return reductions.fold(f, name, f.iota(I64.times(lanes)) + x)

    numbers = np.arange(lanes) + 3
    ufunc = {"add": np.add, "min": np.minimum, "max": np.maximum, "mul": np.multiply}[name]
    assert run(folded, 3) == ufunc.reduce(numbers)


def test_numbers_too_large_for_a_type_saturate() -> None:
    def narrowed(f: Function, x: Value) -> Value:
        return f.cast(f.cast(f.cast(x, F64) * 1e9, I32), I64)

    assert [run(narrowed, n) for n in (1, 5, -5)] == [10**9, 2**31 - 1, -(2**31)]
