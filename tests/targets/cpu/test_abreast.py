"""Rows abreast: what they come to is what each comes to alone, bit by bit, however they lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from migx.ir import Instruction
from migx.program import Program
from migx.targets.cpu.kernel import Kernel, call
from migx.targets.cpu.kernels import fused, fused_cut, lines
from migx.targets.cpu.machine import Machine, host
from tests.targets.cpu.alone import parsed, problem, produced, result
from tests.targets.cpu.test_fused import on_cpu

LENGTHS = (2, 3, 4, 5, 8, 16, 17, 20, 64, 100, 197, 300)
NORM = """module main(x: f32[n, C], s: f32[C], c: f32[n, 1]) {
  %0 = reduce_mean(x) {axes=(1,)}
  %1 = multibroadcast(%0) {out_lens=(n, C)}
  %2 = sub(x, %1)
  %3 = mul(%2, %2)
  %4 = reduce_sum(%3) {axes=(1,)}
  %5 = rsqrt(%4)
  %6 = multibroadcast(%5) {out_lens=(n, C)}
  %7 = mul(%2, %6)
  %8 = multibroadcast(s) {out_lens=(n, C)}
  %9 = multibroadcast(c) {out_lens=(n, C)}
  %10 = add(%7, %8)
  %11 = add(%10, %9)
  return %11
}
"""


def alone(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel that takes one row after another."""
    most, fused_cut.ROWS = fused_cut.ROWS, 1
    try:
        return fused.kernel_for(at, machine)
    finally:
        fused_cut.ROWS = most


def reduction(name: str, given: str, axes: str, before: str = "") -> Program:
    call = f"{name}({'%0' if before else 'x'}) {{{axes}}}"
    lines_ = [f"%0 = {before}(x) {{permutation=(1, 0, 2)}}"] if before else []
    lines_ += [f"%{len(lines_)} = {call}", f"return %{len(lines_)}"]
    return parsed(f"module main(x: {given}) {{\n" + "\n".join(lines_) + "\n}\n")


def same_bits(program: Program, n: int) -> None:
    """Holds the kernel against ``ref``, and against the one that takes rows one by one."""
    assert not problem(fused.kernel_for, program, {"n": n})
    sizes = {"n": n}
    got, wanted = (result(kind, program, sizes) for kind in (fused.kernel_for, alone))
    assert got.tobytes() == wanted.tobytes()
    if host().masks:
        texts = [kind(produced(program), host()) for kind in (fused.kernel_for, alone)]
        assert texts[0] != texts[1], "no rows are abreast"


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("n", [1, 16, 37])
def test_rows_of_every_length(length: int, n: int) -> None:
    same_bits(reduction("reduce_sum", f"f32[n, {length}]", "axes=(1,)"), n)
    same_bits(reduction("softmax", f"f32[n, {length}]", "axis=1"), n)


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize("length", [2, 3, 20, 64])
def test_which_zero_a_row_comes_to_does_not_depend_on_its_place(length: int, name: str) -> None:
    """Of 37 rows the last are taken one by one."""
    at = produced(reduction(f"reduce_{name}", f"f32[n, {length}]", "axes=(1,)"))
    kernel = fused.kernel_for(at, host())
    assert kernel is not None
    dice = np.random.default_rng(0)
    for _ in range(20):
        row = dice.choice(np.array([0.0, -0.0, -1.0 if name == "max" else 1.0], np.float32), length)
        made = np.empty((37, 1), np.float32)
        call(kernel, [np.tile(row, (37, 1)), made], {"n": 37})
        assert len(set(made.view(np.uint32).ravel().tolist())) == 1


@pytest.mark.parametrize("length", [3, 20, 96])
def test_values_of_each_row_and_of_each_column(length: int) -> None:
    same_bits(parsed(NORM.replace("C", str(length)), "fuse_pointwise_reduce"), 21)


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "i64", "i32", "u8", "i8"])
@pytest.mark.parametrize("name", ["sum", "mean", "max", "prod"])
def test_types(name: str, dtype: str) -> None:
    for length in (3, 8, 20):
        same_bits(reduction(f"reduce_{name}", f"{dtype}[n, {length}]", "axes=(1,)"), 19)


@pytest.mark.parametrize("length", [3, 8, 24])
def test_rows_that_do_not_lie_close(length: int) -> None:
    same_bits(reduction("reduce_sum", f"f32[8, n, {length}]", "axes=(2,)", "transpose"), 16)
    same_bits(reduction("softmax", f"f32[8, n, {length}]", "axis=2", "transpose"), 16)
    same_bits(reduction("reduce_sum", f"f32[8, 9, {length}]", "axes=(0, 2)", "transpose"), 9)


def test_rows_are_neighbours_along_one_axis() -> None:
    """Where an axis is no multiple of them, some would lie on the next place of the one before."""
    apart = reduction("reduce_sum", "f32[n, 5, 24]", "axes=(2,)", "transpose")
    assert not problem(fused.kernel_for, apart, {"n": 7})
    known = reduction("reduce_sum", "f32[7, 5, 24]", "axes=(2,)", "transpose")
    assert fused.kernel_for(produced(known), host()) == alone(produced(known), host())


def test_long_rows_are_read_one_by_one() -> None:
    for given in ("f32[n, 5000]", "f32[3, 20000]", "f32[1, 20]"):
        at = produced(reduction("reduce_sum", given, "axes=(1,)"))
        assert fused.kernel_for(at, host()) == alone(at, host())


@pytest.mark.parametrize("width", [32, 16])
@pytest.mark.parametrize("length", [4, 6, 16, 32])
def test_other_machines(length: int, width: int) -> None:
    program = reduction("softmax", f"f32[n, {length}]", "axis=1")
    assert not problem(on_cpu(width), program, {"n": 21})


@pytest.mark.parametrize("length", LENGTHS)
def test_where_the_greatest_of_each_row_is(length: int) -> None:
    for dtype in ("f32", "u8", "f64"):
        for op in ("argmax", "argmin"):
            for last in ("true", "false"):
                axis = f"axis=1, select_last_index={last}"
                program = reduction(op, f"{dtype}[n, {length}]", axis)
                assert not problem(lines.kernel_for, program, {"n": 37})


def test_no_value_takes_more_registers_than_there_is_room_for() -> None:
    """On fewer registers, fewer rows are abreast: the texts are shorter."""
    at = produced(reduction("softmax", "f32[n, 100]", "axis=1"))
    wide = replace(host(), vector_bytes=64, masks=True)
    few, many = (fused.kernel_for(at, replace(wide, registers=n)) for n in (8, 32))
    assert few is not None
    assert many is not None
    assert len(few.text) < len(many.text)
