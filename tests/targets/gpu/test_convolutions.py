"""Convolutions and pooling on the gpu: strides, dilations, padding, groups, ranks and types."""

from __future__ import annotations

import re

import pytest

import migx
from migx.target import CompileOptions
from migx.targets.gpu import tiles
from migx.targets.gpu.kernels import kernel_for
from migx.targets.gpu.operations import CodeObject
from tests.targets.gpu.on_interpreter import gpu, holds

CASES = {
    "3x3": ("5, 13, 11", "20, 5, 3, 3", (1, 1, 1, 1), (1, 1), (1, 1), 1),
    "uneven": ("5, 13, 11", "20, 5, 3, 3", (1, 0, 1, 2), (2, 1), (1, 2), 1),
    "depthwise": ("8, 13, 11", "8, 1, 3, 3", (1, 1, 1, 1), (2, 2), (1, 1), 8),
    "groups": ("8, 13, 11", "32, 4, 3, 3", (0, 0, 0, 0), (1, 1), (1, 1), 2),
    "one axis": ("8, 13", "32, 8, 3", (1, 1), (1,), (1,), 1),
    "1x1": ("8, 13, 9", "32, 8, 1, 1", (0, 0, 0, 0), (1, 1), (1, 1), 1),
    "three axes": ("3, 5, 6, 7", "17, 3, 2, 2, 2", (1, 0, 1, 0, 1, 1), (1, 2, 1), (1, 1, 1), 1),
    "one pixel": ("1, 1, 1", "3, 1, 1, 1", (0, 0, 0, 0), (1, 1), (1, 1), 1),
}

BESIDE = {
    "few of many": ("8, 13, 9", "3, 8, 3, 3", (0, 0, 0, 0), (1, 1), (1, 1), 1),
    "a channel each": ("5, 13, 11", "10, 1, 3, 3", (1, 1, 1, 1), (2, 2), (1, 1), 5),
    "uneven groups": ("6, 13, 11", "9, 2, 3, 3", (1, 1, 1, 1), (2, 2), (1, 1), 3),
}
"""Groups of few outputs, whose channels lie beside those of others."""


@pytest.mark.parametrize("dtype", ["f16", "f32", "f64"])
@pytest.mark.parametrize("case", CASES)
def test_convolutions(case: str, dtype: str) -> None:
    x, w, padding, stride, dilation, group = CASES[case]
    holds(
        f"module main(x: {dtype}[n, {x}], w: {dtype}[{w}]) {{\n %0 = convolution(x, w) "
        f"{{padding={padding}, stride={stride}, dilation={dilation}, group={group}}}\n"
        " return %0\n}",
        {"n": 2},
    )


def of_channels_last(case: str, image: str, filters: str, op: str, ends: str) -> str:
    """A convolution of a case with channels last, of an image and filters of these types."""
    x, w, padding, stride, dilation, group = (CASES | BESIDE)[case]
    seen, (outputs, *taps) = x.split(", "), w.split(", ")
    x, w = (", ".join([*spatial, channels]) for channels, *spatial in (seen, taps))
    return (
        f"module main(x: {image}[n, {x}], w: {filters}[{outputs}, {w}]) {{\n"
        f" %0 = {op}(x, w) {{padding={padding}, stride={stride}, "
        f"dilation={dilation}, group={group}}}\n{ends}\n}}"
    )


@pytest.mark.parametrize("dtype", ["f16", "f32", "f64"])
@pytest.mark.parametrize("case", [*CASES, "few of many", "a channel each", "uneven groups"])
def test_convolutions_of_channels_last(case: str, dtype: str) -> None:
    ends = " %1 = relu(%0)\n return %1"
    holds(of_channels_last(case, dtype, dtype, "convolution_channels_last", ends), {"n": 2})


@pytest.mark.parametrize("signs", [("u8", "i8"), ("i8", "u8"), ("u8", "u8")])
@pytest.mark.parametrize("case", [*CASES, "few of many", "a channel each", "uneven groups"])
def test_convolutions_of_bytes_with_channels_last(case: str, signs: tuple[str, str]) -> None:
    holds(of_channels_last(case, *signs, "quant_convolution_channels_last", " return %0"), {"n": 2})


