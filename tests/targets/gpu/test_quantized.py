"""Networks of bytes on the gpu: products on integers, with what pads, scales and rounds inside."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import migx
from migx.calibration import calibrate
from migx.ops.channels_last import QuantConvolutionChannelsLast
from migx.ops.linear import Convolution, Dot, QuantConvolution, QuantDot
from migx.program import Program
from migx.testing.oracles import Trial
from tests.targets.gpu.on_interpreter import gpu, holds, inputs_for

NETWORK = """
module main(x: f32[n, 3, 9, 9]) {
  %0 = @literal() {value=bytes("a", 0, 1728), label="a"} : f32[16, 3, 3, 3]
  %1 = @literal() {value=bytes("b", 0, 576), label="b"} : f32[16, 1, 3, 3]
  %2 = @literal() {value=bytes("c", 0, 2560), label="c"} : f32[40, 16, 1, 1]
  %3 = @literal() {value=bytes("d", 0, 2240), label="d"} : f32[40, 14]
  %4 = @literal() {value=bytes("e", 0, 64), label="e"} : f32[16]
  %5 = convolution(x, %0) {padding=(1, 1, 1, 1)}
  %6 = broadcast(%4) {axis=1, out_lens=(n, 16, 9, 9)}
  %7 = add(%5, %6)
  %8 = sigmoid(%7)
  %9 = mul(%7, %8)
  %10 = convolution(%9, %1) {padding=(1, 1, 1, 1), stride=(2, 2), group=16}
  %11 = relu(%10)
  %12 = convolution(%11, %2)
  %13 = reduce_mean(%12) {axes=(2, 3)}
  %14 = reshape(%13) {dims=(n, 40)}
  %15 = dot(%14, %3)
  return %15
}
"""


def calibrated() -> Program:
    program = migx.parse(NETWORK, draw_missing=1)
    migx.run_passes(program, "quantize_int8,propagate_constant")
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_normal((2, 3, 9, 9), np.float32)} for _ in range(3)]
    assert calibrate(program, samples, target="ref") == 4
    return program


def test_a_calibrated_network_has_products_of_bytes_alone() -> None:
    program = calibrated()
    Trial(program, inputs_for(program, {"n": 2}, {})).target(gpu())
    assert program.compile(gpu()).compiled.fallbacks() == []
    lowered = program.copy()
    target = gpu()
    pipeline = str(target.get_passes(target.get_context(), migx.target.CompileOptions()))
    migx.run_passes(lowered, pipeline.split(",gpu::lower", maxsplit=1)[0])
    kinds = Counter(type(at.op) for m in lowered.modules.values() for at in m)
    assert (kinds[QuantConvolutionChannelsLast], kinds[QuantDot]) == (3, 1)
    assert not kinds[Convolution] + kinds[QuantConvolution] + kinds[Dot]
    groups = [at for at in lowered.main if at.name == "group"]
    assert len(groups) == 3  # with what they are followed by; the sums of the last are averaged


@pytest.mark.parametrize("signs", [("u8", "i8"), ("i8", "i8"), ("u8", "u8")])
def test_a_convolution_is_padded_with_its_zero_point(signs: tuple[str, str]) -> None:
    x, w = signs
    count = holds(
        f"""module main(x: {x}[n, 5, 9, 8]) {{
          %0 = @literal() {{value=[0.5]}} : f32[1]
          %1 = @literal() {{value=[3]}} : {x}[1]
          %2 = dequantizelinear(x, %0, %1)
          %3 = @literal() {{value=bytes("w", 0, 900), label="w"}} : {w}[20, 5, 3, 3]
          %4 = dequantizelinear(%3, %0)
          %5 = convolution(%2, %4) {{padding=(1, 0, 1, 2), stride=(1, 2)}}
          %6 = relu(%5)
          %7 = @literal() {{value=[90.0]}} : f32[1]
          %8 = quantizelinear(%6, %7) {{to=u8}}
          return %8
        }}""",
        {"n": 2},
    )
    assert count == 1


def test_chains_of_products_of_bytes_have_channels_last() -> None:
    """Also where they are padded with zero points, each in the kernel of its convolution."""
    count = holds(
        """module main(x: u8[n, 5, 9, 8]) {
          %0 = @literal() {value=[0.5]} : f32[1]
          %1 = @literal() {value=[3]} : u8[1]
          %2 = dequantizelinear(x, %0, %1)
          %3 = @literal() {value=bytes("w", 0, 900), label="w"} : i8[20, 5, 3, 3]
          %4 = dequantizelinear(%3, %0)
          %5 = convolution(%2, %4) {padding=(1, 0, 1, 2), stride=(1, 2)}
          %6 = @literal() {value=[90.0]} : f32[1]
          %7 = quantizelinear(%5, %6, %1) {to=u8}
          %8 = dequantizelinear(%7, %6, %1)
          %9 = @literal() {value=bytes("w", 0, 180), label="v"} : i8[20, 1, 3, 3]
          %10 = dequantizelinear(%9, %0)
          %11 = convolution(%8, %10) {padding=(1, 1, 1, 1), group=20}
          %12 = quantizelinear(%11, %6) {to=u8}
          return %12
        }""",
        {"n": 2},
    )
    assert count == 3  # the last is the copy with channels first


def test_sums_in_32_bits_are_dequantised() -> None:
    """With zero points, whose difference may not fit them, and without."""
    x = np.array([2**31 - 1, -(2**31), 2**24 + 1, -7], np.int32)
    holds(
        """module main(x: i32[4], z: i32[4], s: f32[4]) {
          %0 = dequantizelinear(x, s) {axis=0}
          %1 = dequantizelinear(x, s, z) {axis=0}
          return %0, %1
        }""",
        x=x,
        z=-x,
    )
