"""The bound covers what rounding does, and nothing that a wrong kernel does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from migx.shape import F16, F32, F64
from migx.testing.bounds import LAMBDA, Budget, Comparison, compare
from migx.testing.bounds.roundings import FUNCTION
from tests.core.budgets import beside, drawn, run

U = F32.roundoff


DOT = """module main(x: f32[m, k], w: f32[k, n]) {
  %0 = dot(x, w) : f32[m, n]
  return %0
}
"""
NORM = """module main(x: f32[4, 64]) {
  %0 = reduce_mean(x) {axes=(1,)} : f32[4, 1]
  %1 = multibroadcast(%0) {out_lens=(4, 64)} : f32[4, 64]
  %2 = sub(x, %1) : f32[4, 64]
  %3 = mul(%2, %2) : f32[4, 64]
  %4 = reduce_mean(%3) {axes=(1,)} : f32[4, 1]
  %5 = @literal() {value=[EPSILON]} : f32[1, 1]
  %6 = multibroadcast(%5) {out_lens=(4, 1)} : f32[4, 1]
  %7 = add(%4, %6) : f32[4, 1]
  %8 = rsqrt(%7) : f32[4, 1]
  %9 = multibroadcast(%8) {out_lens=(4, 64)} : f32[4, 64]
  %10 = mul(%2, %9) : f32[4, 64]
  return %10
}
"""


def test_a_product_summed_in_another_order_passes_and_a_lost_term_does_not() -> None:
    x, w = drawn(5, 8), drawn(8, 6, seed=1)
    exact, budget = run(DOT, x=x, w=w)
    assert (budget.roundings, budget.longest) == (8, 8)
    terms = np.abs(x)[:, :, None].astype(float) * np.abs(w)
    partial = np.max(terms.sum(1) + np.abs(exact)) / 2
    most = LAMBDA * math.sqrt(2 * 8) * U * max(partial, np.max(np.abs(exact)))
    assert budget.tolerance(F32, float(np.max(np.abs(exact)))) == pytest.approx(most)
    backwards = np.zeros_like(exact)
    for k in reversed(range(8)):
        backwards += x[:, k : k + 1] * w[k]
    assert compare("y", backwards, exact, budget).passed
    lost = compare("y", x[:, :7] @ w[:7], exact, budget)
    assert not lost.passed
    assert "30 of 30 elements beyond it" in lost.problem


@pytest.mark.parametrize("k", [16, 256, 4096])
def test_long_sums_stay_within_the_bound_and_near_it(k: int) -> None:
    x, w = drawn(16, k), drawn(k, 16, seed=1)
    _, budget = run(DOT, x=x, w=w)
    one_by_one = np.add.accumulate(x[:, :, None] * w, axis=1, dtype=np.float32)[:, -1]
    found = compare("y", one_by_one, (x.astype(float) @ w).astype(np.float32), budget)
    assert found.passed
    assert found.tolerance / 200 < found.largest, "the bound is not so wide that it says nothing"


def test_a_bias_that_is_dropped_and_an_epsilon_that_is_wrong_are_found() -> None:
    x = drawn(4, 64)
    right, budget = run(NORM.replace("EPSILON", "1e-5"), x=x)
    wrong, _ = run(NORM.replace("EPSILON", "1e-4"), x=x)
    wide = x.astype(float) - x.astype(float).mean(1, keepdims=True)
    other = wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-5)
    assert compare("y", other.astype(np.float32), right, budget).passed
    assert not compare("y", wrong, right, budget).passed
    text = DOT.replace("return %0", "%1 = add(%0, b) : f32[m, n]\n  return %1")
    text = text.replace("w: f32[k, n]", "w: f32[k, n], b: f32[m, n]")
    y, budget = run(text, x=x, w=drawn(64, 8), b=np.full((4, 8), 0.01, np.float32))
    assert not compare("y", y - np.float32(0.01), y, budget).passed


def test_narrow_types_are_accumulated_in_f32_and_rounded_once() -> None:
    text = DOT.replace("f32", "f16")
    x, w = np.abs(drawn(2, 50)), np.abs(drawn(50, 2))
    _, budget = run(text, x=x.astype(np.float16), w=w.astype(np.float16))
    assert budget.relative == pytest.approx(LAMBDA * math.sqrt(2 * (50 * U**2 + F16.roundoff**2)))


def unary(line: str, result: str, given: str = "f32[4, 8]") -> str:
    return f"module main(x: {given}) {{\n  %0 = {line} : {result}\n  return %0\n}}\n"


@pytest.mark.parametrize(
    ("line", "result", "count"),
    [
        ("transpose(x) {permutation=(1, 0)}", "f32[8, 4]", 0),
        ("relu(x)", "f32[4, 8]", 0),
        ("mul(x, x)", "f32[4, 8]", 1),
        ("tanh(x)", "f32[4, 8]", 16),
        ("reduce_sum(x) {axes=(0, 1)}", "f32[1, 1]", 32),
        ("reduce_max(x) {axes=(1,)}", "f32[4, 1]", 0),
        ("softmax(x) {axis=1}", "f32[4, 8]", 25),
        ("prefix_scan_sum(x) {axis=0}", "f32[4, 8]", 4),
        ("convert(x) {to=f16}", "f16[4, 8]", 2),
        ("convert(x) {to=f64}", "f64[4, 8]", 0),
        ("argmax(x) {axis=0}", "i64[1, 8]", 0),
    ],
)
def test_roundings_are_counted(line: str, result: str, count: int) -> None:
    assert run(unary(line, result), x=drawn(4, 8))[1].roundings == count


def test_the_rounds_of_a_loop_are_those_it_makes() -> None:
    text = """module main(x: f32[2, 3], n: i64[]) {
  %0 = undefined() : optional()
  %1 = loop(n, %0, x) [body] : tuple(f32[2, 3])
  %2 = get_tuple_elem(%1) {index=0} : f32[2, 3]
  return %2
}