def test_chains_of_convolutions_have_channels_last_within() -> None:
    """Also what pools, slices, pads and resamples between them: copies are at both ends alone."""
    text = """module main(x: f32[n, 16, 8, 6], w: f32[32, 16, 3, 3], v: f32[16, 1, 3, 3],
                           u: f32[7, 16, 3, 3]) {
      %0 = convolution(x, w) {padding=(1, 1, 1, 1)}
      %1 = relu(%0)
      %2 = pooling(%1) {mode="max", lengths=(3, 2), stride=(2, 2), padding=(1, 0, 1, 0)}
      %3 = slice(%2) {axes=(1, 2), starts=(16, 0), ends=(32, 3)}
      %4 = pad(%3) {pads=(0, 0, 1, 0, 0, 0, 0, 2)}
      %5 = convolution(%4, v) {padding=(1, 1, 1, 1), group=16}
      %6 = resize(%5) {sizes=(n, 16, 8, 5), scales=(1.0, 1.0, 2.0, 1.0)}
      %7 = convolution(%6, u) {padding=(1, 1, 1, 1)}
      return %7
    }"""
    holds(text, {"n": 2})
    program = migx.parse(text)
    migx.run_passes(program, gpu().get_passes(gpu().get_context(), CompileOptions()))
    kernels = [at.op.kernel for at in program.main if isinstance(at.op, CodeObject)]
    assert sum("convolution_channels_last" in kernel for kernel in kernels) == 3
    assert kernels.count("contiguous") == 2


@pytest.mark.parametrize("mode", ["max", "average", "lpnorm"])
def test_windows_of_one_channel_take_as_many_as_a_load(mode: str) -> None:
    holds(
        f"""module main(x: f16[n, 1, 9, 7, 12]) {{
          %0 = pooling(x) {{mode="{mode}", lengths=(3, 2, 1), stride=(2, 1, 1),
                            padding=(1, 0, 0, 1, 1, 0), dilation=(1, 1, 1)}}
          return %0
        }}""",
        {"n": 2},
    )


def test_bias_residual_and_activation_are_in_the_kernel() -> None:
    holds(
        """module main(x: f32[n, 5, 13, 11], w: f32[20, 5, 3, 3], b: f32[20],
                       r: f32[n, 20, 13, 11]) {
          %0 = convolution(x, w) {padding=(1, 1, 1, 1)}
          %1 = broadcast(b) {axis=1, out_lens=(n, 20, 13, 11)}
          %2 = add(%0, %1)
          %3 = add(%2, r)
          %4 = relu(%3)
          return %4
        }""",
        {"n": 2},
    )


BY_TAP = """module main(x: {kind}[n, 64, 9, 7]) {{
  %0 = @literal() {{value=bytes("absent.bin", 0, {size}), label="w", replaceable={replaceable}}}
    : {of}[40, {channels}, 3, 2]
  %1 = {name}(x, %0) {{padding=(1, 0, 1, 1), stride=(2, 1), dilation=(1, 2), group={group}}}
  return %1
}}"""


@pytest.mark.parametrize("replaceable", ["true", "false"])
@pytest.mark.parametrize(
    ("kind", "of", "group"), [("f16", "f16", 1), ("f32", "f32", 2), ("u8", "i8", 1)]
)
def test_channels_of_a_tap_are_read_together(
    kind: str, of: str, group: int, replaceable: str
) -> None:
    channels, name = 64 // group, "quant_convolution" if of == "i8" else "convolution"
    size = 40 * channels * 6 * {"f16": 2, "f32": 4, "i8": 1}[of]
    text = BY_TAP.format(**locals())
    assert holds(text, {"n": 2}) == 1
    program = migx.parse(text, draw_missing=1)
    passes = gpu().get_passes(gpu().get_context(), CompileOptions())
    migx.run_passes(program, passes)
    (op,) = (at.op for at in program.main if isinstance(at.op, CodeObject))
    (loop,) = re.findall(r"    for (.*\n(?:        .*\n)*)", op.source)
    assert "[:, None] % " not in loop
    assert loop.count(" // ") == 2, "what is divided is the same for all of a step"


