"""Products with weights of four bits and of eight, and rows rounded to bytes, on the cpu."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import migx
from migx.argument import Argument
from migx.errors import TargetError
from migx.ir import Instruction
from migx.manager import Pipeline
from migx.ops.scales import ChooseScales
from migx.program import Program
from migx.shape import I4
from migx.target import Asked, get_target
from migx.targets.cpu.code import jit
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.kernels import weight_only_bytes
from migx.targets.cpu.kernels.weight_only import kernel_for
from migx.targets.cpu.machine import Machine, host
from migx.testing.oracles import Trial, Violation, expect_same, run_on_ref
from tests.targets.cpu.alone import parsed, problem, produced
from tests.targets.cpu.assembled import AVX2, NEON, count, loops
from tests.targets.cpu.test_weight_only import (
    BITS,
    SIZES_OF_BLOCKS,
    product,
    unblocked,
    whole_blocks,
)

PASSES = "fuse_int4,quantize_activations"


def rounding(*given: object, **how: object) -> Program:
    """A product, see there, whose rows are rounded."""
    program = parsed(product(*given, **how), PASSES)  # type: ignore[arg-type]
    kernel = kernel_for(produced(program), host())
    assert kernel is not None
    assert kernel.name == f"int{str(how.get('weight', 'i4'))[1:]} product of bytes"
    return program


@pytest.mark.parametrize("rows", [0, 1, 7, 70])
@pytest.mark.parametrize("weight", ["i4", "i8"])
@pytest.mark.parametrize(("depth", "columns"), [(100, 50), (33, 1), (700, 270)])
def test_sizes_that_do_not_divide_tiles(rows: int, weight: str, depth: int, columns: int) -> None:
    assert not problem(kernel_for, rounding(rows, depth, columns, weight=weight))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("weight", ["i4", "u8"])
@pytest.mark.parametrize("block", [8, 16, 24, 128, 1000])
def test_blocks(rows: int, weight: str, block: int) -> None:
    assert not problem(kernel_for, rounding(rows, 260, 40, block, weight=weight))


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("zero", ["", "packed"])
@pytest.mark.parametrize(("depth", "columns", "block"), SIZES_OF_BLOCKS)
def test_parts_of_whole_blocks(rows: int, zero: str, depth: int, columns: int, block: int) -> None:
    program = parsed(whole_blocks(rows, depth, columns, block, zero=zero), PASSES)
    kernel = kernel_for(produced(program), host())
    assert kernel is not None
    assert kernel.name == "int4 product of bytes"
    assert not problem(kernel_for, program)


@pytest.mark.parametrize("zero", ["one", "number"])
@pytest.mark.parametrize("weight", BITS)
def test_one_packed_zero_point_for_all(zero: str, weight: str) -> None:
    for rows in (1, 9):
        assert not problem(kernel_for, rounding(rows, 70, 150, weight=weight, zero=zero))


@pytest.mark.parametrize("zero", ["", "3", "packed", "bytes"])
@pytest.mark.parametrize("weight", BITS)
@pytest.mark.parametrize("transposed", [False, True])
def test_zero_points(zero: str, weight: str, transposed: bool) -> None:
    program = rounding(
        9 if transposed else 1, 70, 150, weight=weight, zero=zero, transposed=transposed
    )
    assert not problem(kernel_for, program)


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("weight", ["i4", "u8"])
@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_narrow_floats(rows: int, weight: str, dtype: str) -> None:
    assert not problem(kernel_for, rounding(rows, 90, 60, weight=weight, scale=dtype))


@pytest.mark.parametrize("weight", ["i4", "i8"])
def test_a_scale_for_each_column(weight: str) -> None:
    program = parsed(unblocked(weight, "60"), PASSES)
    assert produced(program).modules[0].outputs[0].inputs[0].name == "dequantizelinear"
    for rows in (0, 1, 5):
        assert not problem(kernel_for, program, {"n": rows})


def test_what_follows_is_done_with_it() -> None:
    text = product("n", 64, 200, after="%10 = sigmoid(%9)\n%11 = mul(%9, %10)\nreturn %11")
    program = parsed(text, f"{PASSES},fuse_pointwise,fuse_epilogue")
    assert produced(program).name == "group"
    for rows in (1, 4):
        assert not problem(kernel_for, program, {"n": rows})


OTHERS = {
    "neither mask nor instruction": replace(
        host(), features=host().features - {"avx512vnni", "avxvnni", "avxvnniint8"}
    ),
    "half as wide": replace(host(), vector_bytes=32, registers=16, masks=False),
    "a quarter": replace(host(), vector_bytes=16, registers=16, masks=False, features=frozenset()),
}


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("weight", ["i4", "i8", "u8"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_machines_give_the_same(name: str, weight: str, rows: int) -> None:
    def kernel(at: Instruction, _: Machine) -> Kernel | None:
        return kernel_for(at, OTHERS[name])

    assert not problem(kernel, rounding(rows, 90, 70, weight=weight, zero="packed"))


@pytest.mark.parametrize("weight", ["i4", "i8", "u8"])
@pytest.mark.parametrize("features", [{"neon"}, {"neon", "dotprod"}, {"neon", "dotprod", "i8mm"}])
def test_texts_for_arm_compile(features: set[str], weight: str) -> None:
    machine = replace(
        host(), features=frozenset(features), vector_bytes=16, registers=32, masks=False
    )
    kernel = kernel_for(produced(rounding("n", 70, 50, weight=weight, zero="packed")), machine)
    assert kernel is not None
    assert "dotprod" in features or jit.compiled(kernel.text)


@pytest.mark.parametrize("rows", [1, 2])
def test_instructions_of_small_levels(rows: int) -> None:
    """For each vector of levels and row two, and a few for all that is added in 16 bits."""
    kernel = kernel_for(produced(rounding(rows, 512, 64, weight="u4")), AVX2)
    assert kernel is not None
    (loop,) = (each for each in loops(kernel.text, AVX2) if count(each, "vpmaddubsw"))
    products = count(loop, "vpmaddubsw")
    assert products == 16 * rows  # two vectors, four indices of eight to a lane
    assert count(loop, "vpaddw") < products
    assert count(loop, "vpmaddwd") <= products // 4


def test_instructions_of_arm() -> None:
    kernel = kernel_for(produced(rounding(4, 512, 64, weight="u4")), NEON)
    assert kernel is not None
    assert any(count(each, "[us]dot") for each in loops(kernel.text, NEON))


@pytest.mark.parametrize(
    ("name", "value"), [("MOST", 126.0), ("LEAST", -64.0), ("MAGIC_BITS", 0x4B400001)]
)
def test_other_roundings_are_found_out(
    name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = rounding(2, 96, 70)
    monkeypatch.setattr(weight_only_bytes, name, value)
    assert problem(kernel_for, program)


def test_wrong_zero_points_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    program = rounding(2, 96, 70, zero="3")
    begun = weight_only_bytes.Writer._begun
    monkeypatch.setattr(
        weight_only_bytes.Writer,
        "_begun",
        lambda self, strip, block: begun(self, strip, block // 2),
    )
    assert problem(kernel_for, program)


def test_elements_that_are_zero_small_or_none() -> None:
    program = migx.parse(product("n", 64, 70, zero="3"), draw_missing=1)
    x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    x[1] = 0
    x[2, 5], x[3, 40] = np.inf, np.nan
    x[4] *= np.float32(1e-38)
    x[5] *= np.float32(1e-30)
    x[6, ::3] = 0
    x[7] *= np.float32(1e36)
    results = []
    for target in ("cpu", "ref"):
        program.compile(target, activations="int8")
        results.append(program.eval({"x": x})[0])
    got, wanted = results
    assert np.isnan(wanted[2:4]).all()
    assert not wanted[1].any()
    size = np.abs(wanted).max(1, keepdims=True)
    assert np.array_equal(np.isnan(got), np.isnan(wanted))
    assert (np.abs(got - wanted) <= 1e-6 * size + 1e-42)[[0, 1, 5, 6, 7]].all()
    # A step of what is this small is known to a few bits.
    assert (np.abs(got - wanted) <= 0.02 * size)[4].all()


def test_a_program_is_run_so_where_it_is_asked_for(tmp_path: Path) -> None:
    program = migx.parse(product("n", 64, 256), draw_missing=1)
    x = {"x": np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)}
    exact = program.compile("cpu").eval(x)[0]
    got = program.compile("cpu", activations="int8").eval(x)[0]
    assert program.executable.fallbacks() == []
    assert 1e-4 < np.abs(got - exact).max() / np.abs(exact).max() < 0.02
    migx.save(program, tmp_path / "small.mxr")
    assert np.array_equal(migx.load(tmp_path / "small.mxr").eval(x)[0], got)


@pytest.mark.parametrize("target", ["cpu", "ref"])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_targets_keep_within_what_the_pass_states(target: str, dtype: str) -> None:
    text = product(4, 100, 50, scale=dtype, zero="packed", after="%10 = tanh(%9)\nreturn %10")
    x = np.random.default_rng(0).standard_normal((4, 100))
    x[1, ::2] *= 100
    inputs = {"x": Argument.of(x.astype({"f32": "f", "f16": "e"}[dtype]))}
    Trial(migx.parse(text, draw_missing=1), inputs).target(target, activations="int8")


def test_rounding_is_within_half_a_step_and_coarser_is_not() -> None:
    program = migx.parse(product(5, 16, 9, block=8), draw_missing=1)
    inputs = {"x": Argument.of(np.random.default_rng(0).standard_normal((5, 16)).astype("f"))}
    trial, passes = Trial(program, inputs), Pipeline.parse(PASSES)
    assert trial.passes(passes)
    rounded = program.copy()
    migx.run_passes(rounded, passes)
    expected = trial.outputs(passes)
    bound = expected[0][1]
    assert isinstance(bound, np.ndarray)
    assert bound.max() < 0.05 * np.abs(expected[0][0].array).max()
    (scales,) = (at for at in produced(rounded).modules[0] if at.name == "choose_scales")
    assert isinstance(scales.op, ChooseScales)
    scales.op = replace(scales.op, to=I4)
    results = run_on_ref(rounded, inputs, program)
    with pytest.raises(Violation, match="same outputs"):
        expect_same("same outputs", "after four bits", [(results[0][0], None)], expected)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("cpu", {"activations": "int4"}, "activations is 'float' or 'int8', not 'int4'"),
        (
            "cpu",
            {"activations": "int8", "passes": "fuse_int4"},
            "put quantize_activations after fuse_int4",
        ),
        ("gpu", {"activations": "int8"}, "target gpu supports float activations only"),
    ],
)
def test_what_cannot_be_is_refused(target: str, options: Asked, message: str) -> None:
    program = migx.parse(product(1, 64, 16), draw_missing=1)
    with pytest.raises(TargetError, match=message):
        program.compile(get_target(target), **options)


def test_scales_that_are_read_otherwise_too_are_not_packed() -> None:
    text = """
    module main(x: f32[2, 6]) {
      %0 = @literal() {value=bytes("w", 0, 3), label="w"} : u4[6, 1]
      %1 = unpack_int4(%0)
      %2 = @literal() {value=[1.5, 0.25]} : f32[2, 1]
      %3 = dequantizelinear(%1, %2) {axis=0, block=3}
      %4 = dot(x, %3)
      %5 = pow(%4, %2)
      return %5
    }
    """
    x = migx.Argument.of(np.arange(1, 13, dtype=np.float32).reshape(2, 6))
    Trial(migx.parse(text, draw_missing=1), {"x": x}).target("cpu")
