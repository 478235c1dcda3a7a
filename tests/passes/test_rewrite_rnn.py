"""Unrolled layers give what the layers give, whichever of their inputs are there."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import migx
from migx import ops
from migx.dim import Dim
from migx.observers import Verify
from migx.ops.rnn import BACKWARD, GRU, LSTM, RNN, Recurrent
from migx.program import Program
from migx.shape import F64, I32, DType, Shape
from migx.testing.cases import agree

LAYERS = [RNN, GRU, LSTM]
BATCH = Dim("batch", 1)


def layer(op: Recurrent, given: str, steps: int, dtype: DType = F64) -> Program:
    """A program of one layer; ``given`` names the optional inputs it has: b, h, l, p."""
    program, directions, rows = Program(), len(BACKWARD[op.direction]), op.gates * op.hidden_size
    main = program.main
    wanted: list[tuple[str, Any]] = [
        ("x", (steps, BATCH, 3)),
        ("w", (directions, rows, 3)),
        ("r", (directions, rows, op.hidden_size)),
        ("b", (directions, 2 * rows)),
        ("l", (BATCH,)),
        *((f"h{i}", (directions, BATCH, op.hidden_size)) for i in range(len(op.states))),
    ]
    wanted += [("p", (directions, op.peepholes * op.hidden_size))] if op.peepholes else []
    inputs = [
        main.add_parameter(name, Shape(I32 if name == "l" else dtype, dims))
        if name in "xwr" or name[0] in given
        else main.add_instruction(ops.Undefined())
        for name, dims in wanted
    ]
    made = main.add_instruction(op, *inputs)
    count = len(op.states) + 1
    main.add_return(*(main.add_instruction(ops.GetTupleElem(i), made) for i in range(count)))
    return program


def unrolls(program: Program) -> bool:
    """Whether the pass unrolls the layer; its results must stay."""
    before = program.copy()
    changed = migx.run_passes(program, "rewrite_rnn", [Verify()])
    agree(before, program)
    assert changed == (not {"rnn", "gru", "lstm"} & {at.name for at in program.main})
    return changed


@pytest.mark.parametrize(
    ("kind", "direction", "given"), list(product(LAYERS, BACKWARD, ["", "b", "bh"]))
)
def test_every_layer(kind: Any, direction: str, given: str) -> None:
    assert unrolls(layer(kind(4, direction), given, 3))


@pytest.mark.parametrize("given", ["", "bh"])
def test_a_gru_that_is_linear_before_its_reset(given: str) -> None:
    assert unrolls(layer(GRU(4, linear_before_reset=True), given, 3))


def test_default_activations_may_be_named() -> None:
    assert unrolls(layer(LSTM(2, activations=("Sigmoid", "Tanh", "Tanh")), "b", 2))


@pytest.mark.parametrize(
    ("op", "given", "steps"),
    [
        (RNN(2, activations=("Relu",)), "", 2),
        (RNN(2, clip=1.0), "", 2),
        (LSTM(2, input_forget=True), "", 2),
        (LSTM(2), "p", 2),
        (GRU(2), "l", 2),
        (RNN(2), "", 65),
        (RNN(2), "", 0),
    ],
    ids=str,
)
def test_what_stays(op: Recurrent, given: str, steps: int) -> None:
    assert not unrolls(layer(op, given, steps))


def test_the_inputs_of_all_steps_are_one_product() -> None:
    program = layer(LSTM(4), "bh", 5)
    assert unrolls(program)
    assert sum(at.name == "dot" for at in program.main) == 1 + 5


def test_infinities_and_nan_pass_through() -> None:
    program = layer(LSTM(2), "", 2)
    after = program.copy()
    migx.run_passes(after, "rewrite_rnn")
    x = np.array([[[np.inf, 0, 1]], [[np.nan, 1, 1]]])
    inputs = {"x": x, "w": np.ones((1, 8, 3)), "r": np.ones((1, 8, 2))}
    first, second = (p.compile("ref", passes="").eval(inputs) for p in (program, after))
    for got, wanted in zip(second, first, strict=True):
        np.testing.assert_allclose(got, wanted)
