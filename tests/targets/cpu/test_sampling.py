"""Images read between their elements on the cpu: modes, paddings, types and layouts, against
``ref``.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import migx
from migx.errors import EvaluationError
from migx.ops.vision import MODES, PADDINGS
from migx.targets.cpu.kernels.sampling import kernel_for
from migx.targets.cpu.machine import host
from tests.targets.cpu.alone import one, parsed, problem, produced

WAYS = [*itertools.product(MODES, PADDINGS)]


def program_of(x: str, grid: str, options: str = "") -> str:
    return one(f"x: {x}, g: {grid}", f"grid_sample(x, g) {{{options}}}")


@pytest.mark.parametrize(("mode", "padding"), WAYS)
@pytest.mark.parametrize("aligned", ["true", "false"])
def test_modes_and_paddings(mode: str, padding: str, aligned: str) -> None:
    options = f'mode="{mode}", padding_mode="{padding}", align_corners={aligned}'
    for grid in ("f32[2, 5, 7, 2]", "f32[2, 1, 33, 2]"):
        assert not problem(kernel_for, parsed(program_of("f32[2, 3, 9, 11]", grid, options)))


@pytest.mark.parametrize("x", ["f16[1, 2, 6, 7]", "bf16[1, 2, 6, 7]", "f64[1, 2, 6, 7]"])
@pytest.mark.parametrize("grid", ["f16[1, 4, 5, 2]", "f32[1, 4, 5, 2]"])
def test_types(x: str, grid: str) -> None:
    assert not problem(kernel_for, parsed(program_of(x, grid)))


@pytest.mark.parametrize(
    ("x", "grid"),
    [
        ("f32[2, 3, 9]", "f32[2, 40, 1]"),
        ("f32[2, 3, 4, 5, 6]", "f32[2, 2, 3, 9, 3]"),
        ("f32[1, 1, 1, 1]", "f32[1, 3, 3, 2]"),
        ("f32[0, 2, 3, 3]", "f32[0, 3, 3, 2]"),
        ("f32[2, 0, 3, 3]", "f32[2, 3, 3, 2]"),
        ("f32[2, 2, 0, 3]", "f32[2, 0, 3, 2]"),
    ],
)
@pytest.mark.parametrize("padding", PADDINGS)
def test_axes(x: str, grid: str, padding: str) -> None:
    text = program_of(x, grid, f'padding_mode="{padding}", align_corners=true')
    assert not problem(kernel_for, parsed(text))


@pytest.mark.parametrize("sizes", [(1, 2, 3), (2, 200, 1), (0, 3, 4), (2, 5, 0)])
def test_symbols(sizes: tuple[int, int, int]) -> None:
    text = program_of("f32[n, c, 8, 9]", "f32[n, 3, p, 2]")
    assert not problem(kernel_for, parsed(text), dict(zip("ncp", sizes, strict=True)))


def test_views() -> None:
    lines = [
        "%0 = transpose(x) {permutation=(0, 3, 2, 1)}",
        "%1 = transpose(g) {permutation=(0, 3, 1, 2)}",
        "%2 = grid_sample(%0, %1)",
        "return %2",
    ]
    text = "module main(x: f32[2, 9, 8, 3], g: f32[2, 5, 2, 6]) {\n" + "\n".join(lines) + "\n}\n"
    assert not problem(kernel_for, parsed(text))


@pytest.mark.parametrize(("mode", "padding"), WAYS)
def test_places_far_outside_and_nowhere(mode: str, padding: str) -> None:
    options = f'mode="{mode}", padding_mode="{padding}"'
    program = parsed(program_of("f32[1, 2, 4, 4]", "f32[1, 1, 20, 2]", options))
    expected = program.copy()
    grid = np.linspace(-30, 30, 40, dtype=np.float32).reshape(1, 1, 20, 2)
    grid[0, 0, :3, 0] = np.nan, np.inf, -np.inf
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)
    program.compile("cpu")
    expected.compile("ref")
    got, wanted = (p.eval({"x": x, "g": grid})[0] for p in (program, expected))
    # A place 120 elements away is rounded by 2**-17 of one; slopes of cubics are below 9 here.
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2**-13)


def test_an_image_of_no_elements_has_none_to_give() -> None:
    program = migx.parse(program_of("f32[1, 2, n, 4]", "f32[1, 1, 3, 2]"))
    program.compile("cpu")
    with pytest.raises(EvaluationError, match="no elements"):
        program.eval(
            {"x": np.zeros((1, 2, 0, 4), np.float32), "g": np.zeros((1, 1, 3, 2), np.float32)}
        )


def test_what_is_left() -> None:
    for x, grid, options in (
        ("i32[1, 1, 4, 4]", "f32[1, 3, 3, 2]", ""),
        ("f32[1, 1, 4, 4, 4, 4]", "f32[1, 3, 3, 3, 3, 4]", 'mode="cubic"'),
    ):
        at = produced(parsed(program_of(x, grid, options)))
        assert kernel_for(at, host()) is None
