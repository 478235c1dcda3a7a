"""Functions of a byte as tables of 256: the bits of ``ref``, on vectors of any length."""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace

import numpy as np
import pytest

from migx.fusion.kernels import Access, FusedKernel, described
from migx.fusion.tables import Lookup, tabled
from migx.targets.cpu.code import jit
from migx.targets.cpu.emit import I8, PTR, Module, lookup
from migx.targets.cpu.kernels import kernel_for
from migx.targets.cpu.machine import Machine, host
from tests.targets.cpu.alone import OTHER_MACHINES, parsed, problem, produced

PLAIN = replace(host(), features=frozenset())
SWISH = """
module main(x: {0}[{1}]) {{
  %0 = @literal() {{value=[0.04]}} : f32[1]
  %1 = @literal() {{value=[7]}} : {0}[]
  %2 = dequantizelinear(x, %0, %1)
  %3 = sigmoid(%2)
  %4 = @literal() {{value=[0.004]}} : f32[]
  %5 = quantizelinear(%3, %4, %1) {{to={0}}}
  %6 = dequantizelinear(%5, %4, %1)
  %7 = mul(%2, %6)
  %8 = quantizelinear(%7, %0) {{to={0}}}
  return %8
}}
"""


def shortened(text: str, cost: int = 6) -> tuple[FusedKernel, list[Lookup]]:
    """What the program comes to, and the tables in it."""
    at = produced(parsed(text, "fuse_pointwise"))
    kernel = described(at.inputs[0] if at.name == "get_tuple_elem" else at)
    assert kernel is not None
    made = tabled(kernel, cost)
    return made, [n.of for n in made.nodes if isinstance(n.of, Lookup)]


@pytest.mark.parametrize("dtype", ["u8", "i8"])
def test_a_chain_becomes_a_read_and_a_table(dtype: str) -> None:
    made, tables = shortened(SWISH.format(dtype, "n"))
    assert [type(n.of) for n in made.nodes] == [Access, Lookup]
    (table,) = tables
    every = np.arange(256).astype(np.uint8).view(table.table.array.dtype)
    (wanted,) = parsed(SWISH.format(dtype, "n")).compile("ref").eval({"x": every})
    np.testing.assert_array_equal(table.table.array, wanted)


def test_what_is_cheaper_stays() -> None:
    assert not shortened(SWISH.format("u8", "n"), cost=100)[1]
    copy = "module main(x: u8[n]) {\n  %0 = relu(x)\n  %1 = relu(%0)\n  return %1\n}"
    assert not shortened(copy)[1]


def test_what_reads_two_values_is_no_table() -> None:
    text = SWISH.format("u8", "n").replace("(x: u8[n])", "(x: u8[n], y: f32[n])")
    made, tables = shortened(text.replace("mul(%2", "mul(y"))
    assert len(tables) == 1, "the sigmoid is one"
    assert [getattr(n.of, "name", "") for n in made.nodes][-1] == "quantizelinear"


@pytest.mark.parametrize("number", ["%0", "%1"])
def test_what_may_be_another_number_is_no_constant(number: str) -> None:
    """A scale, or a zero point, that the program is given."""
    dtype = "f32[]" if number == "%0" else "u8[]"
    text = SWISH.format("u8", "n").replace(") {", f", z: {dtype}) {{", 1)
    text = re.sub(rf"\{number}\b(?! =)", "z", text)
    made, tables = shortened(text)
    assert not tables
    assert len(made.nodes) > 5


def test_a_byte_that_is_read_twice_is_kept() -> None:
    """Both results are tables of what was read; the second one computes nothing twice."""
    made, tables = shortened(SWISH.format("u8", "n").replace("return %8", "return %5, %8"))
    assert len(made.nodes) == 3
    assert len(tables) == 2


def test_what_is_computed_anyway_is_not_looked_up() -> None:
    """A number that is a result takes all but the last rounding."""
    _, tables = shortened(SWISH.format("u8", "n").replace("return %8", "return %7, %8"), cost=20)
    assert not tables


@pytest.mark.parametrize("dtype", ["u8", "i8"])
@pytest.mark.parametrize("size", ["n", "1", "3", "16", "63", "64", "300", "1024"])
def test_kernels(dtype: str, size: str) -> None:
    program = parsed(SWISH.format(dtype, size), "fuse_pointwise")
    assert not problem(kernel_for, program, {"n": 1003})


@pytest.mark.parametrize("machine", [host(), PLAIN], ids=["as this one", "plain"])
@pytest.mark.parametrize("lanes", [0, 1, 4, 16, 48, 64, 128, 192, 256])
def test_every_byte(machine: Machine, lanes: int) -> None:
    """All of 256 bytes, by vectors of so many; the last of them ends with the bytes."""
    table = np.random.default_rng(lanes).permutation(256).astype(np.uint8)
    module, step = Module(machine.features), max(1, lanes)
    f = module.function("kernel", [("x", PTR), ("made", PTR)])
    for first in [*range(0, 256 - step, step), 256 - step]:
        x, made = (f.element(p, first, I8) for p in f.parameters)
        f.store(lookup.looked_up(f, table, f.load(x, I8.times(lanes))), made)
    code = jit.load([module.text])[module.text]
    every, found = np.arange(256, dtype=np.uint8), np.empty(256, np.uint8)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(code.address)
    run(every.ctypes.data, found.ctypes.data)
    np.testing.assert_array_equal(found, table)


@pytest.mark.parametrize("machine", OTHER_MACHINES)
def test_kernels_of_other_machines(machine: str) -> None:
    program = parsed(SWISH.format("i8", "n"), "fuse_pointwise")
    other = OTHER_MACHINES[machine]
    assert not problem(lambda at, _: kernel_for(at, other), program, {"n": 77})
