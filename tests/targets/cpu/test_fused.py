"""Kernels of arithmetic and reductions: every operation and type, all layouts, sizes and CPUs."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

import migx
from migx import plugins
from migx.errors import MigxError
from migx.ir import Instruction
from migx.program import Program
from migx.shape import DType, Shape
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.kernels import fused
from migx.targets.cpu.machine import Machine, host
from migx.targets.cpu.parts.elements import FLOAT_ONLY, TABLE
from tests.targets.cpu.alone import OTHER_MACHINES, KernelFor, parsed, problem

WIDTHS = {"widest": None, "avx2": 32, "neon": 16, "scalar": 4}
TYPES = ["f16", "bf16", "f32", "f64", "bool", "i8", "u8", "i16", "i32", "u32", "i64", "u64"]
GIVEN = {"convert": "to=f32", "bit_cast": "to=i32"}


def on_cpu(width: int | None) -> KernelFor:
    """The family, writing for a CPU of so wide vectors and no masks; the host's own for None."""

    def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
        narrow = replace(machine, vector_bytes=width, masks=False) if width else machine
        return fused.kernel_for(at, narrow)

    return kernel_for


def element_program(name: str, dtype: str) -> Program | None:
    """The operation on two rows, of which the second is a view; None where it has no such form."""
    cls = plugins.operation(name)
    attributes = {"to": DType.of("i32" if name == "bit_cast" else "f32")} if name in GIVEN else {}
    op = cls(**attributes)
    for count in (1, 2, 3):
        program = migx.Program()
        main = program.main
        kinds = ["bool", dtype, dtype] if name == "where" else [dtype] * count
        shapes = [Shape(kind, (5, 37), (1, 5) if i else None) for i, kind in enumerate(kinds)]
        try:
            made = main.add_instruction(
                op, *(main.add_parameter(f"x{i}", s) for i, s in enumerate(shapes))
            )
        except MigxError:
            continue
        main.add_return(made)
        return program
    return None


@pytest.mark.parametrize("name", sorted({*TABLE, *FLOAT_ONLY} - {"identity"}))
def test_every_operation_on_every_type(name: str) -> None:
    tried = 0
    for dtype in TYPES:
        program = element_program(name, dtype)
        if program is None or fused.kernel_for(program.main.outputs[0], host()) is None:
            continue
        tried += 1
        assert not problem(fused.kernel_for, program), dtype
    linear = name in ("quantizelinear", "dequantizelinear")
    assert tried or linear


