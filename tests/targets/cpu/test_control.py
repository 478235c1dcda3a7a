"""Control flow as steps: the same as on ``ref``, whatever is jumped over, repeated or handed on."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.errors import EvaluationError
from migx.ir import Module
from migx.sizes import symbols_within
from migx.testing.oracles import Trial
from tests.targets.cpu.whole import at_once, compiled, executable, native
from tests.targets.flow import COUNTED, EVERY, NESTED, RUNS, STOPPED, TOLD_INSIDE, given, same


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("text", EVERY)
def test_control_flow_is_steps(text: str, threads: int) -> None:
    program, ref = compiled(text, threads=threads), compiled(text, "ref")
    native(program)
    for n, t, c in RUNS:
        inputs = given(program, n, t, c)
        assert same(program.eval(inputs), ref.eval(inputs))


def test_a_longer_loop_gets_more_room_once() -> None:
    program = compiled(COUNTED)
    lengths = [program.eval(given(program, 2, t, True))[2].shape[0] for t in (64, 65, 300, 2, 0)]
    assert lengths == [64, 65, 300, 2, 0]


TOLD = """
module main(t: i64[2], x: f32[n, 4]) {
  %0 = @literal() {value=[true]} : bool[]
  %1 = @literal() {value=[1]} : i64[1]
  %2 = slice(t) {axes=(0,), starts=(1,), ends=(2,)}
  %3 = sub(%2, %1)
  %4 = reshape(%3) {dims=()}
  %5 = neg(x)
  %6 = loop(%4, %0, %5) {outputs=(f32[n, 4], f32[trips, n, 4])} [body]
  %7 = get_tuple_elem(%6)
  %8 = get_tuple_elem(%6) {index=1}
  %9 = neg(%8)
  return %7, %9
}

module body(i: i64[], c: bool[], a: f32[n, 4]) {
  %0 = abs(a)
  %1 = add(%0, main:x)
  return c, %1, a
}
"""


def test_what_is_around_a_loop_is_run_with_it_where_an_input_says_how_long_it_is() -> None:
    program, ref = compiled(TOLD), compiled(TOLD, "ref")
    assert len(executable(program).pieces[program.compiled.program.main]) == 1
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    for count in (4, 1, 0, -3, 70, 4):
        inputs = {"t": np.array([9, count]), "x": x}
        assert same(program.eval(inputs), ref.eval(inputs))
    inputs["t"] = np.array([0, 1 << 40])
    with pytest.raises(EvaluationError, match="the machine has"):
        program.eval(inputs)


def test_what_is_handed_on_through_an_identity_is_not_carried() -> None:
    text = """
module main(t: i64[], x: f32[2], w: f32[2]) {
  %0 = @literal() {value=[true]} : bool[]
  %1 = loop(t, %0, x, w) [body] : tuple(f32[2], f32[2])
  %2 = get_tuple_elem(%1)
  %3 = get_tuple_elem(%1) {index=1}
  return %2, %3
}

module body(i: i64[], c: bool[], a: f32[2], b: f32[2]) {
  %0 = add(a, b)
  %1 = identity(b)
  %2 = identity(c)
  return %2, %0, %1
}
"""
    program = migx.parse(text).compile("cpu")
    (loop,) = (at for at in program.compiled.program.main if at.name == "loop")
    assert len(loop.shape.parts) == 1
    inputs = {"t": np.array(3), "x": np.ones(2, np.float32), "w": np.full(2, 2, np.float32)}
    assert same(program.eval(inputs), compiled(text, "ref").eval(inputs))


def test_runs_of_one_loop_overlap() -> None:
    program = compiled(COUNTED)
    wrong: list[int] = []

    def work(t: int) -> None:
        inputs = given(program, 3, t, True)
        expected = [a.tobytes() for a in program.eval(inputs)]
        again = ([a.tobytes() for a in program.eval(inputs)] for _ in range(40))
        wrong.extend(t for found in again if found != expected)

    at_once(work, (3, 90, 20, 200))
    assert not wrong


VIEWED = """
module main(c: bool[], x: f32[2, 2], dims: i64[2], y: f16[4], z: f16[1]) {
  %0 = if(c) [yes, no]
  %1 = get_tuple_elem(%0)
  return %1
}

module yes() {
  return main:x, main:y
}

module no() {
  %0 = reshape(main:x, main:dims) {dims=(2, 2)}
  %1 = @literal() {value=[1]} : i64[1, 1]
  %2 = scatternd_min(main:y, %1, main:z) : f16[4]
  return %0, %2
}
"""


def test_a_view_of_what_is_outside_a_module_for_the_host() -> None:
    program, x = compiled(VIEWED), np.arange(4, dtype=np.float32).reshape(2, 2)
    assert [at.name for at in executable(program).fallbacks()] == ["if", "scatternd_min"]
    halves = {"y": np.ones(4, np.float16), "z": np.ones(1, np.float16)}
    (result,) = program.eval({"c": np.bool_(False), "x": x, "dims": np.array([2, 2]), **halves})
    assert np.array_equal(result, x)


REFUSED = """
module main(c: bool[], x: f32[n, 4]) {
  %0 = if(c) [yes, no]
  %1 = get_tuple_elem(%0)
  return %1
}

