"""Elementwise kernels whose operands are contiguous along different axes, such as transposes: they
take blocks, of which each operand is read in long pieces.
"""

from __future__ import annotations

import pytest

from tests.targets.gpu.on_interpreter import holds

TURNED = """module main(x: {t}[{dims}]) {{
  %0 = transpose(x) {{permutation={permutation}}}
  %1 = contiguous(%0)
  return %1
}}"""
MIXED = """module main(x: f16[n, 40, 7, 7], y: f16[n, 7, 7, 40], b: f16[40]) {
  %0 = transpose(y) {permutation=(0, 3, 1, 2)}
  %1 = add(x, %0)
  %2 = broadcast(b) {axis=1, out_lens=(n, 40, 7, 7)}
  %3 = mul(%1, %2)
  return %3
}"""
FAR = """module main(x: f32[3, 33, 70], y: f32[3, 70, 40]) {
  %0 = slice(y) {axes=(2,), starts=(5,), ends=(38,)}
  %1 = transpose(%0) {permutation=(0, 2, 1)}
  %2 = sub(x, %1)
  return %2
}"""


@pytest.mark.parametrize("dtype", ["f16", "f32", "f64", "u8", "bool"])
@pytest.mark.parametrize(
    ("dims", "permutation"),
    [
        ("64, 128", "(1, 0)"),
        ("77, 33", "(1, 0)"),
        ("n, m", "(1, 0)"),
        ("2, 3, 7, 40", "(0, 2, 3, 1)"),
        ("2, 40, 5, 3", "(0, 3, 2, 1)"),
        ("3, 5, 7, 9", "(3, 1, 2, 0)"),
    ],
)
def test_transposes(dtype: str, dims: str, permutation: str) -> None:
    text = TURNED.format(t=dtype, dims=dims, permutation=permutation)
    holds(text, {"n": 50, "m": 45})


def test_what_is_computed_with_them() -> None:
    holds(MIXED, {"n": 2})
    holds(FAR)
