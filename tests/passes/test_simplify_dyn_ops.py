"""Sizes that become known, and symbols that are replaced for it."""

from __future__ import annotations

import pytest

import migx
from migx.errors import ShapeError
from migx.specialise import substitute_symbols

SLICED = """
module main(x: f32[8], y: f32[4]) {
  %0 = @literal() {value=[0]} : i64[1]
  %1 = @literal() {value=[3], label="end", replaceable=true} : i64[1]
  %2 = @literal() {value=[1]} : i64[1]
  %3 = dynamic_slice(x, %0, %1, %2) {axes=(0,), out_lens=(n,)} : f32[n]
  %4 = reshape(y) {dims=(n,)} : f32[n]
  %5 = add(%3, %4) : f32[n]
  return %5
}
"""


def test_a_size_that_fits_nowhere_else_leaves_the_program_as_it_is() -> None:
    program = migx.parse(SLICED)
    assert not migx.run_passes(program, "simplify_dyn_ops")
    assert program == migx.parse(SLICED)


@pytest.mark.parametrize(
    "order", ["@literal() {value=[1, 1]}", "dimensions_of(y) {start=0, end=2}"]
)
def test_axes_that_do_not_permute_or_are_not_known_are_left(order: str) -> None:
    program = migx.parse(f"""
    module main(x: f32[2, 3], y: f32[n, m]) {{
      %0 = {order} : i64[2]
      %1 = dynamic_transpose(x, %0) {{out_lens=(a, b)}} : f32[a, b]
      return %1
    }}
    """)
    migx.run_passes(program, "simplify_dyn_ops")
    assert "dynamic_transpose" in [at.name for at in program.main]


def test_a_replaceable_size_is_an_assumption() -> None:
    program = migx.parse(SLICED.replace("y: f32[4]", "y: f32[3]"))
    assert migx.run_passes(program, "simplify_dyn_ops")
    assert [a.label for a in program.assumptions] == ["end"]
    assert "n" not in program.symbols()


def test_symbols_are_replaced_everywhere_or_nowhere() -> None:
    text = """
    module main(c: bool[], x: f32[n, 2]) {
      %0 = if(c) {outputs=(f32[n, 2],)} [yes, no] : tuple(f32[n, 2])
      %1 = get_tuple_elem(%0) : f32[n, 2]
      %2 = reshape(%1) {dims=(2*n,)} : f32[2*n]
      return %2
    }
    module yes() {
      %0 = relu(main:x) : f32[n, 2]
      return %0
    }
    module no() {
      return main:x
    }
    """
    program = migx.parse(text)
    substitute_symbols(program, {"n": 5})
    assert program == migx.parse(text.replace("2*n", "10").replace("n,", "5,"))
    program = migx.parse(SLICED)
    with pytest.raises(ShapeError):
        substitute_symbols(program, {"n": 3})
    assert program == migx.parse(SLICED)


@pytest.mark.parametrize("dims", ["[5, -1]", "[0, 0]"])
def test_an_impossible_size_fails_when_it_runs(dims: str) -> None:
    program = migx.parse(f"""
    module main(x: f32[8]) {{
      %0 = @literal() {{value={dims}}} : i64[2]
      %1 = reshape(x, %0) {{dims=(a, b)}} : f32[a, b]
      return %1
    }}
    """)
    assert not migx.run_passes(program, "simplify_dyn_ops")
