"""The bounds of tensors that are quantised: in steps, where a value may fall on either of two."""

from __future__ import annotations

import math

import numpy as np
import pytest

from migx.shape import F32
from migx.testing.bounds import compare
from tests.core.budgets import beside, drawn, run

U = F32.roundoff


def test_a_quantised_value_may_be_one_step_off_and_no_more() -> None:
    """If one is close to the middle between two steps; otherwise all are exact."""
    text = """module main(x: f32[64]) {
  %0 = @literal() {value=[0.1]} : f32[]
  %1 = quantizelinear(x, %0) {axis=0, to=i8} : i8[64]
  return %1
}
"""
    for x, most in ((drawn(64), 0), (beside(0.05, 64), 1)):
        codes, budget = run(text, x=x)
        for off in (0, 1, 2):
            other = codes.copy()
            other[3] += off
            assert compare("q", other, codes, budget).passed == (off <= most)


def test_a_step_counts_for_what_it_is_of_the_greatest_value() -> None:
    text = """module main(x: f32[64]) {
  %0 = @literal() {value=[0.5]} : f32[]
  %1 = @literal() {value=[100]} : u8[]
  %2 = quantizelinear(x, %0, %1) {axis=0, to=u8} : u8[64]
  %3 = dequantizelinear(%2, %0, %1) {axis=0} : f32[64]
  return %3
}
"""
    values, budget = run(text, x=beside(0.25, 64))
    for off, passes in ((0.5, True), (-0.5, True), (2.5, False)):
        other = values.copy()
        other[3] += off
        assert compare("y", other, values, budget).passed == passes


def dynamically(x: str) -> str:
    """Quantisation to bytes by the range of the values, as in DynamicQuantizeLinear; and back."""
    return f"""  %least = reduce_min({x}) {{axes=(0,)}} : f32[1]
  %most = reduce_max({x}) {{axes=(0,)}} : f32[1]
  %range = sub(%most, %least) : f32[1]
  %255 = @literal() {{value=[255.0]}} : f32[1]
  %0 = @literal() {{value=[0.0]}} : f32[1]
  %1 = @literal() {{value=[1.0]}} : f32[1]
  %step = div(%range, %255) : f32[1]
  %none = equal(%step, %0) : bool[1]
  %scale = where(%none, %1, %step) : f32[1]
  %low = neg(%least) : f32[1]
  %from = div(%low, %step) : f32[1]
  %whole = nearbyint(%from) : f32[1]
  %point = where(%none, %0, %whole) : f32[1]
  %zero = convert(%point) {{to=u8}} : u8[1]
  %codes = quantizelinear({x}, %scale, %zero) {{axis=0, to=u8}} : u8[64]
  %back = dequantizelinear(%codes, %scale, %zero) {{axis=0}} : f32[64]
"""


def test_a_zero_point_that_may_be_a_step_off_counts_as_a_step() -> None:
    """However small it is: it is 3 in a range of 255."""
    text = f"""module main(x: f32[64]) {{
  %a = tanh(x) : f32[64]
{dynamically("%a")}  return %back
}}
"""
    x = np.linspace(0.1, 0.9, 64, dtype=np.float32)
    x[0] = math.atanh(-np.tanh(x[-1]) * 2.5 / 252.5)
    assert 1 / 255 < run(text, x=x)[1].relative < 5 / 255


def test_zeros_are_quantised_exactly() -> None:
    """Also in a body, whose parameters begin as zeros."""
    text = f"""module main(x: f32[64], w: f32[64, 64]) {{
  %h = @literal() {{value=[0.0]}} : f32[1]
  %hs = multibroadcast(%h) {{out_lens=(64,)}} : f32[64]
  %n = @literal() {{value=[1]}} : i64[]
  %yes = @literal() {{value=[true]}} : bool[]
  %y = tanh(x) : f32[64]
  %l = loop(%n, %yes, %hs, %y) [body] : tuple(f32[64], f32[64])
  %r = get_tuple_elem(%l) {{index=0}} : f32[64]
  return %r
}}

module body(i: i64[], going: bool[], h: f32[64], y: f32[64]) {{
{dynamically("h")}  %row = reshape(%back) {{dims=(1, 64)}} : f32[1, 64]
  %product = dot(%row, main:w) : f32[1, 64]
  %flat = reshape(%product) {{dims=(64,)}} : f32[64]
  %next = add(%flat, y) : f32[64]
  return going, %next, y
}}
"""
    assert run(text, x=drawn(64), w=drawn(64, 64))[1].relative < 100 * U


@pytest.mark.parametrize("product", ["dot", "convolution"])
def test_steps_of_a_quantised_value_reach_what_is_left_of_a_sum(product: str) -> None:
    """Each element may be off by a step, however little of their sum is left."""
    shape, weight, result, how = "f32[4, 64]", "f32[64, 1]", "f32[4, 1]", ""
    if product == "convolution":
        shape, weight, result = "f32[4, 64, 1]", "f32[1, 64, 1]", "f32[4, 1, 1]"
        how = " {padding=(0, 0), stride=(1,), dilation=(1,)}"
    text = f"""module main(x: {shape}, w: {weight}) {{
  %s = @literal() {{value=[0.0625]}} : f32[]
  %0 = tanh(x) : {shape}
  %1 = quantizelinear(%0, %s) {{axis=0, to=i8}} : {shape.replace("f32", "i8")}
  %2 = dequantizelinear(%1, %s) {{axis=0}} : {shape}
  %3 = {product}(%2, w){how} : {result}
  return %3
}}
"""
    given = [int(d) for d in shape[4:-1].split(", ")]
    x = np.full(given, 0.5, np.float32)
    x[(0,) * x.ndim] = math.atanh(7.5 * 0.0625)
    w = np.resize(np.array([1, -1], np.float32), [int(d) for d in weight[4:-1].split(", ")])
    w[(0,) * w.ndim] = 1.5
    left, budget = run(text, x=x, w=w)
    assert 0 < np.max(left) < 1
    allowed = budget.tolerance(F32, float(np.max(left)))
    assert allowed == pytest.approx(0.0625 * math.sqrt(64), rel=0.1)
