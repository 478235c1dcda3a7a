"""Prepared runs on the cpu: they give what other runs give, to whoever calls when."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from migx.errors import EvaluationError, IRError, WeightError
from migx.ops.pointwise import Exp
from migx.program import Program
from migx.targets.cpu.runs.piece import Piece
from tests.targets.cpu.whole import at_once, compiled, executable

LINEAR = """module main(x: f32[n, 8], y: f32[8]) {
  %0 = multibroadcast(y) {out_lens=(n, 8)}
  %1 = mul(x, %0)
  %2 = transpose(%1) {permutation=(1, 0)}
  %3 = relu(%2)
  %4 = reduce_sum(%1) {axes=(1,)}
  %5 = exp(x)
  return %3, %4, %5
}
"""
NOT_PREPARED = {
    "an output that is an input": "module main(x: f32[4]) {\n  %0 = exp(x)\n  return %0, x\n}\n",
    "an output given twice": "module main(x: f32[4]) {\n  %0 = exp(x)\n  return %0, %0\n}\n",
    "a packed output": "module main(x: i8[4]) {\n  %0 = pack_int4(x)\n  return %0\n}\n",
    "a host step that runs a module": """
module main(x: bool[]) {
  %0 = if(x) [yes, yes]
  %1 = get_tuple_elem(%0)
  return %1
}

module yes() {
  %0 = convert(main:x) {to=i64} : i64[]
  %1 = pow(%0, %0)
  return %1
}
""",
    "a length that data tells": (
        "module main(x: f32[4]) {\n  %0 = nonzero(x) {count=k}\n  return %0\n}\n"
    ),
}


def given(n: int) -> dict[str, Any]:
    dice = np.random.default_rng(n)
    return {
        "x": dice.standard_normal((n, 8)).astype(np.float32),
        "y": dice.standard_normal(8).astype(np.float32),
    }


@pytest.fixture
def in_full(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes the runs from now on that are not prepared."""
    found: list[str] = []
    run = Piece.run

    def noted(piece: Piece, *arguments: Any) -> Any:
        found.append("run")
        return run(piece, *arguments)

    monkeypatch.setattr(Piece, "run", noted)
    return found


def expected(program: Program, inputs: dict[str, Any]) -> list[Any]:
    """The outputs of a run that is not prepared."""
    made = program.compiled
    return [result.array for result in made.results(made.arguments(inputs))]


def same(got: list[Any], wanted: list[Any]) -> bool:
    return len(got) == len(wanted) and all(
        a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in zip(got, wanted, strict=True)
    )


def test_only_the_first_run_is_in_full(in_full: list[str]) -> None:
    program = compiled(LINEAR)
    for n in (3, 1, 3, 5000):
        program.eval(given(n))
    assert in_full == ["run"]


