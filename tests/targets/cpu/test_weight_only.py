"""Products with weights of four, eight and sixteen bits on the cpu: blocks, zero points, types."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import migx
from migx.ops.builtin import Literal
from migx.targets.cpu.code import jit
from migx.targets.cpu.kernels import convolution, gemm
from migx.targets.cpu.kernels.weight_only import kernel_for
from migx.targets.cpu.machine import Machine, host
from tests.targets.cpu.alone import OTHER_MACHINES, parsed, problem, produced
from tests.targets.cpu.assembled import AVX2, NEON, count, loops, spills
from tests.targets.cpu.whole import native

BITS = ("i4", "u4", "i8", "u8")
SIZES = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1, "u8": 1}
FEW_AND_MANY = (1, 3, 20)
"""Numbers of rows: one strip of one row, one of several, and too many for strips."""


def literal(name: str, dtype: str, *dims: int) -> str:
    count = int(np.prod(dims))
    nbytes = (count + 1) // 2 if dtype in ("i4", "u4") else SIZES[dtype] * count
    shape = ", ".join(map(str, dims))
    return f'@literal() {{value=bytes("{name}", 0, {nbytes}), label="{name}"}} : {dtype}[{shape}]'


def product(
    rows: int | str,
    depth: int,
    columns: int,
    block: int = 32,
    *,
    weight: str = "i4",
    scale: str = "f32",
    zero: str = "",
    transposed: bool = False,
    after: str = "return %9",
) -> str:
    """A dot with unpacked weights; their zero points are ``packed`` as the weights are, such a
    vector of ``one`` or such a ``number`` for all, ``bytes``, or a number that is known.
    """
    blocks, signed, packed = -(-depth // block), weight.replace("4", "8"), weight.endswith("4")
    whole, parts = (depth, columns), (blocks, columns)
    if transposed:
        whole, parts = whole[::-1], parts[::-1]
    lines = [f"%1 = {literal('w', weight, *whole)}", f"%2 = {literal('s', scale, *parts)}"]
    given = ["%3" if packed else "%1", "%2"]
    if packed:
        lines.append("%3 = unpack_int4(%1)")
    if zero in ("packed", "one", "number"):
        dims = {"packed": parts, "one": (1,), "number": ()}[zero]
        lines.append(f"%4 = {literal('z', weight, *dims)}")
        given.append("%5" if packed else "%4")
        if packed:
            lines.append("%5 = unpack_int4(%4)")
    elif zero == "bytes":
        lines.append(f"%5 = {literal('z', signed, *parts)}")
        given.append("%5")
    elif zero:
        lines.append(f"%4 = @literal() {{value=[{zero}]}} : {signed}[]")
        lines.append(f"%5 = multibroadcast(%4) {{out_lens=({parts[0]}, {parts[1]})}}")
        given.append("%5")
    if transposed:
        for i, name in enumerate(given):
            lines.append(f"%{20 + i} = transpose({name}) {{permutation=(1, 0)}}")
        given = [f"%{20 + i}" for i in range(len(given))]
    lines.append(f"%8 = dequantizelinear({', '.join(given)}) {{axis=0, block={block}}}")
    lines.append("%9 = dot(x, %8)")
    text = "\n  ".join(_numbered([*lines, *after.split("\n")]))
    return f"\nmodule main(x: {scale}[{rows}, {depth}]) {{\n  {text}\n}}\n"


def _numbered(lines: list[str]) -> list[str]:
    """The lines with values numbered in order."""
    names = {line.split(" ")[0]: f"%v{i}" for i, line in enumerate(lines) if line[0] == "%"}
    for old in sorted(names, key=len, reverse=True):
        lines = [line.replace(old + " ", names[old] + " ") for line in lines]
        for end in (",", ")"):
            lines = [line.replace(old + end, names[old] + end) for line in lines]
        lines = [line[: -len(old)] + names[old] if line.endswith(old) else line for line in lines]
    return [line.replace("%v", "%") for line in lines]


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 13, 70])
@pytest.mark.parametrize("weight", ["i4", "i8"])
@pytest.mark.parametrize(("depth", "columns"), [(32, 128), (100, 50), (33, 1), (700, 270)])
def test_sizes_that_do_not_divide_tiles(rows: int, weight: str, depth: int, columns: int) -> None:
    text = product(rows, depth, columns, weight=weight)
    assert not problem(kernel_for, parsed(text, "fuse_int4"))


@pytest.mark.parametrize("weight", ["i4", "u8"])
@pytest.mark.parametrize("machine", OTHER_MACHINES.values(), ids=OTHER_MACHINES)
def test_strips_may_have_more_rows_than_there_are(machine: Machine, weight: str) -> None:
    for rows in (3, 5, 7, 11, 15):
        program = parsed(product(rows, 40, 20, weight=weight), "fuse_int4")
        assert not problem(lambda at, _: kernel_for(at, machine), program), rows


@pytest.mark.parametrize("weight", ["i4", "u8"])
def test_a_kernel_serves_any_number_of_rows(weight: str) -> None:
    program = parsed(product("n", 70, 140, weight=weight), "fuse_int4")
    for rows in range(24):
        assert not problem(kernel_for, program, {"n": rows}), rows


@pytest.mark.parametrize("rows", FEW_AND_MANY)
@pytest.mark.parametrize("weight", ["i4", "u8"])
@pytest.mark.parametrize("block", [1, 5, 16, 128, 256, 300, 512, 1000])
def test_blocks(rows: int, weight: str, block: int) -> None:
    text = product(rows, 700, 40, block, weight=weight)
    assert not problem(kernel_for, parsed(text, "fuse_int4"))


def whole_blocks(
    rows: int | str,
    depth: int,
    columns: int,
    block: int,
    *,
    zero: str = "",
    weight: str = "u4",
    scale: str = "f32",
    batch: str = "",
    start: int = 0,
) -> str:
    """A product with columns stored in whole blocks, of which it reads a part, and zero points in
    whole bytes: ``packed``, or ``real`` and taken off after the levels have become real numbers.
    """
    stored = -(-depth // block) * block + start
    blocks = stored // block
    points, apart = -(-blocks // 2) * 2, f"{columns}, {blocks}, {block}"
    lines = [f"%1 = {literal('w', weight, columns, stored)}", "%2 = unpack_int4(%1)"]
    lines.append(f"%3 = {literal('s', scale, columns, blocks)}")
    if zero == "real":
        lines += [f"%4 = {literal('z', scale, columns, blocks)}"]
        lines += [f"%5 = reshape(%2) {{dims=({apart})}}", f"%6 = convert(%5) {{to={scale}}}"]
        lines += [f"%7 = broadcast(%4) {{axis=0, out_lens=({apart})}}", "%8 = sub(%6, %7)"]
        lines += [f"%9 = broadcast(%3) {{axis=0, out_lens=({apart})}}", "%10 = mul(%8, %9)"]
        lines.append(f"%13 = reshape(%10) {{dims=({columns}, {stored})}}")
    elif zero:
        lines += [f"%4 = {literal('z', weight, columns, points)}", "%5 = unpack_int4(%4)"]
        lines.append(f"%6 = slice(%5) {{axes=(1,), starts=(0,), ends=({blocks},)}}")
        lines.append(f"%13 = dequantizelinear(%2, %3, %6) {{axis=1, block={block}}}")
    else:
        lines.append(f"%13 = dequantizelinear(%2, %3) {{axis=1, block={block}}}")
    lines.append(f"%14 = slice(%13) {{axes=(1,), starts=({start},), ends=({start + depth},)}}")
    lines.append("%15 = transpose(%14) {permutation=(1, 0)}")
    if batch:
        lines.append(f"%16 = multibroadcast(%15) {{out_lens=({batch}{depth}, {columns})}}")
    lines.append(f"%17 = dot(x, %{16 if batch else 15})")
    text = "\n  ".join(_numbered([*lines, "return %17"]))
    return f"\nmodule main(x: {scale}[{batch}{rows}, {depth}]) {{\n  {text}\n}}\n"


SIZES_OF_BLOCKS = [(16, 9, 16), (100, 130, 32), (5, 3, 16), (32, 1, 32), (64, 2, 128), (1, 1, 16)]


@pytest.mark.parametrize("rows", [0, *FEW_AND_MANY])
@pytest.mark.parametrize("zero", ["", "packed"])
@pytest.mark.parametrize(("depth", "columns", "block"), SIZES_OF_BLOCKS)
def test_parts_of_whole_blocks(rows: int, zero: str, depth: int, columns: int, block: int) -> None:
    text = whole_blocks(rows, depth, columns, block, zero=zero)
    assert not problem(kernel_for, parsed(text, "fuse_int4"))


@pytest.mark.parametrize("weight", ["i4", "u4"])
@pytest.mark.parametrize("scale", ["f32", "f16"])
@pytest.mark.parametrize(("depth", "columns", "block"), SIZES_OF_BLOCKS[:-1])
def test_real_zero_points(weight: str, scale: str, depth: int, columns: int, block: int) -> None:
    for rows in FEW_AND_MANY:
        text = whole_blocks(
            rows, depth, columns, block, zero="real", weight=weight, scale=scale, batch="2, "
        )
        assert not problem(kernel_for, parsed(text, "fuse_int4"))


@pytest.mark.parametrize("zero", ["", "real"])
def test_parts_that_begin_later_are_left(zero: str) -> None:
    program = parsed(whole_blocks(3, 40, 9, 16, zero=zero, start=16), "fuse_int4")
    assert kernel_for(produced(program), host()) is None


def test_copies_in_another_order_are_left() -> None:
    text = f"""
