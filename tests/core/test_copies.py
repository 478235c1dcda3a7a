"""Programs copied and pickled are programs of their own, without what they are compiled to."""

from __future__ import annotations

import copy
import pickle  # noqa: TID251  # of what this test has pickled
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import migx
from migx import ops
from migx.errors import IRError
from migx.ops.builtin import Literal
from migx.program import Program
from migx.shape import Shape
from migx.testing.small import save_model
from migx.verify import verify
from tests.weights.build import LOOP, LOOP_DIMS, LOOP_HEAD, drawn, model_of, write_weights

Copy = Callable[[Program], Program]


def pickled(program: Program) -> Program:
    made = pickle.loads(pickle.dumps(program))
    assert isinstance(made, Program)
    return made


WAYS = pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickled])


@WAYS
def test_a_copy_is_a_program_of_its_own_and_not_compiled(way: Copy, tmp_path: Path) -> None:
    model, values = model_of(LOOP, drawn(LOOP_DIMS), LOOP_HEAD), drawn(LOOP_DIMS)
    write_weights(model, values, tmp_path)
    (tmp_path / "loop.onnx").write_bytes(model.SerializeToString())
    program = migx.parse_onnx(tmp_path / "loop.onnx").compile("ref")
    inputs = {"x": np.ones(4, np.float32), "trips": np.array(2)}
    (expected,) = program.eval(inputs)
    made = way(program)
    verify(made)
    assert made == program
    assert not {*made.modules.values()} & {*program.modules.values()}
    with pytest.raises(IRError, match="not compiled"):
        made.eval(inputs)
    np.testing.assert_array_equal(made.compile("ref").eval(inputs)[0], expected)
    made.main.add_instruction(ops.Relu(), made.main.outputs[0])
    assert made != program


@WAYS
def test_a_program_that_was_loaded_and_a_long_one(way: Copy, tmp_path: Path) -> None:
    save_model(tmp_path / "small.onnx")
    program = migx.parse_onnx(tmp_path / "small.onnx").compile("ref")
    migx.save(program, tmp_path / "small.mxr")
    assert way(migx.load(tmp_path / "small.mxr")) == program
    long = Program()
    at = long.main.add_parameter("x", Shape("f32", (2,)))
    for _ in range(2000):
        at = long.main.add_instruction(ops.Relu(), at)
    long.main.add_return(at)
    assert way(long) == long


def test_literals_that_were_pickled_are_not_written_to() -> None:
    program = Program()
    program.main.add_return(program.main.add_literal(np.ones(2, np.float32)))
    (literal,) = pickled(program).literals
    assert not literal.op_as(Literal).value.array.flags.writeable
