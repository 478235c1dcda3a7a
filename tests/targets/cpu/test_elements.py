"""What native code makes of single elements, next to what numpy does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import migx
from migx.ops.pointwise import Convert
from migx.shape import DType


@pytest.mark.parametrize("dtype", ["f16", "f32", "f64"])
def test_numbers_below_zero_wrap_around_to_u64(dtype: str) -> None:
    text = f"module main(x: {dtype}[6]) {{\n  %0 = convert(x) {{to=u64}}\n  return %0\n}}"
    x = np.array([-1.0, -2.5, -0.5, 0.0, 3.5, 60000.0])
    given = {"x": migx.Argument.of(x, dtype)}
    ref, cpu = (migx.parse(text).compile(t).eval(given)[0].tolist() for t in ("ref", "cpu"))
    assert ref == cpu == [2**64 - 1, 2**64 - 2, 0, 0, 3, 60000]


FAR = [
    *(math.nan, math.inf, -math.inf, -2.5, -0.5, 300.0, -129.0, 70000.0, 3e9, -3e9, 5e9, -5e9),
    *(2.0**31, 2.0**31 - 128, -(2.0**31), 2.0**32, 2.0**63, -(2.0**63), 1.5e19, 2.0**64, 3e19),
    *(-1e19, 1e30, -1e30),
]


def meant(x: float, to: DType) -> int:
    """What an integer type holds of a float: the low bits of what it is in the type it goes
    through.
    """
    bits = 64 if to.bits == 64 or to.name == "u32" else 32
    start = 2**63 if to.name == "u64" and x >= 2.0**63 else 0
    least = -(1 << bits - 1)
    whole = int(x - start) if abs(x - start) < -least else least
    kept = (start + whole) % (1 << to.bits)
    return kept - (1 << to.bits) if to.kind == "int" and kept >> to.bits - 1 else kept


@pytest.mark.parametrize("to", ["i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"])
@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
def test_floats_that_no_integer_of_a_type_is(dtype: str, to: str) -> None:
    """One meaning, whether a number stands alone or among many, is known beforehand or not."""
    with np.errstate(over="ignore"):
        x = migx.Argument.of(np.array(FAR).astype(DType.of(dtype).numpy))
    wanted = [meant(float(v), DType.of(to)) for v in x.array]
    text = f"module main(x: {dtype}[n]) {{\n  %0 = convert(x) {{to={to}}}\n  return %0\n}}"
    for target in ("ref", "cpu"):
        program = migx.parse(text).compile(target)
        assert program.eval({"x": x})[0].tolist() == wanted
        for value, one in zip(x.array, wanted, strict=True):
            assert program.eval({"x": value.reshape(1)})[0].tolist() == [one]
    folded = migx.Program()
    value = folded.main.add_instruction(Convert(DType.of(to)), folded.main.add_literal(x))
    folded.main.add_return(value)
    assert folded.compile("cpu").eval({})[0].tolist() == wanted


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
