"""Resampling on the gpu: every way of counting, of rounding and of mixing."""

from __future__ import annotations

import pytest

from migx.ops.resize import COORDINATES, ROUNDINGS
from tests.targets.gpu.on_interpreter import holds


def program(dims: str, sizes: str, attributes: str, dtype: str = "f32") -> str:
    line = f"resize(x) {{sizes=({sizes}), {attributes}}}"
    return f"module main(x: {dtype}[{dims}]) {{\n %0 = {line}\n return %0\n}}"


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("counting", COORDINATES)
def test_every_way_of_counting(counting: str, mode: str) -> None:
    how = f'mode="{mode}", coordinate_transformation_mode="{counting}"'
    if counting == "tf_crop_and_resize":
        how += ", roi=(0., 0., 0.2, -0.3, 1., 1., 0.7, 1.2), extrapolation_value=7."
    holds(program("n, 3, 7, 5", "n, 3, 11, 9", how), {"n": 2})
    holds(program("1, 3, 9, m", "1, 3, 4, m*2", how), {"m": 6})


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("counting", COORDINATES)
def test_the_nearest_of_axes_of_unknown_size(counting: str, rounding: str) -> None:
    how = f'coordinate_transformation_mode="{counting}", nearest_mode="{rounding}"'
    if counting == "tf_crop_and_resize":
        how += ", roi=(0., -0.5, 1., 1.), extrapolation_value=7."
    holds(program("n, m", "n, m*2-1", how, "i8"), {"n": 3, "m": 7})


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("dtype", ["f16", "f64", "u8", "i32"])
def test_element_types(dtype: str, mode: str) -> None:
    how = f'mode="{mode}", scales=(1., 2.5), exclude_outside=true'
    holds(program("n, 8", "n, 20", how, dtype), {"n": 6})


def test_the_nearest_by_a_factor_that_f32_rounds() -> None:
    how = (
        'coordinate_transformation_mode="asymmetric", nearest_mode="floor", '
        "scales=(1., 1.2000000476837158)"
    )
    holds(program("n, m", "n, m*6//5", how), {"n": 2, "m": 20})
