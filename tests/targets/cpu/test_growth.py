"""State that grows runs as steps: the same as on ``ref`` however long it becomes."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import migx
from migx import dim
from migx.errors import EvaluationError
from migx.program import Program
from migx.targets.cpu.code import jit
from migx.targets.cpu.plans.outline import Work
from migx.targets.cpu.runs.endings import GrowingLoop
from tests.targets.cpu.whole import at_once, compiled, executable, native
from tests.targets.flow import given, same

CACHE = """
module main(t: i64[], stop: i64[], x: f32[n, q, 4], s: i64[n, m]) {
  %0 = @literal() {value=[-3.0]} : f32[]
  %1 = multibroadcast(%0) {out_lens=(n, 1, 4)}
  %2 = neg(%1)
  %3 = @literal() {value=[true]} : bool[]
  %4 = loop(t, %3, x, s) {outputs=(f32[n, q2, 4], i64[n, m2])} [body]
  %5 = get_tuple_elem(%4)
  %6 = get_tuple_elem(%4) {index=1}
  %7 = neg(%5)
  return %7, %6, %5
}

module body(i: i64[], c: bool[], k: f32[n, a, 4], l: i64[n, b]) {
  %0 = reduce_max(k) {axes=(1,)}
  %1 = transpose(k) {permutation=(0, 2, 1)}
  %2 = dot(%0, %1)
  %3 = dot(%2, k)
  %4 = clip(%3, main:%1, main:%2)
  %5 = concat(k, %4) {axis=1}
  %6 = argmax(%4) {axis=2}
  %7 = squeeze(%6) {axes=(2,)}
  %8 = concat(l, %7) {axis=1}
  %9 = less(i, main:stop)
  return %9, %5, %8
}
"""
BY_ANY = """
module main(t: i64[], x: f32[n]) {
  %0 = @literal() {value=[true]} : bool[]
  %1 = loop(t, %0, x) {outputs=(f32[m],)} [body]
  %2 = get_tuple_elem(%1)
  return %2
}

module body(i: i64[], c: bool[], a: f32[k]) {
  %0 = concat(a, main:x, main:x) {axis=0}
  return c, %0
}
"""
PLACES = """
module main(t: i64[], x: f32[n, 3], p: f32[900]) {
  %0 = undefined()
  %1 = loop(t, %0, x, x) {outputs=(f32[m, 3], f32[r, 3], f32[trips, 3])} [body]
  %2 = get_tuple_elem(%1)
  %3 = get_tuple_elem(%1) {index=1}
  %4 = get_tuple_elem(%1) {index=2}
  return %2, %3, %4
}

module body(i: i64[], c: bool[], k: f32[a, 3], h: f32[b, 3]) {
  %0 = slice(main:p) {axes=(0,), starts=(2*a,), ends=(2*a + 3,)}
  %1 = slice(k) {axes=(0,), starts=(a - 1,), ends=(a,)}
  %2 = unsqueeze(%0) {axes=(0,)}
  %3 = add(%1, %2)
  %4 = concat(k, %3, %1) {axis=0}
  %5 = broadcast(%0) {axis=1, out_lens=(b, 3)}
  %6 = sub(h, %5)
  %7 = squeeze(%3) {axes=(0,)}
  %8 = identity(c)
  return %8, %4, %6, %7
}
"""
SCANNED = """
module main(t: i64[], x: f32[n]) {
  %0 = @literal() {value=[true]} : bool[]
  %1 = loop(t, %0, x) {outputs=(f32[m],)} [body]
  %2 = get_tuple_elem(%1)
  return %2
}

module body(i: i64[], c: bool[], k: f32[a]) {
  %0 = @literal() {value=[0.5]} : f32[]
  %1 = scan(%0, k) {num_scan_inputs=1, scan_input_directions=(1,)} [each]
  %2 = get_tuple_elem(%1)
  %3 = get_tuple_elem(%1) {index=1}
  %4 = unsqueeze(%2) {axes=(0,)}
  %5 = concat(%3, %4) {axis=0}
  return c, %5
}

module each(s: f32[], x: f32[]) {
  %0 = sub(x, s)
  return %0, %0
}
"""
CHOSEN = """
module main(t: i64[], x: f32[n]) {
  %0 = @literal() {value=[true]} : bool[]
  %1 = loop(t, %0, x) {outputs=(f32[m],)} [body]
  %2 = get_tuple_elem(%1)
  return %2
}

