"""What native code makes of single elements, next to what numpy does."""

from __future__ import annotations

from typing import Any

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


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_what_is_converted_to_fewer_bits_is_rounded_there(dtype: str) -> None:
    text = f"""
module main(x: f32[n], y: f64[n]) {{
  %0 = convert(x) {{to={dtype}}}
  %1 = convert(%0) {{to=f32}}
  %2 = sub(x, %1)
  %3 = equal(%1, x)
  %4 = convert(y) {{to={dtype}}}
  %5 = convert(%4) {{to=f32}}
  return %1, %2, %3, %5
}}
"""
    x = np.array([1e5, 1.00001, 3.3, 0.1, -7.7, 65503.9, 1e-7, 4.0], np.float32)
    y = x.astype(np.float64) + 2.0**-11 + 2.0**-40
    given: dict[str, Any] = {"x": x, "y": y}
    ref, cpu = (migx.parse(text).compile(t).eval(given) for t in ("ref", "cpu"))
    for wanted, got in zip(ref, cpu, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert not ref[2][:-1].any()


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
def test_the_sign_of_zero_is_zero_without_one(dtype: str) -> None:
    text = f"module main(x: {dtype}[5]) {{\n  %0 = sign(x)\n  return %0\n}}"
    given = {"x": migx.Argument.of(np.array([-0.0, 0.0, np.nan, -3.0, np.inf]), dtype)}
    for target in ("ref", "cpu"):
        (got,) = migx.parse(text).compile(target).eval(given)
        np.testing.assert_array_equal(got.astype(np.float64), [0, 0, np.nan, -1, 1])
        assert np.signbit(got.astype(np.float64)).tolist() == [False, False, False, True, False], (
            target
        )
