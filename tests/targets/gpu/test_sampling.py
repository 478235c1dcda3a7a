"""Images read at places of a grid on the gpu, and channels normalised by those around."""

from __future__ import annotations

import numpy as np
import pytest

from tests.targets.gpu.on_interpreter import holds


@pytest.mark.parametrize("corners", ["true", "false"])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_grids(mode: str, padding: str, corners: str) -> None:
    attributes = f'mode="{mode}", padding_mode="{padding}", align_corners={corners}'
    grid = np.random.default_rng(4).uniform(-1.5, 1.5, (2, 4, 5, 2)).astype(np.float32)
    for dtype in ("f16", "f32"):
        text = f"module main(x: {dtype}[n, 3, 7, w], g: f32[n, 4, 5, 2]) {{\n"
        text += f" %0 = grid_sample(x, g) {{{attributes}}}\n return %0\n}}"
        holds(text, {"n": 2, "w": 6}, g=grid)


def test_a_volume_and_places_that_are_none() -> None:
    grid = np.random.default_rng(5).uniform(-1, 1, (1, 2, 3, 4, 3))
    grid[0, 0, 0] = [[np.nan] * 3, [np.inf] * 3, [-np.inf] * 3, [1e30] * 3]
    text = "module main(x: f64[1, 2, 3, 4, 5], g: f64[1, 2, 3, 4, 3]) {\n"
    holds(text + " %0 = grid_sample(x, g)\n return %0\n}", g=grid)


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_taps_with_offsets_of_their_own(dtype: str) -> None:
    given = "x: D[n, 8, 7, 9], w: D[6, 4, 3, 2], o: D[n, 24, 7, 8], m: D[n, 12, 7, 8]"
    text = f"module main({given.replace('D', dtype)}) {{\n"
    options = "{padding=(1, 0, 1, 0), group=2, offset_group=2}"
    text += f" %0 = deformable_convolution(x, w, o, m) {options}\n return %0\n}}"
    holds(text, {"n": 2})


@pytest.mark.parametrize("dtype", ["f16", "f32", "f64"])
@pytest.mark.parametrize("size", [1, 4, 5])
def test_local_responses(size: int, dtype: str) -> None:
    text = f"module main(x: {dtype}[n, 7, 5]) {{\n"
    text += f" %0 = lrn(x) {{size={size}, alpha=0.02, bias=1.5}}\n return %0\n}}"
    holds(text, {"n": 3})