module main(x: f32[3, 64]) {{
  %0 = {literal("w", "i4", 64, 32)}
  %1 = {literal("s", "f32", 2, 32)}
  %2 = unpack_int4(%0)
  %3 = dequantizelinear(%2, %1) {{axis=0, block=32}}
  %4 = transpose(%3) {{permutation=(1, 0)}}
  %5 = reshape(%4) {{dims=(64, 32)}}
  %6 = dot(x, %5)
  return %6
}}
"""
    assert kernel_for(produced(parsed(text, "fuse_int4")), host()) is None


@pytest.mark.parametrize("rows", FEW_AND_MANY)
@pytest.mark.parametrize("leading", [1, 2])
def test_a_batch_of_one(rows: int, leading: int) -> None:
    """The weight has axes of one place, as it has where a batch is known to be 1."""
    ones = "1, " * leading
    text = product(rows, 64, 40, after="return %9").replace("f32[", f"f32[{ones}", 1)
    *before, dot, _ = text.strip().splitlines()[:-1]
    axes = ", ".join(map(str, range(leading)))
    right = dot.split(", ")[-1].rstrip(")")
    more = [f"  %90 = unsqueeze({right}) {{axes=({axes},)}}", "  %91 = dot(x, %90)"]
    program = parsed("\n".join([*before, *more, "  return %91", "}", ""]), "fuse_int4")
    assert not problem(kernel_for, program)


@pytest.mark.parametrize("zero", ["", "packed", "bytes"])
@pytest.mark.parametrize(("depth", "block"), [(1, 1), (32, 32)])
def test_one_column(zero: str, depth: int, block: int) -> None:
    for weight in BITS if depth > 1 else BITS[:2]:  # a byte by itself is a number inside
        text = product("n", depth, 1, block, weight=weight, zero=zero)
        program = parsed(text, "fuse_int4")
        for rows in FEW_AND_MANY:
            assert not problem(kernel_for, program, {"n": rows})


@pytest.mark.parametrize("rows", FEW_AND_MANY)
@pytest.mark.parametrize("zero", ["", "3", "packed", "bytes"])
@pytest.mark.parametrize("weight", BITS)
@pytest.mark.parametrize("transposed", [False, True])
def test_zero_points(rows: int, zero: str, weight: str, transposed: bool) -> None:
    text = product(rows, 70, 150, weight=weight, zero=zero, transposed=transposed)
    assert not problem(kernel_for, parsed(text, "fuse_int4"))


@pytest.mark.parametrize("zero", ["one", "number"])
@pytest.mark.parametrize("weight", BITS)
def test_one_packed_zero_point_for_all(zero: str, weight: str) -> None:
    for rows in FEW_AND_MANY:
        program = parsed(product(rows, 70, 150, weight=weight, zero=zero), "fuse_int4")
        assert not problem(kernel_for, program)


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("weight", ["i4", "i8"])
@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_narrow_floats(rows: int, weight: str, dtype: str) -> None:
    text = product(rows, 90, 60, weight=weight, scale=dtype)
    assert not problem(kernel_for, parsed(text, "fuse_int4"))


def unblocked(weight: str, dims: str) -> str:
    """A product whose scales have these dims: one for all, or for each place on an axis."""
    text = f"""
