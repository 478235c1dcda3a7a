"""Matrix products on the cpu: all layouts, types, epilogues and sizes, against ``ref``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import migx
from migx.argument import Argument
from migx.targets.cpu.code import jit
from migx.targets.cpu.emit import F32
from migx.targets.cpu.kernels.gemm import kernel_for
from migx.targets.cpu.machine import Machine, host
from migx.targets.cpu.parts.tile import MOST_ROWS, MOST_VECTORS, Strip, chosen, strips
from migx.testing.bounds import compare
from migx.testing.oracles import run_on_ref
from tests.targets.cpu.alone import OTHER_MACHINES, parsed, problem, produced, result

FUSE = "fuse_pointwise,fuse_epilogue"


def plain(m: int, k: int, n: int, dtype: str = "f32", op: str = "dot") -> str:
    return f"""
module main(x: {dtype}[{m}, {k}], y: {dtype}[{k}, {n}]) {{
  %0 = {op}(x, y)
  return %0
}}
"""


def with_weights(m: str, k: int, n: int, dtype: str = "f32", after: str = "return %1") -> str:
    size = {"f32": 4, "f64": 8, "i8": 1}.get(dtype, 2)
    return f"""
module main(x: {dtype}[{m}, {k}]) {{
  %0 = @literal() {{value=bytes("w", 0, {k * n * size}), label="w"}} : {dtype}[{k}, {n}]
  %1 = dot(x, %0)
  {after}
}}
"""


@pytest.mark.parametrize("m", [0, 1, 5, 9, 70])
@pytest.mark.parametrize(("k", "n"), [(0, 3), (3, 0), (1, 1), (7, 50), (40, 48), (33, 130)])
def test_sizes_that_do_not_divide_tiles(m: int, k: int, n: int) -> None:
    assert not problem(kernel_for, parsed(plain(m, k, n)))


@pytest.mark.parametrize(("m", "k", "n"), [(1, 40, 100), (13, 1300, 48), (65, 2400, 17)])
def test_weights_are_read_in_panels(m: int, k: int, n: int) -> None:
    program = parsed(with_weights(str(m), k, n))
    kernel = kernel_for(produced(program), host())
    assert kernel is not None
    (packed,) = kernel.formats
    assert packed[0] == 1
    assert packed[1].startswith("Ba")
    assert not problem(kernel_for, program)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f64", "i8", "u8", "i16", "i32", "u32", "i64"])
def test_element_types(dtype: str) -> None:
    assert not problem(kernel_for, parsed(plain(11, 37, 50, dtype)))
    if dtype in ("f16", "bf16", "f64", "i8"):
        assert not problem(kernel_for, parsed(with_weights("11", 37, 50, dtype)))


@pytest.mark.parametrize(("x", "y"), [("i8", "i8"), ("u8", "i8"), ("u8", "u8")])
def test_quantised_products_are_exact(x: str, y: str) -> None:
    text = (
        plain(5, 300, 20, op="quant_dot").replace("x: f32", f"x: {x}").replace("y: f32", f"y: {y}")
    )
    assert not problem(kernel_for, parsed(text))


EPILOGUES = {
    "bias, activation": """
module main(x: f32[7, 12, 20], b: f32[60]) {
  %0 = @literal() {value=bytes("w", 0, 4800), label="w"} : f32[20, 60]
  %1 = multibroadcast(%0) {out_lens=(7, 20, 60)}
  %2 = dot(x, %1)
  %3 = multibroadcast(b) {out_lens=(7, 12, 60)}
  %4 = add(%2, %3)
  %5 = relu(%4)
  return %5
}
""",
    "gelu, residual": """
module main(x: f32[12, 20], y: f32[20, 60], r: f32[12, 60]) {
  %0 = dot(x, y)
  %1 = erf(%0)
  %2 = mul(%0, %1)
  %3 = add(%2, r)
  return %3
}
""",
    "a residual that lies across": """
module main(x: f32[4, 12, 20], y: f32[4, 20, 60], r: f32[60, 12, 4]) {
  %0 = dot(x, y)
  %1 = transpose(r) {permutation=(2, 1, 0)}
  %2 = sub(%0, %1)
  return %2
}
""",
    "a bias for each row": """
