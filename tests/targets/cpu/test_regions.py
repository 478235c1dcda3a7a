"""Results made in regions on the cpu: concatenations, pads and reverses, against ``ref``."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from migx.program import Program
from migx.targets.cpu.kernels.regions import kernel_for
from migx.targets.cpu.machine import host
from tests.targets.cpu.alone import parsed, problem, produced

CASES: Mapping[str, tuple[str, dict[str, int]]] = {
    "concat of uneven parts": (
        """
module main(x: f32[3, 5, 7], y: f32[3, 0, 7], z: f32[3, 40, 7]) {
  %0 = concat(x, y, z, x) {axis=1}
  return %0
}
""",
        {},
    ),
    "concat of symbols and views": (
        """
module main(x: f16[n, 4, 20], y: f16[n, m, 4]) {
  %0 = slice(x) {axes=(2,), starts=(3,), ends=(19,)}
  %1 = transpose(y) {permutation=(0, 2, 1)}
  %2 = concat(%0, %1) {axis=2}
  return %2
}
""",
        {"n": 3, "m": 17},
    ),
    "concat of single elements": (
        """
module main(x: i64[1], y: i64[1], z: i64[1]) {
  %0 = concat(x, y, z) {axis=0}
  return %0
}
""",
        {},
    ),
    "concat of large rows": (
        """
module main(x: i64[2, 30000], y: i64[2, 5000]) {
  %0 = concat(x, y) {axis=1}
  return %0
}
""",
        {},
    ),
    "bools": (
        """
module main(x: bool[9], y: bool[1]) {
  %0 = concat(x, y) {axis=0}
  return %0
}
""",
        {},
    ),
    "pad": (
        """
module main(x: f32[2, 3, 5, 6]) {
  %0 = pad(x) {pads=(0, 1, 2, 3, 0, 0, 1, 4)}
  return %0
}
""",
        {},
    ),
    "pad with a value and drop": (
        """
module main(x: f32[7, n], v: f32[1]) {
  %0 = pad(x, v) {pads=(-2, 1, 3, -4)}
  return %0
}
""",
        {"n": 50},
    ),
    "pad to a size": (
        """
module main(x: f32[2, n]) {
  %0 = pad(x) {pads=(0, 3, 0, 50 - n)}
  return %0
}
""",
        {"n": 33},
    ),
    "pad back to a size": (
        """
module main(x: f32[2, n]) {
  %0 = pad(x) {pads=(0, 3, 0, 50 - n)}
  return %0
}
""",
        {"n": 70},
    ),
    "pad of views": (
        """
module main(x: bf16[5, 4]) {
  %0 = transpose(x) {permutation=(1, 0)}
  %1 = pad(%0) {pads=(1, 0, 0, 2)}
  return %1
}
""",
        {},
    ),
    "reverse": (
        """
module main(x: i32[4, n, 3]) {
  %0 = reverse(x) {axes=(1, 2)}
  return %0
}
""",
        {"n": 6},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_moves(name: str) -> None:
    text, sizes = CASES[name]
    assert not problem(kernel_for, parsed(text), sizes)


@pytest.mark.parametrize("dtype", ["f32", "u8", "bool", "i64"])
@pytest.mark.parametrize("n", [0, 1, 5, 16, 77])
def test_rows_are_turned_round_by_vectors(dtype: str, n: int) -> None:
    text = f"module main(x: {dtype}[2, n]) {{\n  %0 = reverse(x) {{axes=(1,)}}\n  return %0\n}}\n"
    program = parsed(text)
    assert not problem(kernel_for, program, {"n": n})
    kernel = kernel_for(produced(program), host())
    assert kernel is not None
    assert "gather" not in kernel.text


ROTATED = """
module main(x: f32[2, 4, n, 64], c: f32[2, 4, n, 64], s: f32[2, 4, n, 64]) {
  %0 = slice(x) {axes=(3,), starts=(32,), ends=(64,)}
  %1 = slice(x) {axes=(3,), starts=(0,), ends=(32,)}
  %2 = neg(%0)
  %3 = concat(%2, %1) {axis=3}
  %4 = mul(%3, s)
  return %4
}
"""


@pytest.mark.parametrize("n", [0, 1, 5])
def test_arithmetic_around_a_concatenation_is_done_with_it(n: int) -> None:
    program = parsed(ROTATED, "fuse_pointwise,fuse_concat")
    at = produced(program)
    assert at.name == "group"
    assert not problem(kernel_for, program, {"n": n})


@pytest.mark.parametrize("op", ['pad(x) {pads=(1, 1), mode="edge"}', "relu(x)"])
def test_other_instructions_are_left(op: str) -> None:
    program = parsed(f"module main(x: f32[5]) {{\n  %0 = {op}\n  return %0\n}}\n")
    assert kernel_for(produced(program), host()) is None


def joined(count: int) -> str:
    """A concatenation of parts of two forms, of which one is read as a view, with arithmetic."""
    parts = ", ".join(f"x{i}: f32[n, {3 + i % 2}, 10]" for i in range(count))
    views = "\n".join(f"  %{i} = {'tanh' if i % 3 else 'relu'}(x{i})" for i in range(count))
    names = ", ".join(f"%{i}" for i in range(count))
    joins = f"  %{count} = concat({names}) {{axis=1}}\n  return %{count}"
    return f"\nmodule main({parts}) {{\n{views}\n{joins}\n}}\n"


@pytest.mark.parametrize("passes", ["", "fuse_pointwise{singles=true},fuse_concat"])
def test_parts_that_differ_only_in_their_places_are_written_once(passes: str) -> None:
    few, many = (parsed(joined(count), passes) for count in (12, 150))
    assert not problem(kernel_for, many, {"n": 5})
    assert instructions(few) == instructions(many)


def instructions(program: Program) -> int:
    """The instructions in the kernel of what a program returns, but for those at its start, which
    read its arguments.
    """
    made = kernel_for(produced(program), host())
    assert made is not None
    return sum(line.startswith("  ") and "%args" not in line for line in made.text.splitlines()) - (
        made.text.count("!invariant.load")
    )


@pytest.mark.parametrize("rows", ["n", "n, 3", "n, n, 3"])
def test_places_of_like_parts_may_be_symbols(rows: str) -> None:
    """They are at equal distances, or at distances of which each is a word of its own."""
    extents = (rows.split(", ") * 7)[:7]
    parts = ", ".join(f"x{i}: f16[{rows}, 2]" for i, rows in enumerate(extents))
    names = ", ".join(f"x{i}" for i in range(7))
    joins = f"  %0 = concat({names}) {{axis=0}}\n  return %0"
    program = parsed(f"\nmodule main({parts}) {{\n{joins}\n}}\n")
    for n in (0, 1, 40):
        assert not problem(kernel_for, program, {"n": n})
