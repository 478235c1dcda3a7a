"""What is said of a rule that does not apply."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx import ops
from migx.debug.whynot import Answer, fired, rule_named, why_not
from migx.errors import IRError, UnknownName
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import attr, constant, having, on, skip, value, var
from migx.rewrite import Cursor, Declined, rule

TEXT = """
module main(x: f32[2, 3], y: f32[2, 3]) {
  %0 = neg(x) from "minus"
  %1 = relu(y)
  %2 = add(%1, %0) from "sum"
  %3 = exp(%0) from "more"
  %4 = sub(%2, y)
  %5 = transpose(%2) {permutation=(1, 0)} from "turn"
  %6 = neg(%5) from "inner"
  %7 = neg(%6) from "outer"
  %8 = @literal() {value=[1.0]} : f32[1]
  %9 = sqrt(%8)
  %10 = tanh(%7) from "unread"
  return %3, %4, %7, %9
}
"""


@rule(on(ops.Add, on(ops.Neg, var("a")).once(), on(ops.Relu, var("b"))))
def subtract(at: Cursor, a: Instruction, b: Instruction) -> Instruction:
    """Wants a neg that is read once."""
    return at(ops.Sub(), b, a)


@rule(on(ops.Sub, var("a"), var("a")))
def vanish(a: Instruction) -> Instruction | None:
    """Wants the same value twice."""
    return None


@rule(on(ops.Transpose, var("a", lambda at: True), permutation=attr("p", lambda p: p == (0, 1))))
def stay(a: Instruction) -> Instruction:
    """Wants a permutation that changes nothing."""
    return a


@rule(on(ops.Exp, var("a")))
def silent(a: Instruction) -> Instruction | None:
    """Never does anything."""
    return None


@rule(on(ops.Exp, skip(ops.Neg)(var("a")), name="root"))
def explains(a: Instruction, root: Instruction) -> Instruction | Declined:
    """Never does anything, and says why."""
    return Declined(f"{root.op.name} is best left alone")


@rule(on(ops.Neg, on(ops.Neg, var("a"))))
def cancel(a: Instruction) -> Instruction:
    """-(-a) is a."""
    return a


@rule(on(ops.Neg, var("a")))
def later(at: Cursor, a: Instruction) -> Instruction:
    """Comes after the rule that cancels."""
    return at(ops.Mul(), a, at(ops.Multibroadcast(a.shape.dims), at.literal(np.float32(-1))))


@rule(on(ops.Tanh, constant("c")) | on(ops.Sub, value(0.0), var("c")))
def choice(c: Instruction) -> Instruction:
    """Has two patterns."""
    return c


@rule(on((ops.Exp, ops.Softmax), var("a"), axis=1))
def picky(a: Instruction) -> Instruction:
    """Asks for an attribute that only one of its operations has."""
    return a


@rule(on(ops.Sqrt, value(lambda array: array > 1, name="c")))
def fixed(c: Instruction) -> Instruction:
    """Asks for a value."""
    return c


@rule(on(ops.Neg, having("pointwise", var("a"))))
def of_a_trait(a: Instruction) -> Instruction:
    """Asks for a trait."""
    return a


class Several(Pass):
    """All of them."""

    rules = subtract + vanish + stay + silent + explains + cancel + later + choice + picky + fixed
    rules += of_a_trait


def asked(name: str, at: str) -> Answer:
    program = migx.parse(TEXT)
    before = program.copy()
    chosen = next(each for each in Several.rules if each.name == name)
    (answer,) = why_not(program, Several, chosen, at)
    assert program == before
    return answer


def test_the_deepest_partial_match_is_drawn_with_what_said_no() -> None:
    for at in ("sum", "%2", "minus", "x"):
        found = asked("subtract", at)
        assert str(found) == (
            "%2: refused: %0 is used 2 times, not once, asked for: neg(a) once\n"
            "  %0 = neg(x) : f32[2, 3]\n"
            "       ^^^ is used 2 times, not once\n"
            "> %2 = add(%1, %0) : f32[2, 3]"
        )


@pytest.mark.parametrize(
    ("name", "at", "verdict", "reason"),
    [
        ("vanish", "%4", "refused", "y is not the a that was caught before"),
        ("stay", "turn", "refused", "%5 has permutation (1, 0), not what p asks for"),
        ("silent", "more", "declined", "the pattern matches, and the rule gives no reason"),
        ("explains", "more", "declined", "exp is best left alone"),
        ("cancel", "outer", "fires", "it becomes what it reads already"),
        ("later", "outer", "fires", "multibroadcast, mul; cancel comes first and fires here too"),
        ("cancel", "%4", "no such operation", "cancel begins at neg; here is sub, and none reads"),
        ("choice", "unread", "refused", "it has no users"),
        ("choice", "%4", "refused", "%2 has no value that may be read"),
        ("picky", "more", "refused", "%3 has no attribute axis"),
        ("of_a_trait", "minus", "refused", "x does not have the trait pointwise"),
        ("fixed", "%9", "refused", "%8 does not have the values asked for"),
    ],
)
def test_each_answer_says_why(name: str, at: str, verdict: str, reason: str) -> None:
    found = asked(name, at)
    assert found.verdict == verdict
    assert reason in found.reason


def test_a_parameter_is_pointed_at_by_its_name() -> None:
    assert asked("vanish", "%4").drawn == (
        "  y: f32[2, 3]\n  ^ is not the a that was caught before\n> %4 = sub(%2, y) : f32[2, 3]"
    )


def test_what_the_whole_pass_does_is_told_too() -> None:
    program = migx.parse(TEXT)
    before = program.copy()
    chosen = next(each for each in Several.rules if each.name == "later")
    events = fired(program, Several(), chosen)
    assert [event.origins for event in events] == [("minus",), ("inner",), ("outer",)]
    assert program == before


def test_submodules_have_names_of_their_own() -> None:
    program = migx.parse("""
