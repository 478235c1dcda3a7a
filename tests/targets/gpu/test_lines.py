"""Kernels along an axis on the gpu: extremes, running results, and the best by rank."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from tests.targets.gpu.on_interpreter import gpu, holds

DTYPES = ("f16", "f32", "f64", "i8", "u8", "i64")
TIES = np.array([3, 1, np.nan, 3, 1, -np.inf, np.nan, 2, np.inf, 0, -0.0, np.inf], np.float32)


def program(line: str, dims: str, dtype: str = "f32", results: int = 1) -> str:
    made = "%0"
    text = f"module main(x: {dtype}[{dims}]) {{\n %0 = {line}\n"
    if results == 2:
        text += " %1 = get_tuple_elem(%0) {index=0}\n %2 = get_tuple_elem(%0) {index=1}\n"
        made = "%1, %2"
    return text + f" return {made}\n}}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_extremes(name: str, dtype: str) -> None:
    for axis, last in ((0, False), (1, True), (2, False)):
        line = f"{name}(x) {{axis={axis}, select_last_index={str(last).lower()}}}"
        holds(program(line, "n, 7, 33", dtype), {"n": 5})


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sizes", [(1, 1), (70, 130), (2, 2500)])
def test_extremes_of_lines_whose_length_is_not_known(axis: int, sizes: tuple[int, int]) -> None:
    line = f"argmax(x) {{axis={axis}}}"
    holds(program(line, "n, m"), dict(zip("nm", sizes, strict=True)))


@pytest.mark.parametrize("last", ["true", "false"])
@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_extremes_of_equals_of_nan_and_of_infinities(name: str, last: str) -> None:
    x = np.stack([TIES, np.abs(TIES), np.full(12, -np.inf), np.full(12, np.inf), np.zeros(12)])
    x = np.concatenate([x, np.where(np.isnan(x), 1, x), np.full((1, 12), np.nan)])
    line = f"{name}(x) {{axis=1, select_last_index={last}}}"
    holds(program(line, "11, 12"), x=x.astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["prefix_scan_sum", "prefix_scan_prod"])
def test_running_results(name: str, dtype: str) -> None:
    for axis in range(3):
        for mode in ("", ", exclusive=true", ", reverse=true", ", exclusive=true, reverse=true"):
            holds(program(f"{name}(x) {{axis={axis}{mode}}}", "n, 7, 9", dtype), {"n": 5})


@pytest.mark.parametrize("mode", ["", ", exclusive=true, reverse=true"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sizes", [(1, 1), (70, 130), (2, 2500)])
def test_running_results_go_on_from_part_to_part(
    axis: int, sizes: tuple[int, int], mode: str
) -> None:
    line = f"prefix_scan_sum(x) {{axis={axis}{mode}}}"
    holds(program(line, "n, m"), dict(zip("nm", sizes, strict=True)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("largest", ["true", "false"])
def test_the_best_in_order(largest: str, dtype: str) -> None:
    for axis, k, dims in ((0, 2, "n, 7"), (1, 3, "2, 4, n"), (1, 67, "n, 70")):
        line = f"topk(x) {{k={k}, axis={axis}, largest={largest}}}"
        holds(program(line, dims, dtype, results=2), {"n": 3})


@pytest.mark.parametrize("largest", ["true", "false"])
def test_the_best_of_equals_and_of_nan(largest: str) -> None:
    line = f"topk(x) {{k=12, axis=1, largest={largest}}}"
    holds(program(line, "2, 12", results=2), x=np.stack([TIES, TIES[::-1]]))
    holds(program(line.replace("12", "2"), "3, m", results=2), {"m": 70})


@pytest.mark.parametrize("largest", ["true", "false"])
def test_the_best_of_a_long_line_are_of_its_parts(largest: str) -> None:
    text = program(f"topk(x) {{k=3, axis=1, largest={largest}}}", "1, 8400", results=2)
    holds(text, x=np.resize(TIES[:-3], (1, 8400)))
    made = migx.parse(text)
    made.compile(gpu())
    assert [at.name for at in made.compiled.program.main].count("gpu::code_object") > 1
