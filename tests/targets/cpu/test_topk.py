"""The best along an axis on the cpu: few and many, types, equals, layouts, against ``ref``."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.targets.cpu.kernels.topk import kernel_for
from tests.targets.cpu.alone import one, parsed, problem


def program_of(given: str, axis: int, k: int | str, *, largest: bool = True) -> str:
    call = f"topk(x) {{axis={axis}, k={k}, largest={str(largest).lower()}}}"
    return one(f"x: {given}", call)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize(
    ("given", "axis", "k", "n"),
    [
        ("f32[3, n]", 1, 3, 70),
        ("f32[3, n]", 1, 4, 4),
        ("f32[n]", 0, 40, 3000),
        ("f32[2, n]", 1, 300, 2500),
        ("f32[n]", 0, "n", 5000),
        ("f32[n]", 0, "n", 100),
        ("f32[n]", 0, "n", 0),
        ("i32[n, 37]", 0, 9, 200),
        ("f16[2, n, 5]", 1, 6, 300),
        ("bf16[n]", 0, 50, 600),
        ("u8[n]", 0, 140, 1500),
        ("i8[n]", 0, 7, 500),
        ("u64[n]", 0, 5, 400),
        ("i64[n]", 0, 200, 1500),
        ("f64[n]", 0, 33, 1500),
        ("f32[0, n]", 1, 5, 6),
        ("f32[2, n]", 1, 0, 6),
    ],
)
def test_lines(given: str, axis: int, k: int | str, n: int, largest: bool) -> None:
    text = program_of(given, axis, k, largest=largest)
    assert not problem(kernel_for, parsed(text), {"n": n})


def test_views() -> None:
    text = program_of("f32[400, 6]", 1, 30).replace("(x)", "(%0)").replace("%0 =", "%1 =")
    text = text.replace("return %0", "return %1")
    text = text.replace("  %1 =", "  %0 = transpose(x) {permutation=(1, 0)}\n  %1 =", 1)
    assert not problem(kernel_for, parsed(text))


def both(x: np.ndarray, axis: int, k: int, *, largest: bool) -> None:
    """Holds all bits of the result against those of ``ref``."""
    dims = ", ".join(map(str, x.shape))
    name = {"f": "f", "i": "i", "u": "u"}[x.dtype.kind] + str(8 * x.dtype.itemsize)
    program = migx.parse(program_of(f"{name}[{dims}]", axis, k, largest=largest))
    expected = program.copy()
    program.compile("cpu")
    expected.compile("ref")
    got, wanted = program.eval({"x": x})[0], expected.eval({"x": x})[0]
    for a, b in zip(got, wanted, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize(
    ("k", "axis"), [(4, 0), (1, 1), (6, 1), (16, 1), (30, 1), (300, 1), (900, 1)]
)
def test_equals_infinities_and_nan(dtype: str, k: int, axis: int, largest: bool) -> None:
    dice = np.random.default_rng(0)
    choice = [1.0, 1.0, 2.0, -0.0, 0.0, np.inf, -np.inf, np.nan, -np.nan, 6e-8]
    both(dice.choice(choice, (5, 900)).astype(dtype), axis, k, largest=largest)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "u4", "i8", "u8"])
def test_limits_of_integers(dtype: str, largest: bool) -> None:
    dice, info = np.random.default_rng(0), np.iinfo(dtype)
    x = dice.choice(np.array([info.min, info.max, 0, 1, info.max - 1], dtype), (700,))
    both(x, 0, 150, largest=largest)


@pytest.mark.parametrize("k", [1, 7, 20, 200])
def test_lines_in_order(k: int) -> None:
    rising = np.arange(5000, dtype=np.float32)
    for x in (rising, rising[::-1].copy(), np.zeros_like(rising)):
        both(x, 0, k, largest=True)
        both(x, 0, k, largest=False)
