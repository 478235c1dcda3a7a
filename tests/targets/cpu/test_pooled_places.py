"""Where windows have their greatest elements, on the cpu, against ``ref``."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.targets.cpu.kernels.pooled_places import kernel_for
from migx.targets.cpu.machine import Machine, host
from tests.targets.cpu.alone import OTHER_MACHINES, parsed, problem, produced
from tests.targets.cpu.test_pooling import GEOMETRIES, pooled


def places(x: str, attributes: str, dtype: str = "f32") -> str:
    return pooled(x, f'mode="max", {attributes}', dtype).replace("pooling(", "max_pool_indices(")


@pytest.mark.parametrize(("x", "attributes"), GEOMETRIES.values(), ids=GEOMETRIES)
def test_geometries(x: str, attributes: str) -> None:
    assert not problem(kernel_for, parsed(places(x, attributes)))


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f64", "i8", "u8", "i32", "i64"])
def test_element_types(dtype: str) -> None:
    for name in ("as resnet has it", "far apart"):
        assert not problem(kernel_for, parsed(places(*GEOMETRIES[name], dtype)))


def test_symbolic_images_and_views() -> None:
    text = """
module main(x: f32[n, h, w, 5]) {
  %0 = transpose(x) {permutation=(0, 3, 1, 2)}
  %1 = max_pool_indices(%0) {mode="max", lengths=(3, 2), padding=(1, 1, 1, 0), stride=(2, 2)}
  return %1
}
"""
    for n, h, w in ((1, 1, 1), (2, 30, 31), (0, 4, 4), (1, 3, 4000)):
        assert not problem(kernel_for, parsed(text), {"n": n, "h": h, "w": w})


def test_ties_infinities_and_nan_are_placed_as_ref_places_them() -> None:
    attributes = "lengths=(3, 3), padding=(1, 1, 1, 1), stride=(2, 2)"
    program = migx.parse(places("2, 3, 12, 40", attributes))
    x = np.random.default_rng(0).choice([0, 1, -np.inf, np.nan], (2, 3, 12, 40)).astype("f")
    (wanted,) = program.compile("ref").eval({"x": x})
    (got,) = program.compile("cpu").eval({"x": x})
    assert program.executable.fallbacks() == []
    assert np.array_equal(got, wanted)


@pytest.mark.parametrize("machine", OTHER_MACHINES.values(), ids=OTHER_MACHINES)
def test_other_machines(machine: Machine) -> None:
    for name in ("as resnet has it", "hanging over", "far apart"):
        program = parsed(places(*GEOMETRIES[name]))
        assert not problem(lambda at, _: kernel_for(at, machine), program)


def test_places_that_count_down_columns_are_declined() -> None:
    text = places("1, 2, 8, 8", "lengths=(2, 2), column_major=true")
    assert kernel_for(produced(parsed(text)), host()) is None
