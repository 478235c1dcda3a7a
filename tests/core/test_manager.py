"""Passes, pipelines as text, the manager's order and cleaning."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import migx
from migx import ops
from migx.dead_code import remove_dead_code
from migx.errors import IRError, ParseError, PassError, RewriteLoop, UnknownName
from migx.events import EventLog
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager, Pipeline
from migx.match import on, var
from migx.observers import Verify
from migx.program import Program
from migx.rewrite import Cursor, RuleSet, rewrite, rule
from migx.shape import BOOL, Shape
from migx.testing import check_pass
from migx.verify import verify
from tests.core.choice import CHOICE, SEEN, Fail, NegToRelu, Seen, program_of
from tests.core.strategies import programs


class WithOptions(Pass):
    """Does nothing, with options of every kind."""

    count: int = 1
    rate: float = 0.5
    name_of: str = "a"
    fast: bool = False
    skip: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1, 2)
    free: Any = None


class DropChoices(Pass):
    """Removes every ``if``, whose readers get its condition's neighbour instead."""

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        found = [at for at in program.main if at.name == "if"]
        for at in found:
            for user in list(at.users):
                program.main.replace_instruction(user, program.main.parameters["x"])
                program.main.remove_instruction(user)
            program.main.remove_instruction(at)
        return bool(found)


@pytest.fixture(autouse=True)
def known(found_by_name: Callable[..., None]) -> None:
    """The passes of these tests are found by name."""
    found_by_name(WithOptions, NegToRelu, Seen, Fail)
    SEEN.clear()


options = st.builds(
    WithOptions,
    count=st.integers(),
    rate=st.floats(allow_nan=False),
    name_of=st.text(),
    fast=st.booleans(),
    skip=st.lists(st.text(), max_size=3).map(tuple),
    sizes=st.lists(st.integers(), max_size=3).map(tuple),
)


@settings(max_examples=200)
@given(st.lists(options, max_size=3))
def test_a_pipeline_parses_back_from_its_text(steps: list[Pass]) -> None:
    pipeline = Pipeline(tuple(steps))
    assert Pipeline.parse(str(pipeline)) == pipeline


