"""Reductions, softmax and normalisations on the gpu, on rows that do not fill tiles."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.targets.gpu.operations import CodeObject
from migx.targets.gpu.runs.executable import GpuExecutable
from tests.targets.gpu.on_interpreter import gpu, holds

NORM = """module main(x: {t}[n, {d}], g: {t}[{d}]) {{
  %0 = reduce_mean(x) {{axes=(1,)}}
  %1 = multibroadcast(%0) {{out_lens=(n, {d})}}
  %2 = sub(x, %1)
  %3 = mul(%2, %2)
  %4 = reduce_mean(%3) {{axes=(1,)}}
  %5 = rsqrt(%4)
  %6 = multibroadcast(%5) {{out_lens=(n, {d})}}
  %7 = mul(%2, %6)
  %8 = multibroadcast(g) {{out_lens=(n, {d})}}
  %9 = mul(%7, %8)
  return %9, %0
}}"""


@pytest.mark.parametrize("axes", ["(0,)", "(2,)", "(0, 2)", "(1,)", "(0, 1, 2)"])
@pytest.mark.parametrize("dtype", ["f16", "f32", "i8"])
@pytest.mark.parametrize("name", ["reduce_sum", "reduce_max", "reduce_min", "reduce_mean"])
def test_every_axis(name: str, dtype: str, axes: str) -> None:
    text = f"module main(x: {dtype}[n, 7, 33]) {{\n %0 = {name}(x) {{axes={axes}}}\n return %0\n}}"
    holds(text, {"n": 5})


@pytest.mark.parametrize("dtype", ["f16", "f32", "i8", "i64"])
def test_products(dtype: str) -> None:
    for axes in ("(0,)", "(2,)", "(0, 1, 2)"):
        text = f"module main(x: {dtype}[n, 7, 9]) {{\n %0 = reduce_prod(x) {{axes={axes}}}\n"
        holds(text + " return %0\n}", {"n": 5})
    holds(
        "module main(x: f32[n, 2, m]) {\n %0 = reduce_prod(x) {axes=(0, 2)}\n return %0\n}",
        {"n": 5, "m": 33},
    )


@pytest.mark.parametrize("length", [1000, 1500])
def test_rows_side_by_side(length: int) -> None:
    """Long ones are read part by part, and never one by one."""
    text = f"module main(x: f16[{length}, 40]) {{\n %0 = softmax(x) {{axis=0}}\n"
    text += " %1 = reduce_max(x) {axes=(0,)}\n return %0, %1\n}"
    holds(text)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sizes", [(3, 1), (70, 129), (2, 5000)])
def test_rows_of_a_length_that_is_not_known(axis: int, sizes: tuple[int, int]) -> None:
    text = "module main(x: f32[n, m]) {\n %0 = softmax(x) {axis=" + str(axis) + "}\n"
    text += " %1 = reduce_max(%0) {axes=(" + str(axis) + ",)}\n return %0, %1\n}"
    holds(text, dict(zip("nm", sizes, strict=True)))


@pytest.mark.parametrize("length", [20_000, 20_480])
def test_long_rows_are_taken_part_by_part(length: int) -> None:
    text = f"module main(x: f32[2, {length}]) {{\n %0 = softmax(x) {{axis=1}}\n"
    holds(text + " %1 = reduce_mean(x) {axes=(1,)}\n return %0, %1\n}")


SHARE = """module main(x: f32[11, 40]) {
  %0 = exp(x)
  %1 = reduce_max(%0) {axes=(1,)}
  %2 = multibroadcast(%1) {out_lens=(11, 40)}
  %3 = div(%0, %2)
  return %3, %0
}"""


def test_shares_of_powers_hold_at_the_ends_of_the_range() -> None:
    most = np.array([-101, -95, -88, -60, 0, 60, 86, 88.5, np.inf, -np.inf, np.nan])
    holds(SHARE, x=(most[:, None] - np.linspace(0, 2, 40)).astype(np.float32))


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_quotients_that_are_whole_numbers_stay_whole(dtype: str) -> None:
    text = f"module main(x: {dtype}[40, 40]) {{\n %0 = reduce_max(x) {{axes=(1,)}}\n"
    text += " %1 = multibroadcast(%0) {out_lens=(40, 40)}\n %2 = div(x, %1)\n %3 = floor(%2)\n"
    program = migx.parse(text + " return %3\n}").compile(gpu())
    x = np.repeat(np.arange(41, 81)[:, None], 40, 1).astype(migx.DType.known[dtype].numpy)
    assert np.array_equal(program.eval({"x": x})[0], np.ones_like(x))


@pytest.mark.parametrize("name", ["reduce_any", "reduce_all", "reduce_max"])
def test_bools(name: str) -> None:
    holds(
        f"module main(x: bool[n, 40]) {{\n %0 = {name}(x) {{axes=(1,)}}\n return %0\n}}", {"n": 9}
    )


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
def test_a_normalisation_is_one_kernel(dtype: str) -> None:
    holds(NORM.format(t=dtype, d=300), {"n": 5})


def test_nan_and_infinities_go_through_maxima_and_softmax() -> None:
    x = np.zeros((4, 40), np.float32)
    x[0, 3], x[1, 5], x[2] = np.nan, np.inf, -np.inf
    text = "module main(x: f32[4, 40]) {\n %0 = reduce_max(x) {axes=(1,)}\n"
    text += " %1 = softmax(x) {axis=1}\n %2 = reduce_min(x) {axes=(1,)}\n return %0, %1, %2\n}"
    holds(text, x=x)


LONG = {
    "sum": ("f32[1, 300000]", "%0 = reduce_sum(x) {axes=(1,)}", "%0", 2),
    "mean of columns": ("f16[200000, 3]", "%0 = reduce_mean(x) {axes=(0,)}", "%0", 2),
    "integers": ("i32[2, 400001]", "%0 = reduce_max(x) {axes=(1,)}", "%0", 2),
    "any": ("bool[1, 300000]", "%0 = reduce_any(x) {axes=(1,)}", "%0", 2),
    "softmax": ("f32[3, 300000]", "%0 = softmax(x) {axis=1}", "%0", 3),
    "two of them, and what they give": (
        "f32[2, 200000]",
        """%0 = reduce_mean(x) {axes=(1,)}
           %1 = multibroadcast(%0) {out_lens=(2, 200000)}
           %2 = sub(x, %1)
           %3 = mul(%2, %2)
           %4 = reduce_mean(%3) {axes=(1,)}
           %5 = sqrt(%4)""",
        "%2, %4, %5",
        3,
    ),
}


@pytest.mark.parametrize("case", LONG)
def test_few_long_rows_are_shared_by_programs(case: str) -> None:
    shape, lines, results, turns = LONG[case]
    text = f"module main(x: {shape}) {{\n {lines}\n return {results}\n}}"
    assert holds(text) == 1
    executable = migx.parse(text).compile(gpu()).compiled.executable
    assert isinstance(executable, GpuExecutable)
    (op,) = (at.op for m in executable.pieces for at in m if isinstance(at.op, CodeObject))
    assert op.turns == turns
    assert op.grid >= 12
