"""Products on bytes are at least as good as those of floats, and what cancels does so exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import migx
from migx import Dim, ops
from migx.observers import Verify
from migx.program import Program
from migx.shape import F32, F64, I8, U8, DType, Shape

SCALES = [0.1, 1.0, 3e-5, 1e-30, 1e30, 7.7]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [I8, U8, DType.of("i16"), DType.of("u16")])
@pytest.mark.parametrize("zero", [None, 0, 11])
def test_quantising_again_is_exact(scale: float, dtype: DType, zero: int | None) -> None:
    program = Program()
    main = program.main
    values = np.arange(np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max + 1)
    q = main.add_parameter("q", Shape(dtype, values.shape))
    parameters = [main.add_literal(scale, "f32")]
    parameters += [] if zero is None else [main.add_literal(zero, dtype)]
    real = main.add_instruction(ops.DequantizeLinear(0), q, *parameters)
    main.add_return(main.add_instruction(ops.QuantizeLinear(0, to=dtype), real, *parameters))
    after = program.copy()
    assert migx.run_passes(after, "simplify_qdq", [Verify()])
    assert after.main.outputs[0].name == "@param"
    inputs = {"q": values.astype(dtype.numpy)}
    first, second = (p.compile("ref", passes="").eval(inputs)[0] for p in (program, after))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-40, 1e38, np.inf, np.nan])
def test_scales_that_lose_steps_stay(scale: float) -> None:
    program = Program()
    main = program.main
    q, s = main.add_parameter("q", Shape(U8, (3,))), main.add_literal(scale, "f32")
    real = main.add_instruction(ops.DequantizeLinear(0), q, s)
    main.add_return(main.add_instruction(ops.QuantizeLinear(0), real, s))
    assert not migx.run_passes(program, "simplify_qdq")


def test_an_infinite_scale_stays_in_a_product_of_floats() -> None:
    program = Program()
    x = program.main.add_parameter("x", Shape(F32, (Dim("n"), 2)))
    w = program.main.add_literal(np.array([[0], [1]], DType.of("f8e4m3fn").numpy))
    scale = program.main.add_literal(np.array([np.inf], np.float32))
    w = program.main.add_instruction(ops.DequantizeLinear(), w, scale)
    program.main.add_return(program.main.add_instruction(ops.Dot(), x, w))
    assert not migx.run_passes(program, "simplify_qdq")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("scales", [(), (1,), (96,), (4, 96)])
@pytest.mark.parametrize("name", ["f8e4m3fn", "f8e5m2fnuz"])
def test_floats_of_eight_bits_are_scaled_after_they_are_multiplied(
    name: str, scales: tuple[int, ...], turned: bool
) -> None:
    program, rng = Program(), np.random.default_rng(0)
    main, wide = program.main, rng.standard_normal((64, 96)) * 20
    x = main.add_parameter("x", Shape(F32, (Dim("n"), 64)))
    stored, by = wide.astype(DType.of(name).numpy), rng.uniform(0.1, 0.2, scales)
    w = main.add_literal(np.ascontiguousarray(stored.T if turned else stored))
    s = main.add_literal(np.ascontiguousarray(by.T if turned else by), "f32")
    axis, along = (0, 1) if turned else (1, 0)
    op = ops.DequantizeLinear(along, block=16) if len(scales) > 1 else ops.DequantizeLinear(axis)
    w = main.add_instruction(op, w, s)
    w = main.add_instruction(ops.Transpose((1, 0)), w) if turned else w
    main.add_return(main.add_instruction(ops.Dot(), x, w))
    after = program.copy()
    assert migx.run_passes(after, "simplify_qdq", [Verify()]) == (len(scales) < 2)
    assert ("dequantizelinear" in [at.name for at in after.main]) == (len(scales) > 1)
    given = {"x": rng.standard_normal((5, 64)).astype(np.float32)}
    first, second = (p.compile(t).eval(given)[0] for p, t in ((program, "ref"), (after, "cpu")))
    roundoff = 2 * 64 * F32.roundoff * (np.abs(given["x"]) @ np.abs(wide)).max() * 0.2
    np.testing.assert_allclose(first, second, rtol=0, atol=roundoff)


def test_a_scale_does_not_return_to_floats_of_eight_bits() -> None:
    program = Program()
    main = program.main
    x = main.add_parameter("x", Shape(F32, (Dim("n"), 512)))
    weights = np.random.default_rng(0).standard_normal((512, 1024))
    w = main.add_literal(weights.astype(DType.of("f8e4m3fn").numpy))
    s = main.add_literal(np.arange(1, 1025), "f32")
    w = main.add_instruction(ops.DequantizeLinear(1), w, s)
    main.add_return(main.add_instruction(ops.Dot(), x, w))
    migx.run_passes(program, "simplify_qdq,optimize_module")
    names = [at.name for at in main if not at.name.startswith("@")]
    assert names == ["convert", "dot", "multibroadcast", "mul"]


def test_how_much_is_summed_may_be_known_of_the_weights_alone() -> None:
    text = """module main(x: i8[n, k], zero: i8[]) {
  %0 = @literal() {value=[1, 2, 3]} : i8[3, 1]
  %1 = @literal() {value=[5]} : i8[]
  %2 = convert(x) {to=i32}
  %3 = convert(zero) {to=i32}
  %4 = multibroadcast(%3) {out_lens=(n, k)}
  %5 = sub(%2, %4)
  %6 = convert(%0) {to=i32}
  %7 = convert(%1) {to=i32}
  %8 = multibroadcast(%7) {out_lens=(3, 1)}
  %9 = sub(%6, %8)
  %10 = dot(%5, %9)
  return %10
}
"""
    program = migx.parse(text)
    assert migx.run_passes(program, "simplify_qdq", [Verify()])
    assert "quant_dot" in {at.name for at in program.main}
    inputs = {"x": np.array([[7, -8, 9]], np.int8), "zero": np.array(3, np.int8)}
    first, second = (
        p.compile("ref", passes="").eval(inputs)[0] for p in (migx.parse(text), program)
    )
    assert np.array_equal(first, second)


Case = tuple[Callable[[DType], Program], NDArray[Any]]


@st.composite
def products(draw: st.DrawFn) -> Case:
    """A dot or a convolution of dequantised values with scales of a type, and its input."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    dtypes = [draw(st.sampled_from([I8, U8])) for _ in "xw"]
    convolves, own, shifted = (draw(st.booleans()) for _ in range(3))
    dims = ((2, 3, 6, 5), (4, 3, 3, 2)) if convolves else ((2, 5, 7), (7, 4))
    x_array, w_array, zero = (
        rng.integers(np.iinfo(t.numpy).min, np.iinfo(t.numpy).max + 1, d).astype(t.numpy)
        for t, d in zip((*dtypes, dtypes[0]), (*dims, ()), strict=True)
    )
    scales = [rng.random(d).astype(np.float32) + 0.1 for d in ((), (4,) if own else ())]
    padding = tuple(draw(st.lists(st.integers(0, 2), min_size=4, max_size=4)))

    def build(dtype: DType) -> Program:
        program = Program()
        main = program.main
        x, w = main.add_parameter("x", Shape(dtypes[0], dims[0])), main.add_literal(w_array)
        s, t = (main.add_literal(scale, dtype) for scale in scales)
        zeros = [main.add_literal(zero)] if shifted else []
        left = main.add_instruction(ops.DequantizeLinear(0), x, s, *zeros)
        right = main.add_instruction(ops.DequantizeLinear(0 if convolves else 1), w, t)
        if convolves:
            main.add_return(main.add_instruction(ops.Convolution(padding, (2, 1)), left, right))
        else:
            right = main.add_instruction(ops.Multibroadcast((2, 7, 4)), right)
            main.add_return(main.add_instruction(ops.Dot(), left, right))
        return program

    return build, x_array


@given(products())
def test_products_on_bytes_are_as_good(case: Case) -> None:
    build, x = case
    after = build(F32)
    assert migx.run_passes(after, "simplify_qdq", [Verify()])
    assert not {"dot", "convolution"} & {at.name for at in after.main}
    exact, floats, got = (
        p.compile("ref", passes="").eval({"x": x})[0] for p in (build(F64), build(F32), after)
    )
    allowed = np.abs(floats - exact).max() + 4 * F32.roundoff * np.abs(exact).max()
    np.testing.assert_allclose(got, exact, rtol=0, atol=allowed)