CHAINS = {
    "one number": "(x: f32[]) {\n %0 = exp(x)\n return %0\n}",
    "a channel's bias": (
        "(x: f32[n, 6, 13], b: f32[6]) {\n %0 = broadcast(b) {axis=1, out_lens=(n, 6, 13)}\n"
        " %1 = add(x, %0)\n %2 = relu(%1)\n return %2\n}"
    ),
    "a row's and a column's": (
        "(x: f32[n, 1], y: f32[1, 40]) {\n %0 = multibroadcast(x) {out_lens=(n, 40)}\n"
        " %1 = multibroadcast(y) {out_lens=(n, 40)}\n %2 = mul(%0, %1)\n %3 = sin(%2)\n"
        " return %3\n}"
    ),
    "a transposed one": (
        "(x: f32[7, n], y: f32[n, 7]) {\n %0 = transpose(x) {permutation=(1, 0)}\n"
        " %1 = sub(%0, y)\n %2 = abs(%1)\n return %2\n}"
    ),
    "every third": (
        "(x: f32[n, 30]) {\n %0 = step(x) {axes=(1,), steps=(3,)}\n %1 = contiguous(%0)\n"
        " return %1\n}"
    ),
    "another order in memory": (
        "(x: bf16[n, 3, 10]) {\n %0 = transpose(x) {permutation=(2, 0, 1)}\n"
        " %1 = reshape(%0) {dims=(10, 3*n)}\n return %1\n}"
    ),
    "scales by channel": (
        "(x: f32[n, 4, 9], s: f32[4], z: u8[4]) {\n %0 = quantizelinear(x, s, z) {axis=1, to=u8}\n"
        " return %0\n}"
    ),
    "to a float that is rounded later": (
        "(x: f32[n, 4, 9], s: f32[4], z: f32[4]) {\n"
        " %0 = quantizelinear(x, s, z) {axis=1, to=f32}\n return %0\n}"
    ),
    "from a scale": (
        "(x: i8[n, 70], s: f32[1]) {\n %0 = dequantizelinear(x, s) {axis=1}\n return %0\n}"
    ),
}
SOFTMAX = "(x: {t}[n, 37, 21]) {{\n %0 = softmax(x) {{axis={axis}}}\n return %0\n}}"
NORM = """(x: f32[n, 4, {c}], g: f32[{c}]) {{
 %0 = reduce_mean(x) {{axes=({axis},)}}
 %1 = multibroadcast(%0) {{out_lens=(n, 4, {c})}}
 %2 = sub(x, %1)
 %3 = exp(%2)
 %4 = mul(%3, %3)
 %5 = reduce_sum(%4) {{axes=({axis},)}}
 %6 = rsqrt(%5)
 %7 = multibroadcast(%6) {{out_lens=(n, 4, {c})}}
 %8 = mul(%3, %7)
 %9 = multibroadcast(g) {{out_lens=(n, 4, {c})}}
 %10 = mul(%8, %9)
 return %10
}}"""


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_layouts(chain: str, width: int | None) -> None:
    program = parsed(f"module main{chain}\n", "fuse_pointwise")
    for n in (0, 1, 5, 64):
        assert not problem(on_cpu(width), program, {"n": n})


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_rows_that_may_be_repeated(width: int | None) -> None:
    """Which of two rows is, if any, only the run tells."""
    dims = "{out_lens=(3, broadcast(a, b))}"
    text = (
        f"module main(x: f32[3, a], y: f32[3, b]) {{\n %0 = multibroadcast(x) {dims}\n"
        f" %1 = multibroadcast(y) {dims}\n %2 = sub(%0, %1)\n return %2\n}}\n"
    )
    for a, b in ((100, 100), (1, 100), (67, 1), (1, 1)):
        assert not problem(on_cpu(width), parsed(text), {"a": a, "b": b})


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_along_each_axis(axis: int, width: int | None) -> None:
    for dtype in ("f32", "f16"):
        program = parsed(f"module main{SOFTMAX.format(t=dtype, axis=axis)}\n")
        for n in (1, 3, 18):
            if dtype == "f32" or width is None:
                assert not problem(on_cpu(width), program, {"n": n})


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize(("axis", "c"), [(0, 19), (1, 5), (2, 64), (2, 1), (2, 45), (2, 200)])
def test_what_a_later_stage_needs_is_kept(axis: int, c: int, width: int | None) -> None:
    program = parsed(f"module main{NORM.format(axis=axis, c=c)}\n", "fuse_pointwise_reduce")
    assert program.main.outputs[0].name == "fused_reduce"
    for n in (1, 9):
        assert not problem(on_cpu(width), program, {"n": n})


REDUCTIONS = ["sum", "mean", "max", "min", "prod"]


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("axes", ["0,", "1,", "2,", "0, 2", "1, 2", "0, 1, 2"])
def test_reductions_over_any_axes(axes: str, width: int | None) -> None:
    for name in REDUCTIONS:
        for dtype in ("f32", "i32", "u8") if width is None else ("f32",):
            program = parsed(
                f"module main(x: {dtype}[n, 5, 67]) {{\n"
                f" %0 = reduce_{name}(x) {{axes=({axes})}}\n return %0\n}}\n"
            )
            for n in (0, 1, 20):
                if n or name != "mean":
                    assert not problem(on_cpu(width), program, {"n": n}), (name, dtype, n)


@pytest.mark.parametrize("name", ["all", "any"])
def test_logic_is_folded(name: str) -> None:
    program = parsed(
        f"module main(x: bool[9, n]) {{\n %0 = reduce_{name}(x) {{axes=(1,)}}\n return %0\n}}\n"
    )
    for n in (0, 3, 100):
        assert not problem(fused.kernel_for, program, {"n": n})


@pytest.mark.parametrize("dtype", ["bool", "u8", "f32"])
def test_texts_are_as_short_where_elements_may_lie_apart(dtype: str) -> None:
    """What is gathered is written out lane by lane, which costs seconds to compile in hundreds."""
    dims = "{out_lens=(broadcast(a, b),)}"
    text = (
        f"module main(x: {dtype}[a], y: {dtype}[b]) {{\n %0 = multibroadcast(x) {dims}\n"
        f" %1 = multibroadcast(y) {dims}\n %2 = equal(%0, %1)\n return %2\n}}\n"
    )
    avx512 = replace(host(), vector_bytes=64, masks=True)
    kernel = fused.kernel_for(parsed(text).main.outputs[0], avx512)
    assert kernel is not None
    assert len(kernel.text) < 15_000


