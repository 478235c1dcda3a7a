"""Attention on the gpu: masks, heads that share keys and values, and caches of any length."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import migx
from migx import dim
from migx.argument import Argument
from migx.errors import InputError
from migx.target import CompileOptions
from migx.targets.gpu import Gpu
from migx.targets.gpu.code.compiling import HARMLESS, Request, binaries
from migx.targets.gpu.code.resources import spilled
from migx.targets.gpu.cost_model import around
from migx.targets.gpu.kernels import kernel_for
from migx.targets.gpu.operations import CodeObject
from migx.testing.oracles import Trial
from tests.onnx.build import read
from tests.onnx.one_node import node_model
from tests.targets.gpu.on_interpreter import gpu, holds, inputs_for


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


@pytest.mark.parametrize("by", ["mul", "div"])
def test_queries_scaled_before(by: str) -> None:
    holds(
        f"""module main(q: f16[2, 3, s, 8], k: f16[2, 3, 30, 8], v: f16[2, 3, 30, 8]) {{
          %0 = @literal() {{value=[0.25]}} : f16[1]
          %1 = multibroadcast(%0) {{out_lens=(2, 3, s, 8)}}
          %2 = {by}(q, %1)
          %3 = transpose(k) {{permutation=(0, 1, 3, 2)}}
          %4 = dot(%2, %3)
          %5 = softmax(%4) {{axis=3}}
          %6 = dot(%5, v)
          return %6
        }}""",
        {"s": 20},
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


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("mask", ["b, 1, s, t", "b, 6, s, t", "6, 1, t", "6, 1, 1"])
def test_heads_of_a_group_are_rows_of_a_tile(mask: str, dtype: str) -> None:
    """Each with its own query and its own place in a mask, however it lies."""
    text = in_groups(mask).replace("f32", dtype)
    for b, s, t in ((2, 1, 41), (1, 7, 20), (2, 20, 150)):
        assert holds(text, {"b": b, "s": s, "t": t}) == 1
    one = re.sub(r"\bs\b", "1", text)
    assert holds(one, {"b": 2, "t": 41}) == 1


def in_groups(mask: str) -> str:
    """Six heads of queries, beside their features, that share two of keys and values."""
    return f"""module main(q: f32[b, s, 6, 16], k: f32[b, 2, t, 16], v: f32[b, 2, t, 16],
                           m: f32[{mask}]) {{
          %0 = transpose(q) {{permutation=(0, 2, 1, 3)}}
          %1 = unsqueeze(k) {{axes=(2,)}}
          %2 = multibroadcast(%1) {{out_lens=(b, 2, 3, t, 16)}}
          %3 = reshape(%2) {{dims=(b, 6, t, 16)}}
          %4 = transpose(%3) {{permutation=(0, 1, 3, 2)}}
          %5 = dot(%0, %4)
          %6 = multibroadcast(m) {{out_lens=(b, 6, s, t)}}
          %7 = add(%5, %6)
          %8 = softmax(%7) {{axis=3}}
          %9 = unsqueeze(v) {{axes=(2,)}}
          %10 = multibroadcast(%9) {{out_lens=(b, 2, 3, t, 16)}}
          %11 = reshape(%10) {{dims=(b, 6, t, 16)}}
          %12 = dot(%8, %11)
          %13 = transpose(%12) {{permutation=(0, 2, 1, 3)}}
          return %13
        }}"""


def test_a_group_is_read_by_a_program_for_each_tile_of_its_rows() -> None:
    program, target = migx.parse(in_groups("b, 1, s, t")), Gpu("sm_90")
    migx.run_passes(program, target.get_passes(target.get_context(), CompileOptions()))
    (kernel,) = (at.op for at in program.main if isinstance(at.op, CodeObject))
    assert [dim.evaluate(kernel.grid, {"b": b, "s": 1, "t": 100}) for b in (1, 5)] == [2, 10]


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


def changed(met: str, after: str, between: str = "%7 = relu(%0)") -> str:
    """Attention whose scores %7 are made of products %0, and whose weights %8 become %9; %4 is
    zeros, and %6 says where what they meet is less.
    """
    return f"""module main(q: f32[b, 3, s, 8], k: f32[b, 3, 8, t], v: f32[b, 3, t, 12],
                           n: f32[{met}]) {{
          %0 = dot(q, k)
          %2 = @literal() {{value=[0.0]}} : f32[1]
          %3 = multibroadcast(%2) {{out_lens=({met})}}
          %4 = multibroadcast(%2) {{out_lens=(b, 3, s, t)}}
          %5 = less(n, %3)
          %6 = multibroadcast(%5) {{out_lens=(b, 3, s, t)}}
          {between}
          %8 = softmax(%7) {{axis=3}}
          {after}
          %10 = dot(%9, v)
          return %10
        }}"""


ZEROED = "%9 = where(%6, %4, %8)"
CHANGED = {
    "0 where a condition says so": ZEROED,
    "kept where a condition says so, and times a number": """%11 = where(%6, %8, %4)
          %12 = multibroadcast(n) {out_lens=(b, 3, s, t)}
          %9 = mul(%12, %11)""",
}


@pytest.mark.parametrize(
    "met", ["b, 3, s, 1", "b, 1, 1, 1", "3, s, 1", "b, 1, s, t", "b, 3, 1, t", "s, t"]
)
@pytest.mark.parametrize("after", CHANGED.values(), ids=CHANGED)
def test_weights_that_are_changed(after: str, met: str) -> None:
    for dtype, s, t in (("f32", 1, 40), ("f16", 3, 0), ("bf16", 21, 9), ("f32", 40, 150)):
        text = changed(met, after).replace("f32", dtype)
        assert holds(text, {"b": 2, "s": s, "t": t}) == 2, "a comparison, and attention"


MASKED = """%13 = @literal() {value=[-inf]} : f32[1]
          %14 = multibroadcast(%13) {out_lens=(b, 3, s, t)}
          %7 = where(%6, %14, %0)"""
GUARDED = """%15 = isnan(%8)
          %9 = where(%15, %4, %8)"""


NAN_OR_0 = {
    "scores are NaN": ("%7 = log(%0)", ZEROED),
    "masked": (MASKED, "%9 = identity(%8)"),
    "masked and guarded": (MASKED, GUARDED),
    "masked and zeroed": (MASKED, ZEROED),
}


@pytest.mark.parametrize("s", [1, 21])
@pytest.mark.parametrize(("between", "after"), NAN_OR_0.values(), ids=NAN_OR_0)
def test_rows_that_are_nan_or_0(between: str, after: str, s: int) -> None:
    """Where no bound says anything."""
    text = changed("b, 3, s, 1", after, between)
    expect_nan_and_0(text, {"b": 2, "s": s, "t": 9})


ZEROED_LATER = """%16 = @literal() {value=[-2.0]} : f32[1]
          %17 = multibroadcast(%16) {out_lens=(b, 3, s, t)}
          %18 = less(n, %17)
          %9 = where(%18, %4, %8)"""


@pytest.mark.parametrize("s", [1, 21])
@pytest.mark.parametrize("after", [ZEROED_LATER, *CHANGED.values()])
def test_rows_that_are_masked_whole_or_in_their_first_blocks(after: str, s: int) -> None:
    met = np.random.default_rng(1).standard_normal((2, 3, s, 400)).astype(np.float32)
    met[..., :300] = -1
    met[0, ..., 300:] = -3
    text = changed("b, 3, s, t", after, MASKED)
    expect_nan_and_0(text, {"b": 2, "s": s, "t": 400}, n=met)


def expect_nan_and_0(text: str, sizes: dict[str, int], **given: NDArray[Any]) -> None:
    """Asserts that the same elements are NaN, and 0, as on ``ref``; some of either or both."""
    program = migx.parse(text)
    inputs = inputs_for(program, sizes, given)
    expected, got = (program.copy().compile(t).eval(inputs)[0] for t in ("ref", gpu()))
    assert (np.isnan(expected) | (expected == 0)).any()
    assert np.array_equal(np.isnan(got), np.isnan(expected))
    assert np.array_equal(got == 0, expected == 0)
    Trial(program, inputs).target(gpu())


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_a_softmax_in_more_bits(dtype: str) -> None:
    """As exporters write attention of few bits: scores are widened, and weights rounded."""
    text = changed(
        "b, 3, s, 1",
        f"%14 = convert(%8) {{to={dtype}}}\n          %9 = where(%6, %4, %14)",
        "%15 = mul(%0, %0)\n          %7 = convert(%15) {to=f_32}",
    )
    text = text.replace("f32", dtype).replace("f_32", "f32")
    for s, t in ((2, 40), (21, 70)):
        assert holds(text, {"b": 2, "s": s, "t": t}) == 2


MASKS = {
    "none": (None, {}),
    "bool": ("bool", {}),
    "float": ("float32", {}),
    "causal": (None, {"is_causal": 1}),
    "causal and bool": ("bool", {"is_causal": 1, "softcap": 2.0}),
}


@pytest.mark.parametrize(("kind", "attributes"), MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("past", [0, 5])
def test_an_operator_with_a_mask_is_one_kernel(
    tmp_path: Path, kind: str | None, attributes: dict[str, Any], past: int
) -> None:
    """ONNX Attention-23 makes rows 0 that are masked whole; six heads share two of keys."""
    dice = np.random.default_rng(0)
    sizes = {"q": (6, 20), "k": (2, 30), "v": (2, 30), "pk": (2, past), "pv": (2, past)}
    q, k, v, pk, pv = (dice.standard_normal((2, *s, 16)).astype("f") for s in sizes.values())
    allowed = dice.random((2, 1, 20, 30 + past)) < 0.5
    allowed[:, :, ::3] = False
    added = np.where(allowed, dice.standard_normal(allowed.shape), -np.inf)
    mask = {None: None, "bool": allowed, "float32": added.astype("f")}[kind]
    given = [q, k, v, mask, *((pk, pv) if past else ())]
    model, fed = node_model("Attention", given, 3, domain="", version=23, **attributes)
    program = read(model, tmp_path)
    Trial(program.copy(), {n: Argument.of(a) for n, a in fed.items()}).target(gpu())
    main = program.compile(gpu()).compiled.program.main
    *before, last = (at.op.kernel for at in main if isinstance(at.op, CodeObject))
    assert last == "attention"
    assert not any("dot" in kernel for kernel in before)


OWN_SIZE = """module main(q: f32[b, 3, s, 8], k: f32[b, 3, 8, t], v: f32[b, 3, t, 12],
                           m: f32[b, 1, s, u]) {
          %0 = dot(q, k)
          %1 = multibroadcast(%0) {out_lens=(b, 3, s, broadcast(t, u))}
          %2 = multibroadcast(m) {out_lens=(b, 3, s, broadcast(t, u))}
          %3 = add(%1, %2)
          %4 = softmax(%3) {axis=3}
          %5 = dot(%4, v)
          return %5
        }"""


def test_a_mask_with_a_size_of_its_own() -> None:
    """As many as there are keys, or one: else the last product would be refused."""
    for s, t, u in ((3, 70, 70), (21, 70, 1), (21, 0, 0), (1, 1, 1)):
        assert holds(OWN_SIZE, {"b": 2, "s": s, "t": t, "u": u}) == 1
    program = migx.parse(OWN_SIZE).compile(gpu())
    for t, u in ((7, 5), (1, 5)):
        given = inputs_for(program, {"b": 2, "s": 3, "t": t, "u": u}, {})
        with pytest.raises(InputError, match="do not broadcast|needs"):
            program.eval(given)


def with_sink(sink: str, after: str, n: str = "6") -> str:
    """Six heads, each with a sink %12 beside its scores, that share two of keys and values; scores
    are masked, and the weights %10 of the keys become %11.
    """
    return f"""module main(q: f32[b, 6, s, 16], k: f32[b, 2, 16, t], v: f32[b, 2, t, 16],
                           n: f32[{n}], m: bool[b, 1, s, t]) {{
          %0 = unsqueeze(k) {{axes=(2,)}}
          %1 = multibroadcast(%0) {{out_lens=(b, 2, 3, 16, t)}}
          %2 = reshape(%1) {{dims=(b, 6, 16, t)}}
          %3 = dot(q, %2)
          %4 = @literal() {{value=[-inf]}} : f32[1]
          %5 = multibroadcast(%4) {{out_lens=(b, 6, s, t)}}
          %6 = multibroadcast(m) {{out_lens=(b, 6, s, t)}}
          %7 = where(%6, %5, %3)
          {sink}
          %8 = concat(%12, %7) {{axis=3}}
          %9 = softmax(%8) {{axis=3}}
          %10 = slice(%9) {{axes=(3,), starts=(1,), ends=(t + 1,)}}
          {after}
          %14 = unsqueeze(v) {{axes=(2,)}}
          %15 = multibroadcast(%14) {{out_lens=(b, 2, 3, t, 16)}}
          %16 = reshape(%15) {{dims=(b, 6, t, 16)}}
          %17 = dot(%11, %16)
          return %17
        }}"""


SINKS = {
    "of heads": ("%12 = broadcast(n) {axis=1, out_lens=(b, 6, s, 1)}", "6"),
    "of each query": ("%12 = identity(n)", "b, 6, s, 1"),
    "a number": (
        """%13 = @literal() {value=[0.5]} : f32[1]
          %12 = multibroadcast(%13) {out_lens=(b, 6, s, 1)}""",
        "1",
    ),
}


AS_THEY_ARE = "%11 = identity(%10)"
ZERO = """%18 = @literal() {value=[0.0]} : f32[1]
          %19 = multibroadcast(%18) {out_lens=(b, 6, s, t)}
          """


@pytest.mark.parametrize("after", [AS_THEY_ARE, ZERO + "%11 = where(%6, %19, %10)"])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("sink", SINKS.values(), ids=SINKS)
def test_a_sink_takes_its_share(sink: tuple[str, str], dtype: str, after: str) -> None:
    text = with_sink(sink[0], after, sink[1]).replace("f32", dtype)
    for s, t in ((1, 41), (3, 0), (20, 9), (35, 150)):
        assert holds(text, {"b": 2, "s": s, "t": t}) == 1
    one = re.sub(r"\bs\b", "1", text)
    assert holds(one, {"b": 2, "t": 300}) == 1


@pytest.mark.parametrize("after", [AS_THEY_ARE, ZERO + "%11 = where(%6, %10, %19)"])
@pytest.mark.parametrize("s", ["1", "21"])
def test_rows_with_a_sink_that_are_masked_whole_are_0(s: str, after: str) -> None:
    """And sinks that are no numbers do what they do on ``ref``."""
    masked = np.zeros((2, 1, int(s), 300), np.bool_)
    masked[0] = True
    masked[1, ..., :250] = True
    sinks = np.array([0.5, -80, 90, -np.inf, np.inf, np.nan], np.float32)
    text = re.sub(r"\bs\b", s, with_sink(SINKS["of heads"][0], after))
    expect_nan_and_0(text, {"b": 2, "t": 300}, n=sinks, m=masked)


def lowered(
    queries: str, keys: str, dtype: str = "f32", arch: str = "sm_90", depth: int = 64
) -> CodeObject:
    """The kernel of attention with keys whose features are neighbours."""
    text = f"""module main(q: {dtype}[1, 2, {queries}, {depth}], k: {dtype}[1, 2, {keys}, {depth}],
                        v: {dtype}[1, 2, {keys}, 64]) {{
          %0 = transpose(k) {{permutation=(0, 1, 3, 2)}}
          %1 = dot(q, %0)
          %2 = softmax(%1) {{axis=3}}
          %3 = dot(%2, v)
          return %3
        }}"""
    program, target = migx.parse(text), Gpu(arch)
    migx.run_passes(program, target.get_passes(target.get_context(), CompileOptions()))
    (kernel,) = (at.op for at in program.main if isinstance(at.op, CodeObject))
    return kernel


def test_few_queries_are_not_multiplied_as_a_tile() -> None:
    for dtype in ("f16", "f32"):
        one, many = lowered("4", "129", dtype, "sm_100"), lowered("5", "129", dtype, "sm_100")
        assert "tl.dot" not in one.source
        assert one.grid == 2 * 4
        assert many.source.count("tl.dot") == 2
        assert many.grid == 2


def test_many_keys_are_turned_where_no_matrix_unit_multiplies() -> None:
    turned = lowered("200", "200", arch="sm_100")
    assert (turned.turns, turned.scratch) == (2, 1)
    for queries, keys, dtype in (("200", "128", "f32"), ("200", "200", "f16"), ("1", "200", "f32")):
        other = lowered(queries, keys, dtype, "sm_100")
        assert (other.turns, other.scratch) == (0, 0)
    assert lowered("200", "200").turns == 0, "matrix units multiply"


@pytest.mark.parametrize("keys", [160, 173])
def test_turned_keys_are_those_there_are_and_zeros(keys: int) -> None:
    text = f"""module main(q: f32[96, 64, 32], k: f32[96, {keys}, 32], v: f32[96, {keys}, 32]) {{
      %0 = transpose(k) {{permutation=(0, 2, 1)}}
      %1 = dot(q, %0)
      %2 = softmax(%1) {{axis=2}}
      %3 = dot(%2, v)
      return %3
    }}"""
    program = migx.parse(text)
    migx.run_passes(program, "fuse_attention")
    (at,) = program.main.outputs
    with around("sm_100"):
        kernel = kernel_for(at)
    assert kernel is not None
    turn = kernel.op.source.partition("else:")[0]
    (scratch,) = kernel.scratch
    assert re.search(r"tl.load\(p1 \+ \w+, mask=", turn), "no key is read that is not there"
    assert re.search(rf"in range\(\w+, {scratch.dims[-1]}, ", turn), "what is read is written"
    holds(text, {}, "sm_100")


def test_a_turn_of_the_loop_is_no_longer_than_registers_allow() -> None:
    kinds = (("128", "sm_90", 64), ("1500", "sm_90", 64), ("1500", "sm_90", 128))
    for keys, arch, depth in (*kinds, ("128", "sm_100", 64), ("1500", "sm_100", 64)):
        kernel = lowered(keys, keys, arch=arch, depth=depth)
        request = Request.of(kernel, arch)
        binary = binaries([request])[request.key]
        assert spilled(binary.code, "cubin") <= HARMLESS
        assert binary.threads == 32 * kernel.warps


@pytest.mark.parametrize("archs", [("gfx942",), ("gfx1100",), ("sm_86",), ("sm_90", "gfx942")])
def test_wide_heads_have_a_kernel_where_shared_memory_is_small(archs: tuple[str, ...]) -> None:
    text = """module main(q: f32[1, 2, 20, 256], k: f32[1, 2, 256, 70], v: f32[1, 2, 70, 256]) {
      %0 = dot(q, k)
      %1 = softmax(%0) {axis=3}
      %2 = dot(%1, v)
      return %2
    }"""
    assert holds(text, {}, *archs) == 1
