"""Passes, pipelines as text, the manager's order and cleaning, and what observers see and leave."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import migx
from migx import ops, plugins
from migx.dead_code import remove_dead_code
from migx.errors import IRError, MigxError, ParseError, PassError, UnknownName
from migx.ir import Instruction, Module
from migx.manager import Observer, Pass, PassManager, Pipeline, Step
from migx.observers import CrashFile, Print, Time, Verify, size
from migx.program import Program
from migx.rewrite import EventLog
from migx.shape import BOOL, F32, Shape
from migx.testing import check_pass
from migx.verify import verify
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


class NegToRelu(Pass):
    """Turns every neg into a relu, in a module whose name has ``only`` in it."""

    only: str = ""

    def apply(self, module: Module, manager: PassManager) -> bool:
        if self.only not in module.name:
            return False
        found = [at for at in module if at.name == "neg"]
        for at in found:
            new = module.insert_instruction(at, ops.Relu(), *at.inputs)
            module.replace_instruction(at, new)
        return bool(found)


class Seen(Pass):
    """Records the modules it is given, in order."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        SEEN.append(module.name)
        return False

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        SEEN.append("the program")
        return False


class Fail(Pass):
    """Fails where it meets an exp; ``broken`` leaves a program that does not verify instead."""

    broken: bool = False

    def apply(self, module: Module, manager: PassManager) -> bool:
        for at in module:
            if at.name == "exp" and not self.broken:
                raise ZeroDivisionError("there is an exp")
            if at.name == "exp":
                at.shape = Shape(F32, (7,))
        return self.broken


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


SEEN: list[str] = []
OURS = {p.name: p for p in (WithOptions, NegToRelu, Seen, Fail, DropChoices)}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The passes of this file are found by name, beside those there are."""
    load: Callable[[str, str], Any] = plugins.load
    monkeypatch.setattr(plugins, "load", lambda kind, name: OURS.get(name) or load(kind, name))
    SEEN.clear()


def program_of(text: str) -> Program:
    program = migx.parse(text)
    verify(program)
    return program


CHOICE = """module main(c: bool[], x: f32[2]) {
  %0 = exp(x) : f32[2]
  %1 = neg(x) : f32[2]
  %2 = if(c) [yes, no] : tuple(f32[2])
  %3 = get_tuple_elem(%2) : f32[2]
  return %3, %1
}

module yes() {
  %0 = neg(main:%0) : f32[2]
  return %0
}

module no() {
  return main:x
}
"""


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
            r"no pass(es)? named 'dead_code'; near it: dead_code_elimination",
        ),
        ("seen{depth=1}", ParseError, "pass seen has no option 'depth=1'; its options are none"),
        ("fail{broke=true}", ParseError, "pass fail has no option 'broke=true'; .* broken: bool"),
        ("fail{broken}", ParseError, "pass fail has no option 'broken'; its options are broken"),
        ("fail{broken=1}", ParseError, "pass fail: broken is bool, not 1"),
        ("with_options{count=many}", ParseError, "pass with_options: count is int, not many"),
        ("with_options{count=true}", ParseError, "pass with_options: count is int, not true"),
        ("with_options{sizes=(1,b)}", ParseError, "sizes is tuple"),
        ("seen}", ParseError, "expected a pass such as name or name{option=value}, found 'seen}'"),
        ("seen{", ParseError, "found 'seen{'"),
        ("seen fail", ParseError, "found 'seen fail'"),
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


class Told(Pass):
    """Turns every neg into a relu, each by a change of its own."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        def make(at: Instruction) -> list[Instruction]:
            made = module.insert_instruction(at, ops.Relu(), *at.inputs)
            return [module.replace_instruction(at, made)]

        found = [at for at in module if at.name == "neg"]
        done = [manager.change(self, "relu", at, partial(make, at)) for at in found]
        return any(done)


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
    with pytest.raises(IRError, match="module shared is nobody's argument"):
        manager.common_parent(shared)
    yes.add_instruction(ops.If(), c, modules=[shared, shared])
    assert manager.common_parent(shared) is yes
    yes.add_instruction(ops.If(), c, modules=[shared, shared])
    assert manager.common_parent(shared) is yes
    no.add_instruction(ops.If(), c, modules=[shared, shared])
    assert manager.common_parent(shared) is main
    assert manager.common_parent(yes) is main


