"""Pooling on the cpu, against ``ref``."""

from __future__ import annotations

import pytest

from migx.targets.cpu.kernels.pooling import kernel_for
from migx.targets.cpu.machine import Machine, host
from tests.targets.cpu.alone import OTHER_MACHINES, parsed, problem, produced


def pooled(x: str, attributes: str, dtype: str = "f32") -> str:
    return f"module main(x: {dtype}[{x}]) {{\n  %0 = pooling(x) {{{attributes}}}\n  return %0\n}}\n"


GEOMETRIES = {
    "as resnet has it": ("2, 3, 12, 40", "lengths=(3, 3), padding=(1, 1, 1, 1), stride=(2, 2)"),
    "side by side": ("1, 3, 8, 33", "lengths=(2, 2), stride=(2, 2)"),
    "overlapping, at a stride": (
        "1, 2, 17, 40",
        "lengths=(5, 4), padding=(2, 1, 2, 1), stride=(2, 2)",
    ),
    "overlapping": ("1, 3, 9, 9", "lengths=(5, 5), padding=(2, 2, 2, 2)"),
    "hanging over": ("1, 2, 9, 10", "lengths=(3, 2), stride=(2, 3), ceil_mode=true"),
    "padded, hanging over": (
        "1, 2, 9, 10",
        "lengths=(3, 3), padding=(1, 0, 1, 1), stride=(2, 2), ceil_mode=true",
    ),
    "larger than all there is": ("2, 3, 1, 2", "lengths=(2, 3), stride=(2, 2), ceil_mode=true"),
    "far apart": ("1, 2, 19, 20", "lengths=(3, 4), dilation=(3, 2), stride=(1, 3)"),
    "all of it": ("2, 5, 7, 9", "lengths=(7, 9)"),
    "large, at a wide stride": (
        "1, 2, 23, 90",
        "lengths=(5, 7), padding=(2, 3, 2, 1), stride=(3, 4), dilation=(1, 3), ceil_mode=true",
    ),
    "large": ("1, 1, 20, 30", "lengths=(13, 11), padding=(6, 5, 6, 5)"),
    "along one axis": ("2, 3, 50", "lengths=(4,), padding=(1, 2), stride=(3,), dilation=(1,)"),
    "in space": (
        "1, 2, 5, 6, 7",
        "lengths=(2, 3, 2), padding=(1, 1, 0, 0, 1, 1), stride=(2, 1, 2), dilation=(1, 1, 1)",
    ),
    "each plane of a space": (
        "2, 2, 3, 6, 7",
        "lengths=(1, 3, 2), padding=(0, 1, 1, 0, 1, 0), stride=(1, 2, 1), dilation=(1, 1, 1)",
    ),
    "each plane of a space, large": (
        "1, 2, 3, 12, 11",
        "lengths=(1, 5, 5), padding=(0, 2, 2, 0, 2, 2), stride=(1, 1, 1), dilation=(1, 1, 1)",
    ),
    "no items": ("0, 2, 5, 5", "lengths=(2, 2)"),
}


@pytest.mark.parametrize(("x", "attributes"), GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize(
    "mode", ['mode="max"', 'mode="average"', 'mode="average", count_include_pad=true']
)
def test_geometries(x: str, attributes: str, mode: str) -> None:
    assert not problem(kernel_for, parsed(pooled(x, f"{mode}, {attributes}")))


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f64", "i8", "u8", "i32", "i64"])
def test_element_types(dtype: str) -> None:
    for name in ("as resnet has it", "far apart"):
        x, attributes = GEOMETRIES[name]
        assert not problem(kernel_for, parsed(pooled(x, f'mode="max", {attributes}', dtype)))
        if dtype in ("f16", "bf16", "f64"):
            text = pooled(x, f'mode="average", {attributes}', dtype)
            assert not problem(kernel_for, parsed(text))


def test_symbolic_images() -> None:
    text = pooled(
        "n, 3, h, w", 'mode="average", lengths=(3, 2), padding=(1, 1, 1, 0), stride=(2, 2)'
    )
    for n, h, w in ((1, 1, 1), (2, 30, 31), (0, 4, 4), (1, 3, 40_000)):
        assert not problem(kernel_for, parsed(text), {"n": n, "h": h, "w": w})


def test_views() -> None:
    text = """
module main(x: f32[2, 9, 20, 5]) {
  %0 = transpose(x) {permutation=(0, 3, 1, 2)}
  %1 = slice(%0) {axes=(1, 2), starts=(1, 2), ends=(4, 8)}
  %2 = pooling(%1) {mode="max", lengths=(3, 3), padding=(1, 1, 1, 1), stride=(2, 2)}
  return %2
}
"""
    assert not problem(kernel_for, parsed(text))


@pytest.mark.parametrize("machine", OTHER_MACHINES.values(), ids=OTHER_MACHINES)
def test_other_machines(machine: Machine) -> None:
    for name in ("as resnet has it", "hanging over"):
        x, attributes = GEOMETRIES[name]
        program = parsed(pooled(x, f'mode="average", {attributes}'))
        assert not problem(lambda at, _: kernel_for(at, machine), program)


def test_norms_are_declined() -> None:
    text = pooled("1, 2, 5, 5", 'mode="lpnorm", lengths=(2, 2)')
    assert kernel_for(produced(parsed(text)), host()) is None
