"""What has no elements on the gpu, and what is made of it: the sum of nothing is 0."""

from __future__ import annotations

import pytest

from migx.targets.gpu import passes
from tests.targets.gpu.on_interpreter import holds

CONVOLUTION = "convolution(x, w) {padding=(1, 1, 1, 1), stride=(1, 1), dilation=(1, 1)}"
ATTENTION = """%0 = dot(x, y)
  %1 = softmax(%0) {axis=2}
  %2 = dot(%1, z)"""


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ("x: f32[2, 0, 5, 5], w: f32[8, 0, 3, 3]", f"%2 = {CONVOLUTION}"),
        ("x: f32[0, 4, 5, 5], w: f32[8, 4, 3, 3]", f"%2 = {CONVOLUTION}"),
        ("x: f32[n, 70], w: f32[70, 300]", "%2 = dot(x, w)"),
        ("x: f32[200, n], w: f32[n, 300]", "%2 = dot(x, w)"),
        ("x: f32[200, 0], w: f32[0, 300]", "%2 = dot(x, w)"),
        ("x: f32[1, 0], w: f32[0, 3]", "%2 = dot(x, w)"),
        ("x: f32[200, n]", "%2 = reduce_sum(x) {axes=(1,)}"),
        ("x: f32[200, 0]", "%2 = reduce_sum(x) {axes=(1,)}"),
        ("x: f32[200, 0]", "%2 = softmax(x) {axis=1}"),
        ("x: f32[2, 8, 64], y: f32[2, 64, 0], z: f32[2, 0, 8]", ATTENTION),
        ("x: f32[2, 8, 64], y: f32[2, 64, n], z: f32[2, n, 8]", ATTENTION),
        ("x: f32[2, 80, 64], y: f32[2, 64, n], z: f32[2, n, 8]", ATTENTION),
    ],
)
def test_nothing_is_added_up(given: str, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "FEW", -1)  # else the host does what is this small
    holds(f"module main({given}) {{\n  {lines}\n  return %2\n}}\n", {"n": 0})


def test_a_row_of_nothing_writes_nothing() -> None:
    text = """module main(x: f32[1, 0], y: f64[1]) {
  %0 = softmax(x) {axis=1}
  %1 = reduce_sum(%0) {axes=(1,)}
  %2 = leaky_relu(y) {alpha=1.5}
  return %0, %1, %2
}"""
    holds(text)
