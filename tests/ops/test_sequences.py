"""Shape rules of sequences and optionals, and the operation that runs nodes on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import migx
from migx import ops
from migx.argument import Argument
from migx.dim import Dim
from migx.errors import EvaluationError, ShapeError
from migx.op import Operation
from migx.ops.sequences import VARIES, common, cuts, joined, place
from migx.shape import Shape

X, Y, INDEX = Shape("f32", (2, 3)), Shape("f32", (4, 3)), Shape("i64")
OF_X, OF_ANY = Shape.opaque("sequence", X), Shape.opaque("sequence")
OF_BOTH = Shape.opaque("sequence", Shape("f32", (VARIES, 3)))
MAYBE = Shape.opaque("optional", X)
SPLIT = Shape.opaque("sequence", Shape("f32", (2, VARIES)))

RULES: list[tuple[Operation, Sequence[Shape], Shape]] = [
    (ops.SequenceConstruct(), [], OF_ANY),
    (ops.SequenceConstruct(), [X, X], OF_X),
    (ops.SequenceConstruct(), [X, Y], OF_BOTH),
    (ops.SequenceConstruct(), [X, Shape("f32", (2,))], OF_ANY),
    (ops.SequenceConstruct(), [OF_X, OF_X], Shape.opaque("sequence", OF_X)),
    (ops.SequenceInsert(), [OF_X, Y, INDEX], OF_BOTH),
    (ops.SequenceInsert(), [OF_ANY, Y], OF_ANY),
    (ops.SequenceErase(), [OF_X, INDEX], OF_X),
    (ops.SequenceAt(X), [OF_X, INDEX], X),
    (ops.SequenceLength(), [OF_X], INDEX),
    (ops.ConcatFromSequence(Y, 0), [OF_X], Y),
    (ops.SplitToSequence(1), [X, INDEX], SPLIT),
    (ops.SplitToSequence(1), [X], Shape.opaque("sequence", Shape("f32", (2, 1)))),
    (ops.SplitToSequence(1, False), [X], Shape.opaque("sequence", Shape("f32", (2,)))),
    (ops.MakeOptional(), [X], MAYBE),
    (ops.MakeOptional(MAYBE), [], MAYBE),
    (ops.OptionalHasElement(), [MAYBE], Shape("bool")),
    (ops.OptionalGetElement(X), [MAYBE], X),
]


@pytest.mark.parametrize(("op", "given", "wanted"), RULES, ids=lambda v: getattr(v, "name", ""))
def test_the_shape_of_a_result(op: Operation, given: Sequence[Shape], wanted: Shape) -> None:
    assert op.compute_shape(given, ()) == wanted


MISTAKES: list[tuple[Operation, Sequence[Shape], str]] = [
    (ops.SequenceConstruct(), [X, INDEX], "of one type, not f32[2, 3], i64[]"),
    (ops.SequenceInsert(), [X, X], "takes a value of the kind sequence, got f32[2, 3]"),
    (ops.SequenceErase(), [OF_X, X], "a position is one i64 or i32, not f32[2, 3]"),
    (ops.SequenceAt(INDEX), [OF_X, INDEX], "sequence(f32[2, 3]) holds no i64[]"),
    (ops.ConcatFromSequence(X, 2), [OF_X], "axis 2 is not one of the 2 axes"),
    (ops.OptionalGetElement(X), [OF_X], "takes a value of the kind optional"),
    (ops.Host("", 20, ()), [OF_X], "host takes tensors, not sequence(f32[2, 3])"),
]


@pytest.mark.parametrize(("op", "given", "why"), MISTAKES, ids=lambda v: getattr(v, "name", ""))
def test_a_mistake_is_told(op: Operation, given: Sequence[Shape], why: str) -> None:
    with pytest.raises(ShapeError) as caught:
        op.compute_shape(given, ())
    assert why in str(caught.value)


def test_what_is_known_of_one_of_two() -> None:
    assert joined(OF_X, OF_X) is OF_X
    assert joined(OF_X, Shape.opaque("sequence", Y)) == OF_BOTH
    assert joined(OF_X, OF_ANY) == OF_ANY
    nested = [Shape.opaque("optional", s) for s in (OF_X, Shape.opaque("sequence", Y))]
    assert joined(*nested) == Shape.opaque("optional", OF_BOTH)


def test_dims_that_vary_are_no_sizes() -> None:
    assert common([Shape("f32", (Dim("n"),))]).parts == (Shape("f32", (VARIES,)),)
    assert OF_BOTH.static


@pytest.mark.parametrize(("position", "ends", "wanted"), [
    ([], False, 2), ([], True, 3), ([0], False, 0), ([-3], False, 0), ([3], True, 3)])  # fmt: skip
def test_positions(position: list[int], ends: bool, wanted: int) -> None:
    assert place([Argument.of(np.array(p)) for p in position], 3, ends=ends) == wanted


@pytest.mark.parametrize("position", [3, -4])
def test_positions_out_of_range(position: int) -> None:
    with pytest.raises(EvaluationError, match=r"out of range for a sequence of 3"):
        place([Argument.of(np.array(position))], 3)


def test_where_an_axis_is_cut() -> None:
    assert cuts(np.array(2), 5) == [2, 4]
    assert cuts(np.array([2, 0, 3]), 5) == [2, 2]
    for split in (np.array(0), np.array([2, 2]), np.array([6, -1])):
        with pytest.raises(EvaluationError):
            cuts(split, 5)


def test_host_values_are_equal_when_what_they_hold_is() -> None:
    def of(*values: Any) -> Argument:
        return Argument(OF_ANY, tuple(map(Argument.of, values)))

    assert of(1.0, 2.0) == of(1.0, 2.0)
    assert of(1.0, 2.0) != of(1.0, 3.0)
    assert of(1.0) != of(1.0, 1.0)


def test_the_text_of_host_operations_parses_back() -> None:
    program = migx.Program()
    x = program.main.add_parameter("x", X)
    sequence = program.main.add_instruction(ops.SequenceConstruct(), x, x)
    node = 'input: "x" output: "y" op_type: "RegexFullMatch"'
    text = program.main.add_parameter("s", Shape("str", (Dim("n"),)))
    host = program.main.add_instruction(ops.Host(node, 20, (Shape("bool", (Dim("n"),)),)), text)
    program.main.add_return(sequence, host)
    assert migx.parse(str(program)) == program