@pytest.mark.parametrize(
    ("text", "steps", "printed"),
    [
        ("", (), ""),
        (" seen , fail ", (Seen(), Fail()), "seen,fail"),
        ("fail{broken=true}", (Fail(True),), "fail{broken=true}"),
        ("fail{broken=false}", (Fail(),), "fail"),
        ("with_options{skip=(relu,add),count=3}", (WithOptions(3, skip=("relu", "add")),),
         "with_options{count=3,skip=(relu,add)}"),
        ("with_options{skip=relu}", (WithOptions(skip=("relu",)),), "with_options{skip=(relu)}"),
        ("with_options{sizes=(), rate=1e-3}", (WithOptions(rate=0.001, sizes=()),),
         "with_options{rate=0.001,sizes=()}"),
        ("with_options{name_of='a,b}'}", (WithOptions(name_of="a,b}"),),
         "with_options{name_of='a,b}'}"),
        ("with_options{name_of='12'}", (WithOptions(name_of="12"),), "with_options{name_of='12'}"),
    ],
)  # fmt: skip
def test_pipelines_as_text(text: str, steps: tuple[Pass, ...], printed: str) -> None:
    pipeline = Pipeline.parse(text)
    assert pipeline == Pipeline(steps)
    assert str(pipeline) == printed
    assert Pipeline.of(text) == Pipeline.of(steps) == Pipeline.of(pipeline)
    assert len(pipeline + pipeline) == 2 * len(steps)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "dead_code",
            UnknownName,
            r"no pass(es)? named 'dead_code'; similar: dead_code_elimination",
        ),
        ("seen{depth=1}", ParseError, "pass seen has no option 'depth=1'; it has none"),
        ("fail{broke=true}", ParseError, "pass fail has no option 'broke=true'; .* broken: bool"),
        ("fail{broken}", ParseError, "pass fail has no option 'broken'; its options are broken"),
        ("fail{broken=1}", ParseError, "pass fail: broken is bool, not 1"),
        ("with_options{count=many}", ParseError, "pass with_options: count is int, not many"),
        ("with_options{count=true}", ParseError, "pass with_options: count is int, not true"),
        ("with_options{sizes=(1,b)}", ParseError, "sizes is tuple"),
        ("seen}", ParseError, "expected a pass such as name or name{option=value}, found 'seen}'"),
        ("seen{", ParseError, "found 'seen{'"),
        ("seen fail", ParseError, "found 'seen fail'"),
        ("seen,,fail", ParseError, "there is nothing before a comma in 'seen,,fail'"),
        (",seen", ParseError, "there is nothing before a comma in ',seen'"),
        ("with_options{,count=1}", ParseError, "there is nothing before a comma in ',count=1'"),
    ],
)
def test_a_pipeline_that_does_not_parse(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Pipeline.parse(text)


def test_a_pass_is_named_after_its_class_and_frozen() -> None:
    assert WithOptions.name == "with_options"
    assert WithOptions() == WithOptions(1)
    assert WithOptions() != WithOptions(2)
    with pytest.raises(AttributeError):
        WithOptions().count = 3  # type: ignore[misc]


def test_what_is_no_pass_is_an_error_where_it_is_written() -> None:
    with pytest.raises(TypeError, match=r"WithOptions is a class; a pass is WithOptions\(\)"):
        migx.run_passes(program_of(CHOICE), [WithOptions])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"a text or a list of them, such as \[WithOptions\(\)\]"):
        migx.run_passes(program_of(CHOICE), WithOptions())  # type: ignore[arg-type]
    wrong: Any
    for wrong in (len, program_of(CHOICE), 3):
        with pytest.raises(TypeError, match="is no pass: give an instance of a subclass of Pass"):
            Pipeline.of([wrong])
    with pytest.raises(TypeError, match="is no pass"):
        check_pass(len)  # type: ignore[arg-type]
    for wrong, message in (
        (Verify(), r"observers are given in a list, such as \[Verify\(\)\]"),
        ([Verify], r"Verify is a class; an observer is Verify\(\)"),
        ([3], "3 is no observer: give an instance of a subclass of Observer"),
    ):
        with pytest.raises(TypeError, match=message):
            migx.run_passes(program_of(CHOICE), "", wrong)
    with pytest.raises(TypeError, match="passes run on a program, not on <Module main of"):
        migx.run_passes(program_of(CHOICE).main, "")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="applied to a module, such as program.main, not"):
        rewrite(program_of(CHOICE), RuleSet())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"<built-in function len> is no rule; @rule\(pattern\) "):
        RuleSet(len)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Loose\.rules is no RuleSet"):

        class Loose(Pass):
            """Has a list where a set of rules belongs."""

            rules = (1,)  # type: ignore[assignment]


class Quiet(Pass):
    """Changes something, and does not say so."""

    where: str = "neg"

    def apply(self, module: Module, manager: PassManager) -> bool:
        """Moves, replaces, or makes a module."""
        for at in list(module):
            if at.name == self.where:
                made = module.insert_instruction(at, ops.Relu(), *at.inputs)
                module.replace_instruction(at, made)
        return None  # type: ignore[return-value]

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        """Makes a module."""
        if self.where == "program":
            program.create_module("more")
        return False


def test_a_pass_that_denies_what_it_did_is_an_error() -> None:
    said = "pass quiet changed the program and said it did not: {} returns True"
    for where, method in (("neg", "apply"), ("program", "apply_program")):
        with pytest.raises(PassError, match=said.format(method)):
            migx.run_passes(program_of(CHOICE), [Quiet(where)])
    assert not migx.run_passes(program_of(CHOICE), [Quiet("nothing")])


class Odd(Pass):
    """Answers by what is neither yes nor no."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        """Gives the module back."""
        return module  # type: ignore[return-value]


def test_a_pass_says_yes_or_no() -> None:
    said = "pass odd: apply returns whether it changed anything, True or False, not <Module "
    with pytest.raises(PassError, match=said):
        migx.run_passes(program_of(CHOICE), [Odd()])


class Told(Pass):
    """Turns every neg into a relu, each by a change of its own."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        def make(at: Instruction) -> list[Instruction]:
            made = module.insert_instruction(at, ops.Relu(), *at.inputs)
            return [module.replace_instruction(at, made)]

        found = [at for at in module if at.name == "neg"]
        done = [manager.change(self, "relu", at, partial(make, at)) for at in found]
        return any(done)


@rule(on(ops.Neg, var("x")))
def relu_of(at: Cursor, x: Instruction, times: int = 1, unknown: int = 0) -> Instruction:
    """Another operation, as often as an option says."""
    for _ in range(times + unknown):
        x = at(ops.Relu(), x)
    return x


