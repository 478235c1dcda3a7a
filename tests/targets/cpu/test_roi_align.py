"""Means of regions of images on the cpu: bins, samples, types and sizes, against ``ref``."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.errors import EvaluationError
from migx.targets.cpu.kernels.roi_align import kernel_for
from migx.targets.cpu.machine import host
from tests.targets.cpu.alone import parsed, problem, produced


def program_of(options: str, x: str = "f32[2, 3, 9, 11]", regions: int = 5) -> str:
    images = ", ".join(str(i % 2) for i in range(regions))
    return f"""
module main(x: {x}, r: {x.partition("[")[0]}[{regions}, 4]) {{
  %0 = @literal() {{value=[{images}]}} : i64[{regions}]
  %1 = roi_align(x, r, %0) {{{options}}}
  return %1
}}
"""


@pytest.mark.parametrize("dims", ["(7, 7)", "(1, 1)", "(2, 21)"])
@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize("half", ["true", "false"])
def test_bins_and_samples(dims: str, ratio: int, half: str) -> None:
    for scale in (0.3, 6.0):
        options = f"dims={dims}, sampling_ratio={ratio}, half_pixel={half}, spatial_scale={scale}"
        assert not problem(kernel_for, parsed(program_of(options)))


@pytest.mark.parametrize(
    "x", ["f16[2, 3, 5, 6]", "bf16[2, 3, 5, 6]", "f64[2, 70, 5, 6]", "f32[2, 1, 1, 1]"]
)
def test_types_and_sizes(x: str) -> None:
    assert not problem(kernel_for, parsed(program_of("dims=(3, 4), spatial_scale=4.0", x)))


@pytest.mark.parametrize("sizes", [(1, 4), (130, 40), (0, 3)])
def test_symbols(sizes: tuple[int, int]) -> None:
    text = program_of("dims=(2, 2), spatial_scale=3.0", "f32[2, c, w, 3]")
    assert not problem(kernel_for, parsed(text), dict(zip("cw", sizes, strict=True)))


def test_views() -> None:
    text = program_of("dims=(3, 3), spatial_scale=4.0", "f32[2, 7, 8, 5]")
    text = (
        text.replace("roi_align(x", "roi_align(%t")
        .replace("%1", "%2")
        .replace("  %2 =", "  %1 = transpose(x) {permutation=(0, 3, 1, 2)}\n  %2 =", 1)
    )
    assert not problem(kernel_for, parsed(text.replace("%t", "%1")))


def test_faults() -> None:
    program = migx.parse(
        "module main(x: f32[1, 1, n, 4], r: f32[1, 4], b: i32[1]) {\n"
        "  %0 = roi_align(x, r, b) {dims=(2, 2)}\n  return %0\n}\n"
    )
    program.compile("cpu")
    good = {
        "x": np.zeros((1, 1, 4, 4), np.float32),
        "r": np.ones((1, 4), np.float32),
        "b": np.zeros(1, np.int32),
    }
    program.eval(good)
    for name, value in (
        ("b", np.ones(1, np.int32)),
        ("b", -np.ones(1, np.int32)),
        ("r", np.array([[0, 0, np.inf, 1]], np.float32)),
        ("r", np.array([[0, np.nan, 1, 1]], np.float32)),
        ("x", np.zeros((1, 1, 0, 4), np.float32)),
    ):
        with pytest.raises(EvaluationError, match="no image"):
            program.eval({**good, name: value})


def test_maxima_are_left() -> None:
    program = parsed(program_of('mode="max"'))
    assert kernel_for(produced(program), host()) is None
