"""Operands of more elements than 32 bits count: where they are is reckoned in 64 bits, whatever a
place is made of.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import migx
from migx.errors import InputError
from migx.shape import Shape
from migx.targets.gpu.code.compiling import Request
from migx.targets.gpu.kernels import kernel_for
from migx.targets.gpu.runs.executable import GpuExecutable
from tests.targets.gpu.on_interpreter import DEVICE, gpu

Array = NDArray[Any]
FAR = 1 << 26
"""Elements from one row to the next: the last of 40 begins where 32 bits have ended."""
ROWS = f"{{}}[40, 48]{{{{{FAR}, 1}}}}"
IMAGE = f"f32[1, 1, 40, 48]{{{FAR}, {FAR}, {FAR}, 1}}"
WINDOWS = "{padding=(0, 0, 0, 0), stride=(1, 1), dilation=(1, 1), group=1}"


def numbers(shape: Shape) -> Array:
    """Small whole numbers, of which all sums are exact."""
    dims = [int(d) for d in shape.dims]
    return np.random.default_rng(1).integers(-5, 5, dims).astype(shape.dtype.numpy)


class Far:
    """Runs kernels on an operand ``x`` whose rows are far apart, in a file that is all holes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(self, shape: Shape) -> Array:
        """An array of numbers of which the rows lie so."""
        values, step = numbers(Shape(shape.dtype, (40, 48))), shape.dtype.bits // 8
        space = np.memmap(self.folder / "far", np.uint8, "w+", shape=(40 * FAR * step,))
        found: Array = np.ndarray(values.shape, values.dtype, space, strides=(FAR * step, step))
        found[...] = values
        return found

    def __call__(self, x: str, text: str, other: str = "") -> tuple[Array, Array, Array]:
        """The first and the last operand of an operation, and what its kernel makes of them."""
        program = migx.parse(f"module main(x: {x}{other}) {{\n %0 = {text}\n return %0\n}}")
        (at,) = program.main.outputs
        kernel = kernel_for(at)
        assert kernel is not None
        given = [self.rows(v.shape) if v.shape.strides else numbers(v.shape) for v in at.inputs]
        made, *scratch = (
            np.empty([int(d) for d in shape.dims], shape.dtype.numpy)
            for shape in (at.shape, *kernel.scratch)
        )
        function = DEVICE.function(Request.of(kernel.op, ""), None)
        grid, turns = kernel.op.grid, kernel.op.turns
        assert isinstance(grid, int)
        assert isinstance(turns, int)
        addresses = [a.ctypes.data for a in (*given, made, *scratch)]
        for turn in [[n] for n in range(turns)] or [[]]:
            DEVICE.launch(function, grid, [*addresses, *turn])
        return given[0], given[-1], made


@pytest.fixture
def far(tmp_path: Path) -> Far:
    return Far(tmp_path)


def test_a_folded_axis(far: Far) -> None:
    x, _, y = far(ROWS.format("i8"), "reduce_max(x) {axes=(0,)}")
    assert np.array_equal(y[0], x.max(0))


def test_an_axis_with_running_sums(far: Far) -> None:
    x, _, y = far(ROWS.format("f32"), "prefix_scan_sum(x) {axis=0}")
    assert np.array_equal(y, x.cumsum(0))


def test_the_greatest_of_an_axis(far: Far) -> None:
    x, _, y = far(ROWS.format("i8"), "argmax(x) {axis=0}")
    assert np.array_equal(y[0], x.argmax(0))


@pytest.mark.parametrize("rows", [1, 17])
def test_a_depth(far: Far, rows: int) -> None:
    a, x, y = far(ROWS.format("f32"), "dot(a, x)", f", a: f32[{rows}, 40]")
    assert np.array_equal(y, a @ x)


def test_windows(far: Far) -> None:
    x, a, y = far(IMAGE, f"convolution(x, a) {WINDOWS}", ", a: f32[1, 1, 40, 48]")
    assert np.array_equal(y.reshape(-1), [(x * a[0, 0]).sum()])


@pytest.mark.parametrize(("dims", "n"), [("n", 1 << 31), ("n, 65536, 65536", 1)])
def test_sizes_that_only_wide_indices_count(dims: str, n: int) -> None:
    program = migx.parse(f"module main(x: i8[{dims}]) {{\n %0 = abs(x)\n return %0\n}}")
    executable = program.compile(gpu()).compiled.executable
    assert isinstance(executable, GpuExecutable)
    (piece,) = executable.pieces[executable.program.main]
    wide = "," in dims  # as all have too many elements that have any
    refused = pytest.raises(InputError, match=r"i8\[2147483648\] has too many elements")
    with nullcontext() if wide else refused:
        assert piece.plans.at({"n": n}).arena_bytes == 2 << 32