module yes() {
  %0 = slice(main:x) {axes=(0,), starts=(0,), ends=(2,)}
  %1 = reduce_min(%0) {axes=(0, 1)}
  return %1
}

module no() {
  %0 = reduce_max(main:x) {axes=(0, 1)}
  return %0
}
"""


def test_a_branch_that_is_not_taken_may_refuse_the_sizes() -> None:
    program, ref = compiled(REFUSED), compiled(REFUSED, "ref")
    for n, c in ((3, True), (3, False), (1, False), (2, True)):
        inputs = given(program, n, 0, c)
        assert same(program.eval(inputs), ref.eval(inputs))
    with pytest.raises(migx.errors.MigxError):
        program.eval(given(program, 1, 0, True))


def test_a_loop_that_ends_early_has_no_result_of_the_dims_it_says() -> None:
    text = STOPPED.replace("trips", "4")
    program = compiled(text)
    native(program)
    with pytest.raises(EvaluationError, match="number of iterations"):
        program.eval({"t": np.array(4), "x": np.array(3)})
    assert program.eval({"t": np.array(4), "x": np.array(9)})[2].tolist() == [9, 0, 1, 2]


ENDLESS = """
module main(x: f32[4], i: i64[]) {
  %0 = undefined()
  %1 = @literal() {value=[true]} : bool[]
  %2 = loop(%0, %1, i) [body]
  %3 = get_tuple_elem(%2)
  return %3
}

module body(n: i64[], c: bool[], i: i64[]) {
  %0 = gather(main:x, i) {axis=0}
  %1 = @literal() {value=[1]} : i64[]
  %2 = add(i, %1)
  %3 = isnan(%0)
  %4 = not(%3)
  return %4, %2
}
"""


def test_a_fault_ends_a_loop() -> None:
    program = compiled(ENDLESS)
    native(program)
    x = np.array([1, 2, np.nan, 3], np.float32)
    assert program.eval({"x": x, "i": np.array(0)})[0] == 3
    with pytest.raises(EvaluationError, match="gather"):
        program.eval({"x": np.ones(4, np.float32), "i": np.array(0)})
    assert program.eval({"x": x, "i": np.array(1)})[0] == 3


def test_a_profile_has_every_step_that_was_run() -> None:
    program = compiled(NESTED)
    inputs = given(program, 3, 4, True)
    arguments = {name: migx.Argument.of(value) for name, value in inputs.items()}
    names = [cost.kernel for cost in executable(program).profile(arguments, {}).costs]
    # The inner loop runs 0 + 1 + 2 + 3 times, and in its third iteration takes the first branch.
    assert (names.count("abs"), names.count("relu"), names.count("greater")) == (4, 1, 6)


WEIGHTS = """
module main(t: i64[], x: f32[n, 8]) {
  %0 = @literal() {value=[true]} : bool[]
  %1 = @literal() {value=sha256("00")} : f32[8, 8]
  %2 = loop(t, %0, x, %1, x) {outputs=(f32[n, 8], f32[8, 8], f32[n, m])} [body]
  %3 = get_tuple_elem(%2)
  %4 = get_tuple_elem(%2) {index=2}
  return %3, %4
}

module body(i: i64[], c: bool[], a: f32[n, 8], w: f32[8, 8], all: f32[n, k]) {
  %0 = dot(a, w)
  %1 = tanh(%0)
  %2 = concat(all, %1) {axis=1}
  return c, %1, w, %2
}
"""


def test_what_a_loop_need_not_carry_is_packed_once() -> None:
    program = migx.parse(WEIGHTS, draw_missing=3)
    native(program.copy().compile("cpu"))
    for n, t in ((2, 0), (3, 1), (1, 70)):
        inputs = given(program, n, t, True)
        Trial(program, {k: migx.Argument.of(v) for k, v in inputs.items()}).target("cpu")


ITERATED = """
module main(t: i64[], x: f32[n, 4]) {
  %0 = @literal() {value=[true]} : bool[]
  %1 = loop(t, %0, x) {outputs=(f32[n, 4], f32[trips])} [body]
  %2 = get_tuple_elem(%1)
  %3 = get_tuple_elem(%1) {index=1}
  return %2, %3
}
"""
PADDED = (
    ITERATED
    + """
