"""Convolutions on the cpu whose weights are no packed constants: given, computed, seen through
views, or one number for all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx.backend.test
import pytest

import migx
from migx import Dim, Program, Shape, ops
from migx.compiler import compiled
from migx.ir import Instruction, Module
from migx.shape import Dims
from migx.targets.cpu.kernels import kernel_for
from migx.targets.cpu.machine import Machine
from tests.targets.cpu.alone import OTHER_MACHINES, parsed, problem

LIGHT = sorted((Path(onnx.backend.test.__file__).parent / "data" / "light").glob("*.onnx"))
Given = Callable[[Module, tuple[int, ...], str], Instruction]


def as_they_are(main: Module, dims: tuple[int, ...], dtype: str) -> Instruction:
    return main.add_parameter("w", Shape(dtype, dims))


def taps_first(main: Module, dims: tuple[int, ...], dtype: str) -> Instruction:
    given = main.add_parameter("w", Shape(dtype, (*dims[2:], dims[1], dims[0])))
    rank = len(dims)
    return main.add_instruction(ops.Transpose((rank - 1, rank - 2, *range(rank - 2))), given)


def channels_first(main: Module, dims: tuple[int, ...], dtype: str) -> Instruction:
    given = main.add_parameter("w", Shape(dtype, (dims[1], dims[0], *dims[2:])))
    return main.add_instruction(ops.Transpose((1, 0, *range(2, len(dims)))), given)


def the_middle(main: Module, dims: tuple[int, ...], dtype: str) -> Instruction:
    given = main.add_parameter("w", Shape(dtype, tuple(d + 2 for d in dims)))
    axes = tuple(range(len(dims)))
    cut = ops.Slice(axes, (1,) * len(dims), tuple(d + 1 for d in dims))
    return main.add_instruction(cut, given)


def one_kernel(main: Module, dims: tuple[int, ...], dtype: str) -> Instruction:
    given = main.add_parameter("w", Shape(dtype, (1, 1, *dims[2:])))
    return main.add_instruction(ops.Multibroadcast(dims), given)


def one_number(main: Module, dims: tuple[int, ...], dtype: str) -> Instruction:
    given = main.add_literal(np.full((), 3, Shape(dtype, ()).dtype.numpy))
    return main.add_instruction(ops.Multibroadcast(dims), given)


VIEWS = (as_they_are, taps_first, channels_first, the_middle, one_kernel, one_number)


def convolved(
    x: Dims, w: tuple[int, ...], given: Given, op: ops.Convolution, dtype: str = "f32"
) -> Program:
    """A program that convolves an image with weights that are given in some way."""
    program = Program()
    image = program.main.add_parameter("x", Shape(dtype, x))
    weights = given(program.main, w, dtype)
    program.main.add_return(program.main.add_instruction(op, image, weights), names=["y"])
    return program


def drawn(seed: int, given: Given, dtype: str = "f32") -> Program:
    """A convolution of any size, stride, dilation and number of groups."""
    dice = np.random.default_rng(seed)
    spatial = int(dice.choice([1, 2, 2, 2, 3]))

    def several(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(n) for n in dice.integers(low, high, spatial))

    group = int(dice.choice([1, 1, 2, 5]))
    channels, outputs = int(dice.choice([1, 3, 20])), int(dice.choice([1, 2, 7, 33]))
    lengths, stride, dilation = several(1, 4), several(1, 3), several(1, 4)
    padding = several(0, 3) + several(0, 3)
    room = zip(lengths, dilation, several(0, 20), strict=True)
    image = [(length - 1) * apart + 1 + more for length, apart, more in room]
    x, w = (2, group * channels, *image), (group * outputs, channels, *lengths)
    return convolved(x, w, given, ops.Convolution(padding, stride, dilation, group), dtype)


@pytest.mark.parametrize("given", VIEWS, ids=lambda given: given.__name__)
@pytest.mark.parametrize("seed", range(6))
def test_any_geometry(seed: int, given: Given) -> None:
    assert not problem(kernel_for, drawn(seed, given), seed=seed)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f64", "i8", "u8", "i32"])
def test_element_types(dtype: str) -> None:
    for seed, given in ((1, taps_first), (2, as_they_are), (4, one_kernel)):
        assert not problem(kernel_for, drawn(seed, given, dtype))


@pytest.mark.parametrize("given", [as_they_are, channels_first, one_number])
def test_images_of_unknown_size_and_small_ones(given: Given) -> None:
    op = ops.Convolution((1, 1, 1, 1))
    unknown = convolved((Dim("n"), 20, Dim("h"), Dim("w")), (24, 20, 3, 3), given, op)
    for n, h, width in ((1, 5, 5), (2, 10, 33), (0, 9, 9)):
        assert not problem(kernel_for, unknown, {"n": n, "h": h, "w": width})
    for size in (1, 7):
        assert not problem(kernel_for, convolved((1, 90, size, size), (70, 90, 3, 3), given, op))


def test_more_channels_than_are_spread_at_a_time() -> None:
    op = ops.Convolution((1, 1, 1, 1))
    for given in (as_they_are, taps_first):
        assert not problem(kernel_for, convolved((1, 1500, 9, 10), (24, 1500, 3, 3), given, op))


@pytest.mark.parametrize("machine", OTHER_MACHINES.values(), ids=OTHER_MACHINES)
def test_strips_that_are_no_whole_vectors(machine: Machine) -> None:
    op = ops.Convolution((1, 1, 1, 1))
    for outputs in (5, 11, 13):
        for given in (as_they_are, taps_first):
            program = convolved((1, 9, 6, 50), (outputs, 9, 3, 3), given, op)
            assert not problem(lambda at, _: kernel_for(at, machine), program)


COMPUTED = """
module main(x: f32[1, 32, 20, 20], z: f32[1, 16], m: f32[16, 4608], t: f32[32, 16, 3, 3]) {
  %0 = dot(z, m)
  %1 = reshape(%0) {dims=(16, 32, 3, 3)}
  %2 = tanh(%1)
  %3 = convolution(x, %2) {padding=(1, 1, 1, 1)}
  %4 = relu(%3)
  %5 = convolution_backwards(x, t) {padding=(1, 1, 1, 1), stride=(2, 2)}
  %6 = transpose(%2) {permutation=(1, 0, 3, 2)}
  %7 = convolution(%4, %6)
  return %4, %5, %7
}
"""


def test_nothing_of_it_is_left_to_the_host() -> None:
    made: list[list[bytes]] = []
    for threads in (1, 2, 3):
        program = parsed(COMPUTED)
        inputs = {
            name: np.random.default_rng(1).standard_normal(p.shape.dims).astype(np.float32)
            for name, p in program.main.parameters.items()
        }
        program.compile("cpu", num_threads=threads)
        assert not compiled(program, "cpu").fallbacks()
        made.append([value.tobytes() for value in program.eval(inputs)])
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("path", LIGHT[-3:], ids=lambda path: path.stem)
def test_models_of_one_number_have_kernels(path: Path) -> None:
    """ONNX's light models: weights that stand for many equal numbers take no room for them."""
    assert not [at.op.name for at in compiled(migx.parse_onnx(path), "cpu").fallbacks()]
