"""How far two programs are apart, beside what rounding explains."""

from __future__ import annotations

import numpy as np

import migx
from migx.debug.compared import compared

TEXT = """module main(x: f32[n, 3], w: f32[3, 2]) {
  %0 = dot(x, w)
  %1 = tanh(%0)
  return a=%0, b=%1
}
"""


def test_what_is_the_same_but_for_rounding_passes_and_what_is_not_does_not() -> None:
    rng = np.random.default_rng(0)
    x = {"x": rng.standard_normal((4, 3), np.float32), "w": rng.standard_normal((3, 2), np.float32)}
    before = migx.parse(TEXT)
    same = compared(before, before, x, target="cpu")
    assert [(each.name, each.passed) for each in same] == [("a", True), ("b", True)]
    assert all(each.largest <= each.tolerance for each in same)
    assert str(same[0]).startswith("a: largest error ")
    assert str(same[0]).endswith(" allowed: passed")
    sine = migx.parse(TEXT.replace("tanh", "sin"))
    first, second = compared(before, sine, x)
    assert first.passed
    assert not second.passed
    assert " beyond it: " in str(second)
    near = compared(before, sine, x, approximations={"tanh": [2.0]})
    assert all(each.passed for each in near)
    assert str(near[1]).endswith(" allowed: undecided")
