"""Convolutions by minimal filtering on the cpu: their kernels, how far off they are, weights that
are replaced.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest

import migx
from migx.argument import Argument
from migx.op import Operation
from migx.ops.builtin import Literal
from migx.ops.linear import ConvolutionBackwards
from migx.pipeline import Pipeline
from migx.program import Program
from migx.targets.cpu.emit import F32
from migx.targets.cpu.kernels import kernel_for, winograd
from migx.targets.cpu.machine import Machine, host
from migx.testing.oracles import Trial, Violation, expect_same, run_on_ref
from tests.targets.cpu.alone import OTHER_MACHINES, parsed, problem, produced

Dims = tuple[int | str, int, int, int]
Padding = tuple[int, int, int, int]
FUSE = "rewrite_winograd{always=true},hoist_weights,fuse_pointwise,fuse_epilogue"
RELU = """%2 = broadcast(b) {axis=1, out_lens=RESULT}
  %3 = add(%1, %2)
  %4 = add(%3, r)
  %5 = relu(%4)
  return %5"""


def convolved(
    x: Dims,
    outputs: int,
    padding: Padding = (1, 1, 1, 1),
    after: str = "return %1",
    weights: str = 'label="w"',
) -> str:
    """A program that convolves an image of these dims with kernels of 3 x 3."""
    items, channels, height, width = x
    w = outputs, channels, 3, 3
    made = height + padding[0] + padding[2] - 2, width + padding[1] + padding[3] - 2
    result = f"{items}, {outputs}, {made[0]}, {made[1]}"
    return f"""