AVX512 = Machine("skylake-avx512", frozenset(), 64, 32, True)
AVX2 = OTHER_MACHINES["avx2"]
SIDE_BY_SIDE = """%0 = exp(x)
 %1 = sin(x)
 %2 = tanh(x)
 %3 = add(%0, %1)
 %4 = mul(%3, %2)
 return %4"""


def chained(name: str, count: int, operands: str = "") -> str:
    """An operation on what the one before it gives, from x on, and on the same operands each."""
    given = ["x", *(f"%{i}" for i in range(count))]
    lines = [f"%{i} = {name}({given[i]}{operands})\n" for i in range(count)]
    return "".join(lines) + f"return {given[-1]}"


def stored(lines: str, machine: Machine, dims: object = 4096) -> set[int]:
    """How many elements at a time the kernel of some lines writes."""
    program = parsed(f"module main(x: f32[{dims}]) {{\n{lines}\n}}\n", "fuse_pointwise")
    kernel = fused.kernel_for(program.main.outputs[0], machine)
    assert kernel is not None
    return {int(lanes or 1) for lanes in re.findall(r"store (?:<(\d+) x )?float", kernel.text)}


@pytest.mark.parametrize(
    ("lines", "of_32", "of_16"),
    [
        (chained("exp", 1), 2, 2),
        (chained("exp", 6), 8, 4),
        (chained("pow", 2, ", x"), 4, 4),
        (chained("add", 30, ", x"), 4, 4),
        (SIDE_BY_SIDE, 2, 2),
        (chained("fmod", 4, ", x"), 1, 1),
    ],
    ids=["short", "chain", "two values", "sums", "side by side", "remainders"],
)
def test_long_chains_have_several_vectors_in_flight(lines: str, of_32: int, of_16: int) -> None:
    """What waits for what is before it would leave the pipelines empty, one vector at a time."""
    assert stored(lines, AVX512) == {16 * of_32}
    assert stored(lines, AVX2) == {8 * of_16}


@pytest.mark.parametrize(("places", "lanes"), [(96, {32}), (80, {16}), (85, {16, 1}), (3, {2, 1})])
def test_turns_are_as_few_as_may_be(places: int, lanes: set[int]) -> None:
    """Where there are no masks, what is left of a row is computed one by one."""
    assert stored(chained("exp", 6), AVX2, places) == lanes


def test_what_is_whole_turns_at_any_size_has_no_rest() -> None:
    assert stored(chained("exp", 6), AVX2, "64*n") == {32}
    assert stored(chained("exp", 6), AVX2, "n") == {32, 1}


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["reduce_max", "reduce_min", "max", "relu", "clip", "sign"])
def test_what_is_no_number_stays(name: str, number: float) -> None:
    count = {"max": 2, "clip": 3}.get(name, 1)
    given = ", ".join(["x"] * count)
    axes = " {axes=(0,)}" if name.startswith("reduce") else ""
    program = migx.parse(
        f"module main(x: f32[40]) {{\n %0 = {name}({given}){axes}\n return %0\n}}\n"
    )
    x = np.zeros(40, np.float32)
    x[[3, 38]] = number
    (expected,), (got,) = (program.compile(t).eval({"x": x}) for t in ("ref", "cpu"))
    assert np.array_equal(got, expected, equal_nan=True)


def test_powers_of_two_alone_are_not_computed() -> None:
    program = parsed("module main(x: f8e8m0[4]) {\n %0 = neg(x)\n return %0\n}\n")
    assert fused.kernel_for(program.main.outputs[0], host()) is None


def test_equal_kernels_have_equal_texts() -> None:
    texts: set[str] = set()
    for name in ("x", "other"):
        program = parsed(f"module main({name}: f32[8, 9]) {{\n %0 = tanh({name})\n return %0\n}}\n")
        kernel = fused.kernel_for(program.main.outputs[0], host())
        assert kernel is not None
        texts.add(kernel.text)
    assert len(texts) == 1
