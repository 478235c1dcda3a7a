"""Boxes chosen on the cpu: limits, ways of saying a box, equals and rubbish, against ``ref``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import migx
from migx.errors import EvaluationError
from tests.targets.cpu.whole import executable

Array = NDArray[Any]
LIMITS = (", m: i64[1]", ", o: f32[1]", ", s: f32[1]")


def program_of(limits: int = 3, centre: str = "false", dtype: str = "f32") -> str:
    given = "".join(LIMITS[:limits]).replace("f32", dtype)
    names = "".join(f", {limit[2]}" for limit in LIMITS[:limits])
    return f"""
module main(b: {dtype}[batch, n, 4], c: {dtype}[batch, classes, n]{given}) {{
  %0 = nonmaxsuppression(b, c{names}) {{center_point_box={centre}, count=count}}
  %1 = add(%0, %0)
  return %0, %1
}}
"""


def drawn(batch: int, classes: int, n: int, dtype: str = "f4") -> dict[str, Array]:
    dice = np.random.default_rng(n)
    place, size = dice.uniform(0, 20, (batch, n, 2)), dice.uniform(-3, 9, (batch, n, 2))
    return {
        "b": np.concatenate([place, place + size], 2).astype(dtype),
        "c": np.round(dice.uniform(0, 1, (batch, classes, n)), 2).astype(dtype),
        "m": np.array([12], np.int64),
        "o": np.array([0.3], dtype),
        "s": np.array([0.2], dtype),
    }


def check(text: str, given: dict[str, Array]) -> list[Array]:
    """Holds the results against those of ``ref``, and gives them; it must have a kernel."""
    program = migx.parse(text)
    expected = program.copy()
    program.compile("cpu")
    expected.compile("ref")
    inputs = {name: given[name] for name in program.main.parameters}
    assert not executable(program).fallbacks()
    got, wanted = program.eval(inputs), expected.eval(inputs)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    return [np.asarray(a) for a in got]


@pytest.mark.parametrize("centre", ["true", "false"])
@pytest.mark.parametrize("limits", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("batch", "classes", "n"), [(2, 3, 40), (1, 1, 500), (1, 2, 1), (1, 3, 0), (0, 2, 9), (2, 0, 9)]
)
def test_limits_and_sizes(batch: int, classes: int, n: int, limits: int, centre: str) -> None:
    check(program_of(limits, centre), drawn(batch, classes, n))


@pytest.mark.parametrize(("most", "overlap", "least"), [(0, 0.5, 0.1), (-1, 0, 0), (5, 1, 2)])
def test_limits_that_leave_little(most: int, overlap: float, least: float) -> None:
    given = drawn(1, 2, 30)
    given["m"][0], given["o"][0], given["s"][0] = most, overlap, least
    (found, _) = check(program_of(), given)
    assert found.shape == (0, 3)


def test_no_limit_but_the_last() -> None:
    text = program_of().replace("(b, c, m, o, s)", "(b, c, m, %u, s)")
    text = text.replace("  %0", "  %u = undefined() : optional()\n  %0", 1)
    for name, number in (("%1", "%2"), ("%0", "%1"), ("%u", "%0")):
        text = text.replace(name, number)
    check(text, drawn(1, 2, 50))


def test_f64_and_views() -> None:
    text = program_of(dtype="f64").replace("c: f64[batch, classes, n]", "c: f64[batch, n, classes]")
    text = text.replace("(b, c,", "(b, %t,")
    for name, number in (("%1", "%2"), ("%0", "%1"), ("%t", "%0")):
        text = text.replace(name, number)
    text = text.replace("  %1 =", "  %0 = transpose(c) {permutation=(0, 2, 1)}\n  %1 =", 1)
    given = drawn(2, 3, 60, "f8")
    given["c"] = np.ascontiguousarray(given["c"].transpose(0, 2, 1))
    check(text, given)


@pytest.mark.parametrize("limits", [2, 3])
def test_equals_infinities_and_nan(limits: int) -> None:
    dice, given = np.random.default_rng(0), drawn(1, 4, 80)
    given["m"][0] = 1000
    choice = np.array([0.5, 0.5, 0.0, -0.0, np.nan, np.inf, -np.inf, 1.0], np.float32)
    given["c"] = dice.choice(choice, given["c"].shape)
    given["b"][0, ::7] = dice.choice(choice, given["b"][0, ::7].shape)
    given["b"][0, 1::9] = 0
    check(program_of(limits), given)


def test_where_the_count_is_known_already_the_host_compares() -> None:
    program = migx.parse(program_of(1).replace("m: i64[1]", "m: i64[1], k: f32[count]"))
    program.compile("cpu")
    assert [at.name for at in executable(program).fallbacks()] == ["nonmaxsuppression"]
    given = {name: a for name, a in drawn(1, 1, 9).items() if name in "bcm"}
    given["m"][0] = 1
    (found, _) = program.eval({**given, "k": np.zeros(1, np.float32)})
    assert found.shape == (1, 3)
    for count in (0, 2, 9, 10):
        with pytest.raises(EvaluationError, match="computed"):
            program.eval({**given, "k": np.zeros(count, np.float32)})


def test_saved_with_the_program(tmp_path: Path) -> None:
    program = migx.parse(program_of())
    program.compile("cpu")
    migx.save(program, tmp_path / "boxes.mxr")
    loaded = migx.load(tmp_path / "boxes.mxr")
    assert not executable(loaded).fallbacks()
    given = drawn(2, 3, 40)
    for a, b in zip(program.eval(given), loaded.eval(given), strict=True):
        np.testing.assert_array_equal(a, b)
