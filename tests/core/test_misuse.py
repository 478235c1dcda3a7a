"""What is given wrongly in Python is refused by a typed error that says what would be right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import migx
from migx.argument import Argument
from migx.dim import Dim
from migx.errors import DataError, DimError, MigxError, OnnxError, ParseError, TargetError
from migx.manager import Pass, Pipeline
from migx.program import Program
from migx.specialise import bound
from migx.target import NO_SLOTS, Asked, CompileOptions, Context, Target, get_target
from migx.testing.small import save_model
from migx.view import report

TEXT = "dim batch = 1..64\nmodule main(x: f32[batch, 2]) {\n  %0 = relu(x)\n  return %0\n}\n"


def refused(
    error: type[MigxError], message: str, call: Callable[..., object], *given: Any, **options: Any
) -> None:
    with pytest.raises(error, match=message):
        call(*given, **options)


def test_targets_and_options() -> None:
    program: Any = migx.parse(TEXT)
    for wrong in (None, 3):
        refused(TargetError, f"{wrong} is no target: give one, or its name", program.compile, wrong)
    refused(TargetError, r"\[Pass\(\)\] is no target", report, program, [Pass()])
    for threads in ("two", 10**9, 0, 2.0):
        message = f"num_threads is {threads!r}; it must be a number of 1 to 1024"
        refused(TargetError, message, program.compile, "ref", num_threads=threads)
    with pytest.raises(TypeError, match="inplace"):
        program.compile("ref").update_weights(inplace=True)


def test_the_keywords_of_compile_are_its_options() -> None:
    options = get_type_hints(CompileOptions)
    assert {field.name: options[field.name] for field in fields(CompileOptions)} == get_type_hints(
        Asked
    )


def test_sizes_texts_and_dims(tmp_path: Path) -> None:
    program, model = migx.parse(TEXT), tmp_path / "model.onnx"
    refused(DimError, "dim batch is a number, not '2'", bound, program, {"batch": "2"})
    for name in ("", 3, None):
        refused(DimError, f"a dim's name is text, such as 'batch', not {name!r}", Dim, name)
    refused(ParseError, "a program's text is a str, not bytes", migx.parse, TEXT.encode())
    save_model(model)
    message = r"input_dims gives x 8, not a list of dims such as \[1, 8\]"
    refused(OnnxError, message, migx.parse_onnx, model, {"x": 8})


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    program, nowhere = migx.parse(TEXT), tmp_path / "no" / "such"
    for call, path in (
        (migx.save, nowhere / "x.mxr"),
        (migx.save, tmp_path),
        (migx.onnx.write, nowhere / "x.onnx"),
    ):
        refused(DataError, f"^cannot write {path}: (No such|Is a)", call, program, path)
    message = r"save\(program, path\) was given 'x.mxr' as the program"
    refused(DataError, message, migx.save, "x.mxr", program)
    assert not list(tmp_path.iterdir())


class Bare(Target):
    """A target whose executable has what it must have, and no more."""

    def get_passes(self, context: Context, options: CompileOptions) -> Pipeline:
        return Pipeline()

    def make_executable(self, program: Program, context: Context) -> BareExecutable:
        return BareExecutable(program, context)


class BareExecutable:
    """Runs as ``ref`` does."""

    def __init__(self, program: Program, context: Context) -> None:
        self.inner = get_target("ref").make_executable(program, context)

    def run(
        self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument] = NO_SLOTS
    ) -> list[Argument]:
        return self.inner.run(arguments, slots)


def test_an_executable_needs_nothing_but_run() -> None:
    program = migx.parse(TEXT).compile(Bare())
    assert program.compiled.fallbacks() == []
    assert program.eval({"x": np.array([[-1, 2]], np.float32)})[0].tolist() == [[0, 2]]
