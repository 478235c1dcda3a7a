"""Products and convolutions of bytes on the cpu: all signs, shapes and epilogues, exactly."""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod

import numpy as np
import pytest

from migx.targets.cpu.code import jit
from migx.targets.cpu.kernel import call
from migx.targets.cpu.kernels import (
    kernel_for,
    quantized_convolution,
    quantized_depthwise,
    quantized_gemm,
)
from migx.targets.cpu.machine import Machine, host
from tests.targets.cpu.alone import parsed, problem, produced
from tests.targets.cpu.assembled import AVX2, TRIPLES
from tests.targets.cpu.test_convolution import GEOMETRIES, convolved

FUSE = "fuse_pointwise,fuse_epilogue"
SIGNS = [("u8", "i8"), ("i8", "i8"), ("u8", "u8"), ("i8", "u8")]
DECLINED = {name for name in GEOMETRIES if name.startswith(("groups", "depthwise"))}
"""Four channels would be of two groups."""
NO_VNNI = replace(host(), features=frozenset())
OTHERS = {
    "avx2": replace(NO_VNNI, vector_bytes=32, registers=16, masks=False),
    "avx2 with vnni": replace(
        NO_VNNI, features=frozenset({"avxvnni"}), vector_bytes=32, registers=16, masks=False
    ),
    "sse": replace(NO_VNNI, vector_bytes=16, registers=16, masks=False),
    "neon": replace(
        NO_VNNI, features=frozenset({"neon"}), vector_bytes=16, registers=32, masks=False
    ),
    "avx512 alone": NO_VNNI,
}


def convolution(
    x: str, w: tuple[int, ...], attributes: str, signs: tuple[str, str], after: str = "return %1"
) -> str:
    """A program that convolves bytes of these types with constant ones."""
    text = convolved(x, w, attributes, "i8", after).replace("= convolution", "= quant_convolution")
    image, weights = signs
    return text.replace("(x: i8", f"(x: {image}").replace("} : i8[", f"}} : {weights}[")


def product(
    rows: str, w: tuple[int, ...], signs: tuple[str, str], turned: bool, after: str = "return %9"
) -> str:
    """A program that multiplies bytes of these types by constant ones, which may be transposed."""
    *lead, k, n = w
    held = (*lead, n, k) if turned else w
    order = (*range(len(lead)), len(lead) + 1, len(lead))
    view = f"%1 = transpose(%0) {{permutation={order}}}" if turned else "%1 = identity(%0)"
    dims = ", ".join(map(str, (*lead, rows, k)))
    return f"""
module main(x: {signs[0]}[{dims}]) {{
  %0 = @literal() {{value=bytes("w", 0, {prod(w)}), label="w"}} : {signs[1]}{list(held)}
  {view}
  %9 = quant_dot(x, %1)
  {after}
}}
"""


TAKEN = [name for name in GEOMETRIES if name not in DECLINED]
CASES = {*zip(TAKEN, SIGNS * len(TAKEN), strict=False)}
"""Every geometry with some signs, and some with all."""
CASES |= {(name, s) for name in ("at a stride", "a small image", "three by three") for s in SIGNS}


@pytest.mark.parametrize(("name", "signs"), sorted(CASES))
def test_convolutions(name: str, signs: tuple[str, str]) -> None:
    x, w, attributes = GEOMETRIES[name]
    program = parsed(convolution(x, w, attributes, signs))
    assert not problem(quantized_convolution.kernel_for, program)


def test_a_single_output() -> None:
    for x in ("1, 5, 9, 20", "1, 5, 3, 3"):
        text = convolution(x, (1, 5, 3, 3), "padding=(1, 1, 1, 1)", SIGNS[1])
        assert not problem(quantized_convolution.kernel_for, parsed(text))


def test_groups_of_whole_fours() -> None:
    text = convolution("1, 16, 9, 10", (32, 8, 3, 3), "padding=(1, 1, 1, 1), group=2", SIGNS[1])
    kernel = quantized_convolution.kernel_for(produced(parsed(text)), host())
    assert kernel is None or not problem(quantized_convolution.kernel_for, parsed(text))


