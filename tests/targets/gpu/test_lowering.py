"""What the gpu target makes of a program: code objects, memory and copies. No Triton is needed."""

from __future__ import annotations

import pytest

import migx
from migx import plugins
from migx.errors import TargetError, UnknownName
from migx.manager import Pipeline
from migx.program import Program
from migx.target import CompileOptions, get_target
from migx.targets.gpu import Gpu
from migx.targets.gpu.architectures import ARCHITECTURES
from migx.targets.gpu.operations import CodeObject
from migx.targets.gpu.passes import Lower

TEXT = """
module main(x: f32[n, 40], b: f32[40]) {
  %0 = multibroadcast(b) {out_lens=(n, 40)}
  %1 = add(x, %0)
  %2 = softmax(%1) {axis=1}
  %3 = unique(%2) {axis=0, count=found}
  %4 = get_tuple_elem(%3) {index=3}
  %5 = transpose(%2) {permutation=(1, 0)}
  return %5, %4
}
"""


def lowered(text: str, *, offload_copy: bool = True) -> Program:
    program = migx.parse(text)
    target = Gpu(offload_copy=offload_copy)
    migx.run_passes(program, target.get_passes(target.get_context(), CompileOptions()))
    return program


def test_kernels_write_to_what_is_allocated_and_the_host_gets_one_copy() -> None:
    program = lowered(TEXT)
    names = [at.name for at in program.main if at.name.startswith("gpu::")]
    assert sorted(names) == [
        *("gpu::allocate", "gpu::code_object", "gpu::copy_from", "gpu::copy_to", "gpu::copy_to")
    ]
    (kernel,) = (at.op for at in program.main if isinstance(at.op, CodeObject))
    assert "def kernel(p0, p1, p2, n0):" in kernel.source
    assert kernel.pointers == ("fp32", "fp32", "fp32")
    assert [str(w) for w in kernel.words] == ["n"]
    assert kernel.aligned == (0, 1, 2)


def test_an_extent_is_a_word_times_what_divides_it() -> None:
    text = "module main(x: f16[n, 768], b: f16[768]) {\n %0 = multibroadcast(b) {out_lens=(n, 768)}"
    program = lowered(text + "\n %1 = add(x, %0)\n return %1\n}")
    (kernel,) = (at.op for at in program.main if isinstance(at.op, CodeObject))
    assert [str(w) for w in kernel.words] == ["n"]
    assert "< (n0 * 768))" in kernel.source  # so lines are known to end at multiples of 16 bytes


def test_what_is_lowered_prints_parses_and_stays() -> None:
    program = lowered(TEXT)
    assert migx.parse(str(program)) == program
    assert not migx.run_passes(program, [Lower()])


def test_a_kernel_holds_what_it_computes_where_sizes_may_break_its_rules() -> None:
    text = "module main(x: f32[n, 4], y: f32[%s, 4]) {\n %%0 = add(x, y)\n return %%0\n}"
    held = []
    for rows in ("m", "n"):
        program = lowered(text % rows)
        (kernel,) = (at for at in program.main if isinstance(at.op, CodeObject))
        assert migx.parse(str(program)) == program
        held.append([at.name for module in kernel.modules for at in module])
    assert held == [["@param", "@param", "add", "@return"], []]


def test_without_offload_copy_parameters_and_results_stay_on_the_device() -> None:
    names = [at.name for at in lowered(TEXT, offload_copy=False).main]
    assert "gpu::copy_to" not in names
    assert names.count("gpu::copy_from") == 1  # for unique
    assert "gpu::sync" in names


def test_what_only_a_run_tells_the_size_of_is_picked_on_the_device() -> None:
    program = lowered(
        """
module main(x: f32[2, n, 16], to: i64[1], c: bool[n]) {
  %0 = @literal() {value=[0]} : i64[1]
  %1 = @literal() {value=[1]} : i64[1]
  %2 = neg(x)
  %3 = dynamic_slice(%2, %0, to, %1) {axes=(1,), out_lens=(k,)}
  %4 = compress(%2, c) {axis=1, count=m}
  return %3, %4
}
""",
        offload_copy=False,
    )
    host = [at for at in program.main if at.name in ("dynamic_slice", "compress", "nonzero")]
    assert [str(at.shape) for at in host] == ["i64[k]"]
    back = [at.shape.text for at in program.main if at.name == "gpu::copy_from"]
    assert back == ["i64[1]", "i64[n]", "i64[1]"]  # of c, how much is true


def test_a_few_numbers_on_the_host_stay_there() -> None:
    program = lowered(
        """
module main(x: f32[n, 3]) {
  %0 = dim_literal() {values=(n, 2), lens=(2,)}
  %1 = @literal() {value=[1, 0]} : i64[2]
  %2 = gather(%0, %1)
  return %2
}"""
    )
    assert not any(isinstance(at.op, CodeObject) for at in program.main)


def test_kernels_of_equal_work_have_equal_texts() -> None:
    program = lowered(
        """
module main(x: f32[n, 40], w: f32[40, 40], v: f32[40, 40]) {
  %0 = dot(x, w)
  %1 = dot(%0, v)
  return %1
}"""
    )
    first, second = (at.op for at in program.main if isinstance(at.op, CodeObject))
    assert first.source == second.source


def test_a_targets_own_pass_and_operations_are_found_by_name() -> None:
    assert str(Pipeline.parse("gpu::lower{offload_copy=false}")) == "gpu::lower{offload_copy=false}"
    assert plugins.operation("gpu::code_object") is CodeObject
    assert "gpu::lower" not in plugins.names("passes")
    for name in ("gpu::nothing", "ref::nothing", "nowhere::nothing"):
        with pytest.raises(UnknownName):
            plugins.operation(name)


def test_architectures_that_are_not_there_are_named() -> None:
    with pytest.raises(TargetError, match=r"no architecture 'sm_5'; .* sm_90 \(H100, H200\)"):
        Gpu("sm_5")
    assert set(ARCHITECTURES) >= {"sm_80", "sm_90", "sm_100", "gfx90a", "gfx942", "gfx1100"}
    with pytest.raises(TargetError, match="target ref compiles for the machine it runs on"):
        get_target("ref").for_architectures(("sm_90",))
