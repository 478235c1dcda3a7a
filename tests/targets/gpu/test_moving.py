"""Kernels that move elements on the gpu: concat, gather, pad, reverse, and sizes as tensors."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.targets.gpu.operations import CodeObject
from migx.testing.oracles import Trial
from tests.targets.gpu.on_interpreter import gpu, holds, inputs_for

CASES = {
    "concat": "x: f32[n, 3, 5], y: f32[n, 4, 5], z: f32[n, 1, 5]) {\n"
    " %0 = concat(x, y, z) {axis=1}",
    "rows": "x: f16[50, 6], i: i64[n, 3]) {\n %0 = gather(x, i) {axis=0}",
    "columns": "x: bool[5, 9, 6], i: i32[n, 3]) {\n %0 = gather(x, i) {axis=1}",
    "tuples": "x: f32[10, 9, 6], i: i64[n, 2]) {\n %0 = gathernd(x, i)",
    "elements": "x: u8[5, 9], i: i64[5, n]) {\n %0 = gather_elements(x, i) {axis=1}",
    "constant": "x: f32[n, 9], v: f32[1]) {\n %0 = pad(x, v) {pads=(0, 2, 1, 3)}",
    "cut": "x: f32[n, 9]) {\n %0 = pad(x) {pads=(1, -2, 0, 3)}",
    "edge": 'x: f32[n, 9]) {\n %0 = pad(x) {pads=(0, 2, 1, 3), mode="edge"}',
    "reflect": 'x: f32[4, 9]) {\n %0 = pad(x) {pads=(1, 2, 0, 3), mode="reflect"}',
    "reflect more than once": 'x: f32[n, 3]) {\n %0 = pad(x) {pads=(0, 7, 0, 4), mode="reflect"}',
    "wrap": 'x: f32[n, 9]) {\n %0 = pad(x) {pads=(2, 2, 0, 3), mode="wrap"}',
    "reverse": "x: i64[n, 7]) {\n %0 = reverse(x) {axes=(0,)}",
    "upper triangles": "x: f32[3, n, 7]) {\n %0 = trilu(x) {upper=true}",
    "lower triangles": "x: bool[n, 7], k: i64[1]) {\n %0 = trilu(x, k) {upper=false}",
    "one row": "x: i64[n, 1, 1]) {\n %0 = trilu(x) {upper=true}",
    "marks": "x: i32[n, 3], v: f16[2]) {\n %0 = onehot(x, v) {axis=1, depth=9}",
    "marks by numbers": "x: f32[3, n], v: u8[2]) {\n %0 = onehot(x, v) {axis=2, depth=n}",
    "nibbles": "x: i4[n, 9]) {\n %0 = unpack_int4(x)",
    "nibbles along rows": "x: u8[n, 9]) {\n %0 = unpack_int4(x) {axis=0}",
    "blocks of scales": "x: i8[n, 9, 4], s: f16[n, 3, 4], z: i8[n, 3, 4]) {\n"
    " %0 = dequantizelinear(x, s, z) {axis=1, block=3}",
}


@pytest.mark.parametrize("case", CASES)
def test_each_reads_the_elements_it_should(case: str) -> None:
    holds(f"module main({CASES[case]}\n return %0\n}}", {"n": 8})


@pytest.mark.parametrize(("batch", "time"), [(0, 1), (1, 0), (2, 0), (1, 2)])
def test_sequences_are_turned_as_far_as_they_go(batch: int, time: int) -> None:
    text = f"module main(x: f32[n, 5, 6], l: i64[{['n', '5', '6'][batch]}]) {{\n"
    text += f" %0 = reverse_sequence(x, l) {{batch_axis={batch}, time_axis={time}}}\n return %0\n}}"
    holds(text, {"n": 4}, l=np.array([0, 4, 1, 3, 2, 4], np.int64)[: (4, 5, 6)[batch]])


def test_a_view_whose_sizes_only_a_value_tells() -> None:
    text = "module main(x: f32[n, 6], d: i64[2]) {\n %0 = tanh(x)\n"
    text += " %1 = reshape(%0, d) {dims=(a, b), allowzero=true}\n %2 = exp(%1)\n return %2\n}"
    holds(text, {"n": 4}, d=np.array([3, 8], np.int64))


@pytest.mark.parametrize("step", ["quantize_int8", "quantize_int4{block=16}"])
def test_rows_of_a_squeezed_table_alone_are_unpacked(step: str) -> None:
    """The table is multiplied, too, as a language model's often is."""
    text = """module main(i: i64[n], x: f32[2, 48]) {
      %0 = @literal() {value=bytes("w", 0, 7680), label="w"} : f32[40, 48]
      %1 = gather(%0, i) {axis=0}
      %2 = transpose(%0) {permutation=(1, 0)}
      %3 = dot(x, %2)
      return %1, %3
    }"""
    program = migx.parse(text, draw_missing=1)
    migx.run_passes(program, f"{step},propagate_constant")
    rows = np.array([0, -1, 39, 7, 7], np.int64)
    Trial(program, inputs_for(program, {"n": 5}, {"i": rows})).target(gpu())
    made = program.compile(gpu()).compiled
    assert made.fallbacks() == []
    kernels = [at for at in made.program.main if isinstance(at.op, CodeObject)]
    assert len(kernels) == (5 if "int4" in step else 4)
    assert not any(at.shape.dims[:1] == (40,) for at in kernels)


