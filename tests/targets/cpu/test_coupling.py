"""Coupled probabilities on the cpu, against ``ref``."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.targets.cpu.kernels.coupling import kernel_for
from migx.targets.cpu.machine import Machine
from tests.targets.cpu.alone import OTHER_MACHINES, parsed, problem

TEXT = """
module main(x: {dtype}[{rows}, {classes}, {classes}]) {{
  %0 = transpose(x) {{permutation=(0, 2, 1)}}
  %1 = sub(x, %0)
  %2 = sigmoid(%1)
  %3 = couple_chances(%2)
  return %3
}}
"""


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize(("rows", "classes"), [("n", "3"), ("0", "2"), ("40", "10"), ("5", "k")])
def test_probabilities(rows: str, classes: str, dtype: str) -> None:
    text = TEXT.format(dtype=dtype, rows=rows, classes=classes)
    assert not problem(kernel_for, parsed(text), {"n": 37, "k": 4})


@pytest.mark.parametrize("machine", OTHER_MACHINES.values(), ids=OTHER_MACHINES)
def test_other_machines(machine: Machine) -> None:
    program = parsed(TEXT.format(dtype="f32", rows="9", classes="5"))
    assert not problem(lambda at, _: kernel_for(at, machine), program)


@pytest.mark.parametrize("target", ["cpu", "ref"])
def test_the_diagonal_is_not_read(target: str) -> None:
    text = "module main(x: f32[n, 2, 2]) {\n  %0 = couple_chances(x)\n  return %0\n}\n"
    given = np.array([[[np.nan, 0.75], [0.25, np.inf]]], np.float32)
    (found,) = migx.parse(text).compile(target).eval({"x": given})
    np.testing.assert_allclose(found, [[0.75, 0.25]], rtol=0, atol=0.005)


def test_nothing_is_left_to_the_host() -> None:
    program = migx.parse(TEXT.format(dtype="f32", rows="n", classes="3")).compile("cpu")
    assert program.compiled is not None
    assert program.compiled.fallbacks() == []
