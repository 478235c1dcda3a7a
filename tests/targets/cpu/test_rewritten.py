"""Operations that passes express by others have kernels on the cpu, and give what ``ref`` does."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.argument import Argument
from migx.testing.oracles import Trial
from tests.targets.cpu.alone import random
from tests.targets.cpu.whole import executable

PROGRAMS = {
    "trilu": "main(x: f32[2, n, 9], k: i64[1]) {\n  %0 = trilu(x, k)",
    "onehot": "main(x: i32[n, 3], v: f16[2]) {\n  %0 = onehot(x, v) {axis=1, depth=50}",
    "lrn": "main(x: f16[n, 7, 5]) {\n  %0 = lrn(x) {size=3, beta=0.6}",
    "usual lrn": "main(x: f32[1, 7, n]) {\n  %0 = lrn(x) {size=4, alpha=0.5}",
    "blocks": "main(x: i8[4, n], s: f32[2, n]) {\n  %0 = dequantizelinear(x, s) {axis=0, block=2}",
    "transposed": "main(x: f32[1, 4, n, 5]) {\n"
    '  %0 = @literal() {value=bytes("w", 0, 864), label="w"} : f32[4, 6, 3, 3]\n'
    "  %1 = convolution_backwards(x, %0) "
    "{padding=(1, 1, 1, 1), stride=(2, 2), output_padding=(1, 1)}",
    "spectrum": "main(x: f32[2, 128, n, 1]) {\n  %0 = dft(x) {axis=1, length=128, onesided=true}",
    "signal": "main(x: f16[n, 33, 2]) {\n"
    "  %0 = dft(x) {axis=1, length=64, inverse=true, onesided=true}",
    "offsets": "main(x: f16[n, 8, 7, 9], w: f16[6, 4, 3, 2], o: f16[n, 24, 7, 8], "
    "m: f16[n, 12, 7, 8]) {\n  %0 = deformable_convolution(x, w, o, m) "
    "{padding=(1, 0, 1, 0), group=2, offset_group=2}",
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("n", [1, 6])
def test_no_operation_is_left_to_the_host(name: str, n: int) -> None:
    result = PROGRAMS[name].count(" = ") - 1
    text = f"module {PROGRAMS[name]}\n  return %{result}\n}}\n"
    program = migx.parse(text, draw_missing=1)
    dice = np.random.default_rng(n)
    shapes = {k: p.shape.bind({"n": n}) for k, p in program.main.parameters.items()}
    Trial(program, {k: random(dice, shape) for k, shape in shapes.items()}).target("cpu")
    assert not executable(program.compile("cpu")).fallbacks()


def test_a_response_among_channels_that_may_be_none_is_left_to_the_host() -> None:
    program = migx.parse("module main(x: f32[3, n]) {\n  %0 = lrn(x) {size=1}\n  return %0\n}\n")
    for n in 0, 4:
        x = Argument.of(np.full((3, n), 2.0, np.float32))
        Trial(program.copy(), {"x": x}).target("cpu")


def test_zeros_around_an_image_that_alone_are_seen_cost_nothing() -> None:
    """They become padding, and what of the kernels sees nothing else goes: one by one is left."""
    text = """
module main(x: f32[n, 3, 4, 4], w: f32[5, 3, 3, 3]) {
  %0 = pad(x) {pads=(0, 0, 4, 4, 0, 0, 4, 4)}
  %1 = convolution(%0, w) {dilation=(4, 4)}
  return %1
}
"""
    program = migx.parse(text)
    inputs = {
        k: random(np.random.default_rng(0), p.shape.bind({"n": 2}))
        for k, p in program.main.parameters.items()
    }
    Trial(program, inputs).target("cpu")
    main = program.compile("cpu").compiled.program.main
    assert not any(at.name == "pad" for at in main)
    (made,) = (at for at in main if at.name == "convolution")
    assert made.inputs[1].shape.dims == (5, 3, 1, 1)


def test_a_triangle_beyond_the_greatest_integer() -> None:
    text = "module main(x: f32[3, 4], k: i64[]) {\n  %0 = trilu(x, k) {upper=false}\n  return %0\n}"
    program, x = migx.parse(text).compile("cpu"), np.ones((3, 4), np.float32)
    for k, wanted in ((np.iinfo(np.int64).max, x), (np.iinfo(np.int64).min, np.zeros_like(x))):
        np.testing.assert_array_equal(program.eval({"x": x, "k": np.array(k)})[0], wanted)
