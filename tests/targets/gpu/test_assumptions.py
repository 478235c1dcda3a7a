"""What a program assumes on the gpu: the host looks at the condition, the value stays there."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.errors import EvaluationError
from migx.targets.gpu.runs.executable import GpuExecutable
from tests.targets.gpu.on_interpreter import copies, gpu, holds

TEXT = """module main(x: f32[n, 40], c: f32[1]) {
  %0 = tanh(x)
  %1 = greater(c, c)
  %2 = squeeze(%1) {axes=(0,)}
  %3 = assume(%0, %2) {expected=false}
  %4 = exp(%3)
  return %4
}"""


def test_what_is_assumed_something_of_is_not_copied() -> None:
    holds(TEXT, {"n": 3})
    executable = migx.parse(TEXT).compile(gpu()).compiled.executable
    assert isinstance(executable, GpuExecutable)
    assert copies(executable) == (2, 2)  # the parameters; the condition and the result


def test_a_view_of_which_something_is_assumed_is_copied_on_the_device() -> None:
    turned = TEXT.replace("tanh(x)", "transpose(%t) {permutation=(1, 0)}").replace(
        "%0 =", "%t = tanh(x)\n  %0 ="
    )
    holds(turned, {"n": 3})
    executable = migx.parse(turned).compile(gpu()).compiled.executable
    assert isinstance(executable, GpuExecutable)
    assert copies(executable) == (2, 2)


def test_another_condition_is_an_error() -> None:
    program = migx.parse(TEXT.replace("expected=false", "expected=true")).compile(gpu())
    with pytest.raises(EvaluationError, match="at which this condition is True"):
        program.eval({"x": np.zeros((2, 40), np.float32), "c": np.ones(1, np.float32)})
