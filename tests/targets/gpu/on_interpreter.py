"""The GPU target on Triton's interpreter: programs held against ``ref`` within derived bounds.

Whoever imports this is skipped where there is no Triton.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

os.environ["TRITON_INTERPRET"] = "1"  # the compiler runs in processes of its own, without this
pytest.importorskip("triton", reason="Triton is not installed: make test-gpu installs it")

import migx
from migx.argument import Argument
from migx.program import Program
from migx.shape import Shape
from migx.targets.gpu import Gpu
from migx.targets.gpu.devices.interpreter import InterpreterDevice
from migx.targets.gpu.operations import CopyFrom, CopyTo
from migx.targets.gpu.runs.executable import GpuExecutable
from migx.testing.oracles import Trial

DEVICE = InterpreterDevice()
Array = NDArray[Any]


def gpu(*archs: str) -> Gpu:
    """The target, on the interpreter, with the kernels of an architecture."""
    return Gpu(archs, device=DEVICE)


def copies(executable: GpuExecutable) -> tuple[int, int]:
    """How many values are copied to the device in a run, and back."""
    every = [at.op for module in executable.pieces for at in module]
    there, back = (sum(isinstance(op, kind) for op in every) for kind in (CopyTo, CopyFrom))
    return there, back


def drawn(shape: Shape, dice: np.random.Generator) -> Argument:
    """A value of static shape: normal floats, all bytes, other integers small, all bits of packed
    types.
    """
    if shape.dtype.is_packed:
        return Argument.packed(shape, dice.integers(0, 256, int(shape.nbytes)).astype(np.uint8))
    dims = tuple(int(d) for d in shape.dims)
    if shape.dtype.is_float:
        return Argument.of(dice.standard_normal(dims).astype(shape.dtype.numpy))
    if shape.dtype.kind == "bool":
        low, high = 0, 2
    elif shape.dtype.bits == 8:
        low, high = (-128, 128) if shape.dtype.kind == "int" else (0, 256)
    else:
        low, high = (-9, 9) if shape.dtype.kind == "int" else (0, 9)
    return Argument.of(dice.integers(low, high, dims).astype(shape.dtype.numpy))


def inputs_for(program: Program, sizes: Mapping[str, int], given: Mapping[str, Array]) -> Any:
    """Arguments for a program's parameters, drawn but for those given."""
    dice = np.random.default_rng(1)
    found = {n: drawn(p.shape.bind(sizes), dice) for n, p in program.main.parameters.items()}
    return found | {name: Argument.of(array) for name, array in given.items()}


def holds(text: str, sizes: Mapping[str, int] | None = None, *archs: str, **given: Array) -> int:
    """Asserts that a program runs in kernels alone, and gives what ``ref`` does; how many kernels
    there are.
    """
    program = migx.parse(text, draw_missing=1)
    Trial(program, inputs_for(program, sizes or {}, given)).target(gpu(*archs))
    executable = program.compile(gpu(*archs)).compiled.executable
    assert isinstance(executable, GpuExecutable)
    assert executable.fallbacks() == []
    assert executable.functions, "no kernel is launched"
    return len(executable.functions)
