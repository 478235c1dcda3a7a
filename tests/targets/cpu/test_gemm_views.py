"""Matrix products on the cpu of operands that are views, against ``ref``."""

from __future__ import annotations

import pytest

from migx.targets.cpu.kernels.gemm import kernel_for
from tests.targets.cpu.alone import parsed, problem

VIEWS = {
    "both transposed": """
module main(x: f32[20, 13], y: f32[50, 20]) {
  %0 = transpose(x) {permutation=(1, 0)}
  %1 = transpose(y) {permutation=(1, 0)}
  %2 = dot(%0, %1)
  return %2
}
""",
    "slices of larger ones": """
module main(x: f32[20, 40], y: f32[30, 90]) {
  %0 = slice(x) {axes=(0, 1), starts=(3, 5), ends=(14, 30)}
  %1 = slice(y) {axes=(0, 1), starts=(2, 7), ends=(27, 71)}
  %2 = dot(%0, %1)
  return %2
}
""",
    "a weight transposed": """
module main(x: f32[12, 20]) {
  %0 = @literal() {value=bytes("w", 0, 4800), label="w"} : f32[60, 20]
  %1 = transpose(%0) {permutation=(1, 0)}
  %2 = dot(x, %1)
  return %2
}
""",
    "a weight for the whole batch": """
module main(x: f32[3, 12, 20]) {
  %0 = @literal() {value=bytes("w", 0, 4800), label="w"} : f32[20, 60]
  %1 = multibroadcast(%0) {out_lens=(3, 20, 60)}
  %2 = dot(x, %1)
  return %2
}
""",
    "a weight for each of the batch": """
module main(x: f32[2, 3, 5, 20]) {
  %0 = @literal() {value=bytes("w", 0, 14400), label="w"} : f32[3, 20, 60]
  %1 = multibroadcast(%0) {out_lens=(2, 3, 20, 60)}
  %2 = dot(x, %1)
  return %2
}
""",
    "a weight transposed and copied": """
module main(x: f32[12, 20]) {
  %0 = @literal() {value=bytes("w", 0, 1600), label="w"} : f32[20, 20]
  %1 = transpose(%0) {permutation=(1, 0)}
  %2 = reshape(%1) {dims=(400,)}
  %3 = reshape(%2) {dims=(20, 20)}
  %4 = dot(x, %3)
  return %4
}
""",
    "part of a weight": """
module main(x: f32[12, 20]) {
  %0 = @literal() {value=bytes("w", 0, 4800), label="w"} : f32[20, 60]
  %1 = slice(%0) {axes=(1,), starts=(5,), ends=(55,)}
  %2 = dot(x, %1)
  return %2
}
""",
    "a weight on the left": """
module main(x: f32[2, 20, 30]) {
  %0 = @literal() {value=bytes("w", 0, 960), label="w"} : f32[12, 20]
  %1 = multibroadcast(%0) {out_lens=(2, 12, 20)}
  %2 = dot(%1, x)
  return %2
}
""",
    "heads in the middle": """
module main(x: f32[2, 9, 3, 8], y: f32[2, 11, 3, 8]) {
  %0 = transpose(x) {permutation=(0, 2, 1, 3)}
  %1 = transpose(y) {permutation=(0, 2, 3, 1)}
  %2 = dot(%0, %1)
  return %2
}
""",
    "one column": """
module main(x: f32[70, 40]) {
  %0 = @literal() {value=bytes("w", 0, 160), label="w"} : f32[40, 1]
  %1 = dot(x, %0)
  return %1
}
""",
    "one and the same": """
module main(x: f32[20, 20]) {
  %0 = dot(x, x)
  return %0
}
""",
}


@pytest.mark.parametrize("text", VIEWS.values(), ids=VIEWS)
def test_views(text: str) -> None:
    assert not problem(kernel_for, parsed(text))


def test_half_precision_views() -> None:
    for text in VIEWS.values():
        halved = text.replace("f32", "f16")
        for size in (4800, 14400, 960, 160, 1600):
            halved = halved.replace(f'"w", 0, {size})', f'"w", 0, {size // 2})')
        assert not problem(kernel_for, parsed(halved))
