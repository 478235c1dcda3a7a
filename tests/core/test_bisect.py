"""Bisection over sets of rewrites: planted mistakes are named, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migx import ops
from migx.argument import Argument
from migx.debug.bisect import Found, NothingWrong, Symptom, against_ref, bisected, outcome, smallest
from migx.events import AllBut, EventLog
from migx.manager import Pass, PassManager
from migx.parser import parse
from migx.pipeline import Pipeline
from migx.program import Program
from tests.core import planted
from tests.core.planted import Crash, Pair, Whole, Wrong, inputs, model, transposes

NEG, RELU, TRANSPOSE = ops.Neg(), ops.Relu(), ops.Transpose((1, 0))


def found_in(program: Program, *passes: Pass | str) -> Found:
    pipeline = Pipeline.of([p if isinstance(p, str) else Pipeline((p,)) for p in passes])
    found = bisected(program, pipeline, against_ref(program, inputs(program)))

    def symptom(skip: AllBut) -> str:
        made = program.copy()
        PassManager(made, log=EventLog(skip)).run(pipeline)
        return against_ref(program, inputs(program))(made).kind

    if found.symptom.kind == "wrong":
        assert (symptom(found.before), symptom(found.after)) == ("", "wrong")
    return found


def test_a_wrong_rule_among_a_hundred_rewrites_is_named() -> None:
    found = found_in(model(NEG, RELU), Wrong(), "optimize_module")
    (event,) = found.events
    assert (event.pass_name, event.rule) == ("wrong", "relu_of_neg")
    assert event.source == planted.relu_of_neg.source
    assert event.origins == ("planted_relu", "planted_neg")
    assert found.recorded > 80
    assert found.trials < 20
    assert found.symptom.detail.startswith("y: ")


def test_weights_that_may_be_replaced_are_read() -> None:
    program = parse(
        """module main(x: f32[4]) {
  %0 = @literal() {value=[1.0, -2.0, 3.0, -4.0], label="w", replaceable=true} : f32[4]
  %1 = add(x, %0)
  %2 = neg(%1)
  %3 = relu(%2)
  return y=%3
}
"""
    )
    x = {"x": Argument.of(np.array([0.5, 0.25, -1.5, 2.0], np.float32))}
    judge = against_ref(program, x)
    (event,) = bisected(program, Pipeline((Wrong(),)), judge).events
    assert event.rule == "relu_of_neg"


def test_two_rules_that_are_wrong_only_together_are_both_named() -> None:
    program = model(RELU, TRANSPOSE, TRANSPOSE, RELU)
    found = found_in(program, Pair(), "optimize_module")
    assert [event.rule for event in found.events] == ["drop_inner", "drop_outer"]
    assert found.trials < 40
    for event in found.events:
        made = program.copy()
        PassManager(made, log=EventLog(AllBut(frozenset({event.key})))).run([Pair()])
        assert made != program
        assert not against_ref(program, inputs(program))(made).kind


def test_a_pass_without_rules_is_one_event() -> None:
    found = found_in(model(), "simplify_algebra", Whole(), "simplify_reshapes")
    (event,) = found.events
    assert (event.pass_name, event.rule) == ("whole", "")
    assert event.source == f"{planted.__file__}:{Whole.apply.__code__.co_firstlineno}"
    assert (event.before, event.after) == ("504 instructions", "505 instructions")


def test_what_makes_a_pass_fail_is_found_by_the_kind_of_its_error() -> None:
    program = model()
    crash = Crash(transposes(program.main) - 2)
    found = found_in(program, "eliminate_common_subexpression,simplify_reshapes", crash)
    assert found.symptom.kind == "LookupError"
    assert "in pass crash" in found.symptom.detail
    # Each rewrite takes away two transposes.
    assert [event.rule for event in found.events] == ["nested_shape_transforms"] * 2
    assert found.recorded > 80


def test_what_is_only_needed_is_told_from_what_is_wrong() -> None:
    program = model(NEG, RELU)

    def judge(made: Program) -> Symptom:
        names = [at.name for at in made.main]
        if "neg" not in names:
            return Symptom("cannot run")
        return Symptom("" if "relu" in names else "wrong")

    # The whole pass puts a neg there, without which what the wrong rule leaves cannot be run.
    found = bisected(program, Pipeline((Whole(), Wrong())), judge)
    assert found.symptom.kind == "wrong"
    assert [event.pass_name for event in found.needed] == ["whole"]
    assert [event.rule for event in found.events] == ["relu_of_neg"]
    assert found.before == AllBut(frozenset())
    assert found.after == AllBut(frozenset({found.events[0].key}))


def test_where_nothing_is_wrong_it_says_so() -> None:
    program = model()
    with pytest.raises(NothingWrong, match="nothing is wrong after simplify_algebra"):
        found_in(program, "simplify_algebra")
    assert outcome(program, "simplify_algebra", inputs(program)) == Symptom()


@given(st.integers(0, 60), st.sets(st.integers(0, 59), max_size=4))
def test_the_smallest_set_is_found_in_few_trials(count: int, wanted: set[int]) -> None:
    wanted = {each for each in wanted if each < count}
    trials = []

    def fails(chosen: object) -> bool:
        trials.append(chosen)
        return wanted <= set(chosen)  # type: ignore[call-overload,no-any-return]

    assert smallest(range(count), fails) == sorted(wanted)
    assert len(trials) <= 1 + len(wanted) * 9


@given(st.sets(st.frozensets(st.integers(0, 5))))
def test_no_member_can_be_left_out_whatever_fails(failing: set[frozenset[int]]) -> None:
    failing.add(frozenset(range(6)))
    found = smallest(range(6), lambda chosen: frozenset(chosen) in failing)
    assert frozenset(found) in failing
    assert not any(frozenset(found) - {each} in failing for each in found)
