"""What native code makes of single elements, next to what numpy does."""

from __future__ import annotations

import numpy as np
import pytest

import migx


@pytest.mark.parametrize("dtype", ["f16", "f32", "f64"])
def test_numbers_below_zero_wrap_around_to_u64(dtype: str) -> None:
    text = f"module main(x: {dtype}[6]) {{\n  %0 = convert(x) {{to=u64}}\n  return %0\n}}"
    x = np.array([-1.0, -2.5, -0.5, 0.0, 3.5, 60000.0])
    given = {"x": migx.Argument.of(x, dtype)}
    ref, cpu = (migx.parse(text).compile(t).eval(given)[0].tolist() for t in ("ref", "cpu"))
    assert ref == cpu == [2**64 - 1, 2**64 - 2, 0, 0, 3, 60000]
