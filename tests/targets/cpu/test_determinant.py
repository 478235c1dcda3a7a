"""Determinants on the cpu, against ``ref``."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.targets.cpu.kernels.determinant import kernel_for
from migx.targets.cpu.machine import Machine
from tests.targets.cpu.alone import OTHER_MACHINES, parsed, problem

TEXT = "module main(x: {}) {{\n  %0 = determinant(x)\n  return %0\n}}\n"


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize(
    "dims", ["1, 1", "n, n", "3, 2, 5, 5", "n, 17, 17", "2, 40, 40", "0, 3, 3"]
)
def test_determinants(dims: str, dtype: str) -> None:
    assert not problem(kernel_for, parsed(TEXT.format(f"{dtype}[{dims}]")), {"n": 6})


def test_of_a_view() -> None:
    text = """
module main(x: f32[7, 3, 7]) {
  %0 = transpose(x) {permutation=(1, 2, 0)}
  %1 = determinant(%0)
  return %1
}
"""
    assert not problem(kernel_for, parsed(text))


def test_of_two_rows_that_are_the_same() -> None:
    """Nothing is left but what rounding makes of the sums."""
    text = """
module main(x: f32[n, 1, 3], y: f32[n, 1, 3]) {
  %0 = concat(x, y, x) {axis=1}
  %1 = determinant(%0)
  return %1
}
"""
    assert not problem(kernel_for, parsed(text), {"n": 50})


@pytest.mark.parametrize("machine", OTHER_MACHINES.values(), ids=OTHER_MACHINES)
def test_other_machines(machine: Machine) -> None:
    program = parsed(TEXT.format("f32[3, 9, 9]"))
    assert not problem(lambda at, _: kernel_for(at, machine), program)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_has_no_inverse_and_what_is_no_number(dtype: type) -> None:
    """Whole numbers small enough that nothing is rounded."""
    name = "f32" if dtype is np.float32 else "f64"
    program = migx.parse(TEXT.format(f"{name}[n, 3, 3]")).compile("cpu")
    given = [
        np.zeros((3, 3)),
        [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
        [[0, 2, 0], [3, 0, 0], [0, 0, 5]],
        [[1, 2, 3], [2, 4, 6], [0, 0, 1]],
        [[0, 0, 1], [0, np.nan, 0], [0, 0, 1]],
        np.eye(3),
    ]
    (found,) = program.eval({"x": np.array(given, dtype)})
    np.testing.assert_array_equal(found, np.array([0, 1, -30, 0, np.nan, 1], dtype))


def test_nothing_is_left_to_the_host() -> None:
    program = migx.parse(TEXT.format("f32[2, 8, 8]")).compile("cpu")
    assert program.compiled is not None
    assert program.compiled.fallbacks() == []