def test_taps_one_by_one_are_read_ahead_by_enough_programs() -> None:
    text = """module main(x: f32[1, 32, 20, 20], w: f32[1, 32, 7, 3]) {
      %0 = convolution(x, w) {padding=(3, 1, 3, 1)}
      return %0
    }"""
    (made,) = (at for at in migx.parse(text).main if at.op.name == "convolution")
    kernel = kernel_for(made)
    assert kernel is not None
    assert f"loop_unroll_factor={tiles.AHEAD}" in kernel.op.source
    assert kernel.op.turns == 2
    assert kernel.op.grid >= 16
    holds(text)


def test_levels_are_multiplied_without_being_written_out() -> None:
    holds(
        """module main(x: u8[n, 5, 9, 9], w: i8[20, 5, 3, 3]) {
          %0 = @literal() {value=[0.5]} : f32[1]
          %1 = @literal() {value=[3]} : u8[1]
          %2 = dequantizelinear(x, %0, %1)
          %3 = dequantizelinear(w, %0)
          %4 = convolution(%2, %3) {padding=(1, 1, 1, 1)}
          return %4
        }""",
        {"n": 2},
    )
    holds(
        "module main(x: u8[n, 5, 9, 9], w: i8[20, 5, 3, 3]) "
        "{\n %0 = quant_convolution(x, w) {padding=(1, 1, 1, 1)}\n return %0\n}",
        {"n": 2},
    )


@pytest.mark.parametrize("more", ["", ", ceil_mode=true", ", count_include_pad=true"])
@pytest.mark.parametrize("mode", ["max", "average", "lpnorm"])
@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_pooling(dtype: str, mode: str, more: str) -> None:
    holds(
        f"module main(x: {dtype}[n, 3, 13, 11]) {{\n %0 = pooling(x) "
        f'{{mode="{mode}", lengths=(3, 2), padding=(1, 0, 1, 1), stride=(2, 1){more}}}\n'
        " return %0\n}",
        {"n": 2},
    )


def test_large_windows_are_read_ahead() -> None:
    text = 'module main(x: f32[n, 2, 9, 8]) {\n %0 = pooling(x) {mode="average", lengths=(7, 5), '
    text += "stride=(1, 1), padding=(0, 0, 0, 0)}\n return %0\n}"
    (made,) = (at for at in migx.parse(text).main if at.op.name == "pooling")
    kernel = kernel_for(made)
    assert kernel is not None
    assert f"loop_unroll_factor={tiles.AHEAD}" in kernel.op.source
    holds(text, {"n": 2})


def test_the_sum_of_magnitudes_of_windows() -> None:
    window = "lengths=(3,), padding=(1, 1), stride=(2,), dilation=(1,)"
    how = f'{{mode="lpnorm", lp_order=1, {window}}}'
    holds(f"module main(x: f32[2, 3, 13]) {{\n %0 = pooling(x) {how}\n return %0\n}}")


def test_what_is_beside_an_image_of_one_column_is_not_read() -> None:
    text = """module main(x: f32[1, 1, 10, 1], w: f32[16, 1, 1, 3]) {
      %0 = convolution(x, w) {padding=(1, 1, 1, 1), stride=(1, 1), dilation=(1, 1), group=1}
      return %0
    }"""
    (at,) = migx.parse(text).main.outputs
    kernel = kernel_for(at)
    assert kernel is not None
    reads = [line for line in kernel.op.source.splitlines() if "tl.load(p0" in line]
    assert reads
    assert all("mask=" in line for line in reads)
    holds(text)


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_what_is_beside_the_only_window_is_not_read(dtype: str) -> None:
    holds(
        f"module main(x: {dtype}[1, 1, 2], w: {dtype}[2, 1, 3]) {{\n %0 = convolution(x, w) "
        "{padding=(2, 1), stride=(2,), dilation=(2,)}\n return %0\n}"
    )
    holds(
        f"module main(x: {dtype}[1, 2, 2, 2], w: {dtype}[2, 2, 3, 3]) {{\n %0 = convolution(x, w) "
        "{padding=(2, 2, 1, 1), stride=(2, 2), dilation=(2, 2)}\n return %0\n}"
    )
