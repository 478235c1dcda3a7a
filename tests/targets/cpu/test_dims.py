"""What sizes decide on the cpu: lists of dims and ranges; and ranges of another length."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.errors import EvaluationError
from migx.targets.cpu.kernels.dims import kernel_for
from tests.targets.cpu.alone import parsed, problem

NUMBERS = {"i32": "4", "i64": "8", "f32": "4", "f64": "8"}


@pytest.mark.parametrize("dtype", ["i32", "i64"])
def test_dims_become_elements(dtype: str) -> None:
    text = f"""
module main(x: f32[n, m]) {{
  %0 = dim_literal() {{values=(n, m, 2*n + 1), lens=(3,), to={dtype}}} : {dtype}[3]
  return %0
}}
"""
    assert not problem(kernel_for, parsed(text), {"n": 5, "m": 0})


RANGE = """
module main(x: f32[n], a: {0}[], b: {0}[], c: {0}[]) {{
  %0 = dynamic_range(a, b, c) {{count=n}} : {0}[n]
  return %0
}}
"""


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize(
    ("numbers", "count"), [((0, 5, 1), 5), ((7, -4, -3), 4), ((3, 3, 2), 0), ((1, 8, 3), 3)]
)
def test_ranges(dtype: str, numbers: tuple[int, int, int], count: int) -> None:
    program = migx.parse(RANGE.format(dtype))
    program.compile("cpu")
    kind = migx.Shape(dtype, ()).dtype.numpy
    given = {name: np.array(v, kind) for name, v in zip("abc", numbers, strict=True)}
    (got,) = program.eval({"x": np.zeros(count, np.float32), **given})
    np.testing.assert_array_equal(got, np.arange(*numbers, dtype=kind))
    for wrong in (count + 1, count + 2):
        with pytest.raises(EvaluationError, match="another length"):
            program.eval({"x": np.zeros(wrong, np.float32), **given})
    with pytest.raises(EvaluationError, match="another length"):
        program.eval({"x": np.zeros(3, np.float32), **given, "c": np.array(0, kind)})
