"""Scatters on the gpu: updates that repeat, combine in their order, and count from the end."""

from __future__ import annotations

import numpy as np
import pytest

from tests.targets.gpu.on_interpreter import holds

MODES = ("none", "add", "mul", "max", "min")


@pytest.mark.parametrize("dtype", ["f16", "f32", "i8", "u8", "i64"])
@pytest.mark.parametrize("mode", MODES)
def test_along_an_axis(mode: str, dtype: str) -> None:
    for axis, dims, indices in ((0, "n, 7", "9, 7"), (1, "5, 9, m", "n, 30, 3")):
        text = f"module main(x: {dtype}[{dims}], i: i64[{indices}], u: {dtype}[{indices}]) {{\n"
        text += f" %0 = scatter_{mode}(x, i, u) {{axis={axis}}}\n return %0\n}}"
        places = np.random.default_rng(2).integers(-5, 5, (9, 7) if axis == 0 else (5, 30, 3))
        holds(text, {"n": 5, "m": 4}, i=places.astype(np.int64))


@pytest.mark.parametrize("dtype", ["bf16", "f32", "bool", "i32"])
@pytest.mark.parametrize("mode", MODES)
def test_by_tuples(mode: str, dtype: str) -> None:
    if dtype == "bool" and mode != "none":
        return
    dice = np.random.default_rng(3)
    for width, updates in ((1, "m, 2, 3, 4, 5"), (2, "m, 2, 4, 5"), (3, "m, 2")):
        text = f"module main(x: {dtype}[3, n, 4, 5], i: i32[m, 2, {width}], "
        text += f"u: {dtype}[{updates.replace('3', 'n') if width == 1 else updates}]) {{\n"
        text += f" %0 = scatternd_{mode}(x, i, u)\n return %0\n}}"
        if width == 3:
            text = text.replace("u: " + dtype + "[m, 2]", f"u: {dtype}[m, 2, 5]")
        places = dice.integers(-3, 3, (7, 2, width)).astype(np.int32)
        holds(text, {"n": 3, "m": 7}, i=places)


def test_nan_is_the_greatest_and_the_least() -> None:
    x = np.array([1, np.nan, 3, 4], np.float32)
    u = np.array([np.nan, 5, 2, np.nan], np.float32)
    for mode in ("max", "min"):
        text = "module main(x: f32[4], i: i64[4], u: f32[4]) {\n"
        text += f" %0 = scatter_{mode}(x, i, u) {{axis=0}}\n return %0\n}}"
        holds(text, x=x, u=u, i=np.array([0, 1, 2, -1], np.int64))


def test_no_updates_leave_the_data() -> None:
    text = "module main(x: f32[40, 3], i: i64[m, 1], u: f32[m, 3]) {\n"
    holds(text + " %0 = scatternd_add(x, i, u)\n return %0\n}", {"m": 0})


def test_tuples_of_axes_of_one_element() -> None:
    text = "module main(x: f32[1, 1, 40], i: i64[3, 2], u: f32[3, 40]) {\n"
    places = np.array([[0, 0], [-1, 0], [0, -1]], np.int64)
    holds(text + " %0 = scatternd_min(x, i, u)\n return %0\n}", i=places)


@pytest.mark.parametrize("dtype", ["f16", "f32", "i8"])
@pytest.mark.parametrize("mode", MODES)
def test_many_tuples(mode: str, dtype: str) -> None:
    dice = np.random.default_rng(5)
    for dims, width, updates in (
        ((300,), 1, (700,)),  # single elements, in shares of two
        ((20, 3, 4), 2, (9, 12)),  # rows of four, pointed at by a table of tuples
        ((7, 3, 700), 1, (60,)),  # rows that several programs have
        ((1, 5), 1, (40,)),  # all to one row
    ):
        inner = "".join(f", {d}" for d in dims[width:])
        lead = ", ".join(map(str, updates))
        text = f"module main(x: {dtype}[{', '.join(map(str, dims))}], i: i64[{lead}, {width}], "
        text += f"u: {dtype}[{lead}{inner}]) {{\n %0 = scatternd_{mode}(x, i, u)\n return %0\n}}"
        axes = [dice.integers(-dims[axis], dims[axis], updates) for axis in range(width)]
        holds(text, i=np.stack(axes, -1))


def test_tuples_of_unknown_number_into_a_view() -> None:
    text = """
module main(x: f32[4, n, m], i: i32[k, 1], u: f32[k, n, 4]) {
  %0 = relu(x)
  %1 = transpose(%0) {permutation=(2, 1, 0)}
  %2 = scatternd_add(%1, i, u)
  return %2
}"""
    dice = np.random.default_rng(6)
    for count, rows in ((0, 3), (1, 1), (50, 40), (1100, 3)):
        places = dice.integers(-rows, rows, (count, 1)).astype(np.int32)
        holds(text, {"n": 5, "m": rows, "k": count}, i=places)
