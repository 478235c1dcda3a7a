"""Attention on the cpu: every form that is fused, all layouts and sizes, against ``ref``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from migx.argument import Argument
from migx.ops.fused import Group
from migx.targets.cpu.code import jit
from migx.targets.cpu.kernels.attention import kernel_for
from migx.targets.cpu.machine import Machine, host
from migx.testing.oracles import Trial
from tests.onnx.build import read
from tests.onnx.one_node import node_model
from tests.targets.cpu.alone import OTHER_MACHINES, parsed, problem, produced, result, traced
from tests.targets.cpu.attentions import PASS, in_groups, of

SIZES = [
    (1, 1, 1, 1, 1, 1),
    (1, 2, 5, 7, 3, 4),
    (2, 3, 49, 49, 32, 32),
    (1, 2, 197, 120, 64, 64),
    (1, 1, 64, 300, 64, 40),
    (1, 2, 1, 513, 64, 64),
    (1, 1, 130, 33, 15, 15),
    (1, 1, 80, 96, 17, 33),
    (1, 1, 3, 7000, 8, 80),
]


@pytest.mark.parametrize("size", SIZES)
def test_sizes_that_do_not_divide_tiles(size: tuple[int, ...]) -> None:
    assert not problem(kernel_for, parsed(of(*map(str, size)), PASS))


SYMBOLIC = of(
    *("b", "3", "s", "t"),
    between="""%c = @literal() {value=[0.3]} : f32[1]
  %0 = multibroadcast(%c) {out_lens=(b, 3, s, t)}
  %1 = mul(%p, %0)
  %2 = multibroadcast(m) {out_lens=(b, 3, s, t)}
  %s = add(%1, %2)""",
    more=", m: f32[b, 1, s, t]",
)


@pytest.mark.parametrize("queries", [0, 1, 16, 17, 70])
@pytest.mark.parametrize("keys", [0, 1, 50, 200])
def test_symbolic_sizes(queries: int, keys: int) -> None:
    for batch in (0, 2):
        sizes = {"b": batch, "s": queries, "t": keys}
        assert not problem(kernel_for, parsed(SYMBOLIC, PASS), sizes)


FORMS = {
    "scales on both sides": """
module main(q: f32[2, 3, 20, 8], k: f32[2, 3, 30, 8], v: f32[2, 3, 30, 8], c: f32[1]) {
  %0 = @literal() {value=[0.25]} : f32[1]
  %1 = multibroadcast(%0) {out_lens=(2, 3, 20, 8)}
  %2 = mul(q, %1)
  %3 = transpose(k) {permutation=(0, 1, 3, 2)}
  %4 = multibroadcast(c) {out_lens=(2, 3, 8, 30)}
  %5 = div(%3, %4)
  %6 = dot(%2, %5)
  %7 = softmax(%6) {axis=3}
  %8 = dot(%7, v)
  return %8
}
""",
    "heads beside features": """
module main(q: f32[2, 20, 24], k: f32[2, 30, 24], v: f32[2, 30, 24]) {
  %0 = @literal() {value=[0.25]} : f32[1]
  %1 = multibroadcast(%0) {out_lens=(2, 20, 24)}
  %2 = mul(q, %1)
  %3 = reshape(%2) {dims=(2, 20, 3, 8)}
  %4 = transpose(%3) {permutation=(0, 2, 1, 3)}
  %5 = reshape(k) {dims=(2, 30, 3, 8)}
  %6 = transpose(%5) {permutation=(0, 2, 3, 1)}
  %7 = dot(%4, %6)
  %8 = softmax(%7) {axis=3}
  %9 = reshape(v) {dims=(2, 30, 3, 8)}
  %10 = transpose(%9) {permutation=(0, 2, 1, 3)}
  %11 = dot(%8, %10)
  return %11
}
""",
    "keys and values across": """
module main(q: f32[2, 8, 3, 20], k: f32[2, 3, 8, 30], v: f32[2, 3, 8, 30]) {
  %0 = transpose(q) {permutation=(0, 2, 3, 1)}
  %1 = dot(%0, k)
  %2 = softmax(%1) {axis=3}
  %3 = transpose(v) {permutation=(0, 1, 3, 2)}
  %4 = dot(%2, %3)
  return %4
}
""",
    "keys across, few queries": """
module main(q: f32[2, 3, 5, 8], k: f32[2, 3, 8, 130], v: f32[2, 3, 130, 8]) {
  %0 = dot(q, k)
  %1 = softmax(%0) {axis=3}
  %2 = dot(%1, v)
  return %2
}
""",
    "heads that share keys and values": """
