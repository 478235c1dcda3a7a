"""Rules and the driver: where it ends, what it costs, and what it leaves behind."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import migx
from migx import ops
from migx.errors import RewriteLoop
from migx.events import EventLog
from migx.ir import Instruction, Module
from migx.match import Pattern, on, value, var
from migx.op import Op
from migx.program import Program
from migx.rewrite import Cursor, Rule, RuleSet, rewrite, rule
from migx.shape import F32, Shape
from migx.testing.cases import agree
from migx.verify import verify
from tests.core.rules import ALL, cancel, chain, merge, small, subtract, twice, x


def naive(module: Module, rules: RuleSet) -> int:
    """The driver at its simplest: from the start again after each change; returns how many."""
    for applied in range(1000):
        for at in list(module):
            if at.users and any(rewrite_one(module, each, at) for each in rules.at(at.name)):
                break
        else:
            return applied
    raise AssertionError("no end")


def rewrite_one(module: Module, each: Rule, at: Instruction) -> bool:
    """Tries one rule at one instruction."""
    from migx.rewrite import _Driver

    driver = _Driver(module, RuleSet(each), "", None)
    return driver.apply(each, at)


def pending(module: Module, rules: RuleSet) -> list[str]:
    """The rules that would still fire on a copy of a module's program."""
    log = EventLog()
    rewrite(module.program.copy().main, rules, log=log)
    return [event.rule for event in log.events]


@settings(max_examples=200)
@given(small())
def test_the_worklist_ends_where_looking_at_everything_again_ends(program: Program) -> None:
    before, plain = program.copy(), program.copy()
    naive(plain.main, ALL)
    changed = rewrite(program.main, ALL, "test")
    verify(program)
    assert changed == (program != before)
    assert pending(program.main, ALL) == pending(plain.main, ALL) == []
    agree(before, program)
    agree(before, plain)


@given(small())
def test_rules_that_agree_in_any_order_give_the_same_program(program: Program) -> None:
    rules, plain = cancel + merge, program.copy()
    migx.run_passes(program, "dead_code_elimination")
    migx.run_passes(plain, "dead_code_elimination")
    rewrite(program.main, rules)
    naive(plain.main, rules)
    assert program == plain


class Counted(RuleSet):
    """A set that counts how often it is asked for the rules of an instruction."""

    asked = 0

    def at(self, name: str) -> tuple[Rule, ...]:
        """Counts, then answers."""
        self.asked += 1
        return super().at(name)


@pytest.mark.parametrize("period", [("exp",), ("neg", "exp"), ("neg",), ("relu",)])
def test_the_cost_grows_with_the_length_and_no_faster(period: tuple[str, ...]) -> None:
    asked = []
    for length in (100, 1000):
        rules = Counted(ALL)
        program = chain(length, *period)
        rewrite(program.main, rules)
        asked.append(rules.asked)
        if period in (("neg",), ("relu",)):
            assert len(program.main) <= 3
    assert asked[1] <= 10.5 * asked[0]
    assert asked[1] <= 30 * 1000


def test_one_value_of_very_many_readers_is_not_looked_at_for_each() -> None:
    asked = []
    for count in (100, 1000):
        program = Program()
        a = program.main.add_parameter("a", Shape(F32, (2,)))
        for _ in range(count):
            last = program.main.add_instruction(ops.Neg(), a)
            last = program.main.add_instruction(ops.Neg(), last)
            last = program.main.add_instruction(ops.Exp(), last)
        program.main.add_return(*(at for at in program.main if at.name == "exp"))
        rules = Counted(ALL)
        assert rewrite(program.main, rules)
        asked.append(rules.asked)
        assert Counter(at.name for at in program.main)["neg"] == 0
    assert asked[1] <= 10.5 * asked[0]