module body(i: i64[], c: bool[], k: f32[a]) {
  %0 = @literal() {value=[2]} : i64[]
  %1 = less(i, %0)
  %2 = if(%1) [few, many]
  %3 = get_tuple_elem(%2)
  %4 = concat(k, %3) {axis=0}
  return c, %4
}

module few() {
  %0 = reduce_max(body:k) {axes=(0,)}
  return %0
}

module many() {
  %0 = slice(body:k) {axes=(0,), starts=(2,), ends=(3,)}
  %1 = neg(%0)
  return %1
}
"""
STAYS = """
module main(t: i64[], x: f32[n]) {
  %0 = @literal() {value=[true]} : bool[]
  %1 = loop(t, %0, x) {outputs=(f32[m],)} [body]
  %2 = get_tuple_elem(%1)
  return %2
}

module body(i: i64[], c: bool[], k: f32[a]) {
  %0 = neg(k)
  return c, %0
}
"""
EXCHANGED = """
module main(t: i64[], x: f32[n]) {
  %0 = @literal() {value=[true]} : bool[]
  %1 = loop(t, %0, x, x, x, x, x) {outputs=(f32[m], f32[m], f32[m], f32[n], f32[n])} [body]
  %2 = get_tuple_elem(%1)
  %3 = get_tuple_elem(%1) {index=1}
  %4 = get_tuple_elem(%1) {index=2}
  %5 = get_tuple_elem(%1) {index=3}
  %6 = get_tuple_elem(%1) {index=4}
  return %2, %3, %4, %5, %6
}

module body(i: i64[], c: bool[], k: f32[a], l: f32[a], o: f32[a], h: f32[n], g: f32[n]) {
  %0 = concat(l, h) {axis=0}
  %1 = neg(k)
  %2 = concat(%1, g) {axis=0}
  %3 = neg(h)
  return c, %0, %2, %0, g, %3
}
"""
EVERY = (CACHE, BY_ANY, PLACES, SCANNED, CHOSEN, STAYS, EXCHANGED)
RUNS = ((3, 0), (1, 1), (2, 5), (5, 63), (3, 64), (2, 65), (1, 200), (4, 2))
"""Sizes and trips."""


def loops(program: Program) -> list[GrowingLoop]:
    pieces = (piece for parts in executable(program).pieces.values() for piece in parts)
    return [e for piece in pieces for e in piece.endings if isinstance(e, GrowingLoop)]


def inputs(program: Program, n: int, t: int) -> dict[str, Any]:
    found = given(program, n, t, True)
    if "p" in found:
        found["p"] = np.linspace(-1, 1, 900, dtype=np.float32)
    if "stop" in found:  # of whole numbers sums have one value
        found |= {
            "x": np.rint(found["x"]),
            "stop": np.array(150),
            "s": np.arange(n * n).reshape(n, n),
        }
    return found


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("text", EVERY)
def test_state_that_grows_is_steps(text: str, threads: int) -> None:
    program, ref = compiled(text, threads=threads), compiled(text, "ref")
    native(program)
    assert loops(program)[0].begins is not None
    for n, t in RUNS:
        assert same(*(each.eval(inputs(each, n, t)) for each in (program, ref)))


def test_a_condition_ends_what_has_no_trip_count() -> None:
    text = CACHE.replace("%4 = loop(t,", "%8 = undefined()\n  %4 = loop(%8,")
    program, ref = compiled(text), compiled(CACHE, "ref")
    for stop in (3, 200, 0):
        asked = {**inputs(program, 2, 500), "stop": np.array(stop)}
        assert same(*(each.eval(asked) for each in (program, ref)))


def test_a_trip_count_that_is_known_says_how_much_room_there_is() -> None:
    text = BY_ANY.replace("loop(t,", "loop(%3,").replace(
        "  %1 = loop", "  %3 = @literal() {value=[5]} : i64[]\n  %1 = loop"
    )
    program = compiled(text)
    (made,) = program.eval(inputs(program, 2, 0))
    (loop,) = loops(program)
    assert len(made) == 2 + 5 * 4
    assert [plan.sizes["m"] for plan in loop.piece.plans.values()] == [2 + 8 * 4]


def test_the_host_runs_state_that_might_have_grown() -> None:
    program, ref = compiled(BY_ANY), compiled(BY_ANY, "ref")
    for t in (0, 3, 70):
        assert same(*(each.eval(inputs(each, 0, t)) for each in (program, ref)))


def test_what_later_iterations_would_refuse_may_never_be_run() -> None:
    program, ref = compiled(PLACES), compiled(PLACES, "ref")
    for n, t in ((440, 3), (3, 200)):
        assert same(*(each.eval(inputs(each, n, t)) for each in (program, ref)))
    with pytest.raises(EvaluationError, match="slice"):
        program.eval(inputs(program, 440, 9))


TWICE = BY_ANY.replace("main:x, main:x", "a")
CAPPED = """
module main(t: i64[], x: f32[n]) {
  %0 = @literal() {value=[true]} : bool[]
  %1 = loop(t, %0, x) {outputs=(f32[m],)} [body]
  %2 = get_tuple_elem(%1)
  return %2
}

