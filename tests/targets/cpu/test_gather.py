"""Picking by index on the cpu: axes, tuples, types and views, against ``ref``; wrong indices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

import migx
from migx.argument import Argument
from migx.dim import Dim
from migx.errors import EvaluationError
from migx.targets.cpu.kernels.gather import kernel_for
from tests.targets.cpu.alone import one, parsed, problem
from tests.targets.cpu.whole import native

CASES: Mapping[str, tuple[str, dict[str, int]]] = {
    "rows": ("x: f32[200, 33], i: i64[n, 2]|gather(x, i)", {"n": 5}),
    "no rows": ("x: f32[200, 33], i: i64[n, 2]|gather(x, i)", {"n": 0}),
    "columns": ("x: i16[3, 200], i: i32[4]|gather(x, i) {axis=1}", {}),
    "many columns": ("x: f32[3, 200], i: i32[2, 70]|gather(x, i) {axis=1}", {}),
    "columns of doubles": ("x: f64[n, 200], i: i64[n]|gather(x, i) {axis=1}", {"n": 37}),
    "elements": ("x: i64[200], i: i64[4, n]|gather(x, i)", {"n": 19}),
    "the middle": ("x: bf16[3, 200, n, 5], i: i32[2, 3]|gather(x, i) {axis=1}", {"n": 3}),
    "a scalar": ("x: bool[200, 40], i: i64[]|gather(x, i)", {}),
    "bytes as indices": ("x: f64[200, 7], i: u8[6]|gather(x, i)", {}),
    "tuples": ("x: f32[200, 200, 17], i: i64[n, 2]|gathernd(x, i)", {"n": 9}),
    "tuples of all axes": ("x: bool[200, 200], i: i32[4, 3, 2]|gathernd(x, i)", {}),
    "a batch of tuples": ("x: f32[3, 200, 4], i: i64[3, 5, 1]|gathernd(x, i) {batch_dims=1}", {}),
}


@pytest.mark.parametrize("name", CASES)
def test_picks(name: str) -> None:
    text, sizes = CASES[name]
    assert not problem(kernel_for, parsed(one(*text.split("|"))), sizes)


@pytest.mark.parametrize(("dtype", "row"), [("u4", "7, 6"), ("i2", "4"), ("i4", "66")])
@pytest.mark.parametrize("given", ["i64[]", "i32[n, 3]"])
def test_slices_of_packed_storage(dtype: str, row: str, given: str) -> None:
    text = f"""
module main(x: {dtype}[9, {row}], i: {given}) {{
  %0 = gather(x, i)
  %1 = unpack_int{dtype[1]}(%0)
  return %1
}}
"""
    program = migx.parse(text)
    rng = np.random.default_rng(3)
    dims = [2 if isinstance(d, Dim) else int(d) for d in program.main.parameters["i"].shape.dims]
    x = program.main.parameters["x"].shape
    indices = rng.integers(-9, 9, dims).astype(program.main.parameters["i"].shape.dtype.numpy)
    held = rng.integers(0, 256, int(x.nbytes), np.uint8)
    given_ = {"x": Argument.packed(x, held), "i": Argument.of(indices)}
    made = program.copy().compile("cpu")
    native(made)
    assert np.array_equal(made.eval(given_)[0], program.copy().compile("ref").eval(given_)[0])
    with pytest.raises(EvaluationError, match="an index is outside axis 0"):
        made.eval({**given_, "i": Argument.of(np.full_like(indices, 9))})


def test_views() -> None:
    text = """
module main(x: f32[40, 300], i: i64[3, 4]) {
  %0 = transpose(x) {permutation=(1, 0)}
  %1 = slice(i) {axes=(1,), starts=(1,), ends=(3,)}
  %2 = gather(%0, %1)
  return %2
}
"""
    assert not problem(kernel_for, parsed(text))


def test_columns_of_a_view() -> None:
    text = """
module main(x: f32[200, 3], i: i32[40]) {
  %0 = transpose(x) {permutation=(1, 0)}
  %1 = gather(%0, i) {axis=1}
  return %1
}
"""
    assert not problem(kernel_for, parsed(text))


@pytest.mark.parametrize("place", [0, 20, 36])
def test_one_of_many_outside_is_an_error(place: int) -> None:
    program = migx.parse(one("x: f32[2, 5], i: i32[37]", "gather(x, i) {axis=1}"))
    program.compile("cpu")
    x, i = np.arange(10, dtype=np.float32).reshape(2, 5), np.arange(37, dtype=np.int32) % 5 - 5
    np.testing.assert_array_equal(program.eval({"x": x, "i": i})[0], x[:, i])
    i[place] = 5
    with pytest.raises(EvaluationError, match="outside axis 1 of f32"):
        program.eval({"x": x, "i": i})


@pytest.mark.parametrize("index", [5, -6, 2**40])
def test_an_index_outside_its_axis_is_an_error(index: int) -> None:
    program = migx.parse(one("x: f32[5, 3], i: i64[n]", "gather(x, i)"))
    program.compile("cpu")
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    with pytest.raises(EvaluationError, match="outside axis 0 of f32"):
        program.eval({"x": x, "i": np.array([0, index, 1])})
    (got,) = program.eval({"x": x, "i": np.array([4, -5])})
    np.testing.assert_array_equal(got, x[[4, 0]])
