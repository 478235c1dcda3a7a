"""Attention on the gpu: masks, heads that share keys and values, and caches of any length."""

from __future__ import annotations

import pytest

import migx
from migx.target import CompileOptions
from migx.targets.gpu import Gpu
from migx.targets.gpu.compiling import Request, binaries
from migx.targets.gpu.operations import CodeObject
from migx.targets.gpu.resources import spilled
from tests.targets.gpu.on_interpreter import holds


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
@pytest.mark.parametrize(
    ("queries", "keys"),
    [("s", "s"), ("1", "t"), ("3", "37"), ("5", "37"), ("s", "1"), ("5", "150")],
)
def test_scaled_and_masked(queries: str, keys: str, dtype: str) -> None:
    holds(
        f"""module main(q: {dtype}[n, 3, {queries}, 20], k: {dtype}[n, 3, {keys}, 20],
                        v: {dtype}[n, 3, {keys}, 24], m: {dtype}[n, 1, {queries}, {keys}]) {{
          %0 = transpose(k) {{permutation=(0, 1, 3, 2)}}
          %1 = dot(q, %0)
          %2 = @literal() {{value=[0.25]}} : {dtype}[1]
          %3 = multibroadcast(%2) {{out_lens=(n, 3, {queries}, {keys})}}
          %4 = mul(%1, %3)
          %5 = multibroadcast(m) {{out_lens=(n, 3, {queries}, {keys})}}
          %6 = add(%4, %5)
          %7 = softmax(%6) {{axis=3}}
          %8 = dot(%7, v)
          return %8
        }}""",
        {"n": 2, "s": 35, "t": 70},
    )


def test_heads_that_share_keys_and_values() -> None:
    holds(
        """module main(q: f32[2, 6, 5, 16], k: f32[2, 2, t, 16], v: f32[2, 2, t, 16]) {
          %0 = unsqueeze(k) {axes=(2,)}
          %1 = multibroadcast(%0) {out_lens=(2, 2, 3, t, 16)}
          %2 = reshape(%1) {dims=(2, 6, t, 16)}
          %3 = unsqueeze(v) {axes=(2,)}
          %4 = multibroadcast(%3) {out_lens=(2, 2, 3, t, 16)}
          %5 = reshape(%4) {dims=(2, 6, t, 16)}
          %6 = transpose(%2) {permutation=(0, 1, 3, 2)}
          %7 = dot(q, %6)
          %8 = softmax(%7) {axis=3}
          %9 = dot(%8, %5)
          return %9
        }""",
        {"t": 41},
    )


def test_heads_of_one_product_are_read_where_they_lie_and_brought_together() -> None:
    text = """module main(x: f32[n, t, 72]) {
          %0 = reshape(x) {dims=(n, t, 9, 8)}
          %1 = transpose(%0) {permutation=(0, 2, 1, 3)}
          %2 = slice(%1) {axes=(1,), starts=(0,), ends=(3,)}
          %3 = slice(x) {axes=(2,), starts=(24,), ends=(48,)}
          %4 = reshape(%3) {dims=(n, t, 3, 8)}
          %5 = transpose(%4) {permutation=(0, 2, 3, 1)}
          %6 = slice(%1) {axes=(1,), starts=(6,), ends=(9,)}
          %7 = dot(%2, %5)
          %8 = softmax(%7) {axis=3}
          %9 = dot(%8, %6)
          %10 = transpose(%9) {permutation=(0, 2, 1, 3)}
          %11 = reshape(%10) {dims=(n, t, 24)}
          return %11
        }"""
    assert holds(text, {"n": 2, "t": 41}) == 1, "nothing is copied"


def lowered(queries: str, keys: str, dtype: str = "f32") -> CodeObject:
    """The kernel of attention with keys whose features are neighbours."""
    text = f"""module main(q: {dtype}[1, 2, {queries}, 64], k: {dtype}[1, 2, {keys}, 64],
                        v: {dtype}[1, 2, {keys}, 64]) {{
          %0 = transpose(k) {{permutation=(0, 1, 3, 2)}}
          %1 = dot(q, %0)
          %2 = softmax(%1) {{axis=3}}
          %3 = dot(%2, v)
          return %3
        }}"""
    program, target = migx.parse(text), Gpu("sm_90")
    migx.run_passes(program, target.get_passes(target.get_context(), CompileOptions()))
    (kernel,) = (at.op for at in program.main if isinstance(at.op, CodeObject))
    return kernel


def test_few_queries_are_not_multiplied_as_a_tile() -> None:
    for dtype in ("f16", "f32"):
        one, many = lowered("4", "129", dtype), lowered("5", "129", dtype)
        assert "tl.dot" not in one.source
        assert one.grid == 2 * 4
        assert many.source.count("tl.dot") == 2
        assert many.grid == 2


def test_many_keys_are_turned_where_no_matrix_unit_multiplies() -> None:
    turned = lowered("200", "200")
    assert (turned.turns, turned.scratch) == (2, 1)
    for other in (lowered("200", "128"), lowered("200", "200", "f16"), lowered("1", "200")):
        assert (other.turns, other.scratch) == (0, 0)


def test_a_turn_of_the_loop_is_no_longer_than_registers_allow() -> None:
    for keys in ("128", "1500"):
        kernel = lowered(keys, keys)
        request = Request.of(kernel, kernel.aligned, "sm_90")
        binary = binaries([request])[request.key]
        assert spilled(binary.code, "cubin") == 0
        assert binary.threads == 32 * kernel.warps