def test_observers_see_each_pass_come_and_go() -> None:
    told: list[Any] = []

    class Record(Observer):
        """Keeps all it is told."""

        def started(self, program: Program, pipeline: Pipeline) -> None:
            told.append(("started", str(pipeline)))

        def before(self, step: Step) -> None:
            told.append(("before", step.of.name, step.index))

        def after(self, step: Step, changed: bool, seconds: float) -> None:
            assert seconds >= 0
            told.append(("after", step.of.name, changed))

        def failed(self, step: Step, error: Exception) -> None:
            told.append(("failed", step.of.name, type(error)))

    program = program_of(CHOICE)
    with pytest.raises(ZeroDivisionError) as caught:
        migx.run_passes(program, "neg_to_relu,fail,seen", [Record()])
    assert told == [
        ("started", "neg_to_relu,fail,seen"),
        ("before", "neg_to_relu", 0),
        ("after", "neg_to_relu", True),
        ("before", "fail", 1),
        ("failed", "fail", ZeroDivisionError),
    ]
    assert caught.value.__notes__ == ["in pass fail, number 2 of neg_to_relu,fail,seen"]
    assert SEEN == []


def test_print_time_and_verify() -> None:
    program, out, timed = program_of(CHOICE), io.StringIO(), Time()
    migx.run_passes(program, "seen,neg_to_relu", [Print(out), timed])
    assert out.getvalue() == f"# after neg_to_relu\n{program}\n"
    before, after = 10, size(program)
    assert [(name, a, b) for name, _, a, b in timed.rows] == [
        ("seen", before, before),
        ("neg_to_relu", before, after),
    ]
    every = io.StringIO()
    migx.run_passes(program, "seen,neg_to_relu", [Print(every, on_change=False)])
    assert every.getvalue().count("# after") == 2
    with pytest.raises(PassError, match=r"(?s)pass fail\{broken=true\} left .*\nshapes: in module"):
        migx.run_passes(program, "fail{broken=true}", [Verify()])


def reproduced(crash: CrashFile, error: type[Exception]) -> tuple[str, Program]:
    """The pass and the program of a crash file, which must fail again in the same way."""
    assert crash.file is not None
    head, _, rest = crash.file.read_text("utf-8").partition("\n")
    passes = head.removeprefix("# passes: ")
    program = migx.parse(rest, folder=crash.file.parent)
    verify(program)
    with pytest.raises(error):
        migx.run_passes(program.copy(), passes, [Verify()])
    return passes, program


@pytest.mark.parametrize("observed", [False, True])
def test_a_failing_pass_leaves_a_file_that_reproduces_it(tmp_path: Path, observed: bool) -> None:
    program = program_of(CHOICE)
    weight = np.arange(40, dtype=np.float32).reshape(20, 2)
    literal = program.main.add_literal(weight, name="w")
    returned = program.main.returned
    assert returned is not None
    program.main.add_return(*returned.inputs, literal)
    next(iter(reversed(program.main))).origins = ("node",)
    crash = CrashFile(tmp_path / "new")
    error = PassError if observed else ZeroDivisionError
    text = f"neg_to_relu,fail{{broken={str(observed).lower()}}},seen"
    with pytest.raises(error) as caught:
        migx.run_passes(program, text, [*([Verify()] if observed else []), crash])
    passes, found = reproduced(crash, error)
    assert passes == ("fail{broken=true}" if observed else "fail")
    # The program is the one just before the pass that failed, with its weights.
    before = program_of(CHOICE)
    before.main.add_return(*before.main.outputs, before.main.add_literal(weight, name="w"))
    migx.run_passes(before, "neg_to_relu")
    assert found == before
    assert found.compile("ref", passes="").eval({"c": True, "x": np.zeros(2, np.float32)})[2].any()
    assert any(str(crash.file) in note for note in caught.value.__notes__)


def test_the_crash_file_is_a_case_of_our_own_tests(tmp_path: Path) -> None:
    from tests.conftest import cases

    crash = CrashFile(tmp_path)
    with pytest.raises(ZeroDivisionError):
        migx.run_passes(program_of(CHOICE), "fail", [crash])
    assert crash.file is not None
    ((_, passes, text),) = cases(crash.file.read_text("utf-8"))
    assert passes == "fail"
    assert migx.parse(text) == program_of(CHOICE)


def test_compiling_says_where_the_crash_file_is() -> None:
    program = program_of(CHOICE)
    before = program.copy()
    with pytest.raises(ZeroDivisionError) as caught:
        program.compile("ref", passes="fail")
    (note,) = (n for n in caught.value.__notes__ if "reproduce" in n)
    found = re.search(r"\S+\.migx", note)
    assert found is not None
    Path(found[0]).unlink()
    Path(found[0]).with_suffix(".bin").unlink(missing_ok=True)
    assert program == before
    with pytest.raises(MigxError, match="not compiled"):
        program.eval({})


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
