"""Transposes made real on the cpu: permutations, sizes and types, against ``ref``."""

from __future__ import annotations

import pytest

from migx.targets.cpu.kernels.transposed import kernel_for
from migx.targets.cpu.machine import host
from tests.targets.cpu.alone import parsed, problem, produced


def program_of(given: str, permutation: str, after: str = "contiguous(%0)") -> str:
    return f"""
module main(x: {given}) {{
  %0 = transpose(x) {{permutation={permutation}}}
  %1 = {after}
  return %1
}}
"""


@pytest.mark.parametrize("dtype", ["f32", "bf16", "u8", "f64", "bool"])
@pytest.mark.parametrize("n", [0, 1, 32, 50])
def test_matrices(dtype: str, n: int) -> None:
    program = parsed(program_of(f"{dtype}[n, 40]", "(1, 0)"))
    assert not problem(kernel_for, program, {"n": n})


@pytest.mark.parametrize(
    ("given", "permutation"),
    [
        ("f32[2, 20, 5, 33]", "(0, 3, 1, 2)"),
        ("f32[2, 33, 3, 20]", "(0, 2, 3, 1)"),
        ("i16[17, 3, n]", "(2, 1, 0)"),
        ("f32[600, 700]", "(1, 0)"),
    ],
)
def test_permutations(given: str, permutation: str) -> None:
    assert not problem(kernel_for, parsed(program_of(given, permutation)), {"n": 40})


def test_reshapes() -> None:
    text = program_of("f32[2, 30, 40]", "(0, 2, 1)", "reshape(%0) {dims=(80, 5, 6)}")
    assert not problem(kernel_for, parsed(text))


@pytest.mark.parametrize(
    ("given", "permutation"), [("f32[40, 3, 50]", "(1, 0, 2)"), ("f32[50, 3]", "(1, 0)")]
)
def test_other_copies_are_left(given: str, permutation: str) -> None:
    assert kernel_for(produced(parsed(program_of(given, permutation))), host()) is None