def test_slices_and_choices_whose_size_only_a_run_tells() -> None:
    text = """module main(x: f32[n, 6], s: i64[2], e: i64[2], c: bool[n]) {
      %0 = @literal() {value=[2, -1]} : i64[2]
      %1 = tanh(x)
      %2 = dynamic_slice(%1, s, e, %0) {axes=(0, 1), out_lens=(k, l)}
      %3 = compress(%1, c) {axis=0, count=m}
      return %2, %3
    }"""
    program = migx.parse(text)
    starts, ends = np.array([-7, 4], np.int64), np.array([9, -6], np.int64)
    given = {"s": starts, "e": ends, "c": np.arange(8) % 3 == 0}
    Trial(program, inputs_for(program, {"n": 8}, given)).target(gpu())


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_arithmetic_around_a_concatenation_is_one_kernel(dtype: str) -> None:
    """Half of a row is turned, as positions are told to attention."""
    text = f"""module main(x: {dtype}[n, 3, 40], c: {dtype}[40], s: {dtype}[40]) {{
      %0 = slice(x) {{axes=(2,), starts=(20,), ends=(40,)}}
      %1 = neg(%0)
      %2 = slice(x) {{axes=(2,), starts=(0,), ends=(20,)}}
      %3 = concat(%1, %2) {{axis=2}}
      %4 = multibroadcast(c) {{out_lens=(n, 3, 40)}}
      %5 = multibroadcast(s) {{out_lens=(n, 3, 40)}}
      %6 = mul(x, %4)
      %7 = mul(%3, %5)
      %8 = add(%6, %7)
      return %8
    }}"""
    assert holds(text, {"n": 7}) == 1


@pytest.mark.parametrize("count", [65, 200])
def test_many_values_are_joined_in_groups(count: int) -> None:
    given = ", ".join(f"x{i}: f32[n, {i % 3 + 1}]" for i in range(count))
    lines = "\n".join(f" %{i} = neg(x{i})" for i in range(0, count, 2))
    joined = ", ".join(f"x{i}" if i % 2 else f"%{i}" for i in range(count))
    text = f"module main({given}) {{\n{lines}\n"
    text += f" %{count} = concat({joined}) {{axis=1}}\n return %{count}\n}}"
    assert 2 < holds(text, {"n": 3}) <= -(-count // 64) + 1


@pytest.mark.parametrize("dtype", ["f32", "i64"])
def test_numbers_a_step_apart(dtype: str) -> None:
    text = f"""module main(x: {dtype}[n, m]) {{
      %0 = @literal() {{value=[3]}} : {dtype}[]
      %1 = dim_literal() {{values=(2 * m + 3,), lens=(), to={dtype}}}
      %2 = @literal() {{value=[2]}} : {dtype}[]
      %3 = dynamic_range(%0, %1, %2) {{count=m}}
      %4 = multibroadcast(%3) {{out_lens=(n, m)}}
      %5 = mul(x, %4)
      return %5
    }}"""
    holds(text, {"n": 3, "m": 90})