def test_only_rules_that_begin_with_the_operation_are_tried() -> None:
    tried: list[str] = []

    def spy(name: str) -> Pattern:
        def test(at: Instruction) -> bool:
            tried.append(f"{name} {at.name}")
            return False

        return var("x", test)

    @rule(on(ops.Neg, spy("neg")))
    def one(x: Instruction) -> None:
        """Never."""

    @rule(on((ops.Exp, ops.Relu), spy("either")))
    def other(x: Instruction) -> None:
        """Never."""

    @rule(spy("any"))
    def anything(x: Instruction) -> None:
        """Never."""

    rewrite(chain(3, "neg", "exp", "relu").main, one + other + anything)
    assert tried == [
        "any @param",
        "neg @param",
        "any neg",
        "either neg",
        "any exp",
        "either exp",
        "any relu",
    ]


def test_rules_that_undo_each_other_are_named() -> None:
    @rule(on(ops.Relu, x))
    def there(at: Cursor, x: Instruction) -> Instruction:
        """And back."""
        return at(ops.Exp(), x)

    @rule(on(ops.Exp, x))
    def back(at: Cursor, x: Instruction) -> Instruction:
        """And there."""
        return at(ops.Relu(), x)

    message = (
        r"the rules of swing undo each other: there \(51\), back \(49\); the last result is\n"
        r"  exp\(%1\)\n"
    )
    with pytest.raises(RewriteLoop, match=message):
        rewrite(chain(3, "relu").main, there + back, "swing")


def test_a_rule_that_feeds_itself_is_named() -> None:
    @rule(on(ops.Relu, x))
    def grows(at: Cursor, x: Instruction) -> Instruction:
        """Without end."""
        return at(ops.Relu(), at(ops.Abs(), x))

    message = "rule grows of ever matches its own results forever; the last result is\n"
    with pytest.raises(RewriteLoop, match=f"^{message}  relu"):
        rewrite(chain(1, "relu").main, grows, "ever")


def test_what_takes_its_place_has_the_origins_of_all_that_matched() -> None:
    program = chain(4, "neg", "relu")
    for at, name in zip([i for i in program.main if i.op.name != "@return"], "xabcd", strict=True):
        at.origins = (name,)

    @rule(on(ops.Relu, on(ops.Neg, x), name="outer"))
    def fold(at: Cursor, x: Instruction, outer: Instruction) -> Instruction:
        """Not the same, but nobody looks."""
        return at(ops.Exp(), at(ops.Neg(), x)) if x.name == "@param" else x

    rewrite(program.main, RuleSet(fold))
    assert {at.name: at.origins for at in program.main} == {
        "@param": ("x",),
        "neg": ("b", "a"),
        "exp": ("b", "a", "d", "c"),
        "@return": (),
    }


def test_what_nobody_reads_is_not_looked_at_nor_a_removed_one() -> None:
    program = chain(1, "neg")
    unread = program.main.insert_instruction(
        program.main.returned, ops.Neg(), program.main.outputs[0]
    )
    assert not rewrite(program.main, RuleSet(cancel))
    assert unread.module is program.main


def test_what_was_dead_does_not_hold_back_a_second_look() -> None:
    program = chain(4, "neg", "neg", "exp", "neg")
    main = program.main
    once = next(at for at in main if at.name == "exp")
    main.insert_instruction(main.returned, ops.Relu(), once)

    @rule(on(ops.Neg, on(ops.Exp, x, name="inner").once()))
    def drop(inner: Instruction) -> Instruction:
        """Not the same, but nobody looks."""
        return inner

    assert rewrite(main, cancel + drop)
    assert [at.name for at in main] == ["@param", "exp", "@return"]


def test_several_results_take_the_place_of_each_element() -> None:
    program = Program()
    main = program.main
    a = main.add_parameter("a", Shape(F32, (3,)))
    both = main.add_instruction(ops.Topk(1, 0), a)
    elements = [main.add_instruction(ops.GetTupleElem(i), both) for i in (1, 0)]
    main.add_return(*elements, main.add_instruction(ops.Relu(), elements[1]))

    @rule(on(ops.Topk, x, k=1))
    def largest(at: Cursor, x: Instruction) -> tuple[Instruction, ...]:
        """The largest is the maximum, and its place that of the maximum."""
        return at(ops.ReduceMax((0,)), x), at(ops.Argmax(0), x)

    before = program.copy()
    assert rewrite(main, RuleSet(largest))
    verify(program)
    assert sorted(at.name for at in main) == ["@param", "@return", "argmax", "reduce_max", "relu"]
    agree(before, program)


