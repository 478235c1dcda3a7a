"""What walks along an axis on the cpu: extremes and running results, against ``ref``."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.errors import InputError
from migx.targets.cpu.kernels.lines import kernel_for
from tests.targets.cpu.alone import one, parsed, problem

OPS = {
    "argmax": "argmax(x) {axis=AXIS}",
    "argmin": "argmin(x) {axis=AXIS, select_last_index=true}",
    "sum": "prefix_scan_sum(x) {axis=AXIS}",
    "product": "prefix_scan_prod(x) {axis=AXIS, exclusive=true, reverse=true}",
}


def program_of(op: str, axis: int, given: str) -> str:
    return one(f"x: {given}", OPS[op].replace("AXIS", str(axis)))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    ("given", "axis", "n"),
    [
        ("f32[3, n]", 1, 70),
        ("f32[3, n]", 1, 4),
        ("i32[n, 37]", 0, 9),
        ("f16[2, n, 5]", 1, 6),
        ("u8[200]", 0, 1),
        ("f32[0, n]", 1, 5),
        ("i64[2, 4, n]", 1, 0),
    ],
)
def test_lines(op: str, given: str, axis: int, n: int) -> None:
    assert not problem(kernel_for, parsed(program_of(op, axis, given)), {"n": n})


@pytest.mark.parametrize("op", OPS)
def test_views(op: str) -> None:
    text = program_of(op, 1, "f32[40, 6]").replace("(x)", "(%0)").replace("%0 =", "%1 =")
    text = text.replace("return %0", "return %1")
    text = text.replace("  %1 =", "  %0 = transpose(x) {permutation=(1, 0)}\n  %1 =", 1)
    assert not problem(kernel_for, parsed(text))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("op", ["argmax", "argmin"])
def test_equals_infinities_and_nan(op: str, axis: int) -> None:
    dice = np.random.default_rng(0)
    choice = [1.0, 1.0, 2.0, -0.0, 0.0, np.inf, -np.inf, np.nan]
    x = dice.choice(choice, (40, 40)).astype(np.float32)
    program = migx.parse(program_of(op, axis, "f32[40, 40]"))
    expected = program.copy()
    program.compile("cpu")
    expected.compile("ref")
    got, wanted = program.eval({"x": x})[0], expected.eval({"x": x})[0]
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_axis_of_no_elements_has_no_extreme() -> None:
    program = migx.parse(program_of("argmax", 1, "f32[3, n]"))
    program.compile("cpu")
    with pytest.raises(InputError, match="axis 1"):
        program.eval({"x": np.zeros((3, 0), np.float32)})