module main(q: f32[2, 6, 20, 8], k: f32[2, 1, 30, 8], v: f32[2, 1, 30, 8]) {
  %0 = multibroadcast(k) {out_lens=(2, 6, 30, 8)}
  %1 = transpose(%0) {permutation=(0, 1, 3, 2)}
  %2 = dot(q, %1)
  %3 = softmax(%2) {axis=3}
  %4 = multibroadcast(v) {out_lens=(2, 6, 30, 8)}
  %5 = dot(%3, %4)
  return %5
}
""",
    "heads that share keys and values, repeated by reshapes": """
module main(q: f32[2, 6, 3, 8], k: f32[2, 2, 70, 8], v: f32[2, 2, 70, 8]) {
  %0 = multibroadcast(k) {out_lens=(3, 2, 2, 70, 8)}
  %1 = transpose(%0) {permutation=(1, 2, 0, 4, 3)}
  %2 = reshape(%1) {dims=(2, 6, 8, 70)}
  %3 = dot(q, %2)
  %4 = softmax(%3) {axis=3}
  %5 = unsqueeze(v) {axes=(2,)}
  %6 = multibroadcast(%5) {out_lens=(2, 2, 3, 70, 8)}
  %7 = reshape(%6) {dims=(2, 6, 70, 8)}
  %8 = dot(%4, %7)
  return %8
}
""",
    "windows with a bias and a mask": """
module main(q: f32[8, 3, 49, 8], k: f32[8, 3, 8, 49], v: f32[8, 3, 49, 8], b: f32[3, 49, 49],
    m: f32[4, 49, 49]) {
  %0 = dot(q, k)
  %1 = multibroadcast(b) {out_lens=(8, 3, 49, 49)}
  %2 = add(%0, %1)
  %3 = reshape(%2) {dims=(2, 4, 3, 49, 49)}
  %4 = unsqueeze(m) {axes=(1,)}
  %5 = multibroadcast(%4) {out_lens=(2, 4, 3, 49, 49)}
  %6 = add(%3, %5)
  %7 = reshape(%6) {dims=(8, 3, 49, 49)}
  %8 = softmax(%7) {axis=3}
  %9 = dot(%8, v)
  return %9
}
""",
    "a mask of keys": of(
        *("2", "3", "40", "21"),
        between="""%0 = multibroadcast(m) {out_lens=(2, 3, 40, 21)}
  %s = add(%p, %0)""",
        more=", m: f32[2, 1, 1, 21]",
    ),
    "a mask of queries, and one that lies across": of(
        *("2", "3", "20", "21"),
        between="""%0 = multibroadcast(m) {out_lens=(2, 3, 20, 21)}
  %1 = add(%p, %0)
  %2 = transpose(n) {permutation=(0, 1, 3, 2)}
  %s = add(%1, %2)""",
        more=", m: f32[2, 1, 20, 1], n: f32[2, 3, 21, 20]",
    ),
    "masked by bools": of(
        *("2", "3", "60", "21"),
        between="""%0 = @literal() {value=[-1e9]} : f32[1]
  %1 = multibroadcast(%0) {out_lens=(2, 3, 60, 21)}
  %2 = multibroadcast(m) {out_lens=(2, 3, 60, 21)}
  %s = where(%2, %p, %1)""",
        more=", m: bool[60, 21]",
    ),
    "a query masked by bools": of(
        *("2", "3", "1", "21"),
        between="""%0 = @literal() {value=[-1e9]} : f32[1]
  %1 = multibroadcast(%0) {out_lens=(2, 3, 1, 21)}
  %2 = multibroadcast(m) {out_lens=(2, 3, 1, 21)}
  %s = where(%2, %p, %1)""",
        more=", m: bool[1, 21]",
    ),
    "quantised on both sides of the softmax": """
module main(q: f32[2, 3, 20, 8], k: f32[2, 3, 8, 30], v: f32[2, 3, 30, 8]) {
  %0 = dot(q, k)
  %1 = @literal() {value=[0.0625]} : f32[1]
  %2 = @literal() {value=[100]} : u8[1]
  %3 = quantizelinear(%0, %1, %2) {to=u8}
  %4 = dequantizelinear(%3, %1, %2)
  %5 = softmax(%4) {axis=3}
  %6 = @literal() {value=[0.00390625]} : f32[1]
  %7 = @literal() {value=[0]} : u8[1]
  %8 = quantizelinear(%5, %6, %7) {to=u8}
  %9 = dequantizelinear(%8, %6, %7)
  %10 = dot(%9, v)
  return %10
}
""",
    "heads of one product, and brought together": """
