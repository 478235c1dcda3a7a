"""What observers see of passes that run, and the files they leave of those that fail."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import migx
from migx.debug.case import passes_in
from migx.errors import MigxError, PassError
from migx.manager import Observer, Pipeline, Step
from migx.observers import CrashFile, Print, Time, Verify
from migx.program import Program
from migx.verify import verify
from tests.core.choice import CHOICE, Fail, NegToRelu, Seen, program_of


@pytest.fixture(autouse=True)
def known(found_by_name: Callable[..., None]) -> None:
    """The passes of these tests are found by name."""
    found_by_name(NegToRelu, Seen, Fail)


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


def test_print_time_and_verify() -> None:
    program, out, timed = program_of(CHOICE), io.StringIO(), Time()
    migx.run_passes(program, "seen,neg_to_relu", [Print(out), timed])
    assert out.getvalue() == f"# after neg_to_relu\n{program}\n"
    before, after = 10, program.size
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
    text = crash.file.read_text("utf-8")
    passes, program = passes_in(text), migx.parse(text, folder=crash.file.parent)
    assert passes is not None
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
    from migx.testing.cases import cases

    crash = CrashFile(tmp_path)
    with pytest.raises(ZeroDivisionError):
        migx.run_passes(program_of(CHOICE), "fail", [crash])
    assert crash.file is not None
    ((_, passes, text, *_),) = cases(crash.file.read_text("utf-8"))
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
    assert program == before
    with pytest.raises(MigxError, match="not compiled"):
        program.eval({})


def test_the_error_of_a_pass_is_raised_where_no_file_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("no folder")
    crash = CrashFile(tmp_path / "taken")
    with pytest.raises(ZeroDivisionError) as caught:
        migx.run_passes(program_of(CHOICE), "fail", [crash])
    assert crash.file is None
    assert any("could not be written" in note for note in caught.value.__notes__)
