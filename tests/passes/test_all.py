"""What holds for every pass there is: it ends, twice is as good as once, the same each time, and
results stay. A program that a pass leaves as it is has the results it had.
"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, note

import migx
from benchmarks import models
from migx import plugins
from migx.errors import MigxError
from migx.fields import required
from migx.manager import Pass
from migx.observers import Verify
from migx.program import Program
from migx.testing.cases import SIZE, cases, draw
from tests.core.strategies import programs
from tests.passes.strategies import layers

FILES = sorted((Path(__file__).parent.parent / "ir").glob("*.migx"))
MODELS = ["qonnx_mnist_conv", "silero_vad", "script_loop_rnn"]
TOLERANCE = 1e-4
"""How far the results of a model may move, as a part of the largest value."""

Inputs = Mapping[str, Any]


every_pass = pytest.mark.parametrize("name", plugins.names("passes"))


def loaded(name: str) -> Pass:
    """A pass as it is without options."""
    cls = plugins.load("passes", name)
    if options := required(cls):
        pytest.skip(f"{name} has to be told {', '.join(options)}")
    made: Pass = cls()
    return made


def run(program: Program, each: Pass) -> Program | None:
    """What a pass makes of a copy of a program, after all that must hold has been checked; None
    where it changes nothing.
    """
    after, again = program.copy(), program.copy()
    changed = migx.run_passes(after, [each], [Verify()])
    assert migx.run_passes(again, [each]) == changed
    assert after == again, "not the same each time"
    if not changed:
        assert after == program, "changed what it says it did not"
        return None
    assert not migx.run_passes(again, [each]), "a second run changes something"
    return after


def run_all(program: Program) -> dict[Pass, Program]:
    """What each pass that needs no option makes of a program, where it changes it."""
    made = {}
    for name in plugins.names("passes"):
        if not required(cls := plugins.load("passes", name)):
            with of(each := cls()):
                made[each] = run(program, each)
    return {each: after for each, after in made.items() if after is not None}


@contextlib.contextmanager
def of(each: Pass, case: str = "a program that was drawn") -> Iterator[None]:
    """Says of which pass a failure is, and on what."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in {case}, pass {each}")
        raise


def inputs_of(program: Program) -> Inputs:
    """Drawn inputs for a program whose symbols are bound to something small."""
    sizes = {
        name: max(symbol.low, min(SIZE, symbol.high or SIZE))
        for name, symbol in program.symbols().items()
    }
    parameters = program.main.parameters.items()
    return {name: draw(p.shape.bind(sizes), i) for i, (name, p) in enumerate(parameters)}


def results(program: Program, inputs: Inputs) -> list[Any]:
    """What a program gives on ``ref`` as it stands."""
    return program.copy().compile("ref", passes="").eval(inputs)


def expect_same(got: Any, wanted: Any, rtol: float = 1e-5) -> None:
    """Fails where results differ in type, dims, or by more than rounding in values."""
    assert (type(got), getattr(got, "dtype", None)) == (
        type(wanted),
        getattr(wanted, "dtype", None),
    )
    if isinstance(wanted, list | tuple):
        for a, b in zip(got, wanted, strict=True):
            expect_same(a, b, rtol)
    elif not isinstance(wanted, np.ndarray):
        assert got == wanted
    elif wanted.dtype == object:
        assert np.array_equal(got, wanted)
    else:
        x, y = got.astype(np.float64), wanted.astype(np.float64)
        atol = rtol * float(np.max(np.abs(y), initial=0, where=np.isfinite(y)))
        np.testing.assert_allclose(x, y, rtol, atol)


def expect_kept(each: Pass, got: Any, wanted: Any, rtol: float) -> None:
    """That a pass keeps answers, unless it is meant to change them, by no one knows how much."""
    if math.inf not in each.approximations.values():
        expect_same(got, wanted, rtol)


def precision(program: Program) -> float:
    """How far results may lie apart: some roundings of the coarsest type computed in."""
    shapes = [at.shape for module in program.modules.values() for at in module]
    coarsest = max((s.dtype.roundoff for s in shapes if s.dtype.is_float), default=0.0)
    return max(1e-5, 8 * coarsest)


@functools.cache
def known_cases() -> list[tuple[str, Program, Inputs, list[Any]]]:
    """The program of every case of every pass, with inputs and what it gives for them."""
    found = []
    for path in FILES:
        for title, passes, text, *_ in cases(path.read_text("utf-8")):
            given = text.partition("# becomes\n")[0]
            program = migx.parse(given, folder=path.parent, draw_missing=0)
            inputs = inputs_of(program)
            name = f"{path.stem}: {title or passes}"
            found.append((name, program, inputs, results(program, inputs)))
    return found


@every_pass
def test_the_cases_of_every_pass(name: str) -> None:
    each = loaded(name)
    for case, program, inputs, wanted in known_cases():
        with of(each, f"the case {case!r}"):
            if (after := run(program, each)) is not None:
                expect_kept(each, results(after, inputs), wanted, precision(program))


@given(programs())
def test_random_programs(program: Program) -> None:
    note(str(program))
    made = run_all(program)
    with warnings.catch_warnings(action="ignore"):
        try:
            inputs = inputs_of(program)
            wanted = results(program, inputs)
        except MigxError:
            assume(False)  # a deferred weight, a slot that nothing fills, sizes that do not fit
        for each, after in made.items():
            with of(each):
                expect_kept(each, results(after, inputs), wanted, precision(program))


@given(layers())
def test_random_layers(program: Program) -> None:
    note(str(program))
    made, inputs = run_all(program), inputs_of(program)
    wanted = results(program, inputs)
    for each, after in made.items():
        with of(each):
            expect_kept(each, results(after, inputs), wanted, precision(program))


@functools.cache
def model(name: str) -> tuple[Program, list[Any]]:
    """A small model as it is read, and its answer."""
    try:
        program = migx.parse_onnx(models.make(name))
    except models.NoNetwork as error:
        pytest.skip(str(error))
    return program, results(program, models.inputs(name))


@pytest.mark.parametrize("network", MODELS)
@every_pass
def test_small_models_keep_their_answers(name: str, network: str) -> None:
    each, (program, wanted) = loaded(name), model(network)
    if (after := run(program, each)) is not None:
        expect_kept(each, results(after, models.inputs(network)), wanted, TOLERANCE)
