"""What is wrong with targets that are nearly right is found: kernels that take their first panel
alone, and runs that are not apart from each other or from their caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pytest

import migx
from migx.argument import Argument
from migx.ir import Instruction
from migx.manager import Pipeline
from migx.meaning import run_with_kernels
from migx.op import Array
from migx.program import Program
from migx.target import NO_SLOTS, CompileOptions, Context, Executable, Target
from migx.testing import check_target
from migx.testing.draws import MANY, Dice, volume
from migx.testing.draws.sizes import BORDERS
from migx.testing.oracles import Violation
from migx.testing.programs import draw_program
from migx.testing.runs import SWITCH, check_runs

Kernel: TypeAlias = Callable[..., Array]
PANEL = 16


def first_rows(at: Instruction, x: Array, y: Array) -> Array:
    """A product of which the first panel of rows is computed."""
    made = np.zeros([*x.shape[:-1], y.shape[-1]], x.dtype)
    made[..., :PANEL, :] = x[..., :PANEL, :] @ y
    return made


def first_columns(at: Instruction, x: Array, y: Array) -> Array:
    """A product of which the first panel of columns is computed."""
    made = np.zeros([*x.shape[:-1], y.shape[-1]], x.dtype)
    made[..., :PANEL] = x @ y[..., :PANEL]
    return made


def first_terms(at: Instruction, x: Array, y: Array) -> Array:
    """A product that sums the first panel."""
    return np.asarray(x[..., :PANEL] @ y[..., :PANEL, :])


def no_terms(at: Instruction, x: Array, y: Array) -> Array:
    """A product that says nothing where there is nothing to sum."""
    return np.asarray(x @ y) if x.shape[-1] else np.ones([*x.shape[:-1], y.shape[-1]], x.dtype)


def first_channels(at: Instruction, x: Array, w: Array) -> Array:
    """A convolution that makes the first panel of channels."""
    few = w.copy()
    few[PANEL:] = 0
    op: Any = at.op
    return np.asarray(op.compute(x, few))


def first_of_axis(at: Instruction, x: Array) -> Array:
    """A softmax of which the first panel is summed."""
    axis = at.op_as(migx.ops.Softmax).axis
    numbers = np.exp(x - x.max(axis, keepdims=True, initial=-np.inf))
    total = np.take(numbers, range(min(PANEL, x.shape[axis])), axis).sum(axis, keepdims=True)
    return np.asarray(numbers / total)


class Own(Target):
    """Numpy kernels for an operation on f32; the rest runs by its meaning."""

    of: str
    kernel: Kernel

    def get_passes(self, context: Context, options: CompileOptions) -> Pipeline:
        return Pipeline()

    def make_executable(self, program: Program, context: Context) -> Executable:
        return OwnKernel(program, context)


class Walk:
    """Runs a program by some kernels, and else by its meaning."""

    def __init__(self, program: Program, context: Context) -> None:
        self.program, self.context = program, context

    def run(
        self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument] = NO_SLOTS
    ) -> list[Argument]:
        return run_with_kernels(self.program, self.found, self.context, arguments, slots)

    def found(self, at: Instruction) -> Kernel | None:
        """The kernel of an instruction, where there is one."""
        return None


class OwnKernel(Walk):
    """Runs what its target has a kernel for by that."""

    def found(self, at: Instruction) -> Kernel | None:
        target: Any = self.context.target
        wanted = at.name == target.of and at.shape.dtype.name == "f32"
        return partial(target.kernel, at) if wanted else None


@pytest.mark.parametrize(
    ("of", "kernel"),
    [
        ("dot", first_rows),
        ("dot", first_columns),
        ("dot", first_terms),
        ("dot", no_terms),
        ("convolution", first_channels),
        ("softmax", first_of_axis),
    ],
)
def test_a_kernel_that_takes_its_first_panel_alone_is_found(of: str, kernel: Kernel) -> None:
    with pytest.raises(AssertionError, match="same outputs"):
        check_target(Own(of, kernel), programs=300)


def test_dims_are_drawn_around_the_borders_of_panels_and_stay_few() -> None:
    drawn = [draw_program(Dice(f"wide.{seed}")) for seed in range(300)]
    shapes = [at.shape for d in drawn for m in d.program.modules.values() for at in m]
    assert set(BORDERS) <= {extent for shape in shapes for extent in shape.dims}
    large = [shape for shape in shapes if not shape.parts and volume(shape) > MANY]
    assert len(large) < len(shapes) / 50
    wide = [any(d in BORDERS for s in x.inputs.values() for d in s.shape.dims) for x in drawn]
    assert 0.2 < sum(wide) / len(wide) < 0.6
    sizes = [d for x in drawn for o in x.others for v in o.values() for d in v.shape.dims]
    assert any(isinstance(d, int) and 7 <= d <= 17 for d in sizes)


class Careless(Target):
    """Runs right, but not apart from callers and other runs."""

    way: str

    def get_passes(self, context: Context, options: CompileOptions) -> Pipeline:
        return Pipeline()

    def make_executable(self, program: Program, context: Context) -> Executable:
        return WAYS[self.way](program, context)


class InPlace(Walk):
    """Writes results over inputs like them."""

    def run(
        self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument] = NO_SLOTS
    ) -> list[Argument]:
        made = super().run(arguments, slots)
        for given in arguments.values():
            if given.shape.dtype.is_float and given.array.flags.writeable:
                like = [r.array for r in made if r.shape.same_type(given.shape)]
                np.copyto(given.array, like[0] if like else given.array)
        return made


class SameMemory(Walk):
    """Gives back what is to be copied as it is."""

    def run(
        self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument] = NO_SLOTS
    ) -> list[Argument]:
        made = zip(self.program.main.outputs, super().run(arguments, slots), strict=True)
        return [arguments["x"] if at.name == "contiguous" else result for at, result in made]


class OneBuffer(Walk):
    """Returns its results in the same memory each time."""

    def __init__(self, program: Program, context: Context) -> None:
        super().__init__(program, context)
        self.held: list[Argument] = []

    def run(
        self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument] = NO_SLOTS
    ) -> list[Argument]:
        made = super().run(arguments, slots)
        if [r.shape for r in made] != [r.shape for r in self.held]:
            self.held = [Argument(r.shape, r.array.copy()) for r in made]
        for kept, new in zip(self.held, made, strict=True):
            np.copyto(kept.array, new.array)
        return self.held


class FirstInputs(Walk):
    """Reads inputs where those of the first run lay."""

    def __init__(self, program: Program, context: Context) -> None:
        super().__init__(program, context)
        self.bound: dict[str, Argument] = {}

    def run(
        self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument] = NO_SLOTS
    ) -> list[Argument]:
        if any(n not in self.bound or self.bound[n].shape != v.shape for n, v in arguments.items()):
            self.bound = dict(arguments)
        return super().run(self.bound, slots)


class OneScratch(Walk):
    """Keeps the inputs of a run where other runs keep theirs."""

    def run(
        self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument] = NO_SLOTS
    ) -> list[Argument]:
        self.now = arguments
        time.sleep(SWITCH)
        return super().run(self.now, slots)


class Raises(Walk):
    """Is refused where another run is going on."""

    running = False

    def run(
        self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument] = NO_SLOTS
    ) -> list[Argument]:
        if self.running:
            raise RuntimeError("busy")
        self.running = True
        made = super().run(arguments, slots)
        self.running = False
        return made


WAYS = {
    "in place": InPlace,
    "same memory": SameMemory,
    "one buffer": OneBuffer,
    "first inputs": FirstInputs,
    "one scratch": OneScratch,
    "raises": Raises,
}

PLAIN = """module main(x: f32[2, 3]) {
  %0 = relu(x) : f32[2, 3]
  %1 = contiguous(x) : f32[2, 3]
  return %0, %1
}
"""

WRONG = [
    ("in place", "inputs kept: a run writes to input 'x'"),
    ("same memory", "own outputs: writing to an input changes output 1"),
    ("one buffer", "own outputs: the next run changes output 0, 1"),
    ("first inputs", "same each run: a run after others gives another output 0, 1"),
    ("one scratch", "same abreast: beside another thread, a run gives another output 0, 1"),
    ("raises", "same abreast: beside another thread, a run fails: RuntimeError: busy"),
]


@pytest.mark.parametrize(("way", "told"), WRONG)
def test_a_run_that_is_not_apart_from_others_is_found(way: str, told: str) -> None:
    numbers = np.arange(-2, 4, dtype=np.float32).reshape(2, 3)
    inputs = {"x": Argument.of(numbers)}
    target = Careless(way)
    with pytest.raises(Violation) as caught:
        for _ in range(50):  # threads may miss each other
            check_runs(migx.parse(PLAIN).compile(target).compiled, inputs)
    assert str(caught.value) == told
    if way != "same memory":  # few programs return a copy of an input
        with pytest.raises(AssertionError, match=told.partition(":")[0]):
            check_target(target, programs=200)
