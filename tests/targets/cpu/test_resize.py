"""Linear resampling on the cpu: ways of counting, axes and types, against ``ref``."""

from __future__ import annotations

import pytest

from migx.targets.cpu.kernels.resize import COORDINATES, kernel_for
from migx.targets.cpu.machine import host
from tests.targets.cpu.alone import parsed, problem, produced


def program_of(given: str, sizes: str, options: str = "") -> str:
    return f"""
module main(x: {given}) {{
  %0 = resize(x) {{sizes={sizes}, mode="linear"{options}}}
  return %0
}}
"""


@pytest.mark.parametrize("mode", sorted(COORDINATES))
@pytest.mark.parametrize("sizes", ["(1, 2, 9, 40)", "(1, 2, 3, 1)", "(1, 2, 5, 31)"])
def test_ways_of_counting(mode: str, sizes: str) -> None:
    options = f', coordinate_transformation_mode="{mode}"'
    assert not problem(kernel_for, parsed(program_of("f32[1, 2, 5, 17]", sizes, options)))


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_narrow_floats(dtype: str) -> None:
    assert not problem(kernel_for, parsed(program_of(f"{dtype}[5, 17]", "(11, 30)")))


def test_symbols_scales_and_three_axes() -> None:
    given = program_of("f32[n, 4, m]", "(2*n, 6, 70)")
    assert not problem(kernel_for, parsed(given), {"n": 2, "m": 30})
    options = ", scales=(1.0, 1.5, 0.4)"
    given = program_of("f32[2, 4, 10]", "(2, 6, 4)", options)
    assert not problem(kernel_for, parsed(given))


def test_views() -> None:
    text = program_of("f32[17, 9]", "(20, 33)").replace("resize(x)", "resize(%0)")
    text = text.replace("%0 = r", "%1 = r").replace("return %0", "return %1")
    text = text.replace("  %1", "  %0 = transpose(x) {permutation=(1, 0)}\n  %1", 1)
    assert not problem(kernel_for, parsed(text))


@pytest.mark.parametrize(
    ("dtype", "options"), [("u8", ""), ("f32", ", antialias=true"), ("f64", "")]
)
def test_others_are_left(dtype: str, options: str) -> None:
    program = parsed(program_of(f"{dtype}[5, 17]", "(5, 9)", options))
    assert kernel_for(produced(program), host()) is None
