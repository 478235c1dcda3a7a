"""Scans whose bodies are one kernel, each tile of which does all iterations; and state that is
written over what it is made of: the same as on ``ref``, and nothing is copied.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import migx
from migx.argument import Argument
from migx.errors import InputError
from migx.program import Program
from migx.testing.oracles import Trial
from tests.onnx.build import read
from tests.targets.cpu.whole import native
from tests.targets.flow import same

FILTER = """
module main(h: f32[n, 40], x: f32[t, n, 40], w: f32[n, 40]) {
  %0 = scan(h, w, x) {num_scan_inputs=1WAYS} [body]
  %1 = get_tuple_elem(%0)
  %2 = get_tuple_elem(%0) {index=1}
  %3 = get_tuple_elem(%0) {index=2}
  return %1, %2, %3
}

module body(h: f32[n, 40], w: f32[n, 40], x: f32[n, 40]) {
  %0 = max(h, x)
  %1 = min(%0, w)
  %2 = neg(%1)
  return %1, w, %2
}
"""
SUMS = """
module main(s: i32[b, 24, 33], k: i32[t, b, 24, 1], v: i32[1, t, b, 1, 33]) {
  %0 = scan(s, k, v) {num_scan_inputs=2, scan_input_axes=(0, 1)WAYS} [body]
  %1 = get_tuple_elem(%0)
  %2 = get_tuple_elem(%0) {index=1}
  return %1, %2
}

module body(s: i32[b, 24, 33], k: i32[b, 24, 1], v: i32[1, b, 1, 33]) {
  %0 = multibroadcast(k) {out_lens=(b, 24, 33)}
  %1 = mul(s, %0)
  %2 = reduce_sum(%1) {axes=(1,)}
  %3 = squeeze(v) {axes=(0,)}
  %4 = sub(%3, %2)
  %5 = multibroadcast(%4) {out_lens=(b, 24, 33)}
  %6 = mul(%0, %5)
  %7 = add(s, %6)
  %8 = mul(%7, %0)
  %9 = reduce_sum(%8) {axes=(1,)}
  return %7, %9
}
"""
EVERY = {
    "a filter": FILTER.replace("WAYS", ""),
    "a filter from the back": FILTER.replace(
        "WAYS", ", scan_input_directions=(1,), scan_output_directions=(1,)"
    ),
    "sums": SUMS.replace("WAYS", ""),
    "sums from the back": SUMS.replace(
        "WAYS", ", scan_input_directions=(0, 1), scan_output_directions=(1,)"
    ),
}


def given(program: Program, **sizes: int) -> dict[str, Any]:
    """Inputs at random; integers are few, so that their products are no more than they hold."""
    rng, made = np.random.default_rng(sum(sizes.values())), dict[str, Any]()
    for name, at in program.main.parameters.items():
        dims = [d if isinstance(d, int) else sizes[str(d)] for d in at.shape.dims]
        drawn = rng.integers(-3, 4, dims)
        made[name] = drawn.astype(at.shape.dtype.numpy)
    return made


def steps(program: Program) -> list[str]:
    """The kernels of a program that runs as steps."""
    parts = native(program).pieces[program.compiled.program.main]
    works = [work for part in parts for work in part.outline.works]
    return [work.kernel.name for work in works if work.kernel is not None]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", EVERY)
def test_tiles_do_all_iterations(name: str, threads: int) -> None:
    program = migx.parse(EVERY[name]).compile("cpu", num_threads=threads)
    ref = migx.parse(EVERY[name]).compile("ref")
    names = steps(program)
    assert "jump" not in names
    assert "row" not in names
    for n, t in ((1, 1), (3, 7), (400, 5), (2, 0), (0, 3)):
        inputs = given(program, n=n, b=n, t=t)
        assert same(program.eval(inputs), ref.eval(inputs))


def test_what_is_given_stays_as_it_is() -> None:
    program = migx.parse(EVERY["sums"]).compile("cpu")
    inputs = given(program, b=2, t=3)
    before = {name: value.copy() for name, value in inputs.items()}
    first = [value.copy() for value in program.eval(inputs)]
    assert same(program.eval(inputs), first)
    assert all(np.array_equal(inputs[name], before[name]) for name in before)


def test_floats_are_within_their_bounds() -> None:
    program = migx.parse(EVERY["sums"].replace("i32", "f32"))
    rng = np.random.default_rng(1)
    inputs = {
        name: Argument.of(value + rng.uniform(0, 0.1, value.shape).astype(np.float32))
        for name, value in given(program, b=3, t=4).items()
    }
    Trial(program, inputs).target("cpu", num_threads=2)


LEFT = {
    "the state is a row, too": ("%1, w, %2", "%1, w, %1"),
    "the state before is a row": ("%1, w, %2", "%1, w, h"),
    "two states change places": ("%1, w, %2", "w, %1, %2"),
    "a state of the row alone": ("max(h, x)", "max(x, x)"),
    "a state that is read across": ("min(%0, w)", "reverse(%0) {axes=(0,)}"),
    "rows that do not lie together": ("num_scan_inputs=1", "num_scan_inputs=1, AXES"),
}


@pytest.mark.parametrize("name", LEFT)
def test_other_bodies_take_one_iteration_after_another(name: str) -> None:
    """Those too compute what they say, whatever of their state is written over what it was."""
    text = EVERY["a filter"].replace(*LEFT[name])
    if "AXES" in text:
        text = text.replace("AXES", "scan_input_axes=(1,), scan_output_axes=(1,)")
        text = text.replace("x: f32[t, n, 40]", "x: f32[n, t, 40]")
    program, ref = migx.parse(text).compile("cpu"), migx.parse(text).compile("ref")
    assert "jump" in steps(program)
    for n, t in ((1, 1), (3, 7), (50, 4), (2, 0)):
        inputs = given(program, n=n, t=t)
        assert same(program.eval(inputs), ref.eval(inputs))


READ_AGAIN = """
module main(h: i32[n, 40], x: i32[t, n, 40]) {
  %0 = scan(h, x) {num_scan_inputs=1} [body]
  %1 = get_tuple_elem(%0)
  %2 = get_tuple_elem(%0) {index=1}
  return %1, %2
}

