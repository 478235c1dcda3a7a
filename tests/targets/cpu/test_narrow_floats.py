"""Floats of eight bits in native code: every code read, every rounding made, bytes moved."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx import Argument
from migx.fusion.narrow_floats import FORMATS
from migx.shape import DType
from tests.narrow import codes, edges

NAMES = [dtype.name for dtype in FORMATS]


def agrees(text: str, **given: np.ndarray) -> list[np.ndarray]:
    """The results on cpu, which are those on ref bit for bit but for the bits of NaN, and on cpu
    without the host.
    """
    inputs = {name: Argument.of(value) for name, value in given.items()}
    wanted = migx.parse(text).compile("ref").eval(inputs)
    program = migx.parse(text).compile("cpu")
    found: list[np.ndarray] = program.eval(inputs)
    assert not program.compiled.fallbacks()
    for a, b in zip(wanted, found, strict=True):
        assert a.dtype == b.dtype
        if a.dtype.kind in "fV":
            with np.errstate(invalid="ignore"):  # a NaN that signals
                a, b = (x.astype(np.float64) for x in (a, b))
            assert np.array_equal(np.signbit(a[~np.isnan(a)]), np.signbit(b[~np.isnan(a)]))
        np.testing.assert_array_equal(a, b)
    return found


@pytest.mark.parametrize("name", [*NAMES, "f8e8m0"])
@pytest.mark.parametrize("to", ["f16", "bf16", "f32", "f64", "i32"])
def test_every_code_is_read(name: str, to: str) -> None:
    numbers = codes(name)
    if to == "i32":  # what NaN and infinity are there is another test's
        numbers = numbers[np.isfinite(numbers.astype(np.float32))]
    agrees(f"module main(x: {name}[n]) {{\n %0 = convert(x) {{to={to}}}\n return %0\n}}", x=numbers)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("saturate", ["true", "false"])
@pytest.mark.parametrize("given", ["f16", "bf16", "f32", "f64"])
def test_every_rounding_is_made(name: str, saturate: str, given: str) -> None:
    with np.errstate(over="ignore"):
        values = edges(name, np.float64 if given == "f64" else np.float32).astype(
            DType.of(given).numpy
        )
    text = f"""module main(x: {given}[n]) {{
  %0 = convert(x) {{to={name}, saturate={saturate}}}
  %1 = convert(%0) {{to=f32}}
  return %0, %1
}}"""
    agrees(text, x=values)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("given", ["i8", "u8", "i32", "i64"])
def test_whole_numbers_are_rounded(name: str, given: str) -> None:
    kind = np.iinfo(DType.of(given).numpy)
    values = np.unique(
        np.clip([*range(-600, 600), 2**24 + 1, 57344, 61440, 61441, -(2**31)], kind.min, kind.max)
    )
    text = f"module main(x: {given}[n]) {{\n %0 = convert(x) {{to={name}}}\n return %0\n}}"
    agrees(text, x=np.array(values, kind.dtype))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("saturate", ["true", "false"])
@pytest.mark.parametrize("zero", ["", ", %z"])
@pytest.mark.parametrize("scale", ["f16", "f32", "f64"])
def test_what_is_quantised_is_rounded_in_between(
    name: str, saturate: str, zero: str, scale: str
) -> None:
    text = f"""module main(x: f32[n], y: {scale}[3, n]) {{
  %s = @literal() {{value=[0.37]}} : {scale}[]
  %z = @literal() {{value=[0.5]}} : {name}[]
  %0 = quantizelinear(x, %s{zero}) {{to={name}, saturate={saturate}}}
  %1 = dequantizelinear(%0, %s{zero})
  %2 = multibroadcast(%1) {{out_lens=(3, n)}}
  %3 = mul(%2, y)
  return %1, %3
}}"""
    x = edges(name) * np.float32(0.37)
    agrees(text, x=x, y=np.ones((3, len(x)), DType.of(scale).numpy))


@pytest.mark.parametrize("name", NAMES)
def test_arithmetic_is_rounded_once(name: str) -> None:
    text = f"""module main(x: {name}[256, 1], y: {name}[256]) {{
  %0 = multibroadcast(x) {{out_lens=(256, 256)}}
  %1 = multibroadcast(y) {{out_lens=(256, 256)}}
  %2 = add(%0, %1)
  %3 = mul(%0, %1)
  %4 = max(%0, %1)
  return %2, %3, %4
}}"""
    numbers = codes(name)
    numbers = np.where(np.isfinite(numbers.astype(np.float32)), numbers, numbers[1])
    agrees(text, x=numbers.reshape(256, 1), y=numbers)


@pytest.mark.parametrize("name", [*NAMES, "f8e8m0", "bf16", "f16"])
def test_copies_keep_all_bits(name: str) -> None:
    dtype = DType.of(name)
    many = 2 ** min(dtype.bits, 12)
    x = np.arange(many).astype(f"u{dtype.bits // 8}").reshape(-1, 8, 2).view(dtype.numpy)
    text = f"""module main(x: {name}[{many // 16}, 8, 2]) {{
  %0 = transpose(x) {{permutation=(1, 2, 0)}}
  %1 = contiguous(%0)
  %2 = concat(x, x) {{axis=2}}
  %3 = slice(x) {{axes=(1,), starts=(1,), ends=(6,)}}
  %4 = contiguous(%3)
  return %1, %2, %4
}}"""
    program = migx.parse(text).compile("cpu")
    made = [y.view(f"u{dtype.bits // 8}") for y in program.eval({"x": Argument.of(x)})]
    bits = x.view(f"u{dtype.bits // 8}")
    for wanted, found in zip(
        (bits.transpose(1, 2, 0), np.concatenate([bits, bits], 2), bits[:, 1:6]), made, strict=True
    ):
        np.testing.assert_array_equal(wanted, found)
    assert not program.compiled.fallbacks()
