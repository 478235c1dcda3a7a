"""Kernels written for CPUs unlike this one: LLVM takes their texts, and its code stands alone."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from migx.targets.cpu.code import jit
from migx.targets.cpu.kernels import FAMILIES, kernel_for
from migx.targets.cpu.machine import Machine, host
from tests.targets.cpu.alone import parsed, produced
from tests.targets.cpu.assembled import AVX2, NEON, TRIPLES, count, loops, spills
from tests.targets.cpu.test_recurrent import layer

MACHINES = {"avx2": (32, 16), "neon": (16, 32), "sse": (16, 16)}
OPS = {
    "regions": ("x: f32[n, 5]", "concat(x, x) {axis=1}"),
    "gather": ("x: f16[n, 5], i: i64[3]", "gather(x, i)"),
    "scatter": ("x: i8[n, 5], i: i64[3, 1], u: i8[3, 5]", "scatternd_add(x, i, u)"),
    "places": ("x: f32[n, 50]", 'pad(x) {pads=(1, 20, 0, 3), mode="reflect"}'),
    "lines": ("x: f32[n, 50]", "argmax(x) {axis=1}"),
    "resize": ("x: f32[n, 50]", 'resize(x) {sizes=(2*n, 70), mode="linear"}'),
    "sampling": (
        "x: f32[n, 3, 9, 9], g: f32[n, 4, 5, 2]",
        'grid_sample(x, g) {mode="cubic", padding_mode="reflection"}',
    ),
    "roi_align": (
        "x: bf16[n, 3, 9, 9], r: bf16[5, 4], i: i64[5]",
        "roi_align(x, r, i) {dims=(3, 7)}",
    ),
    "topk": ("x: f32[n, 500]", "topk(x) {axis=1, k=40}"),
    "transposed": ("x: f32[n, 3, 50]", "contiguous(%t)"),
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("family", [*OPS, "recurrent"])
def test_texts_compile(family: str, machine: str) -> None:
    assert family in FAMILIES
    text = layer("lstm", "b", lengths=True)
    if family != "recurrent":
        given, op = OPS[family]
        turned = "%0 = transpose(x) {permutation=(2, 1, 0)}"
        lines = [turned, f"%1 = {op.replace('%t', '%0')}", "return %1"]
        text = f"module main({given}) {{\n" + "\n".join(lines[family != "transposed" :]) + "\n}\n"
        text = text if family == "transposed" else text.replace("%1", "%0")
    width, registers = MACHINES[machine]
    features = frozenset({"neon"} if machine == "neon" else ())
    other = replace(host(), features=features, vector_bytes=width, registers=registers, masks=False)
    kernel = kernel_for(produced(parsed(text)), other)
    assert kernel is not None
    assert jit.compiled(kernel.text)


@pytest.mark.parametrize("machine", [AVX2, NEON], ids=lambda machine: machine.cpu)
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize(
    "op",
    [
        'pooling(x) {mode="max", lengths=(3,), padding=(1, 1), stride=(2,), dilation=(1,)}',
        "convolution(x, w) {padding=(1, 1), stride=(1,), dilation=(1,)}",
        "concat(x, x) {axis=2}",
        "gather(x, i) {axis=2}",
        "tanh(x)",
        "reduce_sum(x) {axes=(2,)}",
    ],
)
def test_no_function_of_a_runtime_is_called(op: str, dtype: str, machine: Machine) -> None:
    given = f"x: {dtype}[n, 16, 50], w: {dtype}[20, 16, 3], i: i64[7]"
    text = f"module main({given}) {{\n%0 = {op}\nreturn %0\n}}\n"
    kernel = kernel_for(produced(parsed(text)), machine)
    assert kernel is not None
    code = jit.assembly(kernel.text, machine.cpu, TRIPLES[machine.cpu])
    assert not re.findall(r"\b__\w+", code)


@pytest.mark.parametrize("machine", [AVX2, NEON], ids=lambda machine: machine.cpu)
def test_whole_vectors_are_not_moved_lane_by_lane(machine: Machine) -> None:
    text = "module main(x: f16[64, 100], w: f16[100, 50]) {\n%0 = dot(x, w)\nreturn %0\n}\n"
    kernel = kernel_for(produced(parsed(text)), machine)
    assert kernel is not None
    code = kernel.text.splitlines()
    for number, line in enumerate(code):
        if "call" in line and re.search(r"llvm\.masked\.(?:load|store)\.v\d+f16", line):
            before = next(one for one in code[number::-1] if one.endswith(":"))
            assert before.startswith("when")


@pytest.mark.parametrize("machine", [AVX2, NEON], ids=lambda machine: machine.cpu)
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("rows", [4, 64])
def test_tiles_of_dots_fill_the_registers(rows: int, dtype: str, machine: Machine) -> None:
    text = f"module main(x: {dtype}[{rows}, 512], w: {dtype}[512, 384]) {{\n"
    assert products(f"{text}%0 = dot(x, w)\nreturn %0\n}}\n", machine) >= tile(machine, rows)


@pytest.mark.parametrize("machine", [AVX2, NEON], ids=lambda machine: machine.cpu)
@pytest.mark.parametrize("size", [14, 56])
@pytest.mark.parametrize("taps", [1, 3])
def test_tiles_of_convolutions_fill_the_registers(taps: int, size: int, machine: Machine) -> None:
    text = f"module main(x: f32[1, 64, {size}, {size}], w: f32[64, 64, {taps}, {taps}]) {{\n"
    sides = ", ".join([str(taps // 2)] * 4)
    op = f"%0 = convolution(x, w) {{padding=({sides}), stride=(1, 1), dilation=(1, 1)}}"
    assert products(f"{text}{op}\nreturn %0\n}}\n", machine) >= tile(machine, 64)


def products(text: str, machine: Machine) -> int:
    """The most multiply-adds in an inner loop of a kernel, none of which spills."""
    kernel = kernel_for(produced(parsed(text)), machine)
    assert kernel is not None
    found = {count(each, r"vfmadd.*|fmla"): spills(each) for each in loops(kernel.text, machine)}
    assert not found[max(found)]
    return max(found)


def tile(machine: Machine, rows: int) -> int:
    """About the sums that registers hold beside a vector for each column and a number of a row."""
    return min(rows * 3, machine.registers * 3 // 4)
