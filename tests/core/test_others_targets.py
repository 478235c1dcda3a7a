"""A target of somebody else's that is nearly right: what it does is told of, and that it was it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import migx
from migx import ops, plugins
from migx.argument import Argument
from migx.errors import DataWarning, FieldError, TargetError
from migx.ir import Instruction
from migx.program import Program
from migx.shape import Shape
from migx.target import Context, get_target
from migx.view import report
from tests.core.test_misuse import TEXT, Bare, Careless, Given, refused, running


class Handle:
    """Stands for what lies somewhere else."""


class Handing(Given):
    """Puts weights somewhere else, and says so in a way that nobody knows."""

    def copy_to(self, argument: Argument) -> Argument:
        return Argument(argument.shape, Handle())


def test_a_value_that_the_host_cannot_read() -> None:
    held = [Argument(Shape("f32", (1, 2)), Handle())]
    program = migx.parse(TEXT).compile(running(lambda arguments, slots: held))
    message = r"target given: run returns a f32\[1, 2\] that holds a Handle, .* elsewhere = True"
    refused(TargetError, message, program.eval, {"x": np.zeros((1, 2), np.float32)})
    deferred = migx.parse(TEXT)
    w = deferred.main.add_literal(np.ones((2, 2), np.float32), name="w", replaceable=True)
    x = deferred.main.parameters["x"]
    deferred.main.add_return(deferred.main.add_instruction(ops.Dot(), x, w))
    message = r"target handing: copy_to returns a f32\[2, 2\] that holds a Handle"
    made = running(lambda arguments, slots: []).made
    refused(TargetError, message, deferred.compile, Handing(made))


class Unready(Careless):
    """Cannot be made ready."""

    def finalize(self, context: Context) -> None:
        raise ZeroDivisionError("its compiler fails")


class Unsure(Given):
    """Cannot say what it supports."""

    def supports(self, instruction: Instruction) -> bool:
        raise ZeroDivisionError(instruction.name)


def test_what_raises_in_a_target_is_told_of() -> None:
    program = migx.parse(TEXT)
    x = program.main.parameters["x"]
    program.main.add_return(program.main.add_instruction(Unready(), x))
    made = running(lambda arguments, slots: []).made
    with pytest.raises(ZeroDivisionError) as failed:
        program.compile(Given(made))
    note = "raised by finalize, for target given, of\n  unready(x)"
    assert failed.value.__notes__[-1].startswith(note)
    unsure = migx.parse(TEXT).compile(Unsure(made)).compiled
    with pytest.raises(ZeroDivisionError) as failed:
        unsure.fallbacks()
    assert failed.value.__notes__[-1].startswith("raised by supports of target unsure, asked of")


class Packing(Given):
    """Wants weights in a format of no name."""

    def preferred_weight_format(self, instruction: Instruction, index: int) -> Any:
        return 5


def test_a_format_that_is_no_text_is_a_target_s_mistake() -> None:
    program = migx.parse(TEXT)
    w = program.main.add_literal(np.ones((2, 2), np.float32))
    x = program.main.parameters["x"]
    program.main.add_return(program.main.add_instruction(ops.Dot(), x, w))
    message = r"(?s)target packing wants input 1 packed, .*pack_weight: format is str, not 5.*dot"
    refused(TargetError, message, program.compile, Packing(object()))


class Bereft(Given):
    """Has no context."""

    def get_context(self) -> Any:
        return None


class Made(Bare):
    """Is made by its own ``__init__``, not by options."""

    def __init__(self, executable: object) -> None:
        object.__setattr__(self, "executable", executable)

    def make_executable(self, program: Program, context: Context) -> Any:
        return self.executable  # type: ignore[attr-defined]


def test_a_target_that_its_options_do_not_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = migx.parse(TEXT).compile(Made(running(lambda arguments, slots: []).made))
    monkeypatch.setattr(plugins, "load", lambda kind, name: Made)
    with pytest.warns(DataWarning, match="its options cannot be read back"):
        migx.save(program, tmp_path / "a.mxr")
    refused(FieldError, "target made is not made by its options alone: ", get_target, "made")


def test_a_target_without_a_context() -> None:
    message = "target bereft: get_context returns a Context, not None"
    refused(TargetError, message, migx.parse(TEXT).compile, Bereft(object()))
    refused(TargetError, message, report, migx.parse(TEXT), Bereft(object()))


@pytest.mark.parametrize("original", [True, False])
def test_a_target_that_its_name_does_not_find(
    original: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = running(lambda arguments, slots: []).made
    program = migx.parse(TEXT).compile(Given(made))
    with pytest.warns(DataWarning, match=r"test_misuse.Given is .* 'given', .* is not found: no"):
        migx.save(program, tmp_path / "a.mxr", original=original)
    message = "for target 'given', which is not here"
    refused(TargetError, message, migx.load, tmp_path / "a.mxr")
    assert migx.load(tmp_path / "a.mxr", compiled=False) == program
    monkeypatch.setattr(plugins, "load", lambda kind, name: Given)
    with pytest.warns(DataWarning, match=r"'given' alone: its options cannot .* given\{made="):
        migx.save(program, tmp_path / "c.mxr")
    monkeypatch.undo()
    mine = type("Cpu", (Given,), {})
    with pytest.warns(DataWarning, match=r"'cpu', which stands for migx.targets.cpu.Cpu"):
        migx.save(migx.parse(TEXT).compile(mine(made)), tmp_path / "b.mxr")


def test_a_program_whose_operations_are_in_no_package(tmp_path: Path) -> None:
    program = migx.parse(TEXT)
    program.main.replace_operation(program.named("relu")[0], Careless())
    with pytest.warns(DataWarning, match="saved, but cannot be loaded: 'careless' would not be"):
        migx.save(program, tmp_path / "a.mxr")
