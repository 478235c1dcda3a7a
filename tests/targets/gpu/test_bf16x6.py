"""Products of f32 as six products of bf16: how far off, where not finite, and for which GPUs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import migx
from migx.target import CompileOptions
from migx.targets.gpu import Gpu
from migx.targets.gpu.architectures import ARCHITECTURES
from migx.targets.gpu.arithmetic import DEEP
from migx.targets.gpu.code.compiling import Request
from migx.targets.gpu.operations import CodeObject
from tests.targets.gpu.on_interpreter import gpu, holds

F32 = NDArray[np.float32]
ROUNDOFF = 2.0**-24
LEFT_OUT = 4
"""The units of roundoff that the products left out are at most, relative to the product."""
SMALLEST = 2.0**-134
"""Half the smallest bf16 above 0: what an element that small loses."""


def dot(rows: int | str, depth: int | str, columns: int) -> str:
    dims = f"x: f32[{rows}, {depth}], y: f32[{depth}, {columns}]"
    return f"module main({dims}) {{\n  %0 = dot(x, y)\n  return %0\n}}"


def multiplied(x: F32, y: F32) -> NDArray[np.float64]:
    """The product, by the kernel for a GPU that multiplies so."""
    program = migx.parse(dot(x.shape[0], x.shape[1], y.shape[1]))
    (found,) = program.compile(gpu("sm_90")).eval({"x": x, "y": y})
    return np.asarray(found).astype(np.float64)


def drawn(dice: np.random.Generator, dims: tuple[int, int], low: int, high: int) -> F32:
    """Numbers of many magnitudes, from 2**low to 2**high."""
    return np.ldexp(dice.uniform(-1, 1, dims), dice.integers(low, high, dims)).astype(np.float32)


@settings(max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([DEEP, 77, 200]),
    st.sampled_from([(0, 1), (-20, 20), (-125, -90), (90, 125)]),
)
def test_it_is_no_further_off_than_sums_of_f32_may_be(
    seed: int, depth: int, magnitudes: tuple[int, int]
) -> None:
    """Also near the ends of the range, where parts of an element are lost."""
    dice, (low, high) = np.random.default_rng(seed), magnitudes
    x = drawn(dice, (20, depth), low, high)
    y = drawn(dice, (depth, 40), -high, -low)
    wide, other = x.astype(np.float64), y.astype(np.float64)
    sizes = np.abs(wide) @ np.abs(other)
    lost = np.abs(wide).sum(axis=1)[:, None] + np.abs(other).sum(axis=0)
    allowed = (depth + LEFT_OUT) * ROUNDOFF * sizes + 2 * SMALLEST * lost
    off = np.abs(multiplied(x, y) - wide @ other)
    assert (off <= allowed * (1 + 1e-6)).all()


def test_a_product_is_as_exact_as_one_of_f32() -> None:
    """Of numbers of one sign, where errors add up: no error is larger than one rounding."""
    dice = np.random.default_rng(5)
    x, y = (np.abs(drawn(dice, dims, 0, 1)) for dims in ((64, 64), (64, 64)))
    exact = x.astype(np.float64) @ y.astype(np.float64)
    assert np.abs(multiplied(x, y) / exact - 1).max() < 4 * ROUNDOFF


def test_small_products_may_overflow_where_the_large_ones_cancel() -> None:
    """The large products of each two terms are opposite numbers."""
    depth = 16384
    x, y = (np.full(dims, 2.0**61, np.float32) for dims in ((5, depth), (depth, 16)))
    x[:, ::2] *= -2.0 * (1.0 + 2.0**-7 - 2.0**-14)
    x[:, 1::2] *= 2.0
    program = migx.parse(dot("n", depth, 16))
    (found,) = program.compile(gpu("sm_90")).eval({"x": x, "y": y})
    assert (np.asarray(found) == -np.inf).all()


def lowered(text: str, *archs: str) -> list[CodeObject]:
    """The kernels of a program for some GPUs."""
    program, target = migx.parse(text), Gpu(archs)
    migx.run_passes(program, target.get_passes(target.get_context(), CompileOptions()))
    return [at.op for at in program.main if isinstance(at.op, CodeObject)]


OPTIMISED = """
import json, sys
import triton
from migx.targets.gpu.code.compiling import Request, compiled

compile = triton.compile
def shown(*arguments, **options):
    made = compile(*arguments, **options)
    print(made.asm["ttir"])
    return made
triton.compile = shown
compiled(Request(**json.loads(sys.argv[1])))
"""


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_the_large_products_are_added_to_their_sum_outside_of_matrix_units(arch: str) -> None:
    """Those truncate what they add to: along a great depth, sums of one sign would be too small by
    more than roundings may make them. Triton would give them a plain sum.
    """
    (kernel,) = lowered(dot(64, 4096, 64), arch)
    request = json.dumps(asdict(Request.of(kernel, arch)))
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    run = [sys.executable, "-c", OPTIMISED, request]
    text = subprocess.check_output(run, env=environment, text=True)
    sums = re.findall(r"= tt\.dot \S+ \S+ (%\w+)", text)
    assert len(sums) == 6
    assert sum(name.startswith("%cst") for name in sums) == 1, "one of them starts from zeros"


GREATEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, GREATEST, -GREATEST, 2.0**-130])
@pytest.mark.parametrize("by", [1.0, -1.0 - 2.0**-9, 0.0, 1e-30, np.inf])
def test_the_ends_of_the_range_are_what_they_are_in_f32(value: float, by: float) -> None:
    x, y = np.ones((20, 40), np.float32), np.full((40, 33), 0.5, np.float32)
    x[3, 7], y[7, 5] = value, by
    with np.errstate(invalid="ignore", over="ignore"):
        expected = (x.astype(np.float64) @ y.astype(np.float64)).astype(np.float32)
    found = multiplied(x, y)
    np.testing.assert_allclose(found, expected, rtol=44 * ROUNDOFF, atol=2 * SMALLEST)


def ways(text: str, *archs: str) -> set[bool]:
    """Whether the kernels of a program multiply so."""
    return {"bf16x6(" in kernel.source for kernel in lowered(text, *archs)}


def test_gpus_multiply_so_where_it_is_faster_and_depths_suffice() -> None:
    faster = {a.name for a in ARCHITECTURES.values() if a.bf16x6}
    assert faster == {"sm_80", "sm_90"}
    for arch in ARCHITECTURES:
        assert ways(dot(64, 64, 64), arch) == {arch in faster}
    assert ways(dot(64, 64, 64), "sm_90", "gfx942") == {True}, "as the first does"
    assert ways(dot(64, 64, 64), "gfx942", "sm_90") == {False}
    assert ways(dot(64, DEEP - 1, 64), "sm_90") == {False}
    assert ways(dot(64, "n", 64), "sm_90") == {False}


@pytest.mark.parametrize("arch", ["sm_90", "gfx942"])
def test_all_that_multiplies_f32_holds_either_way(arch: str) -> None:
    holds(dot(37, 130, 70), {}, arch)
    holds(
        """module main(x: f32[2, 16, 9, 9], w: f32[20, 16, 3, 3]) {
          %0 = convolution(x, w) {padding=(1, 1, 1, 1), stride=(2, 2)}
          return %0
        }""",
        {},
        arch,
    )
    holds(
        """module main(q: f32[2, 3, 33, 40], k: f32[2, 3, 40, 70], v: f32[2, 3, 70, 24]) {
          %0 = dot(q, k)
          %1 = softmax(%0) {axis=3}
          %2 = dot(%1, v)
          return %2
        }""",
        {},
        arch,
    )