@pytest.mark.parametrize("n", [0, 1, 3, 5000])
def test_outputs_are_those_of_other_runs(n: int) -> None:
    program = compiled(LINEAR)
    wanted = expected(program, given(n))
    assert same(program.eval(given(n)), wanted)
    assert same(program.eval(given(n)), wanted)


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "columns": np.asfortranarray,
    "every second": lambda x: np.repeat(x, 2, axis=0)[::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_may_have_any_layout(layout: str) -> None:
    program = compiled(LINEAR)
    wanted = expected(program, given(7))
    inputs = {name: LAYOUTS[layout](value) for name, value in given(7).items()}
    assert same(program.eval(inputs), wanted)


def test_outputs_belong_to_the_caller() -> None:
    program = compiled(LINEAR)
    wanted = expected(program, given(3))
    for _ in range(3):
        got = program.eval(given(3))
        assert same(got, wanted)
        assert not any(np.shares_memory(a, b) for a in got for b in got if a is not b)
        for each in got:
            each[...] = 7


HOSTED = """module main(x: f32[n, 2], y: i64[n, 2]) {
  %0 = @literal() {value=["yes", "no"]} : str[2]
  %1 = exp(x)
  %2 = zip_map(%0, %1)
  %3 = pow(y, y)
  %4 = neg(%3)
  %5 = argmax(x) {axis=1}
  %6 = gather(%0, %5) {axis=0}
  return %2, %3, %4, %6
}
"""


@pytest.mark.parametrize("n", [0, 1, 3])
def test_host_steps_are_run_in_between(n: int, in_full: list[str]) -> None:
    program, ref = compiled(HOSTED), compiled(HOSTED, "ref")
    assert [at.name for at in executable(program).fallbacks()] == ["zip_map", "pow", "gather"]
    dice = np.random.default_rng(n)
    for _ in range(3):
        x = dice.integers(0, 2, (n, 2))
        inputs: dict[str, Any] = {"x": x.astype(np.float32), "y": x + 1}
        (rows, *arrays), wanted = program.eval(inputs), ref.eval(inputs)
        assert [list(row) for row in rows] == [["yes", "no"]] * n
        values, known = ([[*row.values()] for row in each] for each in (rows, wanted[0]))
        np.testing.assert_allclose(values, known, rtol=4 * 2**-23)
        for got, each in zip(arrays, wanted[1:], strict=True):
            np.testing.assert_array_equal(got, each)
            got[...] = 0
    assert in_full == ["run"]


@pytest.mark.parametrize("what", NOT_PREPARED)
def test_what_takes_more_is_run_in_full(what: str, in_full: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = compiled(NOT_PREPARED[what])
    (x,) = program.main.parameters.values()
    inputs = {"x": np.ones(x.shape.dims, x.shape.dtype.numpy)}
    runs = [program.eval(inputs) for _ in range(3)]
    assert len(in_full) >= 3, what
    assert same(*[[np.asarray(getattr(v, "array", v)) for v in run] for run in runs[1:]])


def test_runs_overlap() -> None:
    program = compiled(LINEAR)
    wanted = {n: expected(program, given(n)) for n in range(1, 9)}
    wrong: list[int] = []

    def work(n: int) -> None:
        wrong.extend(n for _ in range(200) if not same(program.eval(given(n)), wanted[n]))

    at_once(work, [*wanted])
    assert not wrong
    ((piece,),) = executable(program).pieces.values()
    assert 1 <= len(piece.idle) <= 8


WEIGHTED = """module main(x: f32[n, 8]) {
  %0 = onnx_external_weights() {label="w", file="w.bin", offset=0, length=32, shape=f32[8]}
  %1 = multibroadcast(%0) {out_lens=(n, 8)} : f32[n, 8]
  %2 = add(x, %1) : f32[n, 8]
  return %2
}
"""


def test_weights_are_those_of_now() -> None:
    program = compiled(WEIGHTED)
    x = given(2)["x"]
    with pytest.raises(WeightError, match="w"):
        program.eval({"x": x})
    for number in (1, 2, 3):
        with program.update_weights() as new:
            new["w"] = np.full(8, number, np.float32)
        for _ in range(2):
            assert (program.eval({"x": x})[0] == x + number).all()


def test_weights_may_be_swapped_meanwhile() -> None:
    program = compiled(WEIGHTED)
    x = np.zeros((2, 8), np.float32)
    with program.update_weights() as new:
        new["w"] = np.zeros(8, np.float32)
    mixed: list[Any] = []

    def work(number: int) -> None:
        for i in range(100):
            if number:
                found = program.eval({"x": x})[0]
                if len(np.unique(found)) != 1:
                    mixed.append(found)
            else:
                with program.update_weights() as new:
                    new["w"] = np.full(8, i, np.float32)

    at_once(work, range(4))
    assert not mixed


def test_a_program_changed_since_is_refused() -> None:
    program = compiled(LINEAR)
    program.eval(given(2))
    program.eval(given(2))
    lowered = program.compiled.program
    lowered.main.add_instruction(Exp(), lowered.main.parameters["x"])
    with pytest.raises(IRError, match="changed since it was finalized"):
        program.eval(given(2))


def test_a_run_that_fails_leaves_later_ones_right() -> None:
    program = compiled(
        "module main(x: f32[4], i: i64[2]) {\n  %0 = gather(x, i) {axis=0}\n  return %0\n}\n"
    )
    x, good, bad = np.arange(4, dtype=np.float32), np.array([3, 0]), np.array([9, 0])
    for _ in range(3):
        assert program.eval({"x": x, "i": good})[0].tolist() == [3, 0]
        with pytest.raises(EvaluationError, match="gather"):
            program.eval({"x": x, "i": bad})