module body(i: i64[], c: bool[], a: f32[n, 4]) {
  %0 = @literal() {value=[2]} : i64[]
  %1 = less(i, %0)
  %2 = if(%1) [few, many]
  %3 = get_tuple_elem(%2)
  %4 = neg(a)
  return c, %4, %3
}

module few() {
  %0 = reduce_max(body:a) {axes=(0, 1)}
  %1 = squeeze(%0) {axes=(0, 1)}
  return %1
}

module many() {
  %0 = slice(body:a) {axes=(0, 1), starts=(2, 0), ends=(3, 1)}
  %1 = squeeze(%0) {axes=(0, 1)}
  return %1
}
"""
)


def test_a_branch_in_a_loop_may_refuse_the_sizes() -> None:
    program, ref = compiled(PADDED), compiled(PADDED, "ref")
    native(program)
    for n, t in ((3, 5), (2, 2), (1, 1)):
        inputs = given(program, n, t, True)
        assert same(program.eval(inputs), ref.eval(inputs))
    with pytest.raises(EvaluationError, match="slice"):
        program.eval(given(program, 2, 3, True))


LOOP = (
    ITERATED
    + """
module body(i: i64[], c: bool[], a: f32[n, 4]) {
  %0 = slice(a) {axes=(0, 1), starts=(2, 0), ends=(3, 1)}
  %1 = squeeze(%0) {axes=(0, 1)}
  %2 = neg(a)
  return c, %2, %1
}
"""
)
SCAN = """
module main(s: f32[n, 4], x: f32[t, m, 4]) {
  %0 = scan(s, x) {num_scan_inputs=1} [body]
  %1 = get_tuple_elem(%0)
  return %1
}

module body(a: f32[n, 4], r: f32[m, 4]) {
  %0 = add(a, r)
  return %0
}
"""


def test_a_body_that_is_not_run_may_refuse_the_sizes() -> None:
    program, ref = compiled(LOOP), compiled(LOOP, "ref")
    assert [*native(program).pieces] == [program.compiled.program.main]
    for n, t in ((3, 2), (1, 0), (3, 0)):
        inputs = given(program, n, t, True)
        assert same(program.eval(inputs), ref.eval(inputs))
    with pytest.raises(EvaluationError, match="in module body"):
        program.eval(given(program, 1, 1, True))


def test_the_body_of_a_scan_of_nothing_may_refuse_the_sizes() -> None:
    program, ref = compiled(SCAN), compiled(SCAN, "ref")
    assert [*native(program).pieces] == [program.compiled.program.main]
    for n, m, t in ((3, 3, 2), (1, 2, 0), (1, 2, 1)):
        inputs = {"s": np.ones((n, 4), np.float32), "x": np.ones((t, m, 4), np.float32)}
        if n == m or not t:
            assert same(program.eval(inputs), ref.eval(inputs))
            continue
        with pytest.raises(EvaluationError, match="in module body"):
            program.eval(inputs)


def _nested(depth: int) -> str:
    """A choice in a choice, and so on."""
    modules = ["module main(x: f32[4], c: bool[]) {"]
    for level in range(1, depth + 1):
        asked = "c" if level == 1 else "main:c"
        modules[-1] += f"\n  %0 = if({asked}) [yes{level}, no{level}]"
        modules[-1] += "\n  %1 = get_tuple_elem(%0)\n  return %1\n}"
        modules += [f"module no{level}() {{\n  return main:x\n}}", f"module yes{level}() {{"]
    modules[-1] += "\n  %0 = neg(main:x)\n  return %0\n}"
    return "\n".join(modules)


def test_no_module_is_walked_again_at_each_level(monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[str] = []

    def counted(module: Module) -> set[str]:
        walked.append(module.name)
        return symbols_within(module)

    monkeypatch.setattr("migx.targets.cpu.plans.outline.symbols_within", counted)
    depth = 12
    program = compiled(_nested(depth))
    native(program)
    assert len(walked) <= 2 * depth
    x = np.arange(4, dtype=np.float32)
    (result,) = program.eval({"x": x, "c": np.array(True)})
    np.testing.assert_array_equal(result, -x)


def test_what_is_nested_too_deep_for_ref_is_an_error_that_says_so() -> None:
    program = compiled(_nested(200), target="ref")
    with pytest.raises(EvaluationError, match="nested too deeply to be run inside each other"):
        program.eval({"x": np.zeros(4, np.float32), "c": np.array(True)})


@pytest.mark.parametrize("chosen", [True, False])
def test_sizes_that_only_a_module_tells(chosen: bool) -> None:
    x = np.array([0, 1, -2, 0, 3, 0, 0, 1, 1], np.float32)
    inputs = {"c": np.array(chosen), "t": np.array(3), "x": x}
    found, wanted = (migx.parse(TOLD_INSIDE).compile(t).eval(inputs) for t in ("cpu", "ref"))
    assert all(map(np.array_equal, found, wanted))
