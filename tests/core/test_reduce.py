"""Programs made small while they still fail."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx import ops
from migx.argument import Argument
from migx.debug.bisect import NothingWrong, outcome
from migx.debug.case import Case
from migx.debug.reduce import Fails, reduced, reduced_case, resized
from migx.errors import IRError, ShapeError
from migx.manager import Pass
from migx.pipeline import Pipeline
from migx.program import Program
from migx.verify import findings
from tests.core.planted import Pair, Wrong, inputs, model

NEG, RELU, TRANSPOSE = ops.Neg(), ops.Relu(), ops.Transpose((1, 0))


def holds(*names: str) -> Fails:
    """Whether a program has instructions of these operations, in any module."""

    def fails(program: Program) -> bool:
        assert not findings(program)
        every = [at.name for module in program.modules.values() for at in module]
        return all(every.count(name) >= names.count(name) for name in names)

    return fails


@pytest.mark.parametrize(
    ("passes", "planted", "left"),  # on its own drop_inner is wrong where no relu follows
    [
        ([Wrong(), "optimize_module"], [NEG, RELU], ["neg", "relu"]),
        ([Pair(), "optimize_module"], [RELU, TRANSPOSE, TRANSPOSE, RELU], ["relu", "transpose"]),
    ],
)
def test_five_hundred_instructions_become_a_few(
    passes: list[Pass | str], planted: list[ops.Op], left: list[str]
) -> None:
    program, trials = model(*planted), 0

    def fails(made: Program) -> bool:
        nonlocal trials
        trials += 1
        return outcome(made, Pipeline.of(passes), inputs(made)).kind == "wrong"

    before = program.copy()
    small = reduced(program, fails)
    assert program == before
    assert [at.name for at in small.main] == ["@param", *left, "@return"]
    assert fails(small)
    assert trials < 100


def test_the_smaller_programs_are_shown_as_they_are_found() -> None:
    seen: list[int] = []
    small = reduced(model(), holds("tanh"), lambda made: seen.append(made.size))
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == small.size == 3


def test_what_does_not_fail_is_not_reduced() -> None:
    with pytest.raises(NothingWrong, match="does not fail as it is"):
        reduced(model(), holds("softmax"))


def test_a_program_that_cannot_be_judged_does_not_fail() -> None:
    def fails(made: Program) -> bool:
        if made.size < 8:
            raise IRError("too small for me")
        return True

    assert reduced(migx.parse(TEXT), fails).size == 8


TEXT = """
dim batch = 1..
module main(c: bool[], x: f32[batch, 6], n: i64[]) {
  %0 = @literal() {value=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]} : f32[6]
  %1 = multibroadcast(%0) {out_lens=(batch, 6)}
  %2 = add(x, %1)
  %3 = relu(%2)
  %4 = if(c) [yes, no]
  %5 = get_tuple_elem(%4)
  %6 = reshape(%5) {dims=(batch, 2, 3)}
  %7 = softmax(%6) {axis=2}
  return a=%7, b=%3
}

module yes() {
  %0 = exp(main:%3)
  %1 = erf(%0)
  return %1
}

module no() {
  %0 = neg(main:%3)
  return %0
}
"""


GATHERED = """
module main(data: f32[4, 6], i: i64[2], n: i64[]) {
  %0 = add(i, i) : i64[2]
  %1 = abs(data) : f32[4, 6]
  %2 = gather(%1, %0) {axis=0} : f32[2, 6]
  %3 = neg(%2) : f32[2, 6]
  return %3
}
"""


def test_inputs_come_along_and_what_stands_in_has_the_value_it_had() -> None:
    arrays = {"data": np.full((4, 6), -2, "f4"), "i": np.array([1, 0]), "n": np.array(7)}
    inputs = {name: Argument.of(array) for name, array in arrays.items()}

    def fails(case: Case) -> bool:
        results = case.program.compile("ref", passes="").eval(case.inputs or {})
        return holds("gather")(case.program) and bool(np.abs(results[-1]).min() == 2)

    small = reduced_case(Case(migx.parse(GATHERED), inputs), fails)
    assert [at.name for at in small.program.main] == ["@param", "@param", "gather", "@return"]
    assert small.inputs is not None
    by_type = {str(value.shape.dtype): value.array for value in small.inputs.values()}
    assert np.all(by_type["f32"] == 2), "what abs gave, not what it was given"
    assert by_type["f32"].size < 24
    assert by_type["i64"].tolist() in ([2], [0], [2, 0])


SIZED = """
dim n = 1..8
module main(size: f32[n], x: f32[2*n], y: f32[2*n]) {
  %0 = add(x, y) : f32[2*n]
  %1 = reshape(%0) {dims=(n, 2)} : f32[n, 2]
  %2 = neg(%1) : f32[n, 2]
  return %2
}
"""


def test_a_parameter_that_alone_gives_a_size_stays() -> None:
    def fails(made: Program) -> bool:
        assert not findings(made)
        return bool(made.symbols()) and holds("reshape")(made)

    small = reduced(migx.parse(SIZED), fails)
    assert [at.name for at in small.main] == ["@param", "@param", "reshape", "@return"]


def test_dims_shrink_symbols_are_bound_and_outputs_go() -> None:
    program = migx.parse(TEXT)
    small = reduced(program, holds("reshape", "softmax"))
    assert str(small) == (
        "module main(p1: f32[1, 1]) {\n"
        "  %0 = reshape(p1) {dims=(1, 1, 1)} : f32[1, 1, 1]\n"
        "  %1 = softmax(%0) {axis=2} : f32[1, 1, 1]\n"
        "  return %1\n}\n"
    )


def test_a_failure_in_a_submodule_takes_it_for_the_whole() -> None:
    small = reduced(migx.parse(TEXT), holds("erf"))
    assert list(small.modules) == ["main"]
    assert [at.name for at in small.main] == ["@param", "erf", "@return"]
    both = reduced(migx.parse(TEXT), holds("if", "erf"))
    assert set(both.modules) == {"main", "yes", "no"}
    assert both.size < migx.parse(TEXT).size - 5


def test_literals_become_ones() -> None:
    small = reduced(migx.parse(TEXT), holds("@literal", "add"))
    assert "{value=[1.0]} : f32[1]" in str(small)


def test_sizes_are_changed_everywhere_at_once() -> None:
    made = str(resized(migx.parse(TEXT), {6: 2, 3: 1}))
    assert "x: f32[batch, 2]" in made
    assert "value=[1.0, 2.0]} : f32[2]" in made
    assert "out_lens=(batch, 2)" in made
    assert "{dims=(batch, 2, 1)}" in made
    assert "softmax(%6) {axis=2}" in made
    with pytest.raises(ShapeError):
        resized(migx.parse(TEXT), {6: 2})