module main(c: bool[], x: f32[2]) {
  %0 = neg(x)
  %1 = if(c) [yes, no]
  %2 = get_tuple_elem(%1)
  return %2
}
module yes() {
  %0 = neg(main:%0)
  return %0
}
module no() {
  return main:x
}
""")
    chosen = next(each for each in Several.rules if each.name == "cancel")
    (answer,) = why_not(program, Several, chosen, "yes:%0")
    assert (answer.verdict, answer.at) == ("fires", "yes:%0")
    assert "> %0 = neg(main:%0) : f32[2]" in answer.drawn


def test_names_that_are_not_there_list_those_near() -> None:
    with pytest.raises(UnknownName, match="named 'otter'.*similar: outer"):
        asked("cancel", "otter")
    with pytest.raises(UnknownName, match="has no rule 'nop'.*simplify_reshapes.nop_reshapes"):
        rule_named("simplify_reshapes.nop")
    with pytest.raises(UnknownName, match="fuse_epilogue is a function .*fuse_epilogue --trace"):
        rule_named("fuse_epilogue")
    others = "stands for others: name a rule of .*, simplify_reshapes, .*simplify_algebra$"
    with pytest.raises(UnknownName, match=others):
        rule_named("optimize_module.neg_neg")
    with pytest.raises(
        UnknownName, match="name a rule of pass simplify_qdq; there are: simplify_q"
    ):
        rule_named("simplify_qdq")
    with pytest.raises(
        UnknownName, match=r"as PASS\.RULE, not 'neg_neg'.*: simplify_algebra\.neg_n"
    ):
        rule_named("neg_neg")
    cls, chosen = rule_named("simplify_reshapes.nop_reshapes")
    assert (cls.name, chosen.name) == ("simplify_reshapes", "nop_reshapes")


def test_of_many_names_the_nearest_are_listed_however_far() -> None:
    lines = "".join(f"  %{i} = relu(x)\n" for i in range(60))
    program = migx.parse(f"module main(x: f32[2]) {{\n{lines}  return x\n}}")
    with pytest.raises(UnknownName) as caught:
        why_not(program, Several, Several.rules.at("neg")[0], "q7")
    assert str(caught.value).endswith("; similar: %7, %57, %47, %37, %27")


def test_rules_go_by_name_and_places_by_themselves() -> None:
    program = migx.parse(TEXT)
    for word in ("cancel", "several.cancel"):
        assert why_not(program, Several, word, "outer") == why_not(
            program, Several, cancel, "outer"
        )
    at = next(at for at in program.main if "outer" in at.origins)
    assert why_not(program, Several, "cancel", at) == why_not(program, Several, cancel, "%7")
    with pytest.raises(UnknownName, match=r"pass several has no rule 'cancl'; .*several\.cancel"):
        why_not(program, Several, "cancl", at)
    with pytest.raises(IRError, match="is neither a name nor an instruction of the program"):
        why_not(program.copy(), Several, cancel, at)
