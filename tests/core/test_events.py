"""The log of what was rewritten: keys by which events are skipped, and what an event tells."""

from __future__ import annotations

import inspect
from collections import Counter
from functools import partial

import pytest
from hypothesis import given

import migx
from migx import ops
from migx.events import EventLog
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.match import on, var
from migx.program import Program
from migx.rewrite import Cursor, rewrite, rule
from migx.shape import F32, Shape
from migx.testing.cases import agree
from migx.verify import verify
from tests.core import rules
from tests.core.rules import ALL, cancel, chain, small


class Tidy(Pass):
    """All of the rules."""

    rules = ALL


def logged(program: Program, *skip: str) -> tuple[EventLog, Program]:
    """What happens to a copy of a program, and the copy."""
    log, copy = EventLog(frozenset(skip)), program.copy()
    PassManager(copy, log=log).run([Tidy()])
    verify(copy)
    return log, copy


@given(small())
def test_events_are_skipped_by_key(program: Program) -> None:
    whole, _ = logged(program)
    keys = [event.key for event in whole.events]
    assert len(set(keys)) == len(keys)
    assert keys == [event.key for event in logged(program)[0].events]
    for key in keys:
        log, left = logged(program, key)
        assert key not in [event.key for event in log.events]
        agree(program, left)
    log, left = logged(program, *keys[:1])
    again = logged(program, *keys[:1], *(event.key for event in log.events))[0]
    assert not {event.key for event in again.events} & {*keys[:1], *(e.key for e in log.events)}


def test_keys_are_those_of_a_copy_whatever_was_removed_before() -> None:
    """So ``migx opt --only`` takes what ``migx bisect`` prints, which works on copies."""
    program = Program()
    main = program.main
    x = main.add_parameter("x", Shape(F32, (2,)))
    for _ in range(3):
        main.remove_instruction(main.add_instruction(ops.Exp(), x))
    main.add_return(main.add_instruction(ops.Neg(), main.add_instruction(ops.Neg(), x)))
    of_copy, _ = logged(program)
    log = EventLog()
    PassManager(program, log=log).run([Tidy()])
    assert log.events
    assert [event.key for event in log.events] == [event.key for event in of_copy.events]


def test_independent_events_keep_their_keys() -> None:
    program = Program()
    main = program.main
    ends = []
    for name in "abc":
        at = main.add_parameter(name, Shape(F32, (2,)))
        for _ in range(2):
            at = main.add_instruction(ops.Neg(), at)
        ends.append(main.add_instruction(ops.Exp(), at))
    main.add_return(*ends)
    keys = [event.key for event in logged(program)[0].events]
    assert len({key.split(".")[0] for key in keys}) == 1
    assert len(set(keys)) == 3
    for skipped in keys:
        log, left = logged(program, skipped)
        assert [event.key for event in log.events] == [key for key in keys if key != skipped]
        assert Counter(at.name for at in left.main)["neg"] == 2


def test_events_that_others_lead_to_keep_their_keys_as_well() -> None:
    """Of two equal matches that earlier rewrites made, either has its key without the other."""

    @rule(on(ops.Sub, var("a"), var("b")))
    def as_sum(at: Cursor, a: Instruction, b: Instruction) -> Instruction:
        """Adds the negative."""
        return at(ops.Add(), a, at(ops.Neg(), b))

    @rule(on(ops.Add, var("a"), on(ops.Neg, var("b"))))
    def swapped(at: Cursor, a: Instruction, b: Instruction) -> Instruction:
        """Something that neither rule matches."""
        return at(ops.Neg(), at(ops.Max(), b, a))

    def keys_of(*skip: str) -> list[str]:
        main = Program().main
        x, y = (main.add_parameter(name, Shape(F32, (2,))) for name in "xy")
        main.add_return(*(main.add_instruction(ops.Sub(), *each) for each in ((x, y), (y, x))))
        log = EventLog(skip=frozenset(skip))
        rewrite(main, as_sum, "first", log)
        rewrite(main, swapped, "second", log)
        return [event.key for event in log.events]

    first, second, of_first, of_second = keys_of()
    assert keys_of(first) == [second, of_second]
    assert keys_of(second) == [first, of_first]


def test_an_event_tells_its_own_change() -> None:
    program = chain(2, "neg")
    list(program.main)[2].origins = ("node",)
    (event,) = logged(program)[0].events
    assert (event.pass_name, event.rule, event.origins) == ("tidy", "cancel", ("node",))
    assert event.source == f"{rules.__file__}:{inspect.getsourcelines(cancel.function)[1]}"
    assert event.before == "%0 = neg(x) : f32[2]\n%1 = neg(%0) : f32[2]"
    assert event.after == ""