class Asking(Pass):
    """Its rule asks for an option."""

    rules = RuleSet(relu_of)
    times: int = 2


def test_rules_are_given_the_options_of_their_pass() -> None:
    for asking, count in ((Asking(), 2), (Asking(times=3), 3)):
        program = migx.parse("module main(x: f32[2]) { %0 = neg(x) return %0 }")
        assert migx.run_passes(program, [asking])
        assert [at.name for at in program.main].count("relu") == count
    program = migx.parse("module main(x: f32[2]) { %0 = neg(x) return %0 }")
    assert rewrite(program.main, relu_of)
    assert [at.name for at in program.main].count("relu") == 1


def test_a_change_without_a_rule_is_an_event_and_can_be_skipped() -> None:
    plain, made, log = program_of(CHOICE), program_of(CHOICE), EventLog()
    assert PassManager(plain).run([Told()])
    assert PassManager(made, log=log).run([Told()])
    assert made == plain != program_of(CHOICE)
    assert {(event.pass_name, event.rule) for event in log.events} == {("told", "relu")}
    assert all("neg" in event.before and "relu" in event.after for event in log.events)
    skipped = EventLog(skip=frozenset(event.key for event in log.events))
    assert not PassManager(made := program_of(CHOICE), log=skipped).run([Told()])
    assert made == program_of(CHOICE)
    assert not skipped.events


def put_relu(at: Instruction) -> list[Instruction]:
    made = at.owner.insert_instruction(at, ops.Relu(), *at.inputs)
    return [at.owner.replace_instruction(at, made)]


