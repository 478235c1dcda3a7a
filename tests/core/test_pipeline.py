"""Groups of passes: as text, as values, how often they run, and what is known of each round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import migx
from migx import ops
from migx.errors import ParseError, PassError
from migx.events import EventLog
from migx.ir import Module
from migx.manager import Fixpoint, Observer, Pass, PassManager, Pipeline, Step, enable_if
from migx.match import on, var
from migx.observers import CrashFile, Time, Verify
from migx.op import Operation
from migx.program import Program
from migx.rewrite import RuleSet, rule
from migx.shape import F32, Shape
from migx.target import get_target, passes_for


@rule(on(ops.Neg, on(ops.Neg, var("x"))))
def cancel(x: migx.Instruction) -> migx.Instruction:
    """-(-x) is x."""
    return x


class Cancel(Pass):
    """Cancels pairs of neg."""

    rules = RuleSet(cancel)


class Peel(Pass):
    """Turns the last exp into two neg, one in each run; fails when it meets what it should not."""

    count: int = 1
    fail_at: int = -1

    def apply(self, module: Module, manager: PassManager) -> bool:
        found = [at for at in module if at.name == "exp"]
        if len(found) == self.fail_at:
            raise ZeroDivisionError("peeled too much")
        for at in found[::-1][: self.count]:
            first = module.insert_instruction(at, ops.Neg(), *at.inputs)
            module.replace_instruction(at, module.insert_instruction(at, ops.Neg(), first))
        return bool(found[: self.count])


class Both(Pass):
    """Stands for a group with an option of its own."""

    rounds: int = 2

    def pipeline(self) -> Pipeline:
        return Pipeline((Fixpoint(Pipeline((Peel(), Cancel())), max=self.rounds),))


@pytest.fixture(autouse=True)
def known(found_by_name: Callable[..., None]) -> None:
    """The passes of this file are found by name."""
    found_by_name(Cancel, Peel, Both)


def chain(length: int, between: Operation | None = None) -> Program:
    """A chain of exp, and of something between them."""
    program = Program()
    at = program.main.add_parameter("x", Shape(F32, (2,)))
    for _ in range(length):
        at = program.main.add_instruction(ops.Exp(), at)
        at = at if between is None else program.main.add_instruction(between, at)
    program.main.add_return(at)
    return program


def left(program: Program) -> list[str]:
    return [at.name for at in program.main if at.name not in ("@param", "@return")]


@pytest.mark.parametrize(
    ("text", "steps", "printed"),
    [
        ("fixpoint(cancel)", (Fixpoint(Pipeline((Cancel(),))),), "fixpoint(cancel)"),
        (
            " fixpoint { max = 4 } ( cancel , peel{count=2} ) , cancel ",
            (Fixpoint(Pipeline((Cancel(), Peel(2))), max=4), Cancel()),
            "fixpoint{max=4}(cancel,peel{count=2}),cancel",
        ),
        (
            "fixpoint{max=2,strict=true}(fixpoint{max=3}(peel{count=2}),both{rounds=1})",
            (
                Fixpoint(
                    Pipeline((Fixpoint(Pipeline((Peel(2),)), max=3), Both(1))), max=2, strict=True
                ),
            ),
            "fixpoint{max=2,strict=true}(fixpoint{max=3}(peel{count=2}),both{rounds=1})",
        ),
        ("fixpoint()", (Fixpoint(Pipeline()),), "fixpoint()"),
    ],
)
def test_groups_as_text(text: str, steps: tuple[Any, ...], printed: str) -> None:
    pipeline = Pipeline.parse(text)
    assert pipeline == Pipeline(steps)
    assert str(pipeline) == printed
    assert Pipeline.parse(printed) == pipeline


passes = st.builds(Peel, count=st.integers(), fail_at=st.integers()) | st.builds(Cancel)
pipelines = st.recursive(
    st.lists(passes, max_size=3).map(lambda steps: Pipeline(tuple(steps))),
    lambda inner: st.builds(
        lambda group, rounds, strict, steps: Pipeline((Fixpoint(group, rounds, strict), *steps)),
        inner,
        st.integers(1, 5),
        st.booleans(),
        st.lists(passes, max_size=2),
    ),
)


@given(pipelines)
def test_any_pipeline_parses_back(pipeline: Pipeline) -> None:
    assert Pipeline.parse(str(pipeline)) == pipeline


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cancel(peel)", r"only fixpoint holds passes in parentheses, found 'cancel\(peel\)'"),
        ("fixpoint{rounds=3}(peel)", "fixpoint has no option 'rounds=3'; its options are max: int"),
        ("fixpoint{steps=3}(peel)", "fixpoint has no option 'steps=3'"),
        ("fixpoint{max=0}(peel)", "max is at least 1, not 0"),
        ("fixpoint{max=true}(peel)", "fixpoint: max is int, not true"),
        ("fixpoint(peel", r"expected a pass .* found 'fixpoint\(peel'"),
        ("fixpoint(peel))", "expected a pass"),
        ("fixpoint(" * 1000 + "peel" + ")" * 1000, "nested too deeply to be read"),
        ("quantize_int4", "pass quantize_int4 needs the option block: int"),
    ],
)
def test_what_does_not_parse(text: str, message: str) -> None:
    with pytest.raises(ParseError, match=message):
        Pipeline.parse(text)


def test_lists_of_targets() -> None:
    def passes(fast: bool) -> Pipeline:
        return Pipeline.of(
            [
                "cancel,peel",
                enable_if(fast, Peel(3), "cancel"),
                enable_if(not fast, Fixpoint(Pipeline.of("peel"))),
                Cancel(),
            ]
        )

    assert str(passes(True)) == "cancel,peel,peel{count=3},cancel,cancel"
    assert str(passes(False)) == "cancel,peel,fixpoint(peel),cancel"


class Record(Observer):
    """Keeps what ran where, and what it changed."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def after(self, step: Step, changed: bool, seconds: float) -> None:
        assert step.index == len(self.seen)
        self.seen.append(f"{step.place}:{step.of.name}{'!' if changed else ''}")


