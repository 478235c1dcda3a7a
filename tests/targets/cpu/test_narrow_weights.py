"""Convolutions on the cpu whose weights are stored in 4, 8 or 16 bits: forms, sizes, bits."""

from __future__ import annotations

import ctypes
import mmap
import re
from dataclasses import replace
from math import prod

import numpy as np
import pytest

import migx
from migx.ops.builtin import Literal
from migx.program import Program
from migx.target import get_target
from migx.targets.cpu.code import jit
from migx.targets.cpu.kernels import convolution, kernel_for
from migx.targets.cpu.machine import Machine, host
from migx.targets.cpu.plans.memory import address
from migx.testing.law import check_law
from tests.targets.cpu import alone
from tests.targets.cpu.alone import OTHER_MACHINES, parsed, problem, produced
from tests.targets.cpu.test_weight_only import literal
from tests.targets.cpu.whole import native

FUSE = "fuse_int4,fuse_epilogue"
PADDED = "padding=(1, 1, 1, 1)"


def blocks(
    x: str,
    w: tuple[int, ...],
    attributes: str = "",
    *,
    weight: str = "i4",
    block: int = 32,
    zero: bool = False,
    after: str = "return %y",
) -> str:
    """A convolution of weights stored in rows, with scales and zero points for each block."""
    size, bytes_ = prod(w[1:]), weight.replace("4", "8")
    parts = (w[0], -(-size // block))
    given, lines = "%l, %s", [f"%w = {literal('w', weight, w[0], size)}"]
    lines.append(f"%s = {literal('s', 'f32', *parts)}")
    packed = weight != bytes_
    lines.append(f"%l = unpack_int4(%w) : {bytes_}[{w[0]}, {size}]") if packed else None
    if zero:
        lines.append(f"%p = {literal('z', weight, *parts)}")
        lines.append(f"%z = unpack_int4(%p) : {bytes_}[{parts[0]}, {parts[1]}]") if packed else None
        given += ", %z" if packed else ", %p"
    given = given if packed else given.replace("%l", "%w")
    lines.append(f"%d = dequantizelinear({given}) {{axis=1, block={block}}}")
    lines.append(f"%v = reshape(%d) {{dims={w}}}")
    return _program(x, [*lines, f"%y = convolution(x, %v) {{{attributes}}}", after])


def channels(
    x: str,
    w: tuple[int, ...],
    attributes: str = "",
    *,
    weight: str = "i8",
    zero: str = "",
    after: str = "return %y",
) -> str:
    """A convolution of weights with a scale for each channel, or, ``zero`` being "one", for all,
    and zero points likewise.
    """
    lines, given = [f"%w = {literal('w', weight, *w)}"], "%w, %s"
    dims = () if zero == "one" else (w[0],)
    lines.append(f"%s = {literal('s', 'f32', *dims)}")
    if weight in ("i4", "u4"):
        lines.append("%l = unpack_int4(%w)")
        given = "%l, %s"
    if zero:
        lines.append(f"%z = {literal('z', weight.replace('4', '8'), *dims)}")
        given += ", %z"
    lines.append(f"%d = dequantizelinear({given}) {{axis=0}}")
    return _program(x, [*lines, f"%y = convolution(x, %d) {{{attributes}}}", after])


def _program(x: str, lines: list[str]) -> str:
    """The lines as a program, their values numbered in order."""
    text = "\n  ".join(lines)
    for number, name in enumerate(line.split(" ")[0] for line in lines if line[0] == "%"):
        for end in (" ", ",", ")", "\n"):
            text = (text + "\n").replace(name + end, f"%#{number}{end}").rstrip("\n")
    return f"\nmodule main(x: f32[{x}]) {{\n  {text.replace('#', '')}\n}}\n"


SHAPES = {
    "three by three": ("1, 5, 9, 21", (17, 5, 3, 3), PADDED),
    "one by one, in lines": ("2, 40, 13, 13", (24, 40, 1, 1), ""),
    "at a stride": ("1, 3, 20, 23", (10, 3, 3, 3), f"{PADDED}, stride=(2, 2)"),
    "a small image": ("1, 70, 7, 7", (130, 70, 3, 3), PADDED),
    "in pieces": ("1, 90, 9, 16", (30, 90, 3, 3), PADDED),
    "in chunks": ("1, 560, 10, 10", (10, 560, 3, 3), PADDED),
    "groups": ("1, 12, 9, 10", (32, 3, 3, 3), f"{PADDED}, group=4"),
    "a few": ("1, 1, 5, 6", (2, 1, 1, 2), ""),
    "along one axis": ("2, 5, 70", (6, 5, 3), "padding=(1, 1), stride=(2,), dilation=(1,)"),
    "three axes": ("1, 4, 5, 6, 7", (12, 4, 2, 3, 3), "padding=(1, 1, 1, 0, 1, 1)"),
    "far apart": ("1, 20, 33, 33", (24, 20, 3, 3), "padding=(30, 36, 30, 36), dilation=(30, 36)"),
    "any size": ("n, 20, h, w", (24, 20, 3, 3), PADDED),
}
SIZES = {"n": 2, "h": 9, "w": 30}


def known(name: str) -> dict[str, int]:
    return SIZES if name == "any size" else {}


@pytest.mark.parametrize(("weight", "zero"), [("i4", False), ("u4", True)])
@pytest.mark.parametrize("name", SHAPES)
def test_blocks(name: str, zero: bool, weight: str) -> None:
    text = blocks(*_three(SHAPES[name]), weight=weight, zero=zero)
    assert not problem(convolution.kernel_for, parsed(text, FUSE), known(name))


@pytest.mark.parametrize(("weight", "zero"), [("i8", ""), ("u8", "each")])
@pytest.mark.parametrize("name", SHAPES)
def test_scales_of_channels(name: str, zero: str, weight: str) -> None:
    text = channels(*_three(SHAPES[name]), weight=weight, zero=zero)
    assert not problem(convolution.kernel_for, parsed(text, FUSE), known(name))


@pytest.mark.parametrize("weight", ["i4", "u4", "i8", "u8"])
def test_types(weight: str) -> None:
    shape = "1, 5, 9, 21", (17, 5, 3, 3), PADDED
    texts = [blocks(*shape, weight=weight, zero=zero) for zero in (False, True)]
    texts += [channels(*shape, weight=weight, zero=zero) for zero in ("", "each", "one")]
    for text in texts:
        assert not problem(convolution.kernel_for, parsed(text, FUSE))


def _three(shape: tuple[str, tuple[int, ...], str]) -> tuple[str, tuple[int, ...], str]:
    """Spatial attributes that are left out are those of as many axes as there are."""
    x, w, attributes = shape
    rank = len(w) - 2
    usual = {"padding": (0,) * 2 * rank, "stride": (1,) * rank, "dilation": (1,) * rank}
    missing = [f"{name}={value}" for name, value in usual.items() if name not in attributes]
    return x, w, ", ".join(filter(None, [attributes, *missing]))


@pytest.mark.parametrize("block", [1, 3, 16, 100, 128, 1000])
def test_any_block(block: int) -> None:
    text = blocks("1, 30, 6, 20", (18, 30, 3, 3), PADDED, block=block, zero=True, weight="u4")
    assert not problem(convolution.kernel_for, parsed(text, FUSE))


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("name", SHAPES)
def test_floats_of_16_bits(name: str, dtype: str) -> None:
    x, w, attributes = _three(SHAPES[name])
    lines = [f"%w = {literal('w', dtype, *w)}", "%d = convert(%w) {to=f32}"]
    text = _program(x, [*lines, f"%y = convolution(x, %d) {{{attributes}}}", "return %y"])
    assert not problem(convolution.kernel_for, parsed(text, FUSE), known(name))


NARROW = {
    "i4": blocks("1, 90, 9, 16", (30, 90, 3, 3), PADDED, zero=True),
    "u8": channels("1, 300, 5, 5", (132, 300, 3, 3), PADDED, weight="u8", zero="each"),
    "small": blocks("1, 70, 7, 7", (130, 70, 3, 3), PADDED, weight="u4"),
}
"""Weights that stay as they are: bytes do where f32 would take 1 MiB more."""
MACHINES = OTHER_MACHINES | {"small caches": replace(host(), l1=4096, l2=64 * 1024)}


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("name", NARROW)
def test_other_machines(name: str, machine: Machine) -> None:
    program = parsed(NARROW[name], FUSE)
    assert not problem(lambda at, _: convolution.kernel_for(at, machine), program)
    kernel = convolution.kernel_for(produced(program), machine)
    assert kernel is not None
    assert jit.compiled(kernel.text)


def test_what_follows_is_done_with_it() -> None:
    for text in (
        blocks("1, 8, 9, 9", (12, 8, 3, 3), PADDED, after="%r = relu(%y)\n  return %r"),
        channels("1, 8, 9, 9", (12, 8, 3, 3), PADDED, after="%r = sigmoid(%y)\n  return %r"),
    ):
        program = parsed(text.replace("%r", "%9"), FUSE)
        assert produced(program).name == "group"
        assert not problem(convolution.kernel_for, program)


@pytest.mark.parametrize("name", NARROW)
def test_bits_are_those_of_weights_in_f32(name: str) -> None:
    """The dequantised values are multiplied, in the order in which they are where they are given
    as f32.
    """
    traced = parsed(NARROW[name])
    product, x = produced(traced), traced.main.parameters["x"]
    values, _ = alone.traced(traced, {}, 0)
    plain = migx.Program()
    weights = plain.main.add_literal(values[product.inputs[1]].array)
    image = plain.main.add_parameter("x", x.shape)
    plain.main.add_return(plain.main.add_instruction(product.op, image, weights))
    program = migx.parse(NARROW[name], draw_missing=1)
    got, expected = (_compiled(each).eval({"x": values[x]})[0] for each in (program, plain))
    assert np.abs(expected).max() > 0
    assert got.tobytes() == expected.tobytes()


def _compiled(program: Program) -> Program:
    program.compile("cpu")
    native(program)
    return program


@pytest.mark.parametrize("name", NARROW)
def test_weights_stay_as_they_are_stored(name: str) -> None:
    program = migx.parse(NARROW[name], draw_missing=1)
    stored = max(int(at.shape.nbytes) for at in program.literals)
    lowered = _compiled(program).compiled.program
    assert [at.op.name for at in lowered.main][-2:] == ["group", "@return"]
    assert max(int(at.shape.nbytes) for at in lowered.literals) <= stored * 1.5  # whole strips
    assert lowered.copy().compile("cpu").compiled.program == lowered


@pytest.mark.parametrize("name", NARROW)
def test_weights_are_swapped(name: str) -> None:
    """Others that are put in give the bits that they give where they are there from the start."""
    text = re.sub(r'label="."', r"\g<0>, replaceable=true", NARROW[name])
    program, other = (migx.parse(text, draw_missing=seed) for seed in (1, 2))
    weights = {op.label: op.value for op in (at.op_as(Literal) for at in other.literals)}
    dims = [int(d) for d in program.main.parameters["x"].shape.dims]
    x = {"x": np.random.default_rng(0).standard_normal(dims).astype(np.float32)}
    before = _compiled(program).eval(x)[0]
    with program.update_weights() as new:
        new.update(weights)
    got, expected = program.eval(x)[0], _compiled(other).eval(x)[0]
    assert got.tobytes() == expected.tobytes()
    assert not np.array_equal(got, before)


@pytest.mark.parametrize("name", NARROW)
def test_the_law_of_weights(name: str) -> None:
    program = migx.parse(NARROW[name], draw_missing=1)
    x = alone.random(np.random.default_rng(0), program.main.parameters["x"].shape)
    assert check_law(program, {"x": x}, get_target("cpu"), None) == 1


LEFT = {
    "one channel": channels("1, 8, 9, 9", (1, 8, 3, 3), weight="i4"),
    "groups of one": channels("1, 8, 9, 9", (8, 1, 3, 3), "group=8"),
    "groups of one kernel": channels("1, 6, 9, 9", (3, 2, 3, 3), "group=3"),
    "scales of input channels": channels("1, 8, 9, 9", (8, 8, 3, 3)).replace("axis=0", "axis=1"),
    "other order": _program(
        "1, 8, 9, 9",
        [
            f"%w = {literal('w', 'i8', 8, 8, 3, 3)}",
            f"%s = {literal('s', 'f32', 8)}",
            "%d = dequantizelinear(%w, %s) {axis=0}",
            "%t = transpose(%d) {permutation=(1, 0, 2, 3)}",
            "%y = convolution(x, %t)",
            "return %y",
        ],
    ),
    "a part": _program(
        "1, 8, 9, 9",
        [
            f"%w = {literal('w', 'i8', 12, 8, 3, 3)}",
            f"%s = {literal('s', 'f32', 12)}",
            "%d = dequantizelinear(%w, %s) {axis=0}",
            "%t = slice(%d) {axes=(0,), starts=(4,), ends=(12,)}",
            "%y = convolution(x, %t)",
            "return %y",
        ],
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_other_forms_are_left(name: str) -> None:
    assert kernel_for(produced(parsed(LEFT[name], FUSE)), host()) is None
    program = migx.parse(LEFT[name], draw_missing=1)
    x = {"x": np.linspace(-1, 1, 8 * 81, dtype=np.float32).reshape(1, 8, 9, 9)}
    x = {"x": x["x"][:, :6]} if "kernel" in name else x
    (expected,) = program.copy().compile("ref").eval(x)
    bound = 72 * float(np.finfo(np.float32).eps) * float(np.abs(expected).max())
    np.testing.assert_allclose(program.compile("cpu").eval(x)[0], expected, rtol=0, atol=bound)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mprotect"), reason="needs mprotect")
@pytest.mark.parametrize("machine", [host(), *OTHER_MACHINES.values()])
@pytest.mark.parametrize("name", [*NARROW, "f16"])
def test_nothing_is_read_behind_a_weight(name: str, machine: Machine) -> None:
    """Storage that ends with a page, behind which nothing may be read."""
    lines = [f"%w = {literal('w', 'f16', 3, 5, 1, 1)}", "%d = convert(%w) {to=f32}"]
    tiny = _program("1, 5, 4, 4", [*lines, "%y = convolution(x, %d)", "return %y"])
    program = parsed(tiny if name == "f16" else NARROW[name], FUSE)
    at = produced(program)
    kernel = convolution.kernel_for(at, machine)
    if name == "f16" and not machine.halves:
        assert kernel is None
        return
    assert kernel is not None
    values, _ = alone.traced(program, {}, 0)
    given = [alone.operand(kernel, at, i, values, {}) for i in range(len(at.inputs))]
    made = [alone.laid_out(at.shape, None) for _ in range(2)]
    pages = []
    alone.run(kernel, [*given, made[0]], {}, [0, migx.dim.evaluate(kernel.tiles, {})])
    for number, _ in kernel.formats:
        pages.append(_before_a_forbidden_page(given[number]))
        given[number] = pages[-1][1]
    alone.run(kernel, [*given, made[1]], {}, [0, migx.dim.evaluate(kernel.tiles, {})])
    assert made[0].tobytes() == made[1].tobytes()
    for page, array in pages:
        _protect(address(array) + array.nbytes, mmap.PROT_READ | mmap.PROT_WRITE)
        assert len(page)


def _before_a_forbidden_page(array: alone.Array) -> tuple[mmap.mmap, alone.Array]:
    """The array where the page behind its last byte cannot be read, and the memory it is in."""
    whole = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, whole + mmap.PAGESIZE)
    copy = np.frombuffer(memory, np.uint8)[whole - array.nbytes : whole].view(array.dtype)
    copy[...] = array.reshape(-1)
    _protect(address(copy) + copy.nbytes, 0)
    return memory, copy


def _protect(page: int, allowed: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    size = ctypes.c_size_t(mmap.PAGESIZE)
    assert libc.mprotect(ctypes.c_void_p(page), size, allowed) == 0, ctypes.get_errno()
