"""What is given wrongly in Python is refused by a typed error that says what would be right."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from inspect import getmembers
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import migx
from migx import ops
from migx.argument import Argument
from migx.debug.compared import compared
from migx.debug.whynot import why_not
from migx.dim import Dim
from migx.errors import (
    AbsentError,
    DataError,
    DimError,
    EvaluationError,
    FieldError,
    InputError,
    IRError,
    MigxError,
    OnnxError,
    ParseError,
    ShapeError,
    TargetError,
    UnknownName,
)
from migx.manager import Pass, Pipeline
from migx.match import find, on
from migx.observers import Time
from migx.op import Modules, Op, Shapes
from migx.passes.dead_code_elimination import DeadCodeElimination
from migx.program import Program
from migx.shape import Shape
from migx.specialise import bound
from migx.target import NO_SLOTS, Asked, CompileOptions, Context, Target, get_target, passes_for
from migx.testing import check_target
from migx.testing.small import save_model
from migx.view import report

TEXT = "dim batch = 1..64\nmodule main(x: f32[batch, 2]) {\n  %0 = relu(x)\n  return %0\n}\n"


def refused(
    error: type[MigxError], message: str, call: Callable[..., object], *given: Any, **options: Any
) -> None:
    with pytest.raises(error, match=message):
        call(*given, **options)


def test_what_has_no_value_is_no_attribute() -> None:
    """For hasattr, inspect and completion in editors."""
    program = migx.parse(TEXT)
    removed = program.main.add_instruction(ops.Exp(), program.main.parameters["x"])
    program.main.remove_instruction(removed)
    assert not hasattr(program, "compiled")
    assert not hasattr(removed, "owner")
    program.compile("ref")
    assert program.executable is dict(getmembers(program.compiled))["executable"]
    program.main.add_instruction(ops.Exp(), program.main.parameters["x"])
    assert not {"compiled", "executable"} & dict(getmembers(program)).keys()
    with pytest.raises(AbsentError, match="changed since it was compiled"):
        _ = program.executable


def test_targets_and_options() -> None:
    program: Any = migx.parse(TEXT)
    for wrong in (None, 3):
        refused(TargetError, f"{wrong} is no target: give one, or its name", program.compile, wrong)
    refused(TargetError, r"\[Pass\(\)\] is no target", report, program, [Pass()])
    for threads in ("two", 10**9, 0, 2.0):
        message = f"num_threads is {threads!r}; it must be a whole number from 1 to 1024"
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
    message = r"input_dims has the dims of inputs by their names, such as {'x': .*, not \[1\]"
    refused(OnnxError, message, migx.parse_onnx, model, [1])
    refused(OnnxError, "takes a path, a ModelProto or its bytes, not 123", migx.parse_onnx, 123)
    for wrong, like in ((3, "'optimize_module'"), (Pass, r"Pass\(\)")):
        message = rf"passes are a text or a list of them, such as \[{like}\], not"
        refused(FieldError, message, program.compile, passes=wrong)


def test_outputs_larger_than_memory() -> None:
    text = "module main(x: f32[1]) {\n  %0 = multibroadcast(x) {out_lens=(N,)}\n  return %0\n}"
    program = migx.parse(text.replace("N", str(1 << 50))).compile("ref")
    message = "there is no memory for the outputs: .*4.00 PiB"
    refused(EvaluationError, message, program.eval, {"x": np.ones(1, np.float32)})


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
    assert program.compiled.target.name == "bare"
    assert program.eval({"x": np.array([[-1, 2]], np.float32)})[0].tolist() == [[0, 2]]


class Slow(Bare):
    """A target that makes no executable before it may."""

    begun: threading.Event
    may: threading.Event

    def make_executable(self, program: Program, context: Context) -> BareExecutable:
        self.begun.set()
        assert self.may.wait(60)
        return super().make_executable(program, context)


def test_compiling_one_program_waits_for_no_other() -> None:
    slow = Slow(threading.Event(), threading.Event())
    with ThreadPoolExecutor(1) as other:
        slowly = other.submit(migx.parse(TEXT).compile, slow)
        assert slow.begun.wait(60)
        program = migx.parse(TEXT).compile("ref")
        assert not slowly.done()
        slow.may.set()
        assert slowly.result().eval({"x": np.array([[-1, 2]], np.float32)})[0].tolist() == [[0, 2]]
    assert program.eval({"x": np.array([[-1, 2]], np.float32)})[0].tolist() == [[0, 2]]


class Listing(Bare):
    """A target that lists its passes in some form."""

    listed: str = "text"

    def get_passes(self, context: Context, options: CompileOptions) -> Any:
        forms = {"text": "simplify_algebra", "list": ["simplify_algebra"], "none": None}
        return forms[self.listed]


@pytest.mark.parametrize("form", ["text", "list"])
def test_a_target_lists_its_passes_as_pipelines_are_written(form: str) -> None:
    target = Listing(form)
    assert str(passes_for(target)) == "simplify_algebra"
    program = migx.parse(TEXT).compile(target)
    assert program.eval({"x": np.array([[-1, 2]], np.float32)})[0].tolist() == [[0, 2]]
    check_target(target, programs=2)
    message = (
        "target listing: get_passes gives a pipeline, its text or a list: passes are a text or a "
        "list of them"
    )
    refused(TargetError, message, migx.parse(TEXT).compile, Listing("none"))


class Given(Bare):
    """A target whose executable is what a test says."""

    made: Any = None

    def make_executable(self, program: Program, context: Context) -> Any:
        return self.made


def running(run: Any, save_code: Any = None) -> Given:
    more = {} if save_code is None else {"save_code": staticmethod(save_code)}
    return Given(type("Made", (), {"run": staticmethod(run)} | more)())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (object(), "not object: 'object' object has no attribute 'run'"),
        (running(lambda arguments: []).made, "not Made: too many positional arguments"),
    ],
)
def test_an_executable_without_what_a_run_needs(wrong: Any, said: str) -> None:
    message = (
        f"target given: make_executable must return an object with run.arguments, slots., {said}"
    )
    refused(TargetError, message, migx.parse(TEXT).compile, Given(wrong))


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (None, "NoneType"),
        ([], "none"),
        (Argument.of([[0.0, 0.0]]), r"f32\[1, 2\]"),
        ([np.zeros((1, 2), np.float32)], "ndarray"),
        ([Argument.of([[0, 0]])], r"i64\[1, 2\]"),
        ([Argument.of([[0.0, 0.0]])] * 2, r"f32\[1, 2\], f32\[1, 2\]"),
        ([Argument.of([[0.0, 0.0, 0.0]])], r"f32\[1, 3\]"),  # in debug, as tests are run
        ([Argument.of([[0.0, 0.0], [0.0, 0.0]])], r"f32\[2, 2\]"),
    ],
)
def test_an_executable_that_gives_something_else(results: Any, said: str) -> None:
    program = migx.parse(TEXT).compile(running(lambda arguments, slots: results))
    message = (
        "target given: run must return a list with an Argument for each output, "
        rf"f32\[1, 2\], not {said}$"
    )
    refused(TargetError, message, program.eval, {"x": np.zeros((1, 2), np.float32)})


@pytest.mark.parametrize(
    ("code", "said"), [({"a": "text"}, "bytes, not str as 'a'"), (b"code", "a dict, not bytes")]
)
def test_code_to_be_saved_that_is_no_bytes(code: Any, said: str, tmp_path: Path) -> None:
    program = migx.parse(TEXT).compile(running(lambda arguments, slots: [], lambda: code))
    message = f"target given: save_code must return {said}"
    refused(TargetError, message, migx.save, program, tmp_path / "a.mxr")
    assert not list(tmp_path.iterdir())


class Careless(Op):
    """An operation whose shape rule and meaning are what a test says."""

    rule: str = ""
    full: bool = False

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        if self.rule:
            raise {"value": ValueError, "index": IndexError}[self.rule]("nothing there")
        return shapes[0].as_standard()

    def compute(self, x: Any) -> Any:
        return None


class CarelessInFull(Careless):
    """The same, told more than its array."""

    def compute(self, context: Any, shape: Any, arguments: Any, modules: Any) -> Any:  # type: ignore[override]
        return arguments[0].array


class AskingTooMuch(Careless):
    """One that asks for something nobody has."""

    def compute(self, arguments: Any, *, size: Any) -> Any:  # type: ignore[override]
        return arguments[0]


class AskingByKeyword(Careless):
    """One that can only be told by keyword."""

    def compute(self, *, arguments: Any, shape: Any) -> Any:  # type: ignore[override]
        return Argument.of(np.full(shape.dims, arguments[0].array.sum()))


@pytest.mark.parametrize(("rule", "error"), [("value", "ValueError"), ("index", "IndexError")])
def test_a_shape_rule_that_fails_is_drawn(rule: str, error: str) -> None:
    main = migx.parse(TEXT).main
    message = rf"(?s)^the shape rule of careless failed: {error}: nothing there\n  careless\(x\)"
    refused(IRError, message, main.add_instruction, Careless(rule), main.parameters["x"])


@pytest.mark.parametrize(
    ("op", "said"),
    [
        (Careless(), r"compute must return an array of f32\[1, 2\], not NoneType"),
        (CarelessInFull(), r"compute must return an Argument of f32\[1, 2\], not ndarray"),
    ],
)
@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_a_meaning_that_gives_something_else_is_drawn(op: Op, said: str, target: str) -> None:
    program = migx.parse(TEXT)
    program.main.add_return(program.main.add_instruction(op, program.main.parameters["x"]))
    program.compile(target)
    message = rf"(?s)^TypeError: {said}\n  careless"
    refused(EvaluationError, message, program.eval, {"x": np.zeros((1, 2), np.float32)})


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_a_meaning_asks_for_what_there_is(target: str) -> None:
    program = migx.parse(TEXT)
    program.main.add_return(
        program.main.add_instruction(AskingTooMuch(), program.main.parameters["x"])
    )
    message = (
        r"(?s)^AskingTooMuch.compute asks for arguments and size: it may ask for context, shape, "
        r"arguments, modules by name, or take an array for each input, named otherwise"
    )
    program.compile(target)
    refused(EvaluationError, message, program.eval, {"x": np.zeros((1, 2), np.float32)})


def test_a_meaning_may_ask_by_keyword() -> None:
    program = migx.parse(TEXT)
    program.main.add_return(
        program.main.add_instruction(AskingByKeyword(), program.main.parameters["x"])
    )
    (y,) = program.compile("ref").eval({"x": np.array([[1, 2]], np.float32)})
    assert y.tolist() == [[3, 3]]


@pytest.mark.parametrize("base", [Op, Pass])
def test_an_attribute_or_option_is_a_value(base: type) -> None:
    for kind in (dict, "Mapping[str, int]", "list[int]", np.ndarray, "NDArray[Any]", "Array"):
        said = r"(dict|Mapping|list|ndarray|NDArray|Array).*: a field"
        with pytest.raises(FieldError, match=rf"Odd\.table is declared as {said}"):
            type("Odd", (base,), {"__annotations__": {"table": kind}})


def test_modules_and_observers_are_lists() -> None:
    program: Any = migx.parse(TEXT)
    main, body = program.main, program.create_module("body")
    x = main.parameters["x"]
    message = r"the modules of if are a list, such as \[body\], not of type Module"
    refused(IRError, message, main.add_instruction, migx.ops.If(), x, modules=body)
    message = "module 1 of if is of type str, not a module"
    refused(IRError, message, main.add_instruction, migx.ops.If(), x, modules=[body, "body"])
    for observers in (Time, Time()):
        with pytest.raises(TypeError, match=r"observers are given in a list, such as \[Time\(\)\]"):
            program.compile("ref", observers=observers)


def test_more_than_an_operation_or_a_pass_takes() -> None:
    wrong: Any
    for wrong, given, said in (
        (
            ops.Add,
            (1, 2),
            r"add was given 2 values for its attributes \(none\); its inputs go to add_",
        ),
        (
            ops.Softmax,
            (1, 2),
            r"softmax was given 2 values for its attributes \(axis\); its inputs",
        ),
        (DeadCodeElimination, (1,), r"elimination was given 1 values for its options \(none\)$"),
    ):
        refused(FieldError, said, wrong, *given)
    refused(FieldError, "relu has no attribute 'axis'; there are: none", ops.Relu, axis=1)


def test_what_a_program_is_compiled_to_is_not_changed() -> None:
    x = {"x": np.ones((1, 2), np.float32)}
    for has_run in (True, False):
        program = migx.parse(TEXT).compile("ref")
        if has_run:
            program.eval(x)
        lowered = program.compiled.program
        lowered.main.add_return(lowered.main.parameters["x"])
        refused(IRError, r"changed since it was finalized: change a copy", program.eval, x)
        assert len(lowered.copy().finalize("ref").eval(x)) == 1


class Unfinished(Target):
    """A target without methods of its own."""

    width = 3


class Shapeless(Op):
    """An operation without a shape rule."""


class HostCopies(Bare):
    """Copies what it is given to no place of its own."""

    def copy_to(self, argument: Argument) -> Any:
        """An array, which has no shape."""
        return argument.array


def test_what_a_class_of_ours_lacks(tmp_path: Path) -> None:
    program = migx.parse(TEXT)
    refused(TargetError, r"needs get_passes\(context, options\)", program.compile, Unfinished())
    message = r"needs make_executable\(program, context\), which returns an object with run\("
    refused(TargetError, message, program.compile, Unfinished(), passes="")
    message = "has no option 'width'; there are: none; it lacks an annotation, as width: int = 3"
    refused(FieldError, message, Unfinished, width=4)
    message = r"has no shape rule: it needs compute_shape\(shapes, modules\)\n  shapeless\(x\)"
    x = program.main.parameters["x"]
    refused(ShapeError, message, program.main.add_instruction, Shapeless(), x)
    save_model(tmp_path / "model.onnx")
    weights = migx.parse_onnx(tmp_path / "model.onnx").make_replaceable()
    message = "target host_copies: copy_to must return an Argument, not a ndarray"
    refused(TargetError, message, weights.compile, HostCopies())


def test_what_is_looked_for_and_compared() -> None:
    program: Any = migx.parse(TEXT)
    x = {"x": np.ones((1, 2), np.float32)}
    with pytest.raises(TypeError, match="matched at an instruction, not at <Program of 3"):
        find(on(ops.Relu), program)
    two = migx.parse("module main(x: f32[n, 2]) { return x, x }")
    refused(InputError, "2 outputs are compared with 1", compared, program, two, x)
    refused(
        UnknownName, "compile has no option 'pases'; there are: passes", report, program, pases=1
    )
    refused(ParseError, "'m.migx' is the name of a file, and the text", migx.parse, "m.migx")
    assert "Path" not in dir(migx)
    (answer,) = why_not(migx.parse(TEXT), "simplify_algebra", "not_negative_already", "%0")
    assert answer.verdict == "refused"