@pytest.mark.parametrize("name", sorted(DECLINED))
def test_groups_of_fewer_are_left_to_others(name: str) -> None:
    x, w, attributes = GEOMETRIES[name]
    program = parsed(convolution(x, w, attributes, SIGNS[0]))
    assert quantized_convolution.kernel_for(produced(program), host()) is None


@pytest.mark.parametrize("signs", SIGNS, ids="-".join)
@pytest.mark.parametrize("w", [(1, 1), (7, 50), (40, 48), (33, 130), (3, 128, 40), (5000, 16)])
def test_products(w: tuple[int, ...], signs: tuple[str, str]) -> None:
    for rows, turned in ((0, False), (1, True), (5, False), (70, True)):
        program = parsed(product(str(rows), w, signs, turned), "optimize_module")
        assert not problem(quantized_gemm.kernel_for, program)


@pytest.mark.parametrize("signs", SIGNS, ids="-".join)
def test_a_kernel_serves_any_number_of_rows(signs: tuple[str, str]) -> None:
    program = parsed(product("n", (70, 50), signs, turned=False), "optimize_module")
    for rows in (*range(16), 70, 200):
        assert not problem(quantized_gemm.kernel_for, program, {"n": rows}), rows


@pytest.mark.parametrize("signs", SIGNS, ids="-".join)
@pytest.mark.parametrize("w", [(7, 50), (40, 48), (2, 3, 33, 20)])
def test_what_is_no_constant(w: tuple[int, ...], signs: tuple[str, str]) -> None:
    for turned in (False, True):
        *lead, k, n = w
        held = (*lead, n, k) if turned else w
        text = product("13", w, signs, turned).replace(")", f", y: {signs[1]}{list(held)})", 1)
        kept = [line for line in text.splitlines() if "@literal" not in line]
        program = parsed("\n".join(kept).replace("(%0)", "(y)"), "optimize_module")
        assert not problem(quantized_gemm.kernel_for, program)


@pytest.mark.parametrize("n", [1, 2, 40])
@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_a_matrix_times_itself(n: int, dtype: str) -> None:
    text = f"%0 = quant_dot(x, x) : i32[{n}, {n}]"
    program = parsed(f"module main(x: {dtype}[{n}, {n}]) {{\n  {text}\n  return %0\n}}")
    assert not problem(quantized_gemm.kernel_for, program)


def test_rows_at_any_step() -> None:
    """A view of some columns begins rows where no four begins."""
    text = product("9", (8, 20), SIGNS[0], turned=False)
    whole = text.replace("[9, 8]", "[9, 11]").replace(
        "%9 = quant_dot(x",
        "%2 = slice(x) {axes=(1,), starts=(2,), ends=(10,)}\n  %9 = quant_dot(%2",
    )
    assert not problem(quantized_gemm.kernel_for, parsed(whole))


REQUANTISED = """%2 = @literal() {{value=[0.011]}} : f32[]
  %3 = dequantizelinear({0}, %2)
  %4 = relu(%3)
  %5 = @literal() {{value=[0.3]}} : f32[]
  %6 = @literal() {{value=[3]}} : {1}[]
  %7 = quantizelinear(%4, %5, %6) {{to={1}}}
  return %7"""


@pytest.mark.parametrize("to", ["i8", "u8"])
@pytest.mark.parametrize("signs", SIGNS[:2], ids="-".join)
def test_what_is_quantised_again(signs: tuple[str, str], to: str) -> None:
    for rows, sizes in (("17", {}), ("rows", {"rows": 33})):
        text = product(rows, (70, 50), signs, turned=False, after=REQUANTISED.format("%9", to))
        program = parsed(text, f"optimize_module,{FUSE}")
        assert produced(program).op.name == "group"
        assert not problem(quantized_gemm.kernel_for, program, sizes)
    text = convolution(
        "n, 6, 9, h", (10, 6, 3, 3), "padding=(1, 1, 1, 1)", signs, REQUANTISED.format("%1", to)
    )
    program = parsed(text, FUSE)
    assert produced(program).op.name == "group"
    assert not problem(quantized_convolution.kernel_for, program, {"n": 2, "h": 30})


