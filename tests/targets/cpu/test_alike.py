"""Kernels are written once for instructions that are alike, and only for those."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.base.recent import Recent
from migx.dim import Dim
from migx.ir import Instruction
from migx.ops.layout import Transpose
from migx.ops.linear import Convolution, Dot
from migx.ops.pointwise import Neg, Relu
from migx.targets.cpu import kernels
from migx.targets.cpu.code.alike import digest, likeness
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.machine import Machine

CONVOLUTION = Convolution((1, 1, 1, 1), (1, 1), (1, 1), 1)


def layers(count: int) -> migx.Program:
    """So many layers of a product, an addition and a rectifier."""
    lines, last = ["module main(x: f32[batch, 32, 32]) {"], "x"
    for i in range(count):
        lines += [
            f"  %{3 * i} = dot({last}, x)",
            f"  %{3 * i + 1} = add(%{3 * i}, x)",
            f"  %{3 * i + 2} = relu(%{3 * i + 1})",
        ]
        last = f"%{3 * i + 2}"
    return migx.parse("\n".join([*lines, f"  return {last}", "}"]))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Kernel | None]:
    """The kernels that are written from now on, none of which is remembered."""
    found, write = list[Kernel | None](), kernels._made

    def noted(at: Instruction, machine: Machine) -> Kernel | None:
        found.append(write(at, machine))
        return found[-1]

    monkeypatch.setenv("MIGX_CACHE_DIR", "")
    monkeypatch.setattr(kernels, "_known", Recent(kernels.MOST))
    monkeypatch.setattr(kernels, "_made", noted)
    return found


def test_twelve_layers_have_the_kernels_of_two(made: list[Kernel | None]) -> None:
    layers(2).compile("cpu")
    several = len(made)
    layers(12).compile("cpu")
    assert several
    assert len(made) == several


def test_instructions_keep_their_kernels_when_constants_are_packed(
    made: list[Kernel | None],
) -> None:
    program = migx.Program()
    add, literal = program.main.add_instruction, program.main.add_literal
    image = program.main.add_parameter("image", migx.Shape("f32", (1, 16, 20, 20)))
    rows = program.main.add_parameter("rows", migx.Shape("f32", (8, 64)))
    convolved = add(CONVOLUTION, image, literal(np.ones((24, 16, 3, 3), np.float32)))
    turned = add(Transpose((1, 0)), literal(np.ones((48, 64), np.float32)))
    program.main.add_return(add(Relu(), convolved), add(Dot(), rows, turned))
    program.compile("cpu")
    texts = [kernel.text for kernel in made if kernel is not None]
    assert any(kernel.formats for kernel in made if kernel is not None)
    assert len(texts) == len(set(texts))


ALIKE = """
module main(x: f32[n, 4], y: f32[n, 4]) {
  %0 = add(x, x)
  %1 = add(y, y)
  %2 = add(x, y)
  %3 = transpose(y) {permutation=(1, 0)}
  %4 = add(%3, %3)
  %5 = @literal() {value=[1.0], label="a", replaceable=false} : f32[]
  %6 = @literal() {value=[1.0], label="b", replaceable=false} : f32[]
  %7 = @literal() {value=[2.0], label="c", replaceable=false} : f32[]
  %8 = @literal() {value=[1.0], label="d", replaceable=true} : f32[]
  %9 = neg(%5)
  %10 = neg(%6)
  %11 = neg(%7)
  %12 = neg(%8)
  %13 = slice(x) {axes=(1,), starts=(0,), ends=(2,)}
  %14 = slice(y) {axes=(1,), starts=(2,), ends=(4,)}
  %15 = neg(%13)
  %16 = neg(%14)
  return %0, %1, %2, %4, %9, %10, %11, %12, %15, %16
}
"""


def test_alike_is_what_a_kernel_cannot_tell_apart() -> None:
    outputs = migx.parse(ALIKE).main.outputs
    twice_x, twice_y, both, turned, one, other, two, weight, left, right = outputs
    assert likeness(twice_x) == likeness(twice_y)
    assert likeness(one) == likeness(other)
    assert likeness(left) == likeness(right)
    rest = [twice_x, both, turned, one, two, weight, left]
    assert len({likeness(at) for at in rest}) == len({digest(at) for at in rest}) == len(rest)


def test_a_symbol_with_other_bounds_is_another() -> None:
    found = []
    for extent in (Dim("n"), Dim("n"), Dim("n", 1, 8), 3):
        program = migx.Program()
        x = program.main.add_parameter("x", migx.Shape("f32", [extent, 4]))
        found.append(likeness(program.main.add_instruction(Neg(), x)))
    assert found[0] == found[1]
    assert len(set(found)) == 3