module main(x: f32[n, 300]) {{
  %0 = {literal("w", weight, 300, 60)}
  %1 = {literal("s", "f32", *map(int, dims.split()))}
  %2 = UNPACK
  %3 = dequantizelinear(%2, %1) {{axis={0 if dims == "300" else 1}}}
  %4 = dot(x, %3)
  return %4
}}
"""
    unpack = "unpack_int4(%0)" if weight == "i4" else "transpose(%0) {permutation=(0, 1)}"
    return text.replace("UNPACK", unpack)


@pytest.mark.parametrize("weight", ["i4", "u8"])
@pytest.mark.parametrize("dims", ["", "300", "60"])
def test_scales_that_are_no_blocks(weight: str, dims: str) -> None:
    program = parsed(unblocked(weight, dims), "fuse_int4")
    for rows in (0, 1, 5):
        assert not problem(kernel_for, program, {"n": rows})


@pytest.mark.parametrize("weight", ["i4", "i8"])
def test_what_follows_is_done_with_it(weight: str) -> None:
    text = product(
        "n", 64, 200, weight=weight, after="%10 = sigmoid(%9)\n%11 = mul(%9, %10)\nreturn %11"
    )
    program = parsed(text, "fuse_int4,fuse_pointwise,fuse_epilogue")
    assert produced(program).name == "group"
    for rows in FEW_AND_MANY:
        assert not problem(kernel_for, program, {"n": rows})


def test_weights_are_packed_in_the_program_and_stay_so() -> None:
    program = migx.parse(product("n", 64, 256), draw_missing=1)
    expected = program.copy()
    program.compile("cpu")
    expected.compile("ref")
    compiled = program._compiled
    assert compiled is not None
    packed = [at for at in compiled.program.main if at.name == "@literal"]
    assert sum(int(at.shape.nbytes) for at in packed) == 64 * 256 // 2 + 2 * 256 * 4
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    got, wanted = program.eval({"x": x})[0], expected.eval({"x": x})[0]
    np.testing.assert_allclose(got, wanted, atol=64 * np.finfo(np.float32).eps * abs(wanted).max())


@pytest.mark.parametrize("columns", [1, 8, 16, 33])
def test_narrow_weights_are_padded_to_few_columns(columns: int) -> None:
    text = product("n", 512, columns)
    program = migx.parse(text, draw_missing=1).compile("cpu")
    packed = [at for at in program.compiled.program.main if at.name == "@literal"]
    width = 32 if columns <= 32 else 64
    assert int(packed[0].shape.nbytes) <= 512 * width // 2
    for rows in (1, 5):
        assert not problem(kernel_for, parsed(text, "fuse_int4"), {"n": rows})


@pytest.mark.parametrize("weight", ["i4", "i8"])
@pytest.mark.parametrize(
    ("features", "width", "registers"), [(set(), 32, 16), ({"neon"}, 16, 32), (set(), 16, 16)]
)
def test_texts_for_other_machines_compile(
    features: set[str], width: int, registers: int, weight: str
) -> None:
    machine = replace(
        host(), features=frozenset(features), vector_bytes=width, registers=registers, masks=False
    )
    assert isinstance(machine, Machine)
    text = product("n", 70, 50, weight=weight, zero="packed")
    kernel = kernel_for(produced(parsed(text, "fuse_int4")), machine)
    assert kernel is not None
    assert jit.compiled(kernel.text)


def test_convolutions_are_left() -> None:
    text = f"""
