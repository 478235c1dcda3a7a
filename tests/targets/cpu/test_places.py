"""Elements fetched from places along the axes on the cpu, against ``ref``; and wrong operands."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

import migx
from migx.errors import EvaluationError
from migx.targets.cpu.kernels.places import kernel_for
from migx.targets.cpu.machine import host
from migx.targets.cpu.parts.resampling import COORDINATES
from tests.targets.cpu.alone import one, parsed, problem, produced

ASYMMETRIC = 'coordinate_transformation_mode="asymmetric", nearest_mode="ceil"'
CASES: Mapping[str, tuple[str, dict[str, int]]] = {
    "reflect": ('x: f32[2, n]|pad(x) {pads=(0, 5, 0, 7), mode="reflect"}', {"n": 70}),
    "reflect more than there is": (
        'x: f32[2, n]|pad(x) {pads=(3, 5, 4, 7), mode="reflect"}',
        {"n": 3},
    ),
    "reflect one": ('x: i8[1, 9]|pad(x) {pads=(2, 0, 1, 0), mode="reflect"}', {}),
    "edge": ('x: f16[3, 4, 5]|pad(x) {pads=(1, 2, 3, 0, 1, 2), mode="edge"}', {}),
    "wrap": ('x: f64[3, 4]|pad(x) {pads=(4, 9, 7, 0), mode="wrap"}', {}),
    "edge of what is left": (
        'x: f32[3, 6, n]|pad(x) {pads=(0, 2, -2, 1, -3, 40), mode="edge"}',
        {"n": 9},
    ),
    "reflect what is left": (
        'x: f32[4, n]|pad(x) {pads=(2, -3, -1, 4), mode="reflect"}',
        {"n": 30},
    ),
    "wrap what is left": ('x: i16[4, n]|pad(x) {pads=(2, 5, -1, -4), mode="wrap"}', {"n": 30}),
    "edge to a size": ('x: f32[2, n]|pad(x) {pads=(0, 0, 0, 24 - n), mode="edge"}', {"n": 20}),
    "edge back to a size": ('x: f32[2, n]|pad(x) {pads=(0, 0, 0, 24 - n), mode="edge"}', {"n": 40}),
    "nearest": (
        'x: f32[1, 2, 5, n]|resize(x) {sizes=(1, 2, 7, 2*n + 1), nearest_mode="floor"}',
        {"n": 9},
    ),
    "nearest by scales": (
        f"x: u8[5, 6]|resize(x) {{sizes=(7, 4), scales=(1.5, 0.7), {ASYMMETRIC}}}",
        {},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_places(name: str) -> None:
    text, sizes = CASES[name]
    assert not problem(kernel_for, parsed(one(*text.split("|"))), sizes)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("mode", sorted(COORDINATES))
def test_nearest_as_numpy_rounds(mode: str, rounding: str) -> None:
    options = f'coordinate_transformation_mode="{mode}", nearest_mode="{rounding}"'
    text = one("x: f32[6, n]", f"resize(x) {{sizes=(6, 15), {options}}}")
    assert not problem(kernel_for, parsed(text), {"n": 10})


SEQUENCES = """
module main(x: f32[{dims}], n: {dtype}[b]) {{
  %0 = reverse_sequence(x, n) {{batch_axis={batch}, time_axis={time}}}
  return %0
}}
"""


@pytest.mark.parametrize("dtype", ["i64", "u8"])
@pytest.mark.parametrize(
    ("dims", "batch", "time"), [("t, b, 5", 1, 0), ("b, 3, t", 0, 2), ("b, t", 0, 1)]
)
def test_sequences(dims: str, batch: int, time: int, dtype: str) -> None:
    program = migx.parse(SEQUENCES.format(dims=dims, dtype=dtype, batch=batch, time=time))
    expected = program.copy()
    expected.compile("ref")
    program.compile("cpu")
    sizes = {"t": 20, "b": 4}
    given = [sizes.get(d) or int(d) for d in dims.split(", ")]
    x = np.arange(np.prod(given), dtype=np.float32).reshape(given)
    kind = migx.Shape(dtype, ()).dtype.numpy
    inputs = {"x": x, "n": np.array([0, 1, 20, 7], kind)}
    np.testing.assert_array_equal(program.eval(inputs)[0], expected.eval(inputs)[0])
    with pytest.raises(EvaluationError, match="length"):
        program.eval({"x": x, "n": np.array([0, 1, 21, 7], kind)})


def test_an_empty_axis_has_nothing_to_repeat() -> None:
    program = migx.parse(one("x: f32[n, 3]", 'pad(x) {pads=(1, 0, 0, 0), mode="edge"}'))
    program.compile("cpu")
    with pytest.raises(EvaluationError, match="no elements"):
        program.eval({"x": np.zeros((0, 3), np.float32)})


def test_other_ways_are_left() -> None:
    for op in ("pad(x) {pads=(1, 1)}", 'resize(x) {sizes=(7,), mode="linear"}'):
        assert kernel_for(produced(parsed(one("x: f32[5]", op))), host()) is None