module main(x: f32[{", ".join(map(str, x))}], r: f32[{result}], b: f32[{outputs}]) {{
  %0 = @literal() {{value=bytes("w", 0, {4 * prod(w)}), {weights}}} : f32{list(w)}
  %1 = convolution(x, %0) {{padding={padding}}}
  {after.replace("RESULT", f"({result})")}
}}
"""


def drawn(program: Program, seed: int = 0, items: int = 1) -> dict[str, np.ndarray]:
    """Random inputs."""
    dice = np.random.default_rng(seed)
    shapes = {n: p.shape.bind({"n": items}).dims for n, p in program.main.parameters.items()}
    return {n: dice.standard_normal(tuple(map(int, d))).astype("f") for n, d in shapes.items()}


GEOMETRIES: dict[str, tuple[Dims, int, Padding]] = {
    "whole tiles": ((1, 40, 16, 16), 40, (1, 1, 1, 1)),
    "tiles that hang over": ((2, 55, 14, 15), 53, (1, 1, 1, 1)),
    "uneven padding": ((1, 33, 20, 70), 18, (0, 2, 1, 0)),
    "wide padding": ((1, 35, 10, 12), 33, (5, 4, 3, 6)),
    "no padding": ((1, 16, 18, 40), 20, (0, 0, 0, 0)),
    "blocks of a row": ((1, 16, 14, 530), 16, (1, 1, 1, 1)),
    "flat": ((1, 16, 4, 300), 20, (1, 1, 1, 1)),
    "upright": ((1, 16, 300, 4), 20, (1, 1, 1, 1)),
    "little": ((1, 1, 5, 6), 2, (1, 0, 1, 2)),
    "many channels": ((1, 200, 14, 14), 32, (1, 1, 1, 1)),
    "several items": (("n", 24, 28, 28), 50, (1, 1, 1, 1)),
    "no items": ((0, 40, 16, 16), 40, (1, 1, 1, 1)),
}


@pytest.mark.parametrize("after", ["return %1", RELU], ids=["alone", "epilogue"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_kernels(geometry: tuple[Dims, int, Padding], after: str) -> None:
    program = parsed(convolved(*geometry, after), FUSE)
    assert produced(program).op.name == "group"
    assert not problem(winograd.kernel_for, program, {"n": 3})


def test_images_that_are_views() -> None:
    text = convolved((2, 56, 20, 20), 40)
    text = text.replace("convolution(x,", "convolution(%9,").replace(
        "  %1 =",
        "  %8 = slice(x) {axes=(1, 2, 3), starts=(8, 1, 2), ends=(48, 19, 20)}\n"
        "  %9 = transpose(%8) {permutation=ORDER}\n  %1 =",
    )
    text = text.replace("f32[40, 56, 3, 3]", "f32[40, 40, 3, 3]")
    text = text.replace("80640", "57600")
    for order, fits in (((0, 1, 2, 3), True), ((0, 1, 3, 2), False)):
        program = parsed(text.replace("ORDER", str(order)), FUSE)
        if fits:
            assert not problem(winograd.kernel_for, program)
        else:
            assert winograd.kernel_for(produced(program), host()) is None


def test_a_single_kernel_has_none() -> None:
    program = parsed(convolved((1, 3, 9, 9), 1), FUSE)
    assert produced(program).op.name == "group"
    assert winograd.kernel_for(produced(program), host()) is None


@pytest.mark.parametrize("name", ["@literal", "convolution_backwards"])
def test_a_tag_alone_makes_no_kernel(name: str) -> None:
    """A group may hold other numbers, or cut off the first rows, and is then taken apart."""
    program = parsed(convolved((1, 16, 30, 30), 24), FUSE)
    assert winograd.kernel_for(produced(program), host()) is not None
    inside = next(at for at in produced(program).modules[0] if at.name == name)
    inside.op = twice(inside.op) if isinstance(inside.op, Literal) else moved(inside.op)
    assert winograd.kernel_for(produced(program), host()) is None


def twice(op: Literal) -> Literal:
    """A literal of the doubled numbers."""
    return Literal(Argument.of(op.value.array * np.float32(2)))


def moved(op: Operation) -> Operation:
    """A convolution backwards that cuts off at the start what it did at the end."""
    assert isinstance(op, ConvolutionBackwards)
    return replace(op, padding=(*op.padding[2:], *op.padding[:2]))


@pytest.mark.parametrize("machine", OTHER_MACHINES.values(), ids=OTHER_MACHINES)
def test_other_machines(machine: Machine) -> None:
    """What is cut for other registers and caches is right too, though compiled for this one."""
    program = parsed(convolved((1, 20, 30, 33), 24, after=RELU), FUSE)
    for each in (machine, replace(machine, l2=64 * 1024, cores=5)):
        kernel = winograd.kernel_for(produced(program), each)
        assert not problem(lambda *_, found=kernel: found, program)


def test_sums_stay_in_registers() -> None:
    for machine in (*OTHER_MACHINES.values(), host()):
        for sizes in ((16, 16, 160), (64, 64, 56), (512, 512, 16)):
            channels, outputs, extent = sizes
            text = convolved((1, channels, extent, extent), outputs)
            found = winograd.described(produced(parsed(text, "rewrite_winograd")), machine)
            assert found is not None
            cut = winograd.chosen(machine, found)
            assert cut.rows * cut.vectors + cut.vectors + 1 <= machine.registers
            assert cut.height * cut.width <= cut.vectors * machine.lanes(F32)


def test_layers_that_are_alike_share_a_kernel() -> None:
    first, second = (parsed(convolved((1, 40, 16, 16), 40), FUSE) for _ in range(2))
    kernel = kernel_for(produced(first), host())
    assert kernel is not None
    assert kernel_for(produced(second), host()) is kernel
    other = next(at for at in produced(second).modules[0] if isinstance(at.op, Literal))
    other.op = twice(other.op_as(Literal))
    assert kernel_for(produced(second), host()) is None


def test_a_program_is_run_so_where_it_is_asked_for() -> None:
    program = migx.parse(convolved(("n", 64, 14, 14), 64, after=RELU), draw_missing=1)
    x = drawn(program, items=2)
    exact = program.compile("cpu").eval(x)[0]
    results = []
    for threads in (1, 2, 3):
        program.compile("cpu", fast_math=True, num_threads=threads)
        assert program.executable.fallbacks() == []
        results.append(program.eval(x)[0])
    assert 1e-7 < np.abs(results[0] - exact).max() / np.abs(exact).max() < 1e-4
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("size", [1.0, 1e-30, 1e37, np.inf])
def test_it_keeps_within_what_the_pass_states(size: float) -> None:
    program = migx.parse(convolved((2, 42, 15, 17), 44, after=RELU), draw_missing=1)
    x = drawn(program, items=2)
    x["x"][0, 3, 5, 6:8] *= np.float32(size)
    Trial(program, {n: Argument.of(v) for n, v in x.items()}).target("cpu", fast_math=True)


def test_what_may_overflow_may_reach_all_of_a_tile() -> None:
    """The first convolution is off by so much at [3, 3] that the product may overflow there."""
    text = """module main(x: f32[1, 1, 4, 4], y: f32[1, 1, 4, 4], w: f32[1, 1, 3, 3]) {
  %0 = convolution(x, w) {padding=(1, 1, 1, 1)}
  %1 = mul(%0, y)
  %2 = convolution(%1, w) {padding=(1, 1, 1, 1)}
  return %2
}"""
    x, y = np.ones((2, 1, 1, 4, 4), np.float32)
    x[0, 0, 0, 0] = y[0, 0, 3, 3] = 1e30
    given = {"x": x, "y": y, "w": np.ones((1, 1, 3, 3), np.float32)}
    trial = Trial(migx.parse(text), {n: Argument.of(v) for n, v in given.items()})
    ((_, plain),) = trial.outputs(Pipeline.parse(""))
    ((_, approximated),) = trial.outputs(Pipeline.parse("rewrite_winograd{always=true}"))
    assert isinstance(plain, np.ndarray)
    assert isinstance(approximated, np.ndarray)
    assert np.isfinite(plain).all()
    assert np.isinf(approximated).all()


def test_what_the_pass_states_is_little() -> None:
    """A transform whose numbers are off by 1 % is found."""
    program = migx.parse(convolved((1, 40, 16, 16), 40), draw_missing=1)
    inputs = {n: Argument.of(v) for n, v in drawn(program).items()}
    passes = Pipeline.parse("rewrite_winograd")
    expected = Trial(program, inputs).outputs(passes)
    bound = expected[0][1]
    assert isinstance(bound, np.ndarray)
    assert bound.max() < 0.01 * np.abs(expected[0][0].array).max()
    migx.run_passes(program, passes)
    inner = produced(program).modules[0]
    matrix = next(at for at in inner if at.name == "@literal")
    assert isinstance(matrix.op, Literal)
    matrix.op = Literal(Argument.of(matrix.op.value.array * np.float32(1.01)))
    results = run_on_ref(program, inputs, program)
    with pytest.raises(Violation, match="same outputs"):
        expect_same("same outputs", "with other numbers", [(results[0][0], None)], expected)


def test_weights_that_are_replaced_are_transformed_again() -> None:
    text = convolved((1, 40, 16, 16), 42, after=RELU, weights='label="w", replaceable=true')
    weights = np.random.default_rng(7).standard_normal((42, 40, 3, 3)).astype("f")
    results = []
    for fast in (False, True):
        program = migx.parse(text, draw_missing=1).compile("cpu", fast_math=fast)
        x = drawn(program)
        before = program.eval(x)[0]
        with program.update_weights() as new:
            new["w"] = weights
        results.append(program.eval(x)[0])
        assert not np.allclose(before, results[-1])
    exact, got = results
    assert 0 < np.abs(got - exact).max() < 1e-4 * np.abs(exact).max()