module main(x: f32[1, 4, 8, 8]) {{
  %0 = {literal("w", "i4", 2, 4, 3, 3)}
  %1 = {literal("s", "f32", 2)}
  %2 = unpack_int4(%0)
  %3 = dequantizelinear(%2, %1) {{axis=0}}
  %4 = convolution(x, %3)
  return %4
}}
"""
    assert kernel_for(produced(parsed(text, "fuse_int4")), host()) is None


def test_what_was_compiled_is_compiled_to_itself() -> None:
    lowered = parsed(product("n", 260, 40), "fuse_int4").compile("cpu").compiled.program
    assert [at.op.name for at in lowered.main if "weight" in at.op.name]
    assert lowered.copy().compile("cpu").compiled.program == lowered


APART = f"""
module main(x: f32[n, 5, 64]) {{
  %0 = {literal("w", "i4", 64, 40)}
  %1 = {literal("s", "f32", 2, 40)}
  %2 = unpack_int4(%0) : i8[64, 40]
  %3 = dequantizelinear(%2, %1) {{axis=0, block=32}}
  %4 = READ
  %5 = multibroadcast(%3) {{out_lens=(BATCH, 64, 40)}}
  %6 = dot(%4, %5)
  return %6
}}
"""


@pytest.mark.parametrize(
    ("read", "batch"),
    [
        ("transpose(x) {permutation=(1, 0, 2)}", "5"),
        ("slice(x) {axes=(1,), starts=(1,), ends=(4,)}", "n"),
    ],
)
def test_rows_that_lie_apart_are_brought_together(read: str, batch: str) -> None:
    program = migx.parse(APART.replace("READ", read).replace("BATCH", batch), draw_missing=1)
    x = {"x": np.linspace(-1, 1, 3 * 5 * 64, dtype=np.float32).reshape(3, 5, 64)}
    (expected,) = program.copy().compile("ref").eval(x)
    program.compile("cpu")
    assert [at.op.name for at in program.compiled.program.main][-3:-1] == ["contiguous", "group"]
    native(program)
    bound = 64 * float(np.finfo(np.float32).eps) * float(np.abs(expected).max())
    np.testing.assert_allclose(program.eval(x)[0], expected, rtol=0, atol=bound)


@pytest.mark.parametrize("rows", [0, 1, 5, 70])
@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("transposed", [False, True])
def test_floats_of_16_bits_are_read_as_they_are(rows: int, dtype: str, transposed: bool) -> None:
    dims = (50, 90) if transposed else (90, 50)
    lines = [f"%0 = {literal('w', dtype, *dims)}", "%1 = convert(%0) {to=f32}"]
    if transposed:
        lines.append("%2 = transpose(%1) {permutation=(1, 0)}")
    lines += [f"%3 = dot(x, %{2 if transposed else 1})", "%4 = sigmoid(%3)", "return %4"]
    text = "\n  ".join(_numbered(lines))
    program = parsed(f"\nmodule main(x: f32[n, 90]) {{\n  {text}\n}}\n", "fuse_int4,fuse_epilogue")
    kernel = gemm.kernel_for(produced(program), host())
    assert kernel is not None
    assert [layout[:2] for _, layout in kernel.formats] == ["Ab" if transposed else "Ba"]
    assert not problem(gemm.kernel_for, program, {"n": rows})


def test_parts_of_what_is_converted_are_left() -> None:
    text = f"""
