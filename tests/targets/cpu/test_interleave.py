"""Copies that put few things side by side, against ``ref``."""

from __future__ import annotations

import pytest

from migx.targets.cpu.kernels.interleave import kernel_for
from migx.targets.cpu.machine import host
from tests.targets.cpu.alone import parsed, problem, produced

NEAREST = """
module main(x: {dtype}[n, 3, h, w]) {{
  %0 = unsqueeze(x) {{axes=(3, 5)}}
  %1 = multibroadcast(%0) {{out_lens=(n, 3, h, {k}, w, {k})}}
  %2 = reshape(%1) {{dims=(n, 3, {k}*h, {k}*w)}}
  return %2
}}
"""
SHUFFLED = """
module main(x: {dtype}[n, {k}, {k}, h, w]) {{
  %0 = transpose(x) {{permutation=(0, 3, 1, 4, 2)}}
  %1 = reshape(%0) {{dims=(n, {k}*h, {k}*w)}}
  return %1
}}
"""


@pytest.mark.parametrize("text", [NEAREST, SHUFFLED], ids=["nearest", "shuffled"])
@pytest.mark.parametrize(
    ("dtype", "k"), [("f32", 2), ("f32", 4), ("i8", 2), ("f16", 4), ("i64", 2)]
)
def test_sizes(text: str, dtype: str, k: int) -> None:
    program = parsed(text.format(dtype=dtype, k=k))
    for n, h, w in ((1, 1, 1), (2, 3, 17), (1, 5, 64), (0, 2, 2), (1, 2, 70)):
        assert not problem(kernel_for, program, {"n": n, "h": h, "w": w})


def test_others_are_declined() -> None:
    for text in (NEAREST.format(dtype="f32", k=3), "module main(x: f32[2]) {\n  return x\n}\n"):
        assert kernel_for(produced(parsed(text)), host()) is None