module body(i: i64[], going: bool[], h: f32[2, 3]) {
  %0 = mul(h, h) : f32[2, 3]
  %1 = mul(%0, main:x) : f32[2, 3]
  return going, %1
}
"""
    counts = [run(text, x=drawn(2, 3), n=np.array(n))[1].roundings for n in (0, 1, 5)]
    assert counts == [0, 2, 10]


def test_a_row_that_a_scan_reads_is_not_one_that_it_makes() -> None:
    text = """module main(s: f32[], x: f32[9]) {
  %0 = scan(s, x) {num_scan_inputs=1} [body] : tuple(f32[], f32[9])
  %1 = get_tuple_elem(%0) {index=1} : f32[9]
  return %1
}

module body(s: f32[], row: f32[]) {
  %0 = exp(row) : f32[]
  return s, %0
}
"""
    _, budget = run(text, s=np.zeros((), np.float32), x=drawn(9))
    assert budget.roundings == FUNCTION  # of one iteration: none gets the rows of another


def different(got: Any, expected: Any, budget: Budget) -> Comparison:
    return compare("y", np.asarray(got), np.asarray(expected), budget)


@pytest.mark.parametrize(
    ("got", "expected", "passes"),
    [
        ([math.nan, 1.0], [math.nan, 1.0], True),
        ([math.nan, 1.0], [0.0, 1.0], False),
        ([0.0, 1.0], [math.nan, 1.0], False),
        ([math.inf, 1.0], [math.inf, 1.0], True),
        ([math.inf, 1.0], [-math.inf, 1.0], False),
        ([3e38, 1.0], [math.inf, 1.0], False),
        ([], [], True),
    ],
)
def test_nan_and_infinity_must_meet_their_like(
    got: list[float], expected: list[float], passes: bool
) -> None:
    found = different(
        np.array(got, np.float32), np.array(expected, np.float32), Budget(1e-10, 1, 1)
    )
    assert found.passed == passes
    assert math.isfinite(found.largest)


def test_what_is_no_float_is_exact_and_kinds_must_agree() -> None:
    large = 2**60
    assert not different([large], [large + 1], Budget()).passed
    assert different([True, False], [True, False], Budget()).passed
    assert "1 of 2" in different([True, True], [True, False], Budget()).problem
    mismatch = different(np.zeros(2, np.float32), np.zeros(3, np.float32), Budget())
    assert mismatch.problem == "got float32[2], expected float32[3]"
    assert not different(np.zeros(2), np.zeros(2, np.float32), Budget()).passed


def test_the_derivation_is_told() -> None:
    _, budget = run(DOT, x=np.abs(drawn(2, 300)), w=np.abs(drawn(300, 2)))
    told = "f32, longest accumulation 300, 300 roundings on the path, 8 * sqrt(V) = 1.2e-05"
    assert budget.explain(F32) == told
    assert Budget().explain(F32) == "f32, exact"


CHOICES = {
    "topk": ("topk(%0) {k=2, axis=1} : tuple(f32[1, 2], i64[1, 2])", 1),
    "the least": ("topk(%0) {k=2, axis=1, largest=false} : tuple(f32[1, 2], i64[1, 2])", -1),
    "argmax": ("argmax(%0) {axis=1} : i64[1, 1]", 1),
    "argmin": ("argmin(%0) {axis=1} : i64[1, 1]", -1),
}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("step", [1e-7, 0.25])
def test_a_choice_among_elements_that_rounding_may_exchange_is_in_doubt(
    name: str, step: float
) -> None:
    choice, sign = CHOICES[name]
    where = "%1"
    text = "module main(x: f32[1, 8], w: f32[8, 4]) {\n  %0 = dot(x, w) : f32[1, 4]\n"
    text += f"  %1 = {choice}\n"
    if "tuple" in choice:
        text += "  %2 = get_tuple_elem(%1) {index=1} : i64[1, 2]\n"
        where = "%2"
    w = np.zeros((8, 4), np.float32)
    w[0] = sign * np.array([1, 3 - step, 3, -1])
    w[1] = 1
    places, budget = run(f"{text}  return {where}\n}}\n", x=np.ones((1, 8), np.float32), w=w)
    found = compare("y", places[..., ::-1] + 1, places, budget)
    near = step < 0.1
    assert (found.passed, found.undecided, bool(found.doubt)) == (near, near, near)
    assert ("tells elements apart by" in found.doubt) == near
    same = compare("y", places, places, budget)
    assert (same.passed, same.undecided) == (True, False)


def test_a_wrong_answer_behind_boxes_of_scores_far_apart_is_wrong() -> None:
    text = """module main(b: f32[1, 3, 4], x: f32[1, 1, 3]) {
  %0 = sigmoid(x) : f32[1, 1, 3]
  %1 = @literal() {value=[3]} : i64[]
  %2 = @literal() {value=[0.5]} : f32[]
  %3 = @literal() {value=[0.0]} : f32[]
  %4 = nonmaxsuppression(b, %0, %1, %2, %3) {center_point_box=false, count=n} : i64[n, 3]
  return %4
}
"""
    boxes = np.array([[[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5]]], np.float32)
    for scores, near in (([0.0, 1.0, 2.0], False), ([0.0, 1.0, 1.0 + 1e-7], True)):
        kept, budget = run(text, b=boxes, x=np.array([[scores]], np.float32))
        assert len(kept) == 3
        found = compare("y", kept[:2], kept, budget)
        assert (found.passed, bool(found.doubt)) == (near, near)


def test_a_part_near_zero_says_nothing_of_the_others() -> None:
    """The logarithm of a value near 1 is near 0, with the same absolute error."""
    text = """module main(x: f32[n], y: f32[n]) {
  %0 = sigmoid(x) : f32[n]
  %1 = log(%0) : f32[n]
  %2 = exp(y) : f32[n]
  %3 = concat(%1, %2) {axis=0} : f32[2*n]
  return %3
}
"""
    for n in (8, 2**19):  # more than is followed element by element
        result, budget = run(text, x=np.full(n, 20, np.float32), y=drawn(n))
        assert budget.relative < 100 * U
        assert float(np.max(result[:n])) == 0


COARSE = """module main(x: f32[n], y: f32[n]) {
  %s = @literal() {value=[1.0]} : f32[]
  %0 = tanh(x) : f32[n]
  %1 = quantizelinear(%0, %s) {axis=0, to=i8} : i8[n]
  %2 = dequantizelinear(%1, %s) {axis=0} : f32[n]
  %3 = SUM(%2, y) : f32[n]
  return OUTPUT
}
"""


def test_values_differ_by_a_step_more_after_rounding() -> None:
    """Which is less than eight standard deviations of a difference of a step."""
    given = {"x": beside(math.atanh(0.5), 64), "y": drawn(64)}
    result, budget = run(COARSE.replace("SUM", "add").replace("OUTPUT", "%2"), **given)
    assert np.max(np.abs(result)) == 1
    assert 1 < budget.tolerance(F32, 1.0) < 1.001


@pytest.mark.parametrize("op", ["add", "sub"])
def test_a_term_counts_in_a_sum_by_its_size(op: str) -> None:
    """A coarse one beside one that is a thousand times as large; if terms cancel, it is kept."""
    text, x = COARSE.replace("SUM", op).replace("OUTPUT", "%3"), np.full(64, 1, np.float32)
    x[0] = math.atanh(0.5)
    for y, most in ((1000.0, 2e-3), (1.0, 1.1)):
        large = np.full(64, y if op == "add" else -y, np.float32)
        assert run(text, x=x, y=large)[1].relative < most
    _, cancelled = run(text, x=x, y=np.full(64, -0.99 if op == "add" else 0.99, np.float32))
    assert 1 < cancelled.relative < 1.001


def test_a_logarithm_undoes_what_a_sigmoid_has_flattened() -> None:
    """As in decoders of detectors, which refine boxes through a sigmoid again and again."""
    again = """  %a = sub(%one, %p) : f32[64]
  %b = div(%p, %a) : f32[64]
  %c = log(%b) : f32[64]
  %p' = sigmoid(%c) : f32[64]