module main(x: f32[3, 20]) {{
  %0 = {literal("w", "f16", 40, 24)}
  %1 = convert(%0) {{to=f32}}
  %2 = slice(%1) {{axes=(0,), starts=(20,), ends=(40,)}}
  %3 = dot(x, %2)
  return %3
}}
"""
    assert gemm.kernel_for(produced(parsed(text, "fuse_int4")), host()) is None


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_convolutions_of_floats_of_16_bits(dtype: str, groups: int) -> None:
    text = f"""
module main(x: f32[n, 6, 9, 8]) {{
  %0 = {literal("w", dtype, 10, 6 // groups, 3, 3)}
  %1 = convert(%0) {{to=f32}}
  %2 = convolution(x, %1) {{group={groups}}}
  %3 = relu(%2)
  return %3
}}
"""
    program = parsed(text, "fuse_int4,fuse_epilogue")
    assert produced(program).name == "group"
    for items in (1, 3):
        assert not problem(convolution.kernel_for, program, {"n": items})


@pytest.mark.parametrize("dtype", ["i8", "u8", "f16", "bf16"])
def test_weights_are_swapped_as_they_are_stored(dtype: str) -> None:
    nbytes = 700 * 640 * SIZES[dtype]
    made = "dequantizelinear(%0, %1)" if dtype in ("i8", "u8") else "convert(%0) {to=f32}"
    text = f"""
module main(x: f32[n, 700]) {{
  %0 = @literal() {{value=bytes("w", 0, {nbytes}), label="w", replaceable=true}} : {dtype}[700, 640]
  %1 = {literal("s", "f32")}
  %2 = {made}
  %3 = dot(x, %2)
  return %3
}}
"""
    programs = [migx.parse(text, draw_missing=1).compile(target) for target in ("cpu", "ref")]
    other = next(at.op_as(Literal).value for at in migx.parse(text, draw_missing=2).literals)
    x = {"x": np.random.default_rng(0).standard_normal((3, 700)).astype(np.float32)}
    before = programs[0].eval(x)[0]
    for program in programs:
        with program.update_weights() as new:
            new["w"] = other
    got, wanted = (program.eval(x)[0] for program in programs)
    assert not np.array_equal(got, before)
    np.testing.assert_allclose(got, wanted, atol=700 * 2**-24 * np.abs(wanted).max())
    packed = [int(at.shape.nbytes) for at in programs[0].compiled.program.literals]
    assert max(packed) <= nbytes


@pytest.mark.parametrize("weight", ["i4", "u8"])
@pytest.mark.parametrize("rows", ["n", 1, 2, 4, 7, 13])
@pytest.mark.parametrize("machine", [AVX2, NEON], ids=lambda machine: machine.cpu)
def test_loops_keep_their_values_in_registers(
    machine: Machine, rows: int | str, weight: str
) -> None:
    text = product(rows, 512, 256, weight=weight)
    kernel = kernel_for(produced(parsed(text, "fuse_int4")), machine)
    assert kernel is not None
    products = [each for each in loops(kernel.text, machine) if count(each, r"vfmadd.*|fmla")]
    assert products
    assert not [line for each in products for line in spills(each)]
