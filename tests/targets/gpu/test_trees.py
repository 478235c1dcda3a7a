"""Ensembles of trees on the gpu: comparisons, aggregates, types and sizes as on ref."""

from __future__ import annotations

import numpy as np
import pytest

from migx.argument import Argument
from migx.testing.oracles import Trial
from tests.targets.cpu.test_trees import BROKEN, forest, program_of, values
from tests.targets.gpu.on_interpreter import gpu


@pytest.mark.parametrize("rows", [0, 1, 130])
@pytest.mark.parametrize(
    ("aggregate", "x", "weight", "split", "trees"),
    [
        ("sum", "f32", "f4", "f4", 3),
        ("average", "f64", "f4", "f4", 11),
        ("min", "f32", "f8", "f8", 11),
        ("max", "bf16", "f4", "f4", 70),
    ],
)
def test_says_what_ref_says(
    aggregate: str, x: str, weight: str, split: str, trees: int, rows: int
) -> None:
    program = program_of(x, forest(trees, weight, split), aggregate)
    Trial(program, {"x": Argument.of(values(x, rows))}).target(gpu())
    assert not program.compile(gpu()).compiled.fallbacks()


def test_no_trees_and_one_target() -> None:
    for operands in (forest(1, "f4", "f4", 1), [*forest(1, "f4", "f4")[:-1], np.zeros(0, "i4")]):
        Trial(program_of("f32", operands), {"x": Argument.of(values("f32", 5))}).target(gpu())


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_table_is_not_read_outside_and_ends(broken: str) -> None:
    operands = forest(2, "f4", "f4")
    BROKEN[broken](operands)
    (found,) = program_of("f32", operands).compile(gpu()).eval({"x": values("f32", 5)})
    assert np.isfinite(found).all()