@pytest.mark.parametrize("zero", ["literal", "given"])
@pytest.mark.parametrize("signs", SIGNS, ids="-".join)
def test_padding_by_any_number(signs: tuple[str, str], zero: str) -> None:
    """The pad is inside the group, and its number a constant or an input."""
    text = convolution("1, 5, 9, 20", (6, 5, 3, 3), "stride=(2, 1)", signs)
    line = f"%2 = @literal() {{value=[77]}} : {signs[0]}[]\n  "
    pad = "%3 = pad(x, %2) {pads=(0, 0, 1, 2, 0, 0, 1, 0)}\n  "
    if zero == "given":
        text, line = text.replace(") {", f", z: {signs[0]}[]) {{", 1), ""
        pad = pad.replace("%2", "z")
    text = text.replace("%1 = quant", f"{line}{pad}%1 = quant").replace("lution(x", "lution(%3")
    program = parsed(text, "fuse_quantized")
    assert produced(program).op.name == "group"
    assert not problem(quantized_convolution.kernel_for, program)


@pytest.mark.parametrize(("dtype", "zero"), [("u8", 0), ("u8", 121), ("i8", 0), ("i8", -7)])
@pytest.mark.parametrize("known", [True, False])
def test_quantising_rounds_as_a_division_does(dtype: str, zero: int, known: bool) -> None:
    """Numbers around every half step, and those that are no steps at all."""
    low, high = (0, 255) if dtype == "u8" else (-128, 127)
    halves = np.arange(low - zero - 3, high - zero + 4) + 0.5
    others = np.array([np.inf, -np.inf, np.nan, 1e38, -1e38, 1e-42, 0.0, -0.0], np.float32)
    for scale in np.array([0.1, 0.7, 1.0, 3e-5, 0.011646758, 1.9999999, 777.0], np.float32):
        near = np.concatenate([(halves * np.float64(scale)).astype(np.float32), others])
        x = np.concatenate([near.view(np.int32) + k for k in range(-3, 4)]).view(np.float32)
        given = "" if known else ", s: f32[]"
        line = f"%0 = @literal() {{value=[{float(scale)!r}]}} : f32[]" if known else ""
        text = f"""
module main(x: f32[n]{given}) {{
  {line}
  %1 = @literal() {{value=[{zero}]}} : {dtype}[]
  %2 = neg(x)
  %3 = quantizelinear(%2, {"%0" if known else "s"}, %1) {{to={dtype}}}
  return %3
}}
"""
        at = produced(parsed(text, "fuse_pointwise"))
        kernel = kernel_for(at, host())
        assert kernel is not None
        made = np.empty(len(x), np.uint8 if dtype == "u8" else np.int8)
        operands = [-x, np.array(scale)][: len(at.inputs)]
        call(kernel, [*operands, made], {"n": len(x)})
        with np.errstate(all="ignore"):
            steps = np.clip(np.rint(x / scale) + np.float32(zero), low, high)
        wanted = np.where(np.isnan(steps), 0, steps).astype(made.dtype)
        np.testing.assert_array_equal(made, wanted)
        # A limit takes one instruction of x86, and what is cut to it is rounded as it is converted.
        assert not re.findall("llvm.(?:maximum|minimum|rint)", kernel.text)