module main(x: f32[2, 37, 72]) {
  %0 = slice(x) {axes=(2,), starts=(0,), ends=(24,)}
  %1 = reshape(%0) {dims=(2, 37, 3, 8)}
  %2 = transpose(%1) {permutation=(0, 2, 1, 3)}
  %3 = slice(x) {axes=(2,), starts=(24,), ends=(48,)}
  %4 = reshape(%3) {dims=(2, 37, 3, 8)}
  %5 = transpose(%4) {permutation=(0, 2, 3, 1)}
  %6 = slice(x) {axes=(2,), starts=(48,), ends=(72,)}
  %7 = reshape(%6) {dims=(2, 37, 3, 8)}
  %8 = transpose(%7) {permutation=(0, 2, 1, 3)}
  %9 = dot(%2, %5)
  %10 = softmax(%9) {axis=3}
  %11 = dot(%10, %8)
  %12 = transpose(%11) {permutation=(0, 2, 1, 3)}
  return %12
}
""",
    "keys repeated after they are transposed": """
module main(q: f32[2, 6, 1, 8], k: f32[2, 2, 33, 8], v: f32[2, 2, 33, 8]) {
  %0 = transpose(k) {permutation=(0, 1, 3, 2)}
  %1 = unsqueeze(%0) {axes=(2,)}
  %2 = multibroadcast(%1) {out_lens=(2, 2, 3, 8, 33)}
  %3 = reshape(%2) {dims=(2, 6, 8, 33)}
  %4 = unsqueeze(v) {axes=(2,)}
  %5 = multibroadcast(%4) {out_lens=(2, 2, 3, 33, 8)}
  %6 = reshape(%5) {dims=(2, 6, 33, 8)}
  %7 = dot(q, %3)
  %8 = softmax(%7) {axis=3}
  %9 = dot(%8, %6)
  %10 = transpose(%9) {permutation=(2, 0, 1, 3)}
  return %10
}
""",
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_forms(text: str) -> None:
    assert not problem(kernel_for, parsed(text, PASS))


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_half_precision(dtype: str) -> None:
    for text in FORMS.values():
        if "e9" not in text and "quantize" not in text:
            assert not problem(kernel_for, parsed(text.replace("f32", dtype), PASS))
    sizes = {"b": 1, "s": 40, "t": 200}
    assert not problem(kernel_for, parsed(SYMBOLIC.replace("f32", dtype), PASS), sizes)


MASKED = """%z = @literal() {value=[0.0]} : f32[1]
  %0 = multibroadcast(%z) {out_lens=(2, 3, S, T)}
  %1 = multibroadcast(m) {out_lens=(2, 3, S, T)}
  %2 = less(%1, %0)
  %i = @literal() {value=[-inf]} : f32[1]
  %3 = multibroadcast(%i) {out_lens=(2, 3, S, T)}
  %s = where(%2, %p, %3)"""
GUARDED = """%n = isnan(%w)
  %g = where(%n, %0, %w)
  %r = dot(%g, v)"""


@pytest.mark.parametrize(("queries", "keys"), [("5", "1"), ("9", "2"), ("40", "2"), ("70", "99")])
@pytest.mark.parametrize("guarded", [False, True])
def test_rows_that_are_masked_whole(queries: str, keys: str, guarded: bool) -> None:
    between = MASKED.replace("S", queries).replace("T", keys)
    more = f", m: f32[2, 1, {queries}, {keys}]"
    after = GUARDED if guarded else "%r = dot(%w, v)"
    text = of("2", "3", queries, keys, between=between, more=more, after=after)
    program = parsed(text, PASS)
    assert not problem(kernel_for, program)
    expected = traced(program, {}, 0)[0][produced(program)].array
    got = result(kernel_for, program, {}).reshape(expected.shape)
    assert np.array_equal(np.isnan(got), np.isnan(expected))  # where no bound says anything
    if guarded:
        assert np.array_equal(got.any(axis=-1), expected.any(axis=-1))


BY_ROW = """%z = @literal() {value=[0.0]} : f32[1]
  %0 = multibroadcast(%z) {out_lens=(ROWS)}
  %1 = less(%0, n)
  %2 = multibroadcast(%1) {out_lens=(b, 3, s, t)}
  %3 = multibroadcast(%z) {out_lens=(b, 3, s, t)}
  """
CHANGED = {
    "0 where a condition says so": "%4 = where(%2, %3, %w)",
    "kept where a condition says so, and times a number": """%5 = where(%2, %w, %3)
  %6 = multibroadcast(n) {out_lens=(b, 3, s, t)}
  %4 = mul(%6, %5)""",
}


@pytest.mark.parametrize("rows", ["b, 3, s, 1", "b, 1, 1, 1", "3, s, 1"])
@pytest.mark.parametrize("changed", CHANGED.values(), ids=CHANGED)
def test_weights_that_rows_change(changed: str, rows: str) -> None:
    after = BY_ROW.replace("ROWS", rows) + changed + "\n  %r = dot(%4, v)"
    text = of("b", "3", "s", "t", after=after, more=f", n: f32[{rows}]")
    sizes = [{"b": 2, "s": s, "t": t} for s, t in ((1, 40), (3, 0), (40, 9), (70, 600))]
    for dtype in ("f32", "f16"):
        program = parsed(text.replace("f32", dtype), PASS)
        for each in sizes:
            assert not problem(kernel_for, program, each)


def test_no_keys_give_0_whatever_the_rows_meet() -> None:
    after = BY_ROW.replace("ROWS", "b, 3, s, 1") + [*CHANGED.values()][1] + "\n  %r = dot(%4, v)"
    program = parsed(of("b", "3", "s", "t", after=after, more=", n: f32[b, 3, s, 1]"))
    dims = {"q": (2, 3, 5, 8), "k": (2, 3, 0, 8), "v": (2, 3, 0, 8), "n": (2, 3, 5, 1)}
    given = {name: np.full(shape, np.inf, np.float32) for name, shape in dims.items()}
    (found,) = program.compile("cpu").eval(given)
    assert not np.asarray(found).any()


@pytest.mark.parametrize("queries", ["3", "20", "s"])
def test_weights_that_are_squared(queries: str) -> None:
    text = of("2", "3", queries, "40", after="%x = mul(%w, %w)\n  %r = dot(%x, v)")
    for many in (1, 3, 20):
        assert not problem(kernel_for, parsed(text, PASS), {"s": many})


@pytest.mark.parametrize("queries", [1, 40])
def test_nan_that_no_condition_hides(queries: int) -> None:
    """Scores that are NaN make a row NaN, unless its condition says that it is 0."""
    after = BY_ROW.replace("ROWS", "b, 3, s, 1") + "%4 = where(%2, %3, %w)\n  %r = dot(%4, v)"
    text = of("b", "3", "s", "t", between="%s = log(%p)", after=after, more=", n: f32[b, 3, s, 1]")
    program, sizes = parsed(text, PASS), {"b": 2, "s": queries, "t": 9}
    expected = traced(program, sizes, 0)[0][produced(program)].array
    got = result(kernel_for, program, sizes).reshape(expected.shape)
    assert np.isnan(expected).any()
    assert (expected == 0).any()
    assert np.array_equal(np.isnan(got), np.isnan(expected))
    assert np.array_equal(got == 0, expected == 0)


def test_an_operator_with_a_mask_is_one_kernel(tmp_path: Path) -> None:
    """ONNX Attention-23 makes rows 0 that are masked whole."""
    dice = np.random.default_rng(0)
    q, k, v = (dice.standard_normal((2, 3, n, 8)).astype(np.float32) for n in (20, 30, 30))
    mask = dice.random((2, 1, 20, 30)) < 0.5
    mask[:, :, ::3] = False
    model, fed = node_model("Attention", [q, k, v, mask], domain="", version=23)
    program = read(model, tmp_path)
    Trial(program.copy(), {n: Argument.of(a) for n, a in fed.items()}).target("cpu")
    main = program.compile("cpu").compiled.program.main
    assert [at.op_as(Group).tag for at in main if isinstance(at.op, Group)] == ["attention"]


MACHINES = OTHER_MACHINES | {"small caches": replace(host(), l1=4 * 1024)}


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_other_machines(machine: Machine) -> None:
    """Blocks for other registers are right too, though compiled for this machine here."""
    for size in ((1, 2, 5, 7, 3, 4), (1, 1, 70, 50, 17, 33), (1, 2, 1, 60, 20, 20)):
        text = of(*map(str, size))
        assert not problem(lambda at, _: kernel_for(at, machine), parsed(text, PASS))
    for sizes in ({"b": 1, "s": 21, "t": 30}, {"b": 2, "s": 1, "t": 30}):
        for text in (SYMBOLIC, in_groups(2, 5, 20)):
            assert not problem(lambda at, _: kernel_for(at, machine), parsed(text, PASS), sizes)


def test_sums_stay_in_registers() -> None:
    kernel = kernel_for(produced(parsed(of("1", "12", "128", "128", "64", "64"), PASS)), host())
    assert kernel is not None
    assert "pill" not in jit.assembly(kernel.text)


def test_no_matrix_of_scores_is_made() -> None:
    """What a thread needs does not grow with the number of queries, nor with that of keys."""
    kernel = kernel_for(produced(parsed(SYMBOLIC, PASS)), host())
    assert kernel is not None
    assert isinstance(kernel.scratch, int)
    assert kernel.scratch <= host().l2


DECLINED = {
    "f64": of("1", "2", "3", "4").replace("f32", "f64"),
    "no group": "module main(x: f32[2]) {\n  %0 = relu(x)\n  return %0\n}\n",
}


@pytest.mark.parametrize("text", DECLINED.values(), ids=DECLINED)
def test_declined(text: str) -> None:
    assert kernel_for(produced(parsed(text, PASS)), host()) is None