"""
    lines = "".join(
        again.replace("%a", f"%a{i}").replace("%b", f"%b{i}").replace("%c", f"%c{i}")
        .replace("%p'", f"%p{i + 1}").replace("%p,", f"%p{i},").replace("%p)", f"%p{i})")
        for i in range(6)
    )  # fmt: skip
    text = f"""module main(x: f32[64]) {{
  %l = @literal() {{value=[1.0]}} : f32[]
  %one = multibroadcast(%l) {{out_lens=(64,)}} : f32[64]
  %p0 = sigmoid(x) : f32[64]
{lines}  return %p6
}}
"""
    x = np.linspace(-4, 4, 64, dtype=np.float32)
    result, budget = run(text, x=x)
    assert compare(
        "y", (1 / (1 + np.exp(-x.astype(float)))).astype(F32.numpy), result, budget
    ).passed
    assert budget.relative < 1e-3


SMALL = """module main(x: f32[4]) {
  %0 = sigmoid(x) : f32[4]
  %1 = @literal() {value=[1000.0]} : f32[]
  %2 = multibroadcast(%1) {out_lens=(4,)} : f32[4]
  %3 = mul(%0, %2) : f32[4]
  %4 = @literal() {value=[true]} : bool[]
  %5 = if(%4) {outputs=(f32[4],)} [main.if.then, main.if.else] : tuple(f32[4])
  %6 = get_tuple_elem(%5) : f32[4]
  return %RETURNED
}

