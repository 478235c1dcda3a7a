"""Slots on the cpu: where they lie is looked up once for each set of weights."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import migx
from migx.targets.cpu.plans.outline import Cell
from migx.targets.cpu.runs.running import Run

TEXT = """module main(x: f32[n, 8]) {
  %0 = onnx_external_weights() {label="a", file="w.bin", offset=0, length=256, shape=f32[8, 8]}
  %1 = onnx_external_weights() {label="b", file="w.bin", offset=256, length=32, shape=f32[8]}
  %2 = dot(x, %0) : f32[n, 8]
  %3 = multibroadcast(%1) {out_lens=(n, 8)} : f32[n, 8]
  %4 = add(%2, %3) : f32[n, 8]
  return %4
}
"""
X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


def weights(seed: int) -> dict[str, Any]:
    dice = np.random.default_rng(seed)
    return {"a": dice.standard_normal((8, 8), np.float32), "b": dice.standard_normal(8, np.float32)}


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is looked up from now on."""
    found: list[str] = []
    given = Run.given

    def noted(run: Run, cell: Cell) -> Any:
        found.append(cell.of[0].name)
        return given(run, cell)

    monkeypatch.setattr(Run, "given", noted)
    return found


def test_slots_are_looked_up_once_for_each_set_of_weights(looked_up: list[str]) -> None:
    program = migx.parse(TEXT).compile("cpu")
    for seed in (1, 2):
        given = weights(seed)
        with program.update_weights() as new:
            new.update(given)
        for run, wanted in enumerate((2, 0, 0)):
            looked_up.clear()
            (result,) = program.eval({"x": X})
            np.testing.assert_allclose(result, X @ given["a"] + given["b"], rtol=1e-5, atol=1e-5)
            assert looked_up.count("@slot") == wanted, (seed, run)
    looked_up.clear()
    program.eval({"x": X[:2]})
    assert "@slot" in looked_up, "another plan has words of its own"


def test_an_idle_workspace_holds_no_old_weights() -> None:
    program = migx.parse(TEXT).compile("cpu")
    with program.update_weights() as new:
        new.update(weights(1))
    program.eval({"x": X})
    old = weakref.ref(program.compiled.weights.current.slots)
    with program.update_weights() as new:
        new.update(weights(2))
    del new  # which could go back
    gc.collect()
    assert old() is None
