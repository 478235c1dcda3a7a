"""``migx.debug.layers``: where two programs differ inside, and what makes NaN and infinities."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.compiler import compiled
from migx.debug.layers import Distance, NotFinite, layers
from migx.program import Program

TEXT = """
module main(x: f32[n, 2]) {
  %0 = @literal() {value=[1.0, 2.0, 3.0, 4.0], label="w"} : f32[2, 2]
  %1 = dot(x, %0) : f32[n, 2] from "first"
  %2 = NAME(%1) : f32[n, 2] from "second"
  return %2
}
"""
X = {"x": np.array([[1, -3]], np.float32)}


def made(name: str) -> Program:
    return migx.parse(TEXT.replace("NAME", name))


def watched(program: Program, x: object = X["x"]) -> NotFinite:
    found, plain = NotFinite(), compiled(program, "ref", passes="")
    plain.trace(plain.arguments({"x": x}), found)
    return found


def test_each_layer_is_compared_in_order() -> None:
    first, second = layers(made("relu"), made("neg"), X)
    assert (first.name, first.product, first.distance.unequal) == ("first", True, 0)
    assert (second.name, second.product, second.distance.unequal) == ("second", False, 2)
    assert str(first) == "first: rms error 0, 0 of the rms value"
    assert str(second) == "second: rms error 9.06"  # of zeros: both are negative before relu
    narrow = made("relu")
    migx.run_passes(narrow, "truncate_float{to=f16}")
    assert [layer.distance.largest for layer in layers(made("relu"), narrow, X)] == [0, 0]


def test_layers_of_a_target_that_shows_outputs_alone() -> None:
    same = layers(made("relu"), made("relu"), X, target="cpu")
    assert [(layer.name, layer.distance.unequal) for layer in same] == [("first", 0), ("second", 0)]
    other = layers(made("relu"), made("neg"), X, "cpu")
    assert [layer.distance.unequal for layer in other] == [0, 2]


def test_a_layer_of_other_dims_is_left_out() -> None:
    text = TEXT.replace("= NAME(%1) : f32[n, 2]", "= transpose(%1) {permutation=(1, 0)}")
    turned = migx.parse(text)
    assert [layer.name for layer in layers(made("relu"), turned, X)] == ["first"]


def test_distances() -> None:
    strange = np.array([np.nan, np.inf, 0], np.float32)
    assert vars(Distance.between(strange, strange.astype(np.float16))) == {
        "largest": 0.0,
        "rms": 0.0,
        "relative": None,
        "unequal": 0,
        "not_finite": 0,
        "elements": 3,
    }
    assert Distance.between(strange, np.ones(3, np.float32)).not_finite == 2
    ints = Distance.between(np.array([2**63 - 1]), np.array([2**63 - 2]))
    assert (ints.unequal, ints.largest) == (1, 0)


def test_who_makes_what_is_not_finite() -> None:
    assert watched(made("relu")).nan is watched(made("relu")).infinite is None
    roots = watched(made("sqrt"))
    assert roots.infinite is None
    assert roots.nan is not None
    assert (roots.nan[0].name, roots.nan[1]) == ("sqrt", 2)
    logs = watched(made("log"), np.zeros((1, 2), np.float32)).infinite
    assert logs is not None
    assert (logs[0].name, logs[1]) == ("log", 2)
    given = watched(made("relu"), np.array([[np.inf, np.nan]], np.float32))
    assert given.nan is not None
    assert (given.nan[0].name, given.nan[1]) == ("@param", 2)
    assert given.infinite is None
    mask = migx.parse(
        "module main(x: f32[n, 2]) { %0 = @literal() {value=[-inf, 0.0]} : f32[1, 2]"
        " %1 = multibroadcast(%0) {out_lens=(n, 2)} %2 = add(x, %1) %3 = softmax(%2) {axis=1}"
        " return %3 }"
    )
    found = watched(mask)
    assert found.nan is found.infinite is None


def test_distances_whose_squares_overflow_are_measured() -> None:
    far = Distance.between(np.array([1e200, 0.0]), np.array([-1e200, 0.0]))
    assert (far.largest, far.rms) == pytest.approx((2e200, 2**0.5 * 1e200))
    assert far.relative == pytest.approx(2)