def test_a_group_runs_until_a_round_changes_nothing() -> None:
    program, record, timed = chain(2), Record(), Time()
    assert migx.run_passes(program, "cancel,fixpoint(peel,cancel)", [record, timed])
    rounds = ["1.0:peel!", "1.1:cancel!"] * 2 + ["1.0:peel", "1.1:cancel"]
    assert record.seen == ["0:cancel", *rounds]
    assert len(timed.rows) == 7
    assert left(program) == []
    assert not migx.run_passes(program, "fixpoint(peel,cancel)")


def test_a_group_runs_no_more_than_its_most() -> None:
    program, record = chain(3), Record()
    assert migx.run_passes(program, "fixpoint{max=2}(peel,cancel)", [record])
    assert left(program) == ["exp"]
    assert len(record.seen) == 4
    strict = "fixpoint{max=2,strict=true}(peel,cancel)"
    with pytest.raises(PassError, match=r"fixpoint\{max=2,strict=true\}\(peel,cancel\) still"):
        migx.run_passes(chain(3), strict)
    assert migx.run_passes(chain(1), strict)


def test_groups_nest() -> None:
    program, record = chain(2), Record()
    migx.run_passes(program, "fixpoint(fixpoint{max=1}(peel),cancel)", [record])
    assert record.seen == ["0.0.0:peel!", "0.1:cancel!"] * 2 + ["0.0.0:peel", "0.1:cancel"]


def test_a_pass_may_stand_for_a_group() -> None:
    program, record = chain(3), Record()
    migx.run_passes(program, "both{rounds=2},both", [record])
    assert record.seen[:2] == ["0.0.0:peel!", "0.0.1:cancel!"]
    assert record.seen[4:] == ["1.0.0:peel!", "1.0.1:cancel!", "1.0.0:peel", "1.0.1:cancel"]
    assert left(program) == []

    class Around(Pass):
        """Runs it from inside."""

        def apply_program(self, program: Program, manager: PassManager) -> bool:
            return manager.run_pass(Both(rounds=5))

    whole = chain(3)
    assert migx.run_passes(whole, [Around()])
    assert left(whole) == []


def test_stopping_after_some_counts_each_round() -> None:
    for count, exps in enumerate([4, 3, 3, 2, 2]):
        program, record = chain(4), Record()
        PassManager(program, [record]).run("fixpoint(peel,cancel)", stop_after=count)
        assert left(program).count("exp") == exps
        assert len(record.seen) == count


@pytest.mark.parametrize("whole", ["fixpoint(peel{fail_at=2},cancel)", "both"])
def test_the_file_of_a_crash_is_of_the_round_that_failed(
    tmp_path: Path, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Pipeline((Fixpoint(Pipeline((Peel(fail_at=2), Cancel()))),))
    monkeypatch.setattr(Both, "pipeline", lambda self: failing)
    crash, program = CrashFile(tmp_path), chain(4)
    with pytest.raises(ZeroDivisionError) as caught:
        migx.run_passes(program, whole, [Verify(), crash])
    assert caught.value.__notes__[1] == f"in pass peel{{fail_at=2}}, number 5 of {whole}"
    assert crash.file is not None
    head, _, rest = crash.file.read_text("utf-8").partition("\n")
    assert head == "# passes: peel{fail_at=2}"
    assert migx.parse(rest) == chain(2)
    with pytest.raises(ZeroDivisionError):
        migx.run_passes(migx.parse(rest), "peel{fail_at=2}")


def test_what_is_skipped_stays_so_in_each_round_and_in_the_file_of_a_crash(tmp_path: Path) -> None:
    def ran(skip: frozenset[str], fail_at: int = -1) -> tuple[EventLog, Program, CrashFile]:
        log, program, crash = EventLog(skip), chain(2, ops.Relu()), CrashFile(tmp_path)
        manager = PassManager(program, [crash], log)
        pipeline = Pipeline((Fixpoint(Pipeline((Peel(fail_at=fail_at), Cancel()))),))
        try:
            manager.run(pipeline)
        except ZeroDivisionError:
            assert fail_at >= 0
        return log, program, crash

    log, program, _ = ran(frozenset())
    keys = [event.key for event in log.events if event.rule]
    assert left(program) == ["relu"] * 2
    skipped, kept, _ = ran(frozenset(keys))
    assert not any(event.rule for event in skipped.events)
    assert left(kept) == ["neg", "neg", "relu"] * 2
    failed = ran(frozenset(keys), fail_at=0)[2]
    assert failed.file is not None
    assert migx.parse(failed.file.read_text("utf-8").partition("\n")[2]) == kept


def test_the_name_of_a_target_stands_for_its_passes() -> None:
    """Unless a pass has that name; the passes are those that the target lists by itself."""
    listed = passes_for(get_target("cpu"))
    assert Pipeline.parse("rewrite_gelu, cpu") == Pipeline.of(["rewrite_gelu", listed])
    assert Pipeline.parse("fixpoint(cpu)").steps == (Fixpoint(listed),)
    with pytest.raises(ParseError, match="target cpu has no option 'x=1'; it has none"):
        Pipeline.parse("cpu{x=1}")