module main(x: f32[4, 12, 20], y: f32[4, 20, 33], r: f32[4, 12, 1]) {
  %0 = dot(x, y)
  %1 = multibroadcast(r) {out_lens=(4, 12, 33)}
  %2 = add(%0, %1)
  return %2
}
""",
    "under other dims": """
module main(x: f32[12, 20], y: f32[20, 60], b: f32[60]) {
  %0 = dot(x, y)
  %1 = reshape(%0) {dims=(3, 4, 60)}
  %2 = multibroadcast(b) {out_lens=(3, 4, 60)}
  %3 = mul(%1, %2)
  return %3
}
""",
    "its only row against a scalar": """
module main(x: f32[1, 20], y: f32[20, 7], b: f32[1]) {
  %0 = dot(x, y)
  %1 = multibroadcast(b) {out_lens=(1, 7)}
  %2 = add(%0, %1)
  %3 = @literal() {value=[0.5]} : f32[1]
  %4 = multibroadcast(%3) {out_lens=(1, 7)}
  %5 = max(%2, %4)
  return %5
}
""",
    "another type": """
module main(x: f32[12, 20], y: f32[20, 60]) {
  %0 = dot(x, y)
  %1 = neg(%0)
  %2 = convert(%1) {to=f16}
  return %2
}
""",
    "of halves": """
module main(x: f16[12, 20], y: f16[20, 60], r: f16[12, 60]) {
  %0 = dot(x, y)
  %1 = add(%0, r)
  return %1
}
""",
}


@pytest.mark.parametrize("text", EPILOGUES.values(), ids=EPILOGUES)
def test_epilogues(text: str) -> None:
    program = parsed(text, FUSE)
    assert produced(program).name == "group"
    assert not problem(kernel_for, program)


QUANTISED = {
    "a scale for each column": """
module main(x: f32[5, 9, 20], s: f32[60], z: i8[60]) {
  %0 = @literal() {value=bytes("w", 0, 1200), label="w"} : i8[20, 60]
  %1 = dequantizelinear(%0, s, z) {axis=1}
  %2 = multibroadcast(%1) {out_lens=(5, 20, 60)}
  %3 = dot(x, %2)
  %4 = relu(%3)
  return %4
}
""",
    "turned, a scale for each row": """
module main(x: f32[7, 20], w: u8[50, 20], s: f32[50], b: f32[50]) {
  %0 = dequantizelinear(w, s) {axis=0}
  %1 = transpose(%0) {permutation=(1, 0)}
  %2 = dot(x, %1)
  %3 = multibroadcast(b) {out_lens=(7, 50)}
  %4 = add(%2, %3)
  return %4
}
""",
    "one scale, and the result quantised too": """
