"""eliminate_common_subexpression: deferred weights, large literals, origins, and any program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

import migx
from migx.argument import Argument, Source
from migx.ops.builtin import OnnxExternalWeights
from migx.ops.pointwise import Exp, Relu
from migx.program import Program
from migx.shape import Shape
from migx.verify import verify
from tests.core.strategies import programs

CSE = "eliminate_common_subexpression"


def test_deferred_weights_merge_only_where_they_are_one_tensor() -> None:
    program = Program()
    shape = Shape("f32", (2,))
    places = [("a", 0), ("a", 0), ("b", 0), ("a", 8)]
    made = [
        program.main.add_instruction(OnnxExternalWeights(label, "weights.bin", offset, 8, shape))
        for label, offset in places
    ]
    program.main.add_return(*made)
    assert migx.run_passes(program, CSE)
    outputs = program.main.outputs
    assert outputs[0] is outputs[1]
    assert len(set(outputs)) == 3


def test_literals_that_differ_at_their_ends_are_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights.bin"
    np.arange(4096, dtype=np.float32).tofile(file)
    program = Program()
    shape = Shape("f32", (2048,))
    halves = [Argument(shape, source=Source(file, at, 8192)) for at in (0, 8192)]
    program.main.add_return(*(program.main.add_literal(half) for half in halves))
    monkeypatch.setattr(Argument, "digest", lambda self: pytest.fail("it was read whole"))
    assert not migx.run_passes(program, CSE)


def test_literals_that_differ_in_the_middle_stay_two() -> None:
    program = Program()
    one = np.zeros(4096, np.float32)
    other = one.copy()
    other[2000] = 1
    made = [program.main.add_literal(array) for array in (one, other, one.copy())]
    program.main.add_return(*made)
    assert migx.run_passes(program, CSE)
    assert len(set(program.main.outputs)) == 2


def test_origins_of_what_is_merged_are_kept_in_order() -> None:
    program = Program()
    x = program.main.add_parameter("x", Shape("f32", (2,)))
    made = [program.main.add_instruction(Exp(), x, origins=(name,)) for name in "abca"]
    program.main.add_return(*(program.main.add_instruction(Relu(), each) for each in made))
    assert migx.run_passes(program, CSE)
    (kept,) = (i for i in program.main if i.op == Exp())
    assert kept.origins == ("a", "b", "c")


@given(programs())
def test_any_program_is_still_well_formed_and_needs_no_second_run(program: Program) -> None:
    changed = migx.run_passes(program, CSE)
    verify(program)
    before = str(program)
    assert not migx.run_passes(program, CSE)
    assert str(program) == before or not changed
