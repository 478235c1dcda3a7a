"""Elements put and fetched by index on the cpu, against ``ref``; and wrong indices."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.errors import EvaluationError
from migx.targets.cpu.kernels.scatter import kernel_for
from tests.targets.cpu.alone import parsed, problem

HOW = ["none", "add", "mul", "max", "min"]


def program_of(given: str, op: str) -> str:
    return f"module main({given}) {{\n  %0 = {op}\n  return %0\n}}\n"


@pytest.mark.parametrize("dtype", ["f32", "f16", "bool", "i64", "u8"])
def test_fetched(dtype: str) -> None:
    text = program_of(f"x: {dtype}[200, 3, n], i: i32[150, 3, 4]", "gather_elements(x, i)")
    assert not problem(kernel_for, parsed(text), {"n": 7})
    text = program_of(f"x: {dtype}[2, 200], i: i64[2, n]", "gather_elements(x, i) {axis=1}")
    for n in (0, 9):
        assert not problem(kernel_for, parsed(text), {"n": n})


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("dtype", ["f32", "i32"])
def test_put(how: str, dtype: str) -> None:
    given = f"x: {dtype}[200, 4], i: i64[n, 3], u: {dtype}[n, 3]"
    text = program_of(given, f"scatter_{how}(x, i, u)")
    for n in (0, 1, 300):
        assert not problem(kernel_for, parsed(text), {"n": n})
    given = f"x: {dtype}[200, 200, n], i: i64[5, 2, 2], u: {dtype}[5, 2, n]"
    assert not problem(kernel_for, parsed(program_of(given, f"scatternd_{how}(x, i, u)")), {"n": 5})


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("given", "view"),
    {
        "slices apart": ("u: f32[2, n, 5]", "transpose(u) {permutation=(1, 0, 2)}"),
        "elements apart": ("u: f32[2, 5, n]", "transpose(u) {permutation=(2, 0, 1)}"),
        "no two alike": ("u: f32[5, 2, n]", "transpose(u) {permutation=(2, 1, 0)}"),
        "one for all": ("u: f32[2, 1]", "multibroadcast(u) {out_lens=(n, 2, 5)}"),
    }.values(),
)
def test_put_from_updates_that_lie_apart(given: str, view: str, how: str) -> None:
    text = f"""
module main(x: f32[200, 2, 5], i: i64[n, 1], {given}) {{
  %0 = {view}
  %1 = scatternd_{how}(x, i, %0)
  return %1
}}
"""
    for n in (0, 1, 4):
        assert not problem(kernel_for, parsed(text), {"n": n})


def test_put_into_a_view_of_narrow_floats() -> None:
    text = """
module main(x: f16[5, 200], i: i64[4, 1], u: f16[4, 5]) {
  %0 = transpose(x) {permutation=(1, 0)}
  %1 = scatternd_none(%0, i, u)
  return %1
}
"""
    assert not problem(kernel_for, parsed(text))


@pytest.mark.parametrize("op", ["scatter_none", "scatter_add"])
def test_in_place_and_outside(op: str) -> None:
    text = f"""
module main(x: f32[6], i: i64[n], u: f32[n]) {{
  %0 = exp(x)
  %1 = {op}(%0, i, u)
  return %1
}}
"""
    program = migx.parse(text)
    expected = program.copy()
    program.compile("cpu")
    expected.compile("ref")
    given = {"x": np.zeros(6, np.float32), "u": np.arange(3, dtype=np.float32)}
    for index in ([0, 5, 5], [-1, -6, 2]):
        inputs = {**given, "i": np.array(index)}
        np.testing.assert_allclose(program.eval(inputs)[0], expected.eval(inputs)[0], rtol=1e-6)
    with pytest.raises(EvaluationError, match="outside axis 0 of f32"):
        program.eval({**given, "i": np.array([0, 6, 1])})


@pytest.mark.parametrize("dtype", ["f8e5m2", "f8e4m3fnuz", "bf16"])
@pytest.mark.parametrize("how", ["max", "add"])
def test_types_that_are_not_computed_as_stored_are_for_the_host(how: str, dtype: str) -> None:
    text = f"""
module main(x: {dtype}[3, 2], u: {dtype}[1, 2]) {{
  %0 = @literal() {{value=[1, 0], label="i"}} : i64[1, 2]
  %1 = scatter_{how}(x, %0, u) {{axis=0}}
  return %1
}}
"""
    given = {
        "x": migx.Argument.of(np.arange(6.0).reshape(3, 2), dtype),
        "u": migx.Argument.of(np.full((1, 2), 3.0), dtype),
    }
    ref, cpu = (migx.parse(text).compile(t).eval(given)[0] for t in ("ref", "cpu"))
    np.testing.assert_array_equal(np.asarray(cpu, float), np.asarray(ref, float))
