"""A program with sizes put in for symbols is the program, at these sizes."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.errors import DimError, ShapeError
from migx.specialise import bound
from migx.verify import verify

TEXT = """dim batch = 1..8

module main(x: f32[batch, n, 3], y: f32[batch, 3*n]) {
  %0 = reshape(x) {dims=(batch, 3*n)} : f32[batch, 3*n]
  %1 = add(%0, y) : f32[batch, 3*n]
  %2 = dim_literal() {values=(n,), lens=(), to=i64} : i64[]
  %3 = undefined() : optional()
  %4 = loop(%2, %3, %1) [body] : tuple(f32[batch, 3*n])
  %5 = get_tuple_elem(%4) {index=0} : f32[batch, 3*n]
  return out=%5
}

module body(i: i64[], going: bool[], h: f32[batch, 3*n]) {
  %0 = mul(h, main:%0) : f32[batch, 3*n]
  return going, %0
}
"""


def inputs() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    rng = np.random.default_rng(0)
    dims = {"x": (2, 4, 3), "y": (2, 12)}
    return {name: rng.standard_normal(d, np.float32) for name, d in dims.items()}


def test_it_runs_as_before_at_those_sizes_and_at_no_other() -> None:
    program = migx.parse(TEXT)
    made = bound(program, {"batch": 2, "n": 4})
    verify(made)
    assert made.symbols() == {}
    assert str(made.main.parameters["y"].shape) == "f32[2, 12]"
    assert migx.parse(str(made)) == made
    (got,), (expected,) = (p.compile("ref").eval(inputs()) for p in (made, program))
    np.testing.assert_array_equal(got, expected)
    with pytest.raises(migx.MigxError, match="input 'x'"):
        made.eval({"x": np.zeros((1, 4, 3), np.float32), "y": np.zeros((1, 12), np.float32)})


def test_sizes_may_be_numbers_of_numpy() -> None:
    program = migx.parse(TEXT)
    sizes = {"batch": np.int64(2), "n": np.uint8(4)}
    assert bound(program, sizes) == bound(program, {"batch": 2, "n": 4})  # type: ignore[arg-type]
    with pytest.raises(DimError, match="is a number, not True"):
        bound(program, {"batch": True})


def test_symbols_that_are_not_named_stay() -> None:
    program = migx.parse(TEXT)
    made = bound(program, {"n": 4})
    verify(made)
    assert list(made.symbols()) == ["batch"]
    assert str(made.main.outputs[0].shape) == "f32[batch, 12]"
    assert program == migx.parse(TEXT), "the program itself stays as it is"
    assert bound(program, {}) == program


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"m": 2}, "no dim named 'm'; its inputs have: batch, n"), ({"batch": 9}, "bounds are 1..8")],
)
def test_what_no_symbol_can_be_is_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(DimError, match=message):
        bound(migx.parse(TEXT), sizes)


def test_sizes_that_an_operation_refuses_are_drawn_at_it() -> None:
    text = """module main(x: f32[n], y: f32[m]) {
  %0 = add(x, y) : f32[n]
  return %0
}
"""
    with pytest.raises(ShapeError, match=r"with n=2, m=3: add needs equal dims(.|\n)*\^\^\^"):
        bound(migx.parse(text), {"n": 2, "m": 3})


def test_sizes_that_one_branch_refuses_may_be_left_unbound() -> None:
    program = migx.parse("""
module main(x: f32[n], c: bool[]) {
  %0 = if(c) {outputs=(f32[],)} [yes, no] : tuple(f32[])
  %1 = get_tuple_elem(%0) {index=0} : f32[]
  return %1
}
module yes() {
  %0 = squeeze(main:x) {axes=(0,)} : f32[]
  return %0
}
module no() {
  %0 = reduce_sum(main:x) {axes=(0,)} : f32[1]
  %1 = squeeze(%0) {axes=(0,)} : f32[]
  return %1
}
""")
    with pytest.raises(ShapeError, match="this is in a branch: if no run takes it, leave the dims"):
        bound(program, {"n": 3})