class Endless(Pass):
    """Takes what it has replaced for what is still to be replaced."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        """Replaces the first neg for as long as there is one."""
        while found := next((at for at in module if at.name == "neg"), None):
            manager.change(self, "relu", found, partial(put_relu, found))
        return True


def test_a_pass_that_does_not_end_is_an_error() -> None:
    said = r"pass endless makes changes forever, the last, relu, at\n  neg(.*\n)+  which has no"
    with pytest.raises(RewriteLoop, match=said):
        migx.run_passes(program_of(CHOICE), [Endless()])


@pytest.mark.parametrize("run", ["apply", "run_pass"])
def test_a_pass_may_be_applied_without_a_pipeline(run: str) -> None:
    class Once(Pass):
        def apply(self, module: Module, manager: PassManager) -> bool:
            at = next((at for at in module if at.name == "neg"), None)
            return at is not None and manager.change(self, "relu", at, partial(put_relu, at))

    program = program_of("module main(x: f32[2]) { %0 = neg(x) return %0 }")
    assert getattr(PassManager(program), run)(Once())
    assert [at.name for at in program.main] == ["@param", "relu", "@return"]


def test_the_revision_counts_every_change() -> None:
    program = program_of(CHOICE)
    main, seen = program.main, [program.revision]
    first, second = (main.add_literal(np.zeros(2, np.float32)) for _ in range(2))
    for change in (
        lambda: main.move_instruction(second, first),
        lambda: program.create_module("extra"),
        lambda: program.rename_module(program.modules["extra"], "other"),
        lambda: program.remove_module(program.modules["other"]),
        lambda: main.remove_instruction(second),
    ):
        change()
        seen.append(program.revision)
    assert len(set(seen)) == len(seen)


def test_submodules_come_first_and_each_module_once() -> None:
    program = program_of(CHOICE)
    shared = program.create_module("shared")
    shared.add_return(shared.add_literal(np.zeros(2, np.float32)))
    yes, c = program.modules["yes"], program.main.parameters["c"]
    yes.add_instruction(ops.If(), c, modules=[shared, shared])
    program.main.add_instruction(ops.If(), c, modules=[shared, shared])
    verify(program)
    assert not migx.run_passes(program, "seen,seen")
    assert SEEN == ["shared", "yes", "no", "main", "the program"] * 2


def test_modules_marked_bypass_are_left_alone() -> None:
    program = program_of(CHOICE)
    program.modules["yes"].bypass = True
    assert migx.run_passes(program, "neg_to_relu")
    assert [at.name for at in program.modules["yes"]] == ["neg", "@return"]
    assert "relu" in [at.name for at in program.main]
    program.main.bypass = True
    before = program.copy()
    assert not migx.run_passes(program, "neg_to_relu,dead_code_elimination")
    assert program == before


def test_dead_code_goes_after_a_change_and_only_then() -> None:
    program = program_of(CHOICE)
    dead = program.main.insert_instruction(list(program.main)[2], ops.Sin(), list(program.main)[1])
    assert not migx.run_passes(program, "seen")
    assert dead.module is program.main
    assert migx.run_passes(program, "neg_to_relu{only=main}")
    assert dead.module is None
    assert "neg" not in [at.name for at in program.main]
    assert not migx.run_passes(program, "neg_to_relu{only=main}")


def test_what_only_a_removed_module_read_goes_as_well() -> None:
    program = program_of(CHOICE)
    assert migx.run_passes(program, [DropChoices()])
    assert list(program.modules) == ["main"]
    assert [at.name for at in program.main] == ["@param", "@param", "neg", "@return"]
    verify(program)


def test_removing_a_choice_frees_what_it_read_at_once() -> None:
    program = program_of(CHOICE)
    main = program.main
    main.add_return(main.parameters["x"])
    assert remove_dead_code(main) == 4
    assert [at.name for at in main] == ["@param", "@param", "@return"]
    assert list(program.modules) == ["main"]


def test_a_pass_may_run_another() -> None:
    class Both(Pass):
        """Runs two passes as one."""

        def apply_program(self, program: Program, manager: PassManager) -> bool:
            return manager.run_pass(NegToRelu())

    program = program_of(CHOICE)
    assert migx.run_passes(program, [Both()])
    assert not migx.run_passes(program, [Both()])


def test_dead_code_elimination_is_idempotent_and_keeps_results() -> None:
    @given(programs())
    def check(program: Program) -> None:
        returned = [m.name for m in program.modules.values()]
        migx.run_passes(program, "dead_code_elimination", [Verify()])
        assert not migx.run_passes(program, "dead_code_elimination", [Verify()])
        assert set(program.modules) <= set(returned)
        for module in program.modules.values():
            for at in module:
                dead = not at.users and at.name not in ("@param", "@return")
                assert module.bypass or not dead

    check()


def test_modules_are_made_renamed_and_found() -> None:
    program = program_of(CHOICE)
    manager = PassManager(program)
    assert [manager.create_module("yes").name for _ in range(3)] == ["yes_1", "yes_2", "yes_3"]
    assert manager.create_module("new").name == "new"
    manager.rename_module(program.modules["new"], "newer")
    assert "new" not in program.modules
    assert program.modules["newer"].name == "newer"
    with pytest.raises(IRError, match="there is already a module 'yes'"):
        manager.rename_module(program.modules["newer"], "yes")
    assert str(migx.parse(CHOICE)) == CHOICE


def test_the_common_parent_of_a_shared_module() -> None:
    program = program_of(CHOICE)
    manager, main = PassManager(program), program.main
    yes, no, c = program.modules["yes"], program.modules["no"], main.parameters["c"]
    shared = program.create_module("shared")
    shared.add_return(shared.add_literal(1.0))
    with pytest.raises(IRError, match="module shared is not an argument of any instruction"):
        manager.common_parent(shared)
    yes.add_instruction(ops.If(), c, modules=[shared, shared])
    assert manager.common_parent(shared) is yes
    yes.add_instruction(ops.If(), c, modules=[shared, shared])
    assert manager.common_parent(shared) is yes
    no.add_instruction(ops.If(), c, modules=[shared, shared])
    assert manager.common_parent(shared) is main
    assert manager.common_parent(yes) is main


def test_effects_are_kept() -> None:
    class Shout:
        """A foreign operation that declares nothing."""

        name = "shout"

        def compute_shape(self, shapes: Any, modules: Any) -> Shape:
            return Shape(BOOL)

    program = program_of(CHOICE)
    main = program.main
    shout = main.add_instruction(Shout())
    inner = program.modules["yes"].add_instruction(Shout())
    migx.run_passes(program, "dead_code_elimination", [Verify()])
    assert shout.module is main
    # A choice nobody reads stays as long as something in it has an effect.
    main.add_return(main.parameters["x"])
    migx.run_passes(program, "dead_code_elimination")
    assert "if" in [at.name for at in main]
    program.modules["yes"].remove_instruction(inner)
    migx.run_passes(program, "dead_code_elimination")
    assert [at.name for at in main] == ["@param", "@param", "shout", "@return"]
