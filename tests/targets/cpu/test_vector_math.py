"""Elementary functions over all exponents, against f64, and for vectors of any width."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from migx.targets.cpu.code import jit
from migx.targets.cpu.emit import F32, F64, I64, PTR, Module, Type, Value, vector_math

Array = NDArray[Any]

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "expm1_below_0": np.expm1,
}
ODD = {"tanh", "erf", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh"}
SPECIAL = (0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 1e-45, -1e-45, 1.2e-38, 3.4e38)
ULPS = {"sigmoid": 2.5}
"""Bounds other than 2 units in the last place."""


def compiled(
    name: str, inputs: int = 1, type_: Type = F32, lanes: int = 16, features: Iterable[str] = ()
) -> Any:
    """A function of arrays that applies one of vectors; the arrays' size must be whole vectors."""
    module = Module(frozenset(features))
    f = module.function("kernel", [("x", PTR), ("y", PTR), ("out", PTR), ("n", I64)])
    *given, out, count = f.parameters
    with f.loop(0, count, max(1, lanes)) as loop:
        read: list[Value] = [
            f.load(f.element(p, loop.index, type_), type_.times(lanes)) for p in given[:inputs]
        ]
        f.store(getattr(vector_math, name)(f, *read), f.element(out, loop.index, type_))
    code = jit.load([module.text])[module.text]
    kinds = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    function = ctypes.CFUNCTYPE(None, *kinds)(code.address)

    def run(*arrays: Array, kept: Any = code) -> Array:
        result = np.empty_like(arrays[0])
        function(arrays[0].ctypes.data, arrays[-1].ctypes.data, result.ctypes.data, result.size)
        return result

    return run


def arguments(name: str, count: int, type_: type[Any] = np.float32) -> tuple[Array, Array]:
    """Numbers of every exponent, NaN and the special ones, and what a function makes of them."""
    draws = np.random.default_rng(0)
    bits = draws.integers(0, 1 << 32, count, np.uint32).view(np.float32)
    ranges = (0.01, 1, 4, 20, 104, 1e4)
    near = [draws.uniform(-r, r, count).astype(np.float32) for r in ranges]
    x = np.concatenate([bits, *near, np.array(SPECIAL, np.float32)])
    with np.errstate(all="ignore"):
        x = np.resize(np.minimum(x, 0) if name == "expm1_below_0" else x, -(-x.size // 32) * 32)
        return x.astype(type_), FUNCTIONS[name](x.astype(np.float64))


def ulps(got: Array, want: Array) -> Any:
    """The largest distance from numbers in f64, in units of the last place of ``got``."""
    with np.errstate(all="ignore"):
        nearest = want.astype(got.dtype)
        same = (got == nearest) | (np.isnan(got) & np.isnan(nearest))
        distance = np.abs(got.astype(want.dtype) - want) / np.spacing(np.abs(nearest))
    return np.where(same, np.where(np.isfinite(nearest), distance, 0), distance).max()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_f32_is_within_two_units_in_the_last_place(name: str) -> None:
    x, want = arguments(name, 1 << 16)
    assert ulps(compiled(name)(x), want) <= ULPS.get(name, 2)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lanes_do_not_matter(name: str) -> None:
    x, _ = arguments(name, 1 << 8)
    got = compiled(name)(x)
    for lanes in (0, 4, 8, 32):
        assert np.array_equal(compiled(name, lanes=lanes)(x), got, equal_nan=True)


@pytest.mark.parametrize("name", ["exp", "sigmoid"])
def test_a_power_of_two_applied_by_one_instruction_gives_the_same_bits(name: str) -> None:
    x, _ = arguments(name, 1 << 16)
    got = compiled(name)(x)
    for lanes in (0, 16, 32):
        one = compiled(name, lanes=lanes, features={"avx512f"})(x)
        assert np.array_equal(one, got, equal_nan=True)


@pytest.mark.parametrize("name", sorted(ODD))
def test_zeros_keep_their_sign(name: str) -> None:
    x = np.array([0.0, -0.0] * 8, np.float32)
    assert np.array_equal(compiled(name)(x).view(np.uint32), x.view(np.uint32))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_f64_is_near(name: str) -> None:
    x, want = arguments(name, 1 << 8, np.float64)
    # Either side may be two units off.
    assert ulps(compiled(name, type_=F64, lanes=8)(x), want) <= 4


def test_f64_exp_and_log_reach_their_ends() -> None:
    x = np.array([709.78, 709.79, -745.1, -745.2, 5e-324, 1e-310, 1.8e308, 1.0])
    exp, log = (compiled(name, type_=F64, lanes=4)(x) for name in ("exp", "log"))
    with np.errstate(all="ignore"):
        assert ulps(exp, np.exp(x)) <= 2
        assert ulps(log, np.log(x)) <= 2


def test_a_vanishing_exponential_is_zero() -> None:
    x = np.linspace(-120, 88, 1 << 16, dtype=np.float32)
    x[:2] = -math.inf, math.nan
    with np.errstate(all="ignore"):
        got, want = compiled("exp_to_zero")(x), np.exp(x.astype(np.float64))
    assert ulps(got[~(want < 2.0**-126)], want[~(want < 2.0**-126)]) <= 2
    assert not got[want < 2.0**-127].any()


def test_powers() -> None:
    draws = np.random.default_rng(1)
    ends = np.array([*SPECIAL, 0.5, -2, 3, -3, 1.5, 2**24 + 1, -1e30, 7, 0.333, -0.5], np.float32)
    grid = [v.ravel() for v in np.meshgrid(ends, ends)]
    bits = draws.integers(0, 1 << 32, (2, 1 << 16), np.uint32).view(np.float32)
    wholes = draws.uniform(-20, 20, 1 << 14), draws.integers(-20, 20, 1 << 14)
    near_1 = 1 + draws.uniform(-1e-3, 1e-3, 1 << 14), draws.uniform(-8e4, 8e4, 1 << 14)
    x, y = (
        np.resize(np.concatenate([p.astype(np.float32) for p in parts]), 1 << 18)
        for parts in zip(grid, bits, wholes, near_1, strict=True)
    )
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.float64), y.astype(np.float64))
    assert ulps(compiled("power", 2)(x, y), want) <= 2


@pytest.mark.parametrize("exponent", [0, 1, -1, 2, 3, 0.5])
def test_known_exponents(exponent: float) -> None:
    module = Module()
    f = module.function("kernel", [("x", PTR), ("out", PTR)])
    x, out = f.parameters
    kind = F32.times(16)
    f.store(vector_math.power(f, f.load(x, kind), f.const(kind, exponent)), out)
    code = jit.load([module.text])[module.text]
    given = np.resize(np.array([*SPECIAL, 3.7, -2.5, 1e20], np.float32), 16)
    got = np.empty_like(given)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(code.address)(
        given.ctypes.data, got.ctypes.data
    )
    with np.errstate(all="ignore"):
        want = np.power(given.astype(np.float64), np.full(16, exponent))
    assert ulps(got, want) <= 2
