"""Rows that a loop repeats: the same as on ``ref``, and no loop, where it is nothing else."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.errors import EvaluationError
from migx.program import Program
from migx.targets.cpu.runs.executable import CpuExecutable

REPEATS = """
module main(x: f32[n, 4], times: {type}[n], m: i64[]) {{
  %0 = @literal() {{value=[true]}} : bool[]
  %1 = dim_literal() {{values=(n,), lens=()}} : i64[]
  %2 = sequence_construct()
  %3 = split_to_sequence(x)
  %4 = split_to_sequence(times)
  %5 = loop({trips}, %0, %2) {{outputs=(sequence(),)}} [body]
  %6 = get_tuple_elem(%5)
  %7 = concat_from_sequence(%6) {{output=f32[rows, k], axis=0}}
  %8 = neg(%7)
  return %8
}}

module body(i: i64[], c: bool[], s: sequence()) {{
  %0 = reshape({place}) {{dims=(1,)}}
  %1 = sequence_at(main:%4, {place}) {{output={type}[1]}}
  %2 = sequence_at(main:%3, %0) {{output=f32[1, 4]}}
  %3 = unsqueeze(%2) {{axes=({axis},)}}
  %4 = @literal() {{value=[1]}} : i64[1]
  %5 = @literal() {{value=[4]}} : i64[1]
  %6 = convert(%1) {{to=i64}}
  %7 = concat(%4, %6, %5) {{axis=0}}
  %8 = @literal() {{value=[1, 1, 1]}} : i64[3]
  %9 = @literal() {{value=[-1, -1, -1]}} : i64[3]
  %10 = equal(%7, %9)
  %11 = where(%10, %8, %7)
  %12 = multibroadcast(%3, %11) {{out_lens=(a, b, d)}}
  %13 = reshape(%12) {{dims=((a*b*d)//4, 4)}}
  %14 = sequence_insert(s, {member})
  return c, %14
}}
"""
DEFAULTS = {"type": "i64", "trips": "%1", "place": "i", "axis": "1", "member": "%13"}


def text(**changes: str) -> str:
    return REPEATS.format(**DEFAULTS | changes)


def loops(program: Program) -> list[str]:
    modules = program.compiled.program.modules.values()
    return [at.name for module in modules for at in module if at.name == "loop"]


@pytest.mark.parametrize("type_", ["i64", "i32"])
@pytest.mark.parametrize("times", [[3, 0, 1, 2], [1], [0, 0], [5, 5, 5], [-1, 2]], ids=str)
def test_rows_are_gathered(times: list[int], type_: str) -> None:
    program, ref = (migx.parse(text(type=type_)).compile(target) for target in ("cpu", "ref"))
    assert not loops(program)
    found = program.executable
    assert isinstance(found, CpuExecutable)
    assert [at.name for at in found.fallbacks()] == ["dynamic_range"]
    x = np.arange(4 * len(times), dtype=np.float32).reshape(-1, 4)
    given = {"x": x, "times": np.array(times, type_.replace("i", "int")), "m": np.array(0)}
    (result,), (expected,) = program.eval(given), ref.eval(given)
    assert result.shape == expected.shape
    assert np.array_equal(result, expected)


def test_a_row_is_not_repeated_less_often_than_not_at_all() -> None:
    given = {"x": np.ones((2, 4), np.float32), "times": np.array([2, -2]), "m": np.array(0)}
    for target in ("cpu", "ref"):
        with pytest.raises(EvaluationError):
            migx.parse(text()).compile(target).eval(given)


@pytest.mark.parametrize("changes", [{"trips": "m"}, {"place": "main:m"}], ids=str)
def test_another_loop_stays(changes: dict[str, str]) -> None:
    program, ref = (migx.parse(text(**changes)).compile(target) for target in ("cpu", "ref"))
    assert loops(program)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    given = {"x": x, "times": np.array([1, 3]), "m": np.array(1)}
    (result,), (expected,) = program.eval(given), ref.eval(given)
    assert np.array_equal(result, expected)