def test_an_event_shows_lines_that_name_each_other() -> None:
    program = chain(1, "neg")
    x, neg = program.main.parameters["x"], program.main.outputs[0]
    program.main.add_return(program.main.add_instruction(ops.Add(), neg, x))

    @rule(on(ops.Add, on(ops.Neg, var("x")), var("y")))
    def spelled(at: Cursor, x: Instruction, y: Instruction) -> Instruction:
        """By way of two others."""
        return at(ops.Sub(), y, at(ops.Abs(), at(ops.Abs(), x)))

    log = EventLog()
    assert rewrite(program.main, spelled, "tidy", log)
    (event,) = log.events
    assert event.before.splitlines() == ["%0 = neg(x) : f32[2]", "%1 = add(%0, x) : f32[2]"]
    assert event.after.splitlines() == [
        "%1 = abs(x) : f32[2]",
        "%2 = abs(%1) : f32[2]",
        "%3 = sub(x, %2) : f32[2]",
    ]


def test_an_event_shows_all_that_is_replaced() -> None:
    program = chain(1, "neg")
    x, neg = program.main.parameters["x"], program.main.outputs[0]
    other = program.main.add_instruction(ops.Exp(), x)
    program.main.add_return(neg, other)

    @rule(on(ops.Neg, var("x"), name="neg"))
    def both(at: Cursor, x: Instruction, neg: Instruction) -> dict[Instruction, Instruction]:
        """Whatever else reads the same, too."""
        users = list(x.users)
        at.together(users)
        other = next(user for user in users if user is not neg)
        return {other: at(ops.Abs(), x), neg: at(ops.Tanh(), x)}

    log = EventLog()
    assert rewrite(program.main, both, "tidy", log)
    (event,) = log.events
    assert event.before.splitlines() == ["%0 = neg(x) : f32[2]", "%1 = exp(x) : f32[2]"]
    assert event.after.splitlines() == ["%0 = abs(x) : f32[2]", "%1 = tanh(x) : f32[2]"]


FUSED = """module main(x: f32[n, 40], y: f32[n, 40]) {
  %0 = sub(x, y) : f32[n, 40]
  %1 = exp(%0) : f32[n, 40]
  %2 = reduce_sum(%1) {axes=(1,)} : f32[n, 1]
  %3 = multibroadcast(%2) {out_lens=(n, 40)} : f32[n, 40]
  %4 = div(%1, %3) : f32[n, 40]
  %5 = mul(%4, x) : f32[n, 40]
  return %5
}
"""


class Lower(Pass):
    """Turns pieces of arithmetic into something else."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        found = [at for at in module if at.name == "pointwise"]
        changed = [manager.change(self, "lower", at, partial(self.lowered, at)) for at in found]
        return any(changed)

    def lowered(self, at: Instruction) -> list[Instruction]:
        """As it was, by another name."""
        assert at.module is not None
        made = at.module.insert_instruction(at, ops.Neg(), at.inputs[0], origins=at.origins)
        at.module.replace_instruction(at, made)
        return [made]


def test_keys_tell_fused_pieces_apart_by_what_they_hold() -> None:
    """So that the second keeps its own where the first is not made."""

    def keys(skip: frozenset[str] = frozenset()) -> dict[str, list[str]]:
        log = EventLog(skip)
        PassManager(migx.parse(FUSED), log=log).run(["fuse_pointwise", Lower()])
        names = dict.fromkeys(event.rule for event in log.events)
        return {name: [e.key for e in log.events if e.rule == name] for name in names}

    whole = keys()
    left = [keys(frozenset({skipped})) for skipped in whole["pointwise"]]
    assert [found["pointwise"] for found in left] == [[k] for k in reversed(whole["pointwise"])]
    assert {key for found in left for key in found["lower"]} == set(whole["lower"])


def test_without_a_log_nothing_is_drawn_or_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> str:
        raise AssertionError("drawn without a log")

    monkeypatch.setattr("migx.rewrite.draw_instruction", never)
    monkeypatch.setattr("migx.events.show_instruction", never)
    monkeypatch.setattr(EventLog, "key", never)
    program = chain(4, "neg", "relu")
    assert not rewrite(program.main, ALL)
    assert rewrite(chain(4, "neg").main, ALL)