module main.if.then() {
  return main:%0
}

module main.if.else() {
  return main:x
}
"""


@pytest.mark.parametrize(("returned", "factor"), [("0", 1.0), ("3", 1000.0), ("6", 1.0)])
def test_small_values_of_a_sigmoid_may_be_half_a_tangent_beside_a_half(
    returned: str, factor: float
) -> None:
    """Wherever they go from there: their error is relative to 1."""
    x = np.linspace(-10, -9, 4, dtype=np.float32)
    result, budget = run(SMALL.replace("RETURNED", returned), x=x)
    half = np.float32(0.5)
    tangents = half + half * np.tanh(half * x)
    assert np.max(np.abs(tangents / (result / np.float32(factor)) - 1)) > 1e-4
    assert compare("y", tangents * np.float32(factor), result, budget).passed
    assert not compare("y", result + np.float32(4e-6 * factor), result, budget).passed


@pytest.mark.parametrize("function", ["sigmoid", "tanh", "erf"])
def test_what_is_close_to_0_is_as_far_off_as_what_is_flattened(function: str) -> None:
    """Sums of large terms, of which a function flattens all but those that cancel."""
    text = f"""module main(x: f32[8, 64], w: f32[64, 8]) {{
  %0 = dot(x, w) : f32[8, 8]
  %1 = {function}(%0) : f32[8, 8]
  return %1
}}
"""
    x, w = 20 * drawn(8, 64), drawn(64, 8, seed=1)
    x[0] -= w[:, 0] * (x[0] @ w[:, 0]) / (w[:, 0] @ w[:, 0])
    result, budget = run(text, x=x, w=w)
    off = x.copy()
    off[0] *= 1 + 4 * np.sign(x[0] * w[:, 0]) * np.float32(U)
    other, _ = run(text, x=off, w=w)
    assert np.max(np.abs(other - result)) > 1e-5
    assert compare("y", other, result, budget).passed


@pytest.mark.parametrize("function", ["sigmoid", "tanh"])
def test_what_is_flattened_alone_is_not_far_off(function: str) -> None:
    text = f"module main(x: f32[8]) {{\n  %0 = {function}(x) : f32[8]\n  return %0\n}}\n"
    result, budget = run(text, x=np.linspace(30, 1e6, 8, dtype=np.float32))
    assert not compare("y", result - np.float32(1e-5), result, budget).passed


@pytest.mark.parametrize("function", ["sin", "cos"])
def test_a_wave_is_as_far_off_as_its_angle(function: str) -> None:
    """As in networks of sines and in encodings of positions, where angles are large."""
    text = "module main(x: f32[4, 64], y: f32[4, 64], w: f32[64, 8]) {\n"
    text += "  %0 = mul(x, y) : f32[4, 64]\n"
    text += f"  %1 = {function}(%0) : f32[4, 64]\n  %2 = dot(%1, w) : f32[4, 8]\n"
    text += "  return %RETURNED\n}\n"
    x, y, w = 1000 * drawn(4, 64), drawn(4, 64, seed=1), drawn(64, 8, seed=2)
    for returned in "12":
        made = text.replace("RETURNED", returned)
        result, budget = run(made, x=x, y=y, w=w)
        other, _ = run(made, x=np.nextafter(x, np.float32(np.inf)), y=y, w=w)
        assert np.max(np.abs(other - result)) > 1e-5 * np.max(np.abs(result))
        assert compare("y", other, result, budget).passed
        off = result + np.float32(5e-2) * np.max(np.abs(result))
        assert not compare("y", off, result, budget).passed


def test_a_sigmoid_so_small_that_others_have_0_is_compared_with_0() -> None:
    x = np.linspace(-19, -18.5, 4, dtype=np.float32)
    result, budget = run(SMALL.replace("RETURNED", "0"), x=x)
    assert result.all()
    assert compare("y", result, np.zeros_like(result), budget).passed
    assert not compare("y", result + np.float32(4e-6), np.zeros_like(result), budget).passed


TABLE = """module main(x: f32[9, 2], n: i64[9]) {
  %0 = convert(n) {to=f32} : f32[9]
  %1 = @literal() {value=[4.0]} : f32[]
  %2 = multibroadcast(%1) {out_lens=(9,)} : f32[9]
  %3 = div(%0, %2) : f32[9]
  %4 = log(%3) : f32[9]
  %5 = mul(%4, %2) : f32[9]
  %6 = ceil(%5) : f32[9]
  %7 = LESS(%0, %2) : bool[9]
  %8 = where(%7, %0, %6) : f32[9]
  %9 = convert(%8) {to=i64} : i64[9]
  %10 = gather(x, %9) {axis=0} : f32[9, 2]
  return %10
}
"""


@pytest.mark.parametrize(("less", "sure"), [("less_or_equal", True), ("less", False)])
def test_a_place_in_a_table_is_exact_unless_rounding_decides_it(less: str, sure: bool) -> None:
    """The logarithm of 4 / 4 may be slightly above 0, which matters only if it is selected."""
    table, n = TABLE.replace("LESS", less), np.arange(9)
    _, budget = run(table, x=drawn(9, 2), n=n)
    assert (budget.variance == 0) is sure
    words = np.full((9, 2), "a", object)
    result, budget = run(table.replace("f32[9, 2]", "str[9, 2]"), x=words, n=n)
    assert result[0, 0] == "a"
    assert (budget.variance == 0) is sure


def test_parts_that_nearly_all_vanish_keep_the_bound_of_what_they_are_of() -> None:
    """A relu leaves little or nothing of numbers far below 0, but their roundings near it."""
    text = """module main(x: f32[8], w: f32[8]) {
  %0 = mul(x, w) : f32[8]
  %1 = relu(%0) : f32[8]
  %2 = concat(%1, %1) {axis=0} : f32[16]
  return %RESULT
}
"""
    for near in (1e-3, -1e-3):
        x = np.array([-1000, near, *[-1000] * 6], np.float32)
        bounds = []
        for part in (1, 2):
            result, budget = run(text.replace("RESULT", str(part)), x=x, w=np.ones(8, np.float32))
            bounds.append(budget.tolerance(F32, float(np.max(result))))
        assert bounds[0] > 1e-4
        assert bounds[1] == pytest.approx(bounds[0])


def test_what_is_0_and_followed_may_be_off_by_what_it_is_made_of() -> None:
    text = """module main(x: f32[4]) {
  %0 = log(x) : f32[4]
  %1 = @literal() {value=[3.0]} : f32[]
  %2 = multibroadcast(%1) {out_lens=(4,)} : f32[4]
  %3 = sub(%0, %2) : f32[4]
  %4 = relu(%3) : f32[4]
  return %4
}
"""
    result, budget = run(text, x=np.array([20.085535, 1e-30, 1, 1], np.float32))  # about exp(3)
    assert not result.any()
    assert 0 < budget.tolerance(F32, 0.0) < 1e-4


def test_what_is_far_off_has_a_finite_bound() -> None:
    far = Budget(variance=1.0).limited(1e300, 1e-30)
    assert math.isfinite(far.variance)
    assert far.tolerance(F32, 1.0) > 1e150


@pytest.mark.parametrize("after", ["", "mul"])
def test_what_is_left_of_terms_that_cancel_keeps_their_roundings(after: str) -> None:
    """As in a classifier whose support vectors are sorted by class."""
    text = DOT.replace("return %0", "%1 = mul(%0, %0) : f32[m, n]\n  return %1") if after else DOT
    x = np.abs(drawn(1, 512))
    w = np.full((512, 1), 1, np.float32)
    w[256:] = -1
    w[0] += (0.5 - float((x.astype(float) @ w).item())) / x[0, 0]
    exact, budget = run(text, x=x, w=w)
    terms = x[0] * w[:, 0]
    assert np.abs(terms).sum() > 300 * abs(exact.item())
    for order in (np.arange(512), np.argsort(terms), np.argsort(np.abs(terms))):
        other = np.add.accumulate(terms[order], dtype=np.float32)[-1:].reshape(1, 1)
        assert compare("y", other * other if after else other, exact, budget).passed
    lost = exact + np.float32(0.1)
    assert not compare("y", lost, exact, budget).passed


def test_an_error_relative_to_one_is_nothing_beside_the_largest_doubles() -> None:
    budget = Budget(variance=1e-32)
    assert budget.beside_one(F64, 1e200).variance == budget.variance


def test_an_angle_beyond_all_floats_leaves_nothing_known_of_its_sine() -> None:
    text = "module main(x: f64[1]) { %0 = add(x, x) %1 = sin(%0) return %1 }"
    exact, budget = run(text, x=np.full(1, 1e200))
    assert budget.tolerance(F64, float(np.max(np.abs(exact)))) > 2
