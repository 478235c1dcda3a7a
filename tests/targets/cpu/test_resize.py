"""Linear resampling on the cpu: ways of counting, axes and types, against ``ref``."""

from __future__ import annotations

import pytest

from migx.targets.cpu.kernels.resize import kernel_for
from migx.targets.cpu.machine import host
from migx.targets.cpu.parts.resampling import COORDINATES
from tests.targets.cpu.alone import one, parsed, problem, produced


def program_of(given: str, sizes: str, options: str = "") -> str:
    return one(f"x: {given}", f'resize(x) {{sizes={sizes}, mode="linear"{options}}}')


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


@pytest.mark.parametrize("mode", ["half_pixel", "align_corners", "pytorch_half_pixel"])
@pytest.mark.parametrize("sizes", ["(2, 9, 40)", "(2, 3, 2)", "(2, 5, 31)"])
def test_cubic(mode: str, sizes: str) -> None:
    options = f', coordinate_transformation_mode="{mode}", cubic_coeff_a=-0.5'
    for more in ("", ", exclude_outside=true", ", antialias=true"):
        text = program_of("f32[B, 5, 17]", sizes, options + more).replace("linear", "cubic")
        assert not problem(kernel_for, parsed(text.replace("B", sizes[1])))


@pytest.mark.parametrize("options", [", antialias=true", ", exclude_outside=true"])
@pytest.mark.parametrize("sizes", ["(2, 3)", "(3, 40)", "(12, 9)"])
def test_wide_kernels(sizes: str, options: str) -> None:
    assert not problem(kernel_for, parsed(program_of("f32[11, 33]", sizes, options)))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("dtype", ["u8", "i8", "i32", "u16", "i64", "f64"])
def test_other_types(dtype: str, mode: str) -> None:
    for sizes, options in (("(9, 20)", ""), ("(3, 30)", ", antialias=true")):
        text = program_of(f"{dtype}[5, 17]", sizes, options).replace("linear", mode)
        assert not problem(kernel_for, parsed(text))


def test_symbols_and_taps() -> None:
    text = program_of("f32[n, m]", "(2*n, 70)").replace("linear", "cubic")
    for m in (1, 30):
        assert not problem(kernel_for, parsed(text), {"n": 2, "m": m})
    # How far the kernel of an axis reaches that shrinks by a factor not known, is not known either.
    unknown = program_of("f32[n, 20]", "(5, 30)", ", antialias=true")
    assert kernel_for(produced(parsed(unknown)), host()) is None
    many = program_of("f32[5, 4000]", "(5, 20)", ", antialias=true")
    assert kernel_for(produced(parsed(many)), host()) is None


def test_crops_are_left() -> None:
    options = ', coordinate_transformation_mode="tf_crop_and_resize", roi=(0.0, 0.0, 1.0, 1.0)'
    program = parsed(program_of("f32[5, 17]", "(5, 9)", options))
    assert kernel_for(produced(program), host()) is None
