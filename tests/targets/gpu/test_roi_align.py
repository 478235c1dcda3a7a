"""Regions of images on the gpu: bins, samples, modes and types, against ``ref``."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from tests.targets.cpu.test_roi_align import program_of
from tests.targets.gpu.on_interpreter import gpu, holds


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 3])
@pytest.mark.parametrize("half", ["true", "false"])
def test_bins_and_samples(half: str, ratio: int, mode: str) -> None:
    for dims, scale in (("(2, 5)", 0.3), ("(1, 1)", 6.0)):
        options = f'dims={dims}, mode="{mode}", sampling_ratio={ratio}, half_pixel={half}'
        assert holds(program_of(f"{options}, spatial_scale={scale}")) == 1


@pytest.mark.parametrize("x", ["f16[2, 3, 5, 6]", "f64[2, 70, 5, 6]", "f32[2, 1, 1, 1]"])
def test_types_and_sizes(x: str) -> None:
    holds(program_of("dims=(3, 4), spatial_scale=4.0", x))


def test_symbols() -> None:
    for sizes in ({"c": 1, "w": 4}, {"c": 13, "w": 40}, {"c": 0, "w": 3}):
        holds(program_of("dims=(2, 2), spatial_scale=3.0", "f32[2, c, w, 3]"), sizes)


def test_regions_that_are_nowhere_end() -> None:
    program = migx.parse(
        "module main(x: f32[1, 1, 4, 4], r: f32[n, 4], b: i32[n]) {\n"
        "  %0 = roi_align(x, r, b) {dims=(2, 2)}\n  return %0\n}\n"
    ).compile(gpu())
    regions = np.array([[0, 0, np.inf, 1], [0, np.nan, 1, 1], [0, 0, 2, 2]], np.float32)
    x, images = np.ones((1, 1, 4, 4), np.float32), np.array([7, -9, 0], np.int32)
    (found,) = program.eval({"x": x, "r": regions, "b": images})
    assert np.array_equal(found[2, 0], np.ones((2, 2), np.float32))
