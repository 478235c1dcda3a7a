"""Parts of programs as programs of their own."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.errors import IRError
from migx.parts import part
from migx.verify import verify

TEXT = """
module main(x: f32[n, 2], c: bool[]) {
  %0 = @literal() {value=[1.0, 2.0, 3.0, 4.0], label="w", replaceable=true} : f32[2, 2]
  %1 = transpose(%0) {permutation=(1, 0)}
  %2 = dot(x, %1)
  %3 = transpose(%2) {permutation=(1, 0)}
  %4 = if(c) [yes, no]
  %5 = get_tuple_elem(%4)
  %6 = add(%5, %0)
  %7 = reshape(%3) {dims=(2 * n,)}
  return a=%7, b=%6
}
module yes() {
  %0 = add(main:%0, main:%0)
  return %0
}
module no() {
  %0 = neg(main:%0)
  return %0
}
"""
X = {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "c": np.array(True)}


@pytest.mark.parametrize("passes", ["", "hoist_weights"])
def test_parts_compute_what_the_whole_does(passes: str) -> None:
    program = migx.parse(TEXT)
    migx.run_passes(program, passes)
    before = str(program)
    a, b = program.main.outputs
    (turned,) = a.inputs
    first, second = part(program, {"t": turned, "b": b}), part(program, {"a": a}, {"t": turned})
    assert str(program) == before
    for each in (first, second):
        verify(each)
    assert list(second.main.parameters) == ["x", "c", "t"]
    assert [at.name for at in second.main] == ["@param"] * 3 + ["reshape", "@return"]
    assert (list(first.weight_shapes), list(second.weight_shapes)) == (["w"], [])
    t, y = first.compile("cpu").eval(X)
    (x,) = second.compile("cpu").eval({**X, "t": t})
    for got, wanted in zip((x, y), program.compile("ref").eval(X), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_a_part_is_of_the_main_module_and_its_inputs_have_names_of_their_own() -> None:
    program = migx.parse(TEXT)
    a, _ = program.main.outputs
    (inner,) = program.modules["yes"].outputs
    with pytest.raises(IRError, match="is not in the main module of the program"):
        part(program, {"a": inner})
    with pytest.raises(IRError, match="already has a parameter 'x'"):
        part(program, {"a": a}, {"x": a.inputs[0]})