def test_assumptions_are_recorded_when_a_rule_fires_and_only_then() -> None:
    program = Program()
    main = program.main
    a = main.add_parameter("a", Shape(F32, (2,)))
    used, kept = (
        main.add_literal(np.array([1, 1], np.float32), name=name, replaceable=True)
        for name in ("w", "v")
    )
    last = main.add_instruction(ops.Mul(), a, used)
    main.add_return(main.add_instruction(ops.Relu(), main.add_instruction(ops.Mul(), last, kept)))

    @rule(on(ops.Mul, x, value(1.0, "c", several=True)))
    def drop(x: Instruction, c: Instruction) -> Instruction | None:
        """Drops a factor of one; leaves v alone."""
        return x if c.op_as(ops.Literal).label == "w" else None

    assert not rewrite(main, RuleSet(drop))
    assert rewrite(main, RuleSet(drop), "some_pass")
    (assumed,) = program.assumptions
    assert (assumed.label, assumed.relied_on_by) == ("w", "some_pass")
    assert [at.name for at in main] == ["@param", "@literal", "mul", "relu", "@return"]


def test_a_module_around_that_is_bypassed_is_not_cleaned() -> None:
    program = migx.parse("""module main(c: bool[], x: f32[2]) {
  %0 = neg(x) : f32[2]
  %1 = if(c) [yes, no] : tuple(f32[2])
  %2 = get_tuple_elem(%1) : f32[2]
  return %2
}

module yes() {
  %0 = neg(main:%0) : f32[2]
  return %0
}

module no() {
  return main:x
}
""")
    for bypass, left in ((True, 1), (False, 0)):
        copy = program.copy()
        copy.main.bypass = bypass
        assert rewrite(copy.modules["yes"], RuleSet(cancel))
        verify(copy)
        assert Counter(at.name for at in copy.main)["neg"] == left


def test_rules_make_sets_in_order() -> None:
    assert [r.name for r in cancel + merge] == ["cancel", "merge"]
    assert [r.name for r in (cancel + merge) + (twice + subtract)] == [
        "cancel",
        "merge",
        "twice",
        "subtract",
    ]
    assert [r.name for r in cancel + (merge + twice)] == ["cancel", "merge", "twice"]
    assert len(ALL) == 6
    assert not RuleSet()
    names = [r.name for r in ALL.at("neg")]
    assert names == ["cancel", "defer"]
    assert ALL.at("dot") == ()


def test_the_first_rule_that_fires_is_the_one() -> None:
    @rule(on(ops.Neg, x))
    def first(at: Cursor, x: Instruction) -> Instruction:
        """Wins."""
        return at(ops.Relu(), x)

    program = chain(2, "neg")
    rewrite(program.main, first + cancel)
    assert [at.name for at in program.main] == ["@param", "relu", "relu", "@return"]


def test_rules_are_made_of_whatever_is_called_like_a_function() -> None:
    def either(at: Cursor, *, x: Instruction, made: Op = ops.Relu()) -> Instruction:  # noqa: B008
        """Another operation in the place of one; which is a matter of its maker."""
        return at(made, x)

    class Maker:
        """Is called like a function."""

        def __call__(self, at: Cursor, x: Instruction) -> Instruction:
            return at(ops.Relu(), x)

    ways: list[tuple[Any, str, str]] = [
        (either, "either", "relu"),
        (functools.partial(either, made=ops.Abs()), "either", "abs"),
        (Maker(), "Maker", "relu"),
    ]
    for function, name, left in ways:
        program, made = chain(1, "exp"), rule(on(ops.Exp, x))(function)
        assert rewrite(program.main, made)
        assert [at.name for at in program.main] == ["@param", left, "@return"]
        assert made.name == name
        assert made.source.startswith(f"{__file__}:")

    def bare(x: Instruction, /) -> Instruction:
        """Cannot be told by name what it is given."""
        return x

    with pytest.raises(TypeError, match="bare must take x by name, not before a /"):
        rule(on(ops.Exp, x))(bare)
