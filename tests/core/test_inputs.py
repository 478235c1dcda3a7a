"""Inputs drawn for a program: reproducible, and such as it accepts."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.debug.inputs import drawn_inputs
from migx.errors import DimError, InputError

TEXT = """
dim batch = 1..8
module main(x: f32[batch, length], i: i64[batch], t: tuple(f32[2], bool[batch])) {
  %0 = @literal() {value=[1.0, 2.0, 3.0, 4.0]} : f32[4]
  %1 = gather(%0, i)
  %2 = get_tuple_elem(t)
  return x, %1, %2
}
"""


def test_inputs_are_such_as_the_program_accepts() -> None:
    program = migx.parse(TEXT)
    inputs, sizes = drawn_inputs(program, seed=3, apart=True)
    assert len({1, *sizes.values()}) == 3
    assert inputs["x"].shape == (sizes["batch"], sizes["length"])
    (x, y, z) = program.compile("ref").eval(inputs)
    np.testing.assert_array_equal(y, inputs["i"] + 1)
    np.testing.assert_array_equal(z, inputs["t"][0])
    again, _ = drawn_inputs(program, seed=3, apart=True)
    np.testing.assert_array_equal(again["x"], x)


def test_sizes_arrays_and_elements_may_be_given() -> None:
    i = np.array([3, 3, 0])
    inputs, sizes = drawn_inputs(
        migx.parse(TEXT), sizes={"length": 5}, given={"i": i}, fill={"x": 7}
    )
    assert sizes == {"batch": 3, "length": 5}
    assert inputs["i"] is i
    np.testing.assert_array_equal(inputs["x"], np.full((3, 5), 7, np.float32))


def test_what_does_not_fit_is_refused() -> None:
    program = migx.parse(TEXT)
    with pytest.raises(DimError, match="no dim named 'n'; its inputs have: batch, length"):
        drawn_inputs(program, sizes={"n": 2})
    with pytest.raises(InputError, match="no input named 'y'; there are: x, i, t"):
        drawn_inputs(program, given={"y": np.ones(3)})
    with pytest.raises(InputError, match=r"input 'x' is f64\[3, 3\]"):
        drawn_inputs(program, given={"x": np.ones((3, 3))})