module main(x: f32[70, 20], w: i8[20, 50], s: f32[], t: f32[], z: u8[]) {
  %0 = dequantizelinear(w, s)
  %1 = dot(x, %0)
  %2 = quantizelinear(%1, t, z)
  %3 = dequantizelinear(%2, t, z)
  return %3
}
""",
}


@pytest.mark.parametrize("text", QUANTISED.values(), ids=QUANTISED)
def test_weights_are_dequantised_on_the_way(text: str) -> None:
    program = parsed(text, FUSE)
    at = produced(program)
    assert "dequantizelinear" in [inner.name for inner in at.modules[0]]
    assert not problem(kernel_for, program)


def test_the_result_may_take_the_place_of_a_residual_only() -> None:
    kernel = kernel_for(produced(parsed(EPILOGUES["gelu, residual"], FUSE)), host())
    assert kernel is not None
    assert kernel.over == ((2, 0),)
    across = kernel_for(produced(parsed(EPILOGUES["a residual that lies across"], FUSE)), host())
    assert across is not None
    assert across.over == ()


SYMBOLIC = """
module main(x: f32[b, s, k], y: f32[b, k, n], r: f32[b, s, n]) {
  %0 = dot(x, y)
  %1 = add(%0, r)
  return %1
}
"""
TOKENS = """
module main(x: f32[b, s, 40]) {
  %0 = @literal() {value=bytes("w", 0, 9600), label="w"} : f32[40, 60]
  %1 = multibroadcast(%0) {out_lens=(b, 40, 60)}
  %2 = dot(x, %1)
  return %2
}
"""


def test_symbolic_dims() -> None:
    program = parsed(SYMBOLIC, FUSE)
    for b, s, k, n in ((1, 1, 1, 1), (2, 5, 30, 70), (3, 71, 9, 48), (0, 2, 2, 2), (1, 3, 0, 5)):
        assert not problem(kernel_for, program, {"b": b, "s": s, "k": k, "n": n})


def test_tokens_of_a_batch_are_rows_of_one_matrix() -> None:
    program = parsed(TOKENS)
    for b, s in ((1, 1), (1, 70), (3, 7), (0, 4)):
        assert not problem(kernel_for, program, {"b": b, "s": s})
    assert kernel_for(produced(program), host()) == kernel_for(produced(parsed(TOKENS)), host())


def test_rows_do_not_depend_on_how_many_there_are() -> None:
    """What one row gives among many is what it gives alone, to the bit."""
    program = parsed(TOKENS)
    many = result(kernel_for, program, {"b": 1, "s": 70}).reshape(70, 60)
    alone = result(kernel_for, program, {"b": 1, "s": 1}).reshape(1, 60)
    assert many[:1].tobytes() == alone.tobytes()


MACHINES = OTHER_MACHINES | {"small caches": replace(host(), l2=64 * 1024)}


def test_what_is_left_of_rows_is_one_strip() -> None:
    for rows, columns in ((64, 64), (13, 100), (197, 32), (3, 64), (1, 16), (200, 48)):
        tile = chosen(host(), F32, rows, columns, 64)
        for block in (tile.block, rows % tile.block):
            left = min(block, rows) % tile.rows
            assert not left or Strip(left, left) in tile.strips(rows)
        assert len(tile.strips(rows)) <= 3


@given(st.integers(1, MOST_ROWS), st.integers(1, MOST_VECTORS), st.integers(1, 3 * MOST_ROWS))
def test_strips_take_any_number_of_rows_and_little_more(
    height: int, vectors: int, rows: int
) -> None:
    taken, cut = 0, strips(height, vectors)
    for strip in cut:
        while rows - taken >= strip.least:
            taken += strip.rows
    assert rows <= taken <= -(-rows // height) * height
    assert [each.rows for each in cut] == sorted({each.rows for each in cut}, reverse=True)
    assert cut[-1] == Strip(1, 1)


def test_few_rows_read_a_panel_once() -> None:
    """Rows of common numbers are one strip: a panel costs more to read than a row to repeat."""
    for height, vectors in ((14, 2), (6, 4), (6, 2)):  # 32 registers, 4 vectors, and 16 registers
        assert [s.rows for s in strips(height, vectors) if s.least <= 4 <= s.rows] == [4]
        assert [s.rows for s in strips(height, vectors) if s.least <= 2 <= s.rows] == [2]


@pytest.mark.parametrize("rows", [3, 64, 70])
@pytest.mark.parametrize("dtype", ["f32", "i32"])
def test_a_matrix_that_lies_as_a_panel_is_read_as_it_lies(dtype: str, rows: int) -> None:
    width = chosen(host(), F32, rows, 64, 40).columns
    lies = f"""
module main(x: {dtype}[5, {rows}, 40], y: {dtype}[5, 40, {width}]) {{
  %0 = dot(x, y)
  return %0
}}
"""
    turned = f"""
module main(x: {dtype}[5, {rows}, 40], y: {dtype}[5, {width}, 40]) {{
  %0 = transpose(y) {{permutation=(0, 2, 1)}}
  %1 = dot(x, %0)
  return %1
}}
"""
    scratch = []
    for text in (lies, turned):
        program = parsed(text)
        kernel = kernel_for(produced(program), host())
        assert kernel is not None
        scratch.append(kernel.scratch)
        assert not problem(kernel_for, program)
    assert scratch[0] < scratch[1]


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_other_machines(machine: Machine) -> None:
    """Tiles for other registers are right too, though compiled for this machine here."""
    for text in (plain(13, 37, 50), with_weights("13", 700, 50), SYMBOLIC):
        sizes = {"b": 2, "s": 5, "k": 30, "n": 70}
        assert not problem(lambda at, _: kernel_for(at, machine), parsed(text, FUSE), sizes)


def test_sums_stay_in_registers() -> None:
    """No tile needs more registers than there are, and none is spilled on this machine."""
    for machine in (*MACHINES.values(), host()):
        for rows in (1, 7, 512):
            for columns in (1, 48, 96, 1000):
                tile = chosen(machine, F32, rows, columns, 768)
                assert tile.rows * tile.vectors + tile.vectors + 1 <= machine.registers
    kernel = kernel_for(produced(parsed(with_weights("512", 768, 768))), host())
    assert kernel is not None
    assert "pill" not in jit.assembly(kernel.text)


DECLINED = {
    "columns cut in pieces": """
