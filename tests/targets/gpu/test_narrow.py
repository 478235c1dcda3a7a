"""Floats of eight bits on the gpu target: every code read, every rounding made, bytes moved."""

from __future__ import annotations

import numpy as np
import pytest

from migx.fusion.narrow_floats import FORMATS
from migx.shape import DType
from tests.narrow import codes, edges
from tests.targets.gpu.on_interpreter import holds

NAMES = [dtype.name for dtype in FORMATS]


@pytest.mark.parametrize("name", [*NAMES, "f8e8m0"])
@pytest.mark.parametrize("wide", ["f16", "f32"])
def test_every_code_is_read(name: str, wide: str) -> None:
    holds(
        f"module main(x: {name}[256]) {{\n %0 = convert(x) {{to={wide}}}\n return %0\n}}",
        x=codes(name),
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("saturate", ["true", "false"])
def test_every_rounding_is_made(name: str, saturate: str) -> None:
    values = edges(name)
    text = f"""module main(x: f32[{len(values)}]) {{
  %0 = convert(x) {{to={name}, saturate={saturate}}}
  %1 = convert(%0) {{to=f32}}
  return %0, %1
}}"""
    holds(text, x=values)


@pytest.mark.parametrize("name", ["f8e4m3fn", "f8e5m2"])
def test_products_of_scaled_weights(name: str) -> None:
    dice = np.random.default_rng(0)
    weights = dice.standard_normal((33, 20)).astype(DType.of(name).numpy)
    text = f"""module main(x: f16[n, 33], w: {name}[33, 20], s: f16[20]) {{
  %0 = dequantizelinear(w, s) {{axis=1}}
  %1 = dot(x, %0)
  return %1
}}"""
    holds(text, {"n": 3}, w=weights)


@pytest.mark.parametrize("name", ["f8e4m3fn", "f8e5m2fnuz"])
def test_what_is_quantised(name: str) -> None:
    text = f"""module main(x: f32[n, 9], s: f32[9], z: {name}[9]) {{
  %0 = quantizelinear(x, s, z) {{axis=1, to={name}}}
  %1 = dequantizelinear(%0, s, z) {{axis=1}}
  return %0, %1
}}"""
    zero = np.zeros(9, DType.of(name).numpy)
    holds(text, {"n": 21}, s=np.full(9, 0.125, np.float32), z=zero)


def test_bytes_are_moved_as_they_are() -> None:
    text = """module main(x: f8e4m3fn[16, 16], i: i64[3]) {
  %0 = gather(x, i) {axis=0}
  %1 = concat(%0, x) {axis=0}
  %2 = transpose(%1) {permutation=(1, 0)}
  %3 = pad(%2) {pads=(1, 0, 2, 0)}
  return %3
}"""
    holds(text, x=codes("f8e4m3fn").reshape(16, 16), i=np.array([3, -1, 0]))


@pytest.mark.parametrize(
    ("given", "to"),
    [("f32", "i32"), ("i64", "f64"), ("i8", "u8"), ("f16", "i16"), ("u32", "f32"), ("bool", "u8")],
)
def test_bits_are_read_as_another_type(given: str, to: str) -> None:
    holds(
        f"module main(x: {given}[7, n]) {{\n %0 = bit_cast(x) {{to={to}}}\n return %0\n}}", {"n": 5}
    )


UNPACKED = {"i2": "unpack_int2", "u2": "unpack_int2", "f4": "unpack_fp4"}


@pytest.mark.parametrize("name", UNPACKED)
def test_bits_in_bytes_are_read(name: str) -> None:
    holds(f"module main(x: {name}[5, 27]) {{\n %0 = {UNPACKED[name]}(x)\n return %0\n}}")


@pytest.mark.parametrize(("name", "lies"), [("i8", "[9, 3]"), ("u8", "[3, 9]")])
def test_bits_along_an_axis_are_read(name: str, lies: str) -> None:
    axis = 1 if lies == "[9, 3]" else 0
    how = f"{{axis={axis}, length=11}}"
    holds(f"module main(x: {name}{lies}) {{\n %0 = unpack_int2(x) {how}\n return %0\n}}")


@pytest.mark.parametrize("name", UNPACKED)
def test_products_with_packed_weights(name: str) -> None:
    block = "{axis=0, block=16}"
    text = f"""module main(x: f32[n, 64], w: {name}[64, 12], s: f32[4, 12]) {{
  %0 = {UNPACKED[name]}(w)
  %1 = dequantizelinear(%0, s) {block}
  %2 = dot(x, %1)
  return %2
}}"""
    holds(text if name != "f4" else SCALED, {"n": 3})


SCALED = """module main(x: f32[n, 64], w: f4[64, 12], s: f32[1, 12]) {
  %0 = unpack_fp4(w)
  %1 = multibroadcast(s) {out_lens=(64, 12)}
  %2 = mul(%0, %1)
  %3 = dot(x, %2)
  return %3
}"""
