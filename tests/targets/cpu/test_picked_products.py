"""Products with matrices that rows pick, on the cpu target, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx import Dim, Shape, ops
from migx.errors import EvaluationError
from migx.shape import I64

EXPERTS, ELEMENTS, RESULTS = 5, 128, 256


def drawn() -> migx.Program:
    """x[i] times w[which[i]], the weights before the rows and behind them."""
    made, count = migx.Program(), Dim("n")
    w = np.random.default_rng(0).standard_normal((EXPERTS, RESULTS, ELEMENTS), np.float32)
    x = made.main.add_parameter("x", Shape("f32", (count, ELEMENTS)))
    which = made.main.add_parameter("which", Shape(I64, (count,)))
    add = made.main.add_instruction
    picked = add(ops.Gather(0), made.main.add_literal(w, name="w"), which)
    before = add(ops.Dot(), picked, add(ops.Unsqueeze((2,)), x))
    behind = add(ops.Dot(), add(ops.Unsqueeze((1,)), x), add(ops.Transpose((0, 2, 1)), picked))
    made.main.add_return(before, behind, names=["before", "behind"])
    return made


@pytest.mark.parametrize("squeezed", ["", "quantize_int4{block=32},propagate_constant"])
def test_rows_are_multiplied_by_what_they_pick(squeezed: str) -> None:
    peer, run = drawn(), drawn()
    for each, target in ((peer, "ref"), (run, "cpu")):
        migx.run_passes(each, squeezed)
        each.compile(target)
    loops = [at for at in run.compiled.program.main if at.name == "loop"]
    assert len(loops) == 2
    rng = np.random.default_rng(1)
    for n in (0, 1, 2, 7, 40, 1):
        x = rng.standard_normal((n, ELEMENTS), np.float32)
        which = rng.integers(-EXPERTS, EXPERTS, n)
        for got, wanted in zip(
            run.eval({"x": x, "which": which}), peer.eval({"x": x, "which": which}), strict=True
        ):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=ELEMENTS * 2.0**-20)


@pytest.mark.parametrize("outside", [EXPERTS, -EXPERTS - 1])
def test_a_matrix_that_is_not_there_cannot_be_picked(outside: int) -> None:
    x, which = np.ones((3, ELEMENTS), np.float32), np.array([0, outside, 1])
    with pytest.raises(EvaluationError, match="outside"):
        drawn().compile("cpu").eval({"x": x, "which": which})