module main(x: f32[12, 20], y: f32[20, 60], b: f32[6, 12]) {
  %0 = dot(x, y)
  %1 = reshape(%0) {dims=(12, 10, 6)}
  %2 = transpose(b) {permutation=(1, 0)}
  %3 = unsqueeze(%2) {axes=(1,)}
  %4 = multibroadcast(%3) {out_lens=(12, 10, 6)}
  %5 = add(%1, %4)
  return %5
}
""",
    "no product": "module main(x: f32[2]) {\n  %0 = relu(x)\n  return %0\n}\n",
}


@pytest.mark.parametrize("text", DECLINED.values(), ids=DECLINED)
def test_declined(text: str) -> None:
    assert kernel_for(produced(parsed(text, FUSE)), host()) is None


LATE = """
module main(x: f32[4, 5]) {
  %0 = @literal() {value=bytes("w", 0, 160), label="w"} : f32[2, 20]
  %1 = nonzero(x) {count=found}
  %2 = transpose(%1) {permutation=(1, 0)}
  %3 = convert(%2) {to=f32}
  %4 = dot(%3, %0)
  return %4
}
"""


def test_weights_are_packed_for_rows_that_only_a_run_counts() -> None:
    x = Argument.of((np.random.default_rng(0).standard_normal((4, 5)) > 0).astype(np.float32))
    program = parsed(LATE)
    ((wanted, error),) = run_on_ref(program, {"x": x}, program)
    (got,) = parsed(LATE).compile("cpu").eval({"x": x})
    assert not compare("result", np.asarray(got), wanted.array, error, error).problem


TARGETS = {
    "avx2": ("x86_64-unknown-linux-gnu", "haswell", "vfmadd231ps"),
    "neon": ("aarch64-unknown-linux-gnu", "cortex-a72", "fmla"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_other_machines_multiply_and_add_in_one_instruction(name: str) -> None:
    """Their code keeps the sums in registers as well."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple, cpu, instruction = TARGETS[name]
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)
    kernel = kernel_for(produced(parsed(with_weights("512", 768, 768))), MACHINES[name])
    assert kernel is not None
    header = f'target triple = "{triple}"\ntarget datalayout = "{machine.target_data}"\n'
    code = machine.emit_assembly(llvm.parse_assembly(header + kernel.text))
    assert instruction in code
    assert "pill" not in code


@pytest.mark.parametrize("batch", [(2,), (1, 1), (1, 2)])
def test_factors_that_are_computed_for_each_of_a_batch(batch: tuple[int, ...]) -> None:
    """A right factor that is dequantised inside is one matrix; of a batch it is made before."""
    dims = ", ".join(map(str, batch))
    axis = len(batch)
    text = (
        f"module main(p: f32[{dims}, 1, 2], q: i8[{dims}, 2, 1], s: f32[], z: i8[]) {{\n"
        f" %0 = dequantizelinear(q, s, z) {{axis={axis}}}\n %1 = dot(p, %0)\n return %1\n}}"
    )
    rng = np.random.default_rng(len(batch))
    inputs: dict[str, NDArray[Any]] = {
        "p": rng.standard_normal((*batch, 1, 2), np.float32),
        "q": rng.integers(-9, 9, (*batch, 2, 1)).astype(np.int8),
        "s": np.array(0.5, np.float32),
        "z": np.array(3, np.int8),
    }
    got, wanted = (migx.parse(text).compile(t).eval(inputs)[0] for t in ("cpu", "ref"))
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("product", ["dot(x, %1)", "dot(%1, z)"])
def test_factors_that_are_one_of_several_results(product: str) -> None:
    text = f"""
module main(x: f32[7, 9], y: f32[9, 20], z: f32[20, 5]) {{
  %0 = topk(y) {{k=20, axis=1}}
  %1 = get_tuple_elem(%0)
  %2 = {product}
  return %2
}}
"""
    assert not problem(kernel_for, parsed(text))