module body(i: i64[], c: bool[], a: f32[k]) {
  %0 = slice(a) {axes=(0,), starts=(0,), ends=(k//2,)}
  %1 = reduce_max(%0) {axes=(0,)}
  %2 = concat(a, %1) {axis=0}
  return c, %2
}
"""
SHRINKS = BY_ANY.replace(
    "concat(a, main:x, main:x) {axis=0}", "slice(a) {axes=(0,), starts=(1,), ends=(k,)}"
)


@pytest.mark.parametrize("text", [TWICE, CAPPED, SHRINKS])
def test_what_does_not_grow_by_as_much_each_time_is_for_the_host(text: str) -> None:
    program, ref = compiled(text), compiled(text, "ref")
    assert [at.name for at in executable(program).fallbacks()] == ["loop"]
    for n, t in ((3, 0), (4, 2), (5, 5)):
        assert same(*(each.eval(inputs(each, n, t)) for each in (program, ref)))


def test_results_are_the_callers_own() -> None:
    program = compiled(CACHE)
    asked = inputs(program, 2, 9)
    first = program.eval(asked)
    kept = [array.copy() for array in first]
    for array in program.eval(inputs(program, 2, 30)):
        array[...] = 0
    assert same(first, kept)
    assert same(program.eval(asked), kept)


def test_runs_overlap() -> None:
    program, wrong = compiled(CACHE), list[int]()
    cases = [(2, 3), (3, 90), (1, 20), (2, 200)]
    expected = {case: program.eval(inputs(program, *case)) for case in cases}

    def work(case: tuple[int, int]) -> None:
        again = (program.eval(inputs(program, *case)) for _ in range(30))
        wrong.extend(case[1] for found in again if not same(found, expected[case]))

    at_once(work, cases)
    assert not wrong


WEIGHED = """
module main(t: i64[], x: f32[n]) {
  %0 = @literal() {value=[true]} : bool[]
  %1 = @literal() {value=sha256("00"), label="w", replaceable=true} : f32[4]
  %2 = loop(t, %0, x) {outputs=(f32[m],)} [body]
  %3 = get_tuple_elem(%2)
  return %3
}

module body(i: i64[], c: bool[], k: f32[a]) {
  %0 = concat(k, main:%1) {axis=0}
  return c, %0
}
"""


def test_a_run_has_the_weights_it_began_with() -> None:
    program = migx.parse(WEIGHED, draw_missing=0).compile("cpu")
    native(program)
    asked, mixed, ends = inputs(program, 3, 200), list[float](), threading.Event()

    def work() -> None:
        while not ends.is_set():
            (made,) = program.eval(asked)
            mixed.extend({*made[3:].tolist()} if len({*made[3:].tolist()}) > 1 else ())

    with program.update_weights() as new:
        new.update({"w": np.zeros(4, np.float32)})
    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for number in range(40):
        with program.update_weights() as new:
            new.update({"w": np.full(4, number, np.float32)})
        assert np.all(program.eval(asked)[0][3:] == number)
    ends.set()
    for worker in workers:
        worker.join()
    assert not mixed


def test_a_fault_says_where() -> None:
    text = BY_ANY.replace(
        "concat(a, main:x, main:x)", "gather(a, i) {axis=0}\n  %1 = unsqueeze(%0)"
    )
    text = text.replace("unsqueeze(%0) {axis=0}", "unsqueeze(%0) {axes=(0,)}")
    text = text.replace("return c, %0\n", "%2 = concat(a, %1) {axis=0}\n  return c, %2\n")
    program = compiled(text)
    native(program)
    assert len(program.eval(inputs(program, 3, 100))[0]) == 103
    text = text.replace("gather(a, i)", "gather(main:x, i)")
    program = compiled(text)
    native(program)
    with pytest.raises(EvaluationError, match="gather"):
        program.eval(inputs(program, 3, 4))
    assert len(program.eval(inputs(program, 3, 3))[0]) == 6


def test_a_profile_has_every_step_that_was_run() -> None:
    program = compiled(EXCHANGED)
    arguments = {k: migx.Argument.of(v) for k, v in inputs(program, 3, 70).items()}
    names = [cost.kernel for cost in executable(program).profile(arguments, {}).costs]
    # It runs twice, for there is room for 64 iterations at first; of the five that are carried, two
    # do not lie in two places in turn, and three may be in the second at the end.
    assert names.count("copy") == 2 * 134 + 2 * (5 + 3)
    assert [names.count(name) for name in ("neg", "concat", "sizes")] == [2 * 134, 2 * 134, 134]


def test_what_is_loaded_compiles_nothing(tmp_path: Path) -> None:
    program = compiled(CACHE)
    migx.save(program, tmp_path / "a.mxr")
    asked = inputs(program, 2, 70)
    np.savez(tmp_path / "given.npz", **asked)
    code = """
import sys
import numpy as np
import llvmlite.binding
import migx
llvmlite.binding.parse_assembly = None
program = migx.load("a.mxr")
np.savez("made.npz", *program.eval(dict(np.load("given.npz"))))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    made = np.load(tmp_path / "made.npz")
    assert same([made[name] for name in made.files], program.eval(asked))


def bodies(loop: GrowingLoop) -> Iterator[tuple[Work, list[Work]]]:
    """The step that begins an iteration, and those behind it."""
    works = loop.piece.outline.works
    for place, work in enumerate(works):
        if work.knows_itself:
            yield work, works[place + 1 :]


def sized(work: Work, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """What the sizes make of a step: its tiles, its words, and where what it reads begins."""
    assert work.kernel is not None
    offsets = (dim.evaluate(r.offset, sizes) * r.shape.dtype.bits // 8 for r in work.reads)
    words = (dim.evaluate(word, sizes) for word in work.kernel.words)
    return dim.evaluate(work.kernel.tiles, sizes), *offsets, *words


def laid(work: Work, sizes: Mapping[str, int]) -> list[int]:
    """The same as the words of a step, cells being at 0."""
    _, *words = sized(work, sizes)
    reads = len(work.reads)
    return [*words[:reads], *[0] * len(work.writes), *words[reads:]]


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("sizes", [{"n": 3, "q": 1, "m": 2}, {"n": 9000, "q": 40000, "m": 0}])
def test_an_iteration_finds_what_its_sizes_say(text: str, sizes: dict[str, int]) -> None:
    (loop,) = loops(compiled(text))
    ((begins, body),) = bodies(loop)
    assert begins.kernel is not None
    code = jit.load([begins.kernel.text])[begins.kernel.text]
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 2, ctypes.c_void_p)
    first, last = loop.late.after(0, sizes), loop.late.after(40, sizes)
    for iteration in (0, 1, 39):
        number = np.array(iteration)
        own = [number.ctypes.data, *[0] * (len(begins.reads) - 1)]
        own += [dim.evaluate(word, first) for word in begins.kernel.words]
        steps = np.zeros(4 * (1 + len(body)), np.int64)
        steps[6::4] = [sized(work, last)[0] for work in body]
        told = [n for work in body for n in laid(work, last)]
        args = np.array([*own, steps.ctypes.data, *told], np.int64)
        run(code.address)(args.ctypes.data, 0, 1, None)
        here = loop.late.after(iteration, sizes)
        now = {**last, **{name: here[name] for name in loop.late.growth.first}}
        assert steps[6::4].tolist() == [sized(work, now)[0] for work in body]
        assert args[len(own) + 1 :].tolist() == [n for work in body for n in laid(work, now)]
