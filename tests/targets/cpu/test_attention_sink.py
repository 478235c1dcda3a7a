"""Attention with a sink on the cpu: a score beside those of the keys, which has no value."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from migx.argument import Argument
from migx.targets.cpu.kernels.attention import kernel_for
from migx.targets.cpu.machine import Machine, host
from migx.testing.oracles import Trial
from tests.targets.cpu.alone import OTHER_MACHINES, parsed, problem

PASSES = "optimize_module,fuse_attention"


def with_sink(
    sink: str = "%n = broadcast(n) {axis=1, out_lens=(b, 6, s, 1)}",
    shape: str = "6",
    *,
    first: bool = False,
    between: str = "%s = relu(%p)",
    shifted: str = "%x = identity(%c)",
    after: str = "%w = identity(%k)",
    more: str = "",
) -> str:
    """Six heads, three of which share keys and values. Scores %s are made of products %p; sinks %n
    stand after them, or ``first``; the softmax is given %x, and the weights %k of keys become %w.
    """
    start, end, joined = ("1", "t + 1", "%n, %s") if first else ("0", "t", "%s, %n")
    text = f"""module main(q: f32[b, 6, s, 8], k: f32[b, 2, t, 8], v: f32[b, 2, t, 8],
    n: f32[{shape}]{more}) {{
  {repeated("k")}
  %t = transpose(%kr) {{permutation=(0, 1, 3, 2)}}
  %p = dot(q, %t)
  {between}
  {sink}
  %c = concat({joined}) {{axis=3}}
  {shifted}
  %a = softmax(%x) {{axis=3}}
  %k = slice(%a) {{axes=(3,), starts=({start},), ends=({end},)}}
  {after}
  {repeated("v")}
  %r = dot(%w, %vr)
  return %r
}}
"""
    numbers: dict[str, str] = {}
    return re.sub(r"%\w+", lambda name: numbers.setdefault(name[0], f"%{len(numbers)}"), text)


def repeated(name: str) -> str:
    """What makes %namer of keys or values, as often as heads share them."""
    return f"""%{name}u = unsqueeze({name}) {{axes=(2,)}}
  %{name}b = multibroadcast(%{name}u) {{out_lens=(b, 2, 3, t, 8)}}
  %{name}r = reshape(%{name}b) {{dims=(b, 6, t, 8)}}"""


def known(text: str, **sizes: int) -> str:
    """The text for sizes that are known."""
    text = text.replace("t + 1", str(sizes["t"] + 1))
    for name, size in sizes.items():
        text = re.sub(rf"(?<=[\[( ]){name}(?=[,\])])", str(size), text)
    return text


SINKS = {
    "of heads": ("%n = broadcast(n) {axis=1, out_lens=(b, 6, s, 1)}", "6"),
    "of all": ("%n = multibroadcast(n) {out_lens=(b, 6, s, 1)}", "1"),
    "of each query": ("%n = identity(n)", "b, 6, s, 1"),
    "a number": (
        """%0 = @literal() {value=[0.0]} : f32[1]
  %n = multibroadcast(%0) {out_lens=(b, 6, s, 1)}""",
        "1",
    ),
}
SIZES = [(1, 1), (1, 40), (5, 17), (3, 0), (40, 9), (70, 600), (1, 3000)]


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("sink", SINKS.values(), ids=SINKS)
def test_sinks_of_every_kind(sink: tuple[str, str], first: bool, dtype: str) -> None:
    program = parsed(with_sink(*sink, first=first).replace("f32", dtype), PASSES)
    for queries, keys in SIZES:
        assert not problem(kernel_for, program, {"b": 2, "s": queries, "t": keys})


@pytest.mark.parametrize(("queries", "keys"), [(1, 9), (20, 33), (70, 7), (40, 1)])
def test_all_keys_in_one_block(queries: int, keys: int) -> None:
    text = known(with_sink(), b=2, s=queries, t=keys)
    assert not problem(kernel_for, parsed(text, PASSES))


def test_the_greatest_may_be_subtracted_before() -> None:
    shifted = """%m = reduce_max(%c) {axes=(3,)}
  %y = multibroadcast(%m) {out_lens=(b, 6, s, t + 1)}
  %x = sub(%c, %y)"""
    program = parsed(with_sink(shifted=shifted), PASSES)
    for queries, keys in ((1, 40), (40, 9)):
        assert not problem(kernel_for, program, {"b": 2, "s": queries, "t": keys})


@pytest.mark.parametrize("queries", ["1", "3", "20", "s"])
def test_weights_that_are_squared(queries: str) -> None:
    text = with_sink(after="%w = mul(%k, %k)").replace(" s,", f" {queries},")
    program = parsed(text, PASSES)
    for many in (1, 3, 20):
        assert not problem(kernel_for, program, {"b": 2, "s": many, "t": 40})


MASKED = """%i = @literal() {value=[-inf]} : f32[1]
  %f = multibroadcast(%i) {out_lens=(b, 6, s, t)}
  %m = multibroadcast(m) {out_lens=(b, 6, s, t)}
  %s = where(%m, %f, %p)"""


@pytest.mark.parametrize("after", ["%w = identity(%k)", "%w = mul(%k, %k)"])
@pytest.mark.parametrize("queries", [1, 5, 40])
def test_rows_that_are_masked_whole_are_0(queries: int, after: str) -> None:
    """As the sink takes all of them; and sinks that are no numbers do what they do on ``ref``."""
    text = with_sink(between=MASKED, after=after, more=", m: bool[b, 1, s, t]")
    dice = np.random.default_rng(0)
    shapes = {"q": (2, 6, queries, 8), "k": (2, 2, 700, 8), "v": (2, 2, 700, 8)}
    given = {name: dice.standard_normal(dims).astype("f") for name, dims in shapes.items()}
    given["n"] = np.array([0.5, -80, 90, -np.inf, np.inf, np.nan], np.float32)
    given["m"] = np.zeros((2, 1, queries, 700), np.bool_)
    given["m"][0] = True
    given["m"][1, ..., :600] = True
    program = parsed(text)
    expected, got = (program.copy().compile(t).eval(given)[0] for t in ("ref", "cpu"))
    assert not expected[0, :3].any()
    assert np.array_equal(np.isnan(got), np.isnan(expected))
    assert np.array_equal(got == 0, expected == 0)
    Trial(program, {name: Argument.of(array) for name, array in given.items()}).target("cpu")


MACHINES = OTHER_MACHINES | {"small caches": replace(host(), l1=4 * 1024)}


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_other_machines(machine: Machine) -> None:
    program = parsed(with_sink(), PASSES)
    for queries, keys in ((1, 60), (21, 30), (70, 50)):
        sizes = {"b": 2, "s": queries, "t": keys}
        assert not problem(lambda at, _: kernel_for(at, machine), program, sizes)