@pytest.mark.parametrize("machine", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("signs", SIGNS[:3], ids="-".join)
def test_other_machines(machine: Machine, signs: tuple[str, str]) -> None:
    image = parsed(convolution("1, 6, 9, 20", (10, 6, 3, 3), "padding=(1, 1, 1, 1)", signs))
    rows = parsed(product("9", (41, 50), signs, turned=False), "optimize_module")
    each = parsed(convolution("1, 6, 9, 20", (6, 1, 3, 5), "padding=(1, 1, 1, 1), group=6", signs))
    families = quantized_convolution, quantized_gemm, quantized_depthwise
    for program, family in zip((image, rows, each), families, strict=True):
        kernel = family.kernel_for(produced(program), machine)
        assert kernel is not None
        if "avxvnni" in machine.features:
            assert jit.assembly(kernel.text, "alderlake", TRIPLES[AVX2.cpu])
        else:
            assert jit.compiled(kernel.text)
            assert not problem(lambda at, _, f=family: f.kernel_for(at, machine), program)  # type: ignore[misc]


DEPTHWISE = {n for n in DECLINED if n.startswith("depthwise")} - {"depthwise in space"}
BESIDE = {
    "rows longer than a copy": ("1, 3, 4, 300", (3, 1, 3, 3), "padding=(1, 1, 1, 1), group=3"),
    "columns far apart": ("1, 2, 20, 90", (2, 1, 3, 5), "dilation=(3, 11), group=2"),
    "columns at a long stride": ("1, 2, 9, 100", (2, 1, 3, 7), "stride=(3, 5), group=2"),
    "along one axis": ("2, 5, 70", (5, 1, 31), "padding=(15, 15), group=5"),
    "a window": ("3, 4, 5, 5", (4, 1, 5, 5), "group=4"),
    "of unknown size": ("n, 4, h, w", (4, 1, 3, 3), "padding=(2, 0, 1, 3), group=4"),
    "of unknown width": ("n, 4, 14, w", (8, 1, 5, 5), "stride=(2, 2), group=4"),
}


@pytest.mark.parametrize("name", sorted([*DEPTHWISE, *BESIDE]))
@pytest.mark.parametrize("signs", SIGNS, ids="-".join)
def test_channels_by_themselves(name: str, signs: tuple[str, str]) -> None:
    x, w, attributes = {**GEOMETRIES, **BESIDE}[name]
    program = parsed(convolution(x, w, attributes, signs))
    assert not problem(quantized_depthwise.kernel_for, program, {"n": 2, "h": 11, "w": 77})


@pytest.mark.parametrize("name", ["depthwise in space", "three by three"])
def test_other_channels_are_left_to_others(name: str) -> None:
    x, w, attributes = GEOMETRIES[name]
    program = parsed(convolution(x, w, attributes, SIGNS[0]))
    assert quantized_depthwise.kernel_for(produced(program), host()) is None


@pytest.mark.parametrize("zero", ["literal", "given"])
@pytest.mark.parametrize("signs", SIGNS, ids="-".join)
def test_channels_by_themselves_padded_by_any_number(signs: tuple[str, str], zero: str) -> None:
    """And quantised again, by an epilogue of two roundings."""
    after = REQUANTISED.format("%1", "u8").replace("%2", "%8")
    text = convolution("1, 5, 9, w", (5, 1, 3, 3), "stride=(2, 1), group=5", signs, after)
    line = f"%2 = @literal() {{value=[77]}} : {signs[0]}[]\n  "
    pad = "%3 = pad(x, %2) {pads=(0, 0, 1, 2, 0, 0, 1, 0)}\n  "
    if zero == "given":
        text, line = text.replace(") {", f", z: {signs[0]}[]) {{", 1), ""
        pad = pad.replace("%2", "z")
    pad = pad.replace("%3", "%9")
    text = text.replace("%1 = quant", f"{line}{pad}%1 = quant").replace("lution(x", "lution(%9")
    program = parsed(text, "fuse_quantized")
    assert "pad" in [inner.name for inner in produced(program).modules[0]]
    assert not problem(quantized_depthwise.kernel_for, program, {"w": 45})


def test_a_pad_that_no_kernel_knows_stays_outside() -> None:
    text = convolution("1, 2, 40, 40", (2, 1, 11, 11), "group=2", SIGNS[0])
    text = text.replace("%1 = quant", "%3 = pad(x) {pads=(0, 0, 1, 2, 0, 0, 1, 0)}\n  %1 = quant")
    program = parsed(text.replace("lution(x", "lution(%3"), "fuse_quantized")
    assert produced(program).op.name == "quant_convolution"
