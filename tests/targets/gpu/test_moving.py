"""Kernels that move elements on the gpu: concat, gather, pad, reverse, and sizes as tensors."""

from __future__ import annotations

import pytest

from tests.targets.gpu.on_interpreter import holds

CASES = {
    "concat": "x: f32[n, 3, 5], y: f32[n, 4, 5], z: f32[n, 1, 5]) {\n"
    " %0 = concat(x, y, z) {axis=1}",
    "rows": "x: f16[50, 6], i: i64[n, 3]) {\n %0 = gather(x, i) {axis=0}",
    "columns": "x: bool[5, 9, 6], i: i32[n, 3]) {\n %0 = gather(x, i) {axis=1}",
    "tuples": "x: f32[10, 9, 6], i: i64[n, 2]) {\n %0 = gathernd(x, i)",
    "elements": "x: u8[5, 9], i: i64[5, n]) {\n %0 = gather_elements(x, i) {axis=1}",
    "constant": "x: f32[n, 9], v: f32[1]) {\n %0 = pad(x, v) {pads=(0, 2, 1, 3)}",
    "cut": "x: f32[n, 9]) {\n %0 = pad(x) {pads=(1, -2, 0, 3)}",
    "edge": 'x: f32[n, 9]) {\n %0 = pad(x) {pads=(0, 2, 1, 3), mode="edge"}',
    "reflect": 'x: f32[4, 9]) {\n %0 = pad(x) {pads=(1, 2, 0, 3), mode="reflect"}',
    "reflect more than once": 'x: f32[n, 3]) {\n %0 = pad(x) {pads=(0, 7, 0, 4), mode="reflect"}',
    "wrap": 'x: f32[n, 9]) {\n %0 = pad(x) {pads=(2, 2, 0, 3), mode="wrap"}',
    "reverse": "x: i64[n, 7]) {\n %0 = reverse(x) {axes=(0,)}",
}


@pytest.mark.parametrize("case", CASES)
def test_each_reads_the_elements_it_should(case: str) -> None:
    holds(f"module main({CASES[case]}\n return %0\n}}", {"n": 8})