module body(h: i32[n, 40], x: i32[n, 40]) {
  %0 = reduce_max(h) {axes=(1,)}
  %1 = multibroadcast(%0) {out_lens=(n, 40)}
  %2 = sub(x, %1)
  %3 = add(h, %2)
  %4 = reduce_max(%3) {axes=(1,)}
  %5 = multibroadcast(%4) {out_lens=(n, 40)}
  %6 = add(h, %5)
  return %3, %6
}
"""


def test_state_that_is_read_after_the_next_is_written_is_not_written_over() -> None:
    program, ref = (migx.parse(READ_AGAIN).compile(target) for target in ("cpu", "ref"))
    assert steps(program).count("copy") == 2
    for n, t in ((1, 1), (5, 4), (60, 3)):
        inputs = given(program, n=n, t=t)
        assert same(program.eval(inputs), ref.eval(inputs))


NESTED = """
module main(t: i64[], h: i32[n, 40], x: i32[m, n, 40]) {
  %0 = @literal() {value=[true]} : bool[]
  %1 = loop(t, %0, h) {outputs=(OUTPUTS)} [outer]
  %2 = get_tuple_elem(%1)
  return %2
}

module outer(i: i64[], c: bool[], a: i32[STATE, 40]) {
  %0 = reduce_max(a) {axes=(0,)}
  %1 = multibroadcast(%0) {out_lens=(n, 40)}
  %2 = scan(%1, main:x) {num_scan_inputs=1} [body]
  %3 = get_tuple_elem(%2)
  %4 = MADE
  return c, %4
}

module body(h: i32[n, 40], x: i32[n, 40]) {
  %0 = max(h, x)
  %1 = add(%0, x)
  return %1
}
"""
AROUND = {
    "a loop": NESTED.replace("OUTPUTS", "i32[n, 40],")
    .replace("STATE", "n")
    .replace("MADE", "add(%3, a)"),
    "state that grows": NESTED.replace("OUTPUTS", "i32[b, 40],")
    .replace("STATE", "a")
    .replace("MADE", "concat(a, %3) {axis=0}"),
}


@pytest.mark.parametrize("name", AROUND)
def test_scans_in_loops(name: str) -> None:
    program, ref = (migx.parse(AROUND[name]).compile(target) for target in ("cpu", "ref"))
    native(program)
    for n, m, t in ((1, 1, 1), (3, 4, 5), (2, 0, 3), (40, 3, 2)):
        inputs = given(program, n=n, m=m) | {"t": np.array(t)}
        assert same(program.eval(inputs), ref.eval(inputs))


LOOP = """
module main(t: i64[], a: i32[n, 40], b: i32[n, 40]) {
  %0 = @literal() {value=[true]} : bool[]
  %1 = loop(t, %0, a, b) [body]
  %2 = get_tuple_elem(%1)
  %3 = get_tuple_elem(%1) {index=1}
  return %2, %3
}

module body(i: i64[], c: bool[], a: i32[n, 40], b: i32[n, 40]) {
  %0 = neg(a)
  %1 = prefix_scan_sum(b) {axis=1}
  %2 = max(%0, %1)
  return c, RESULTS
}
"""
COPIED = {"%2, b": 1, "%2, %1": 3, "b, %2": 5, "%2, a": 5, "%2, %2": 3, "%0, b": 1}
"""What a body returns, and how often something is copied: first values, and what is not
written where it is read next.
"""


@pytest.mark.parametrize("results", COPIED)
def test_state_is_written_over_what_it_is_made_of(results: str) -> None:
    text = LOOP.replace("RESULTS", results)
    program, ref = migx.parse(text).compile("cpu"), migx.parse(text).compile("ref")
    assert steps(program).count("copy") == COPIED[results]
    for n, t in ((2, 0), (3, 1), (1, 2), (30, 5)):
        inputs = given(program, n=n) | {"t": np.array(t)}
        assert same(program.eval(inputs), ref.eval(inputs))


APART = """
main (float[m] s, float[t, m] x, float[u, m] y) => (float[m] last) {
  last = Scan<num_scan_inputs = 2, body = b (float[m] h, float[m] p, float[m] q) => (float[m] n) {
    r = Mul(h, p)
    n = Add(r, q)
  }>(s, x, y)
}
"""


def test_lengths_that_are_named_apart_are_one(tmp_path: Path) -> None:
    """Exporters give each input a name of its own for its length."""
    program = read(APART, tmp_path).compile("cpu")
    s, x, y = (np.full(dims, 2, np.float32) for dims in ((3,), (4, 3), (4, 3)))
    assert "jump" not in steps(program)
    (last,) = program.eval({"s": s, "x": x, "y": y})
    assert last.tolist() == [2**6 - 2] * 3
    with pytest.raises(InputError, match=r"with u=4, m=3, t=3: reshape cannot make f32\[3, 3\]"):
        program.eval({"s": s, "x": x[:3], "y": y})
