"""The places of elements that are not zero on the cpu: types, layouts, sizes, against ``ref``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import migx
from migx.program import Program
from migx.shape import DType
from tests.targets.cpu.whole import executable

Array = NDArray[Any]
RANKS = {"a": 1, "a, b": 2, "a, b, c": 3}


def compiled(dims: str, dtype: str = "f32", before: str = "", given: str = "x") -> Program:
    """The places, and arithmetic on them, which waits for their number."""
    text = f"""
module main(x: {dtype}[{dims}]) {{
  {before}
  %1 = nonzero({given}) {{count=count}}
  %2 = add(%1, %1)
  return %1, %2
}}
"""
    program = migx.parse(text).compile("cpu")
    assert not executable(program).fallbacks()
    return program


def check(program: Program, x: Array, seen: Array | None = None) -> None:
    places, twice = program.eval({"x": x})
    expected = np.stack(np.nonzero((x if seen is None else seen) != 0))
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(twice, 2 * expected)


@pytest.mark.parametrize("dims", [*RANKS])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
def test_places_in_order(dims: str, share: float) -> None:
    program, dice = compiled(dims), np.random.default_rng(5)
    for sizes in ((1, 1, 1), (2, 3, 5), (3, 2, 64), (2, 5, 131), (0, 3, 4), (3, 4, 0)):
        shape = sizes[-RANKS[dims] :]
        check(program, (dice.random(shape) < share).astype(np.float32))


@pytest.mark.parametrize("dtype", ["bool", "i8", "u16", "i64", "f16", "bf16", "f64"])
def test_every_type(dtype: str) -> None:
    dice, numpy = np.random.default_rng(7), DType.of(dtype).numpy
    x = dice.integers(-1, 2, (3, 150)).astype(np.float32)
    check(compiled("a, b", dtype), x.astype(numpy))


def test_what_is_no_number_is_not_zero_and_zero_has_no_sign() -> None:
    x = np.array([0.0, -0.0, np.nan, np.inf, 1e-45, -1.0], np.float32)
    check(compiled("a"), x)
    assert compiled("a").eval({"x": x})[0].tolist() == [[2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("before", "seen"),
    [
        ("%0 = transpose(x) {permutation=(1, 0)}", np.transpose),
        ("%0 = slice(x) {axes=(1,), starts=(1,), ends=(70,)}", lambda x: x[:, 1:70]),
        ("%0 = reverse(x) {axes=(1,)}", lambda x: x[:, ::-1]),
    ],
)
def test_views_are_read_as_they_lie(before: str, seen: Any) -> None:
    x = (np.random.default_rng(9).random((40, 90)) < 0.1).astype(np.float32)
    check(compiled("40, 90", before=before, given="%0"), x, seen(x))


@given(st.lists(st.integers(0, 3), max_size=200))
def test_any_list(values: list[int]) -> None:
    check(LISTS, np.array(values, np.int32))


LISTS = compiled("a", "i32")


def test_a_number_alone_is_for_the_host() -> None:
    program = migx.parse(
        "module main(x: f32[]) {\n %0 = nonzero(x) {count=n}\n return %0\n}\n"
    ).compile("cpu")
    assert [at.name for at in executable(program).fallbacks()] == ["nonzero"]
    assert program.eval({"x": np.float32(1)})[0].shape == (0, 1)


@pytest.mark.parametrize("count", ["0", "n"])
@pytest.mark.parametrize("dims", [(0,), (2, 0)])
def test_of_no_elements(dims: tuple[int, ...], count: str) -> None:
    """Where the number is said, there is no room for a kernel to say it."""
    program = migx.parse(
        f"module main(x: bool{list(dims)}) {{ %0 = nonzero(x) {{count={count}}} return %0 }}"
    ).compile("cpu")
    on_host = [at.name for at in program.compiled.fallbacks()]
    assert on_host == (["nonzero"] if count == "0" else [])
    (found,) = program.eval({"x": np.zeros(dims, np.bool_)})
    assert found.shape == (len(dims), 0)
