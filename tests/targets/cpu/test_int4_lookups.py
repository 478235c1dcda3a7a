"""Lookups in tables of 2 and 4 bits on the cpu: what is picked is unpacked, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import migx
from migx.compiler import compiled
from migx.errors import EvaluationError
from migx.program import Program
from migx.targets.cpu.kernels.int4_unpacking import kernel_for
from migx.targets.cpu.machine import host
from tests.targets.cpu.alone import parsed, problem, produced
from tests.targets.cpu.whole import native

CONTAINERS = {"i4": "i8", "u4": "u8", "i2": "i8", "u2": "u8"}


def literal(label: str, dtype: str, *dims: int) -> str:
    bits = {"f32": 32, "f16": 16}.get(dtype, int(dtype[-1]))
    nbytes = -(-int(np.prod(dims)) * bits // 8)
    shape = ", ".join(map(str, dims))
    return f'@literal() {{value=bytes("{label}", 0, {nbytes}), label="{label}"}} : {dtype}[{shape}]'


def levels(dtype: str, rows: int, width: int, given: str = "i64[n, 3]", kept: int = 0) -> str:
    """Rows of a table, or of its first columns, unpacked and then picked."""
    cut = f"slice(%1) {{axes=(1,), starts=(0,), ends=({kept or width},)}}"
    return f"""
module main(rows: {given}) {{
  %0 = {literal("w", dtype, rows, width)}
  %1 = unpack_int{dtype[1]}(%0)
  %2 = {cut if kept else "reshape(%1) {dims=(" + f"{rows}, {width})}}"}
  %3 = gather(%2, rows)
  return %3
}}
"""


def table(
    dtype: str, dims: tuple[int, int], scales: tuple[int, ...], form: str, zero: bool, axis: int = 0
) -> Program:
    """What a model has: a table dequantised whole, whose rows or columns are then picked."""
    points = f"%3 = {literal('z', dtype, *scales)}\n  %4 = unpack_int{dtype[1]}(%3)"
    given = "%2, %1, %4" if zero else "%2, %1"
    last = 5 if zero else 3
    text = f"""
module main(rows: i64[n, 2]) {{
  %0 = {literal("w", dtype, *dims)}
  %1 = {literal("s", "f32", *scales)}
  %2 = unpack_int{dtype[1]}(%0)
  {points if zero else ""}
  %{last} = dequantizelinear({given}) {{{form}}}
  %{last + 1} = gather(%{last}, rows) {{axis={axis}}}
  return %{last + 1}
}}
"""
    return migx.parse("\n".join(line for line in text.split("\n") if line.strip()), draw_missing=3)


@pytest.mark.parametrize("dtype", CONTAINERS)
@pytest.mark.parametrize(("width", "kept"), [(8, 0), (64, 0), (200, 0), (8, 3), (4, 1)])
def test_rows_are_unpacked_as_they_are_picked(dtype: str, width: int, kept: int) -> None:
    program = parsed(levels(dtype, 120, width, kept=kept), "fuse_int4")
    assert produced(program).op.name == "group"
    for count in (0, 1, 50):
        assert not problem(kernel_for, program, {"n": count})


@pytest.mark.parametrize("given", ["i32[n]", "i8[2, n]", "u8[n, 1]", "i64[]"])
def test_indices_of_any_shape_and_type(given: str) -> None:
    program = parsed(levels("u4", 300, 32, given), "fuse_int4")
    assert not problem(kernel_for, program, {"n": 7})


def test_rows_that_begin_within_a_byte_are_left() -> None:
    program = parsed(levels("i4", 120, 7), "fuse_int4")
    assert kernel_for(produced(program), host()) is None


@pytest.mark.parametrize("index", [-301, 300])
def test_an_index_outside_the_table_is_an_error(index: int) -> None:
    program = migx.parse(levels("u4", 300, 32, "i64[n]"), draw_missing=1).compile("cpu")
    with pytest.raises(EvaluationError, match="outside axis 0 of u8"):
        program.eval({"rows": np.array([1, index])})


FORMS = {
    "one scale": ((), "axis=0"),
    "of rows": ((40,), "axis=0"),
    "of columns": ((64,), "axis=1"),
    "blocks of rows": ((40, 2), "axis=1, block=32"),
    "a short block": ((40, 3), "axis=1, block=24"),
    "one block": ((40, 1), "axis=1, block=64"),
}


@pytest.mark.parametrize("dtype", CONTAINERS)
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_tables_are_scaled_where_they_are_picked(dtype: str, zero: bool, form: str) -> None:
    program = table(dtype, (40, 64), *FORMS[form], zero)
    x = {"rows": np.array([[0, 39], [-1, -40], [7, 7]])}
    (wanted,) = program.copy().compile("ref", passes="").eval(x)
    program.compile("cpu")
    native(program)
    assert not any(at.shape.dims == (40, 64) for at in program.compiled.program.main if at.inputs)
    assert np.array_equal(program.eval(x)[0], wanted)


@pytest.mark.parametrize("form", ["one scale", "of rows", "of columns"])
def test_columns_may_be_picked(form: str) -> None:
    program = table("i4", (40, 64), *FORMS[form], True, axis=1)
    x = {"rows": np.array([[0, 63], [-1, -64]])}
    (wanted,) = program.copy().compile("ref", passes="").eval(x)
    found = compiled(program, "cpu")
    assert not found.fallbacks()
    assert np.array_equal(found.eval(x)[0], wanted)


def test_a_table_that_is_multiplied_with_too() -> None:
    text = f"""
module main(rows: i64[n], x: f32[n, 64]) {{
  %0 = {literal("w", "i4", 40, 64)}
  %1 = {literal("s", "f32", 40, 2)}
  %2 = unpack_int4(%0)
  %3 = dequantizelinear(%2, %1) {{axis=1, block=32}}
  %4 = gather(%3, rows)
  %5 = transpose(%3) {{permutation=(1, 0)}}
  %6 = dot(x, %5)
  return %4, %6
}}
"""
    program = migx.parse(text, draw_missing=2)
    left = np.linspace(-1, 1, 40 * 64, dtype=np.float32).reshape(40, 64)
    x: dict[str, NDArray[Any]] = {"rows": np.arange(40), "x": left}
    wanted = program.copy().compile("ref", passes="").eval(x)
    found = compiled(program, "cpu")
    assert not found.fallbacks()
    got = found.eval(x)
    assert np.array_equal(got[0], wanted[0])
    bound = 64 * float(np.finfo(np.float32).eps) * float((abs(left) @ abs(wanted[0].T)).max())
    np.testing.assert_allclose(got[1], wanted[1], rtol=0, atol=bound)
