"""Plans: where values lie, what runs where, and runs that overlap."""

from __future__ import annotations

import resource
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import migx
from migx.base.memory import ROOMY
from migx.errors import EvaluationError, InputError
from migx.planning import Life, arranged
from migx.profile import Profile
from migx.targets.cpu.plans import plan
from migx.targets.cpu.plans.outline import Kind
from migx.targets.cpu.plans.plan import LARGE
from migx.testing import check_target
from migx.testing.oracles import Trial
from tests.targets.cpu.whole import at_once, compiled, executable, native

CHAIN = """
module main(x: f32[n, 8]) {
  %0 = exp(x)
  %1 = softmax(%0) {axis=1}
  %2 = transpose(%1) {permutation=(1, 0)}
  %3 = contiguous(%2)
  %4 = abs(%3)
  return %4, %1
}
"""


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 9), st.integers(0, 5)), max_size=40))
def test_what_is_needed_at_one_step_does_not_overlap(drawn: list[tuple[int, int, int]]) -> None:
    lives = [Life(size, first, first + more) for size, first, more in drawn]
    offsets, total = arranged(lives)
    placed = list(zip(lives, offsets, strict=True))
    for (a, at), (b, bt) in combinations(placed, 2):
        if a.nbytes and b.nbytes and a.first <= b.last and b.first <= a.last:
            assert at + a.nbytes <= bt or bt + b.nbytes <= at
    assert all(at % 64 == 0 and at + a.nbytes <= total for a, at in placed)
    live = [
        sum(-(-a.nbytes // 64) * 64 for a in lives if a.first <= s <= a.last) for s in range(15)
    ]
    assert max(live) <= total <= sum(-(-a.nbytes // 64) * 64 for a in lives)


def test_results_take_over_memory_and_views_take_none() -> None:
    program = compiled(
        "module main(x: f32[8]) {\n %0 = exp(x)\n %1 = abs(%0)\n %2 = neg(%1)\n"
        " %3 = unsqueeze(%2) {axes=(0,)}\n %4 = sin(%3)\n %5 = reduce_sum(%4) {axes=(1,)}\n"
        " return %5\n}\n"
    )
    ((piece,),) = executable(program).pieces.values()
    arena = [c for c in piece.outline.cells if c.kind is Kind.ARENA]
    assert (len(arena), sum(c.same_as is None for c in arena)) == (4, 1)
    assert piece.plans.at({}).arena_bytes == 64


def test_what_escapes_takes_over_memory_in_an_array_of_its_own() -> None:
    program = compiled(
        "module main(x: f32[n, 8], i: i64[2, 8], u: f32[2, 8]) {\n %0 = exp(x)\n %1 = abs(%0)\n"
        " %2 = scatter_none(%1, i, u)\n %3 = transpose(%2) {permutation=(1, 0)}\n"
        " return %3\n}\n"
    )
    ((piece,),) = executable(program).pieces.values()
    made = [c for c in piece.outline.cells if c.kind in (Kind.ARENA, Kind.RESULT)]
    assert len(made) == 3
    assert len({c.root for c in made}) == 1
    assert {c.root.kind for c in made} == {Kind.RESULT}
    inputs: dict[str, Any] = {"x": np.ones((3, 8), np.float32), "i": np.zeros((2, 8), np.int64)}
    results = [program.eval({**inputs, "u": np.full((2, 8), k, np.float32)})[0] for k in (1, 2)]
    assert [int(y[0, 0]) for y in results] == [1, 2]
    assert not np.shares_memory(*results)
    assert piece.plans.at({"n": 3}).arena_bytes == 0


def test_an_arena_that_is_not_needed_is_given_back() -> None:
    program = compiled(
        "module main(x: f32[n, 8]) {\n %0 = exp(x)\n %1 = reduce_sum(%0) {axes=(1,)}\n"
        " return %1\n}\n"
    )
    ((piece,),) = executable(program).pieces.values()

    def held(n: int, runs: int) -> int:
        x = np.zeros((n, 8), np.float32)
        for _ in range(runs):
            assert (program.eval({"x": x})[0] == 8).all()
        (workspace,) = piece.idle
        return len(workspace.arena)

    large = 32 << 18
    assert held(1 << 18, 1) >= large
    assert held(2, ROOMY) >= large
    assert held(1 << 18, 1) >= large, "as it is needed in between, it stays"
    assert held(2, ROOMY) >= large
    assert held(2, 1) < large / 1000
    assert held(1 << 18, 1) >= large
    for n in range(2, ROOMY + 3):
        held(n, 1)
    assert held(2, 1) < large / 100, "runs of several sizes count as well"


@pytest.mark.parametrize("n", [0, 1, 3, 40])
def test_sizes_are_planned_without_compiling(n: int) -> None:
    x = np.random.default_rng(n).standard_normal((n, 8)).astype(np.float32)
    Trial(migx.parse(CHAIN), {"x": migx.Argument.of(x)}).target("cpu")
    program = compiled(CHAIN)
    codes = executable(program).code_of
    alone = program.eval({"x": x})
    program.eval({"x": np.zeros((n + 1, 8), np.float32)})
    again = program.eval({"x": x})
    assert [a.tobytes() for a in alone] == [a.tobytes() for a in again]
    ((piece,),) = executable(program).pieces.values()
    assert (len(piece.plans), executable(program).code_of) == (2, codes)


def test_results_are_the_callers_own() -> None:
    program = compiled(CHAIN)
    x = np.ones((2, 8), np.float32)
    kept = program.eval({"x": x})
    first = [np.array(r) for r in kept]
    program.eval({"x": 2 * x * np.arange(8, dtype=np.float32)})
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))


THREE = """module main(x: f32[n]) {
  %0 = relu(x) : f32[n]
  %1 = neg(x) : f32[n]
  %2 = exp(x) : f32[n]
  return %0, %1, %2
}
"""


def test_large_results_take_the_memory_of_those_that_nobody_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "LARGE", LARGE)
    lines = "".join(f"  %{i} = relu(x) : f32[n]\n" for i in range(32))
    returned = ", ".join(f"%{i}" for i in range(32))
    program = compiled(f"module main(x: f32[n]) {{\n{lines}  return {returned}\n}}\n")
    x = np.linspace(-1, 1, LARGE // 4, dtype=np.float32)
    kept = program.eval({"x": x})[1][-3:]
    x *= 2
    for _ in range(3):
        program.eval({"x": x})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        program.eval({"x": x})
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults * resource.getpagesize() < x.nbytes
    np.testing.assert_array_equal(kept, x[-3:] / 2)


def test_the_memory_of_large_results_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """When many runs in a row have not needed it."""
    monkeypatch.setattr(plan, "LARGE", LARGE)
    program = compiled(THREE)
    held = executable(program).results._spare
    large, small = (np.zeros(n, np.float32) for n in (LARGE, 8))
    for _ in range(3):
        program.eval({"x": large})
    assert sum(map(len, held)) >= 3 * large.nbytes
    for _ in range(ROOMY):
        program.eval({"x": small})
    assert held
    program.eval({"x": small})
    assert not held
    program.eval({"x": large})
    assert sum(map(len, held)) >= 3 * large.nbytes


def test_small_results_share_memory_and_large_ones_do_not() -> None:
    program = compiled(THREE)
    for n, blocks in ((0, 1), (3, 1), (400, 2), (2000, 3)):
        x = np.linspace(-1, 1, n, dtype=np.float32)
        results = program.eval({"x": x})
        for got, want in zip(results, (np.maximum(x, 0), -x, np.exp(x)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6)
        ((piece,),) = executable(program).pieces.values()
        assert len(piece.plans.at({"n": n}).blocks) == blocks


def test_runs_overlap() -> None:
    program = compiled(CHAIN)
    wrong: list[int] = []

    def work(n: int) -> None:
        x = np.random.default_rng(n).standard_normal((n, 8)).astype(np.float32)
        expected = program.eval({"x": x})[0].tobytes()
        wrong.extend(n for _ in range(60) if program.eval({"x": x})[0].tobytes() != expected)

    at_once(work, range(50, 58))
    assert not wrong


def test_inputs_may_lie_anyhow() -> None:
    text = "module main(x: f32[4, 6]) {\n %0 = neg(x)\n return %0\n}\n"
    x = np.arange(24, dtype=np.float32).reshape(6, 4).T
    x.flags.writeable = False
    (got,) = compiled(text).eval({"x": x})
    assert np.array_equal(got, -x)


def test_inputs_that_share_memory_by_their_shape_are_equal_there() -> None:
    program = migx.Program()
    x = program.main.add_parameter("x", migx.Shape("f32", (2, 3), (0, 1)))
    program.main.add_return(program.main.add_instruction(migx.ops.Relu(), x))
    program.compile("cpu")
    line = np.arange(3, dtype=np.float32)
    for lines in (np.broadcast_to(line, (2, 3)), np.stack([line, line])):
        np.testing.assert_array_equal(program.eval({"x": lines})[0], lines)
    with pytest.raises(InputError, match=r"f32\[2, 3\]\{0, 1\} has different elements"):
        program.eval({"x": np.arange(6, dtype=np.float32).reshape(2, 3)})


NESTED = """
module main(x: tuple(f32[n], tuple(f32[3], i64[]))) {
  %0 = get_tuple_elem(x) {index=1}
  %1 = get_tuple_elem(%0)
  %2 = get_tuple_elem(x)
  %3 = neg(%1)
  %4 = neg(%2)
  return %3, %4, %1
}
"""


def test_a_tuple_may_lie_in_another() -> None:
    given = (np.ones(2, np.float32), (np.arange(3, dtype=np.float32), np.array(4)))
    negated, other, inner = compiled(NESTED).eval({"x": given})
    np.testing.assert_array_equal(negated, -given[1][0])
    np.testing.assert_array_equal(other, -given[0])
    np.testing.assert_array_equal(inner, given[1][0])
    assert not np.shares_memory(inner, given[1][0])


def test_sizes_that_do_not_fit_are_refused() -> None:
    text = "module main(x: f32[n], y: f32[m]) {\n %0 = add(x, y)\n return %0\n}\n"
    with pytest.raises(InputError, match="n=2, m=3"):
        compiled(text).eval({"x": np.zeros(2, np.float32), "y": np.zeros(3, np.float32)})


DATA = """
module main(x: f32[n], w: f32[2]) {
  %0 = nonzero(x) {count=found}
  %1 = squeeze(%0) {axes=(0,)}
  %2 = convert(%1) {to=f32}
  %3 = exp(%2)
  return %3, w
}
"""


HANDED_ON = """
module main(x: f32[n, 3], y: f32[m], c: bool[]) {
  %0 = exp(x)
  %1 = topk(x) {k=2, axis=1}
  %2 = get_tuple_elem(%1)
  %3 = sqrt(%0)
  %4 = nonzero(y) {count=k}
  %5 = squeeze(%4) {axes=(0,)}
  %6 = gather(%0, %5) {axis=0}
  %7 = reshape(%3) {dims=(3*n,)}
  %8 = unique(y) {axis=0, count=j}
  %9 = get_tuple_elem(%8)
  %10 = if(c) [yes, no]
  %11 = get_tuple_elem(%10)
  %12 = neg(%9)
  return %6, %7, %2, %11, %12
}

module yes() {
  %0 = mul(main:%0, main:%0)
  return %0
}

module no() {
  return main:%0
}
"""


def test_what_is_handed_on_lies_in_a_workspace_and_what_is_given_away_does_not() -> None:
    program = compiled(HANDED_ON)
    made, parts = program.compiled, [p for ps in executable(program).pieces.values() for p in ps]
    assert any(part.outline.lends for part in parts)
    x, y = np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3), np.array([2, 0, 2], np.float32)
    e = np.exp(x)
    for c in (True, False):
        kept, again = (
            made.results(made.arguments({"x": x * sign, "y": y * sign, "c": np.array(c)}))
            for sign in (1, -1)
        )
        twos = np.array([0, -2])
        wanted = [e[[0, 2]], np.sqrt(e).ravel(), x[:, :0:-1], e * e if c else e, twos]
        for got, want in zip(kept, wanted, strict=True):
            np.testing.assert_allclose(got.array, want, rtol=1e-6)
        arenas = [workspace.arena for part in parts for workspace in part.idle]
        assert len(arenas) <= len(parts), "they are given back, and used again"
        given = [result.array for result in (*kept, *again)]
        assert not any(np.shares_memory(a, b) for a in given for b in arenas)


def test_what_only_data_decides_cuts_a_module() -> None:
    program = compiled(DATA)
    (parts,) = executable(program).pieces.values()
    assert len(parts) == 2
    w = np.array([1.0, 2.0], np.float32)
    for x in ([0.0, 3.0, 0.0, 1.0], [0.0], []):
        got, same = program.eval({"x": np.array(x, np.float32), "w": w})
        assert np.allclose(got, np.exp(np.flatnonzero(x)), rtol=1e-6)
        assert np.array_equal(same, w)


CUT = """
module main(x: f32[n, 2], y: i64[n], k: i64[1]) {
  %0 = @literal() {value=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]} : i64[10]
  %1 = slice(%0) {axes=(0,), starts=(0,), ends=(min(n, 10),)}
  %2 = @literal() {value=[1.0, 2.0, 3.0, 4.0]} : f32[2, 2]
  %3 = @literal() {value=[9]} : i64[1]
  %4 = @literal() {value=[1]} : i64[1]
  %5 = dynamic_slice(y, k, %3, %4) {axes=(0,), out_lens=(a,)}
  %6 = dynamic_slice(%1, k, %3, %4) {axes=(0,), out_lens=(b,)}
  %7 = dot(x, %2)
  %8 = multibroadcast(x) {out_lens=(a, n, 2)}
  %9 = exp(%8)
  %10 = multibroadcast(%2) {out_lens=(a, 2, 2)}
  %11 = dot(%9, %10)
  return %5, %6, %7, %11
}
"""


def test_a_later_piece_reads_constants_where_they_lie() -> None:
    program = compiled(CUT)
    made = executable(program)
    (parts,) = made.pieces.values()
    assert [len(part.endings) for part in parts] == [2, 0]
    assert {at.name for at in made.fallbacks()} <= {"dynamic_slice"}
    inputs: dict[str, Any] = {
        "x": np.ones((6, 2), np.float32),
        "y": np.arange(6),
        "k": np.array([2]),
    }
    a, b, *_ = program.eval(inputs)
    assert a.tolist() == b.tolist() == [2, 3, 4, 5]


REPEATED = """
module main(x: f32[2*n, 3, 4], y: f32[n]) {
  %0 = @literal() {value=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]} : f32[1, 8, 1]
  %1 = multibroadcast(%0) {out_lens=(n, 8, 5)}
  %2 = reshape(%1) {dims=(2*n, 4, 5)}
  %3 = dot(x, %2)
  return %3
}
"""


def test_a_constant_that_is_copied_first_is_not_asked_for_packed() -> None:
    program = compiled(REPEATED)
    native(program)
    (got,) = program.eval({"x": np.ones((4, 3, 4), np.float32), "y": np.ones(2, np.float32)})
    assert np.array_equal(got[:, 0, 0], [10, 26, 10, 26])


BRANCH = """
module main(c: bool[], x: f32[n]) {
  %0 = exp(x)
  %1 = if(c) [yes, no]
  %2 = get_tuple_elem(%1) {index=0}
  %3 = add(%2, %0)
  return %3
}

module yes() {
  %0 = abs(main:%0)
  return %0
}

module no() {
  %0 = neg(main:%0)
  return %0
}
"""


def test_modules_of_control_flow_run_natively() -> None:
    program = compiled(BRANCH)
    native(program)
    x = np.array([1.0, -2.0], np.float32)
    for c, sign in ((True, 2), (False, 0)):
        (got,) = program.eval({"c": np.array(c), "x": x})
        assert np.allclose(got, sign * np.exp(x), rtol=1e-6)


def test_a_fault_on_the_host_names_the_instruction() -> None:
    text = (
        "module main(x: f32[3], i: i64[1]) {\n %0 = exp(x)\n %1 = gather(%0, i) {axis=0}\n"
        " return %1\n}\n"
    )
    program = compiled(text)
    with pytest.raises(EvaluationError, match="gather"):
        program.eval({"x": np.zeros(3, np.float32), "i": np.array([7])})
    (got,) = program.eval({"x": np.zeros(3, np.float32), "i": np.array([1])})
    assert got.tolist() == [1.0]


def test_a_table_counts_for_as_much_as_is_picked_of_it() -> None:
    program = compiled("""module main(t: f32[1000, 8], i: i64[4], k: i64[1, 2], e: i64[2, 8]) {
      %0 = gather(t, i) {axis=0}
      %1 = gathernd(t, k)
      %2 = gather_elements(t, e) {axis=0}
      return %0, %1, %2
    }""")
    dims = {"i": 4, "k": (1, 2), "e": (2, 8)}
    x = {"t": np.zeros((1000, 8), np.float32)} | {n: np.zeros(d, np.int64) for n, d in dims.items()}
    program.eval(x)
    given = {name: migx.Argument.of(value) for name, value in x.items()}
    found = executable(program).profile(given, {})
    taken = {cost.at.name: cost.nbytes for cost in found.costs}
    picked = {"gather": 4 * 8 * 4, "gathernd": 4, "gather_elements": 2 * 8 * 4}
    indices = {"gather": 4 * 8, "gathernd": 2 * 8, "gather_elements": 2 * 8 * 8}
    assert taken == {name: 2 * size + indices[name] for name, size in picked.items()}


def test_a_profile_tells_kernels_from_the_host() -> None:
    program = compiled(BRANCH)
    x = {"c": np.array(True), "x": np.ones(5, np.float32)}
    program.eval(x)
    given = {name: migx.Argument.of(value) for name, value in x.items()}
    found = executable(program).profile(given, {})
    assert isinstance(found, Profile)
    assert [(c.at.name, bool(c.kernel)) for c in found.costs] == [
        ("exp", True),
        ("if", True),
        ("abs", True),
        ("if", True),
        ("add", True),
    ]
    assert all(c.seconds >= 0 for c in found.costs)
    assert found.costs[0].nbytes == 40


def test_random_programs_give_what_ref_gives() -> None:
    assert check_target("cpu", programs=25, seed=3).programs == 25


def test_sizes_as_values_are_known_to_the_plan() -> None:
    program = compiled(
        "module main(x: f32[n, m]) {\n %0 = dim_literal() {values=(n, n*m + 1, 7), lens=(3,)}\n"
        " %1 = add(%0, %0)\n return %1\n}\n"
    )
    native(program)
    for n, m in ((2, 5), (0, 1)):
        (got,) = program.eval({"x": np.zeros((n, m), np.float32)})
        assert got.tolist() == [2 * n, 2 * (n * m + 1), 14]
