"""Ensembles of trees on the cpu: comparisons, aggregates, types and sizes, bit by bit as on ref."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import migx
from migx import ops
from migx.dim import Dim
from migx.errors import EvaluationError
from migx.targets.cpu.code import jit
from migx.targets.cpu.kernels.trees import ABREAST, kernel_for
from migx.targets.cpu.machine import host
from tests.targets.cpu.alone import OTHER_MACHINES, Array, produced

FEATURES, TARGETS, DEPTH = 4, 3, 3
INNER, LEAVES = 2**DEPTH - 1, 2**DEPTH
ROWS = (0, 1, 9, 130)


def forest(trees: int, weight: str, split: str, targets: int = TARGETS) -> list[Array]:
    """The operands behind x: whole trees whose tests are of all kinds, and one that is a leaf."""
    dice = np.random.default_rng(trees)
    count, leaves = trees * INNER, trees * LEAVES
    tree, place = np.divmod(np.arange(count), INNER)
    to = 2 * place[:, None] + [1, 2]
    node, leaf = tree[:, None] * INNER + to, -1 - (tree[:, None] * LEAVES + to - INNER)
    weights = dice.standard_normal((leaves, targets)).astype(weight)
    weights[dice.random(weights.shape) < 0.3] = np.inf
    return [
        dice.integers(0, FEATURES, count, np.int32),
        dice.integers(0, 16, count, np.uint8),
        dice.integers(-1, 2, count).astype(split),
        np.where(to < INNER, node, leaf).astype(np.int32),
        weights,
        np.array([*range(0, count, INNER), -1], np.int32),
    ]


def program_of(x: str, operands: list[Array], aggregate: str = "sum") -> migx.Program:
    program = migx.Program()
    main = program.main
    given = main.add_parameter("x", migx.Shape(x, (Dim("n"), FEATURES)))
    held = [main.add_literal(value) for value in operands]
    if len(operands[1]) == 1:  # one test for all nodes
        nodes = (len(operands[0]),)
        held[1] = main.add_instruction(ops.Multibroadcast(nodes), held[1])
    main.add_return(main.add_instruction(ops.TreeEnsemble(aggregate), given, *held))
    return program


def values(x: str, rows: int) -> Array:
    """Such that numbers are often equal to what they are compared with, and some are missing."""
    dice = np.random.default_rng(rows)
    found = dice.integers(-1, 2, (rows, FEATURES)).astype(migx.Shape(x, ()).dtype.numpy)
    return np.where(dice.random(found.shape) < 0.2, np.array(np.nan, found.dtype), found)


@pytest.mark.parametrize(
    ("aggregate", "x", "weight", "split"),
    [
        ("sum", "f32", "f4", "f4"),
        ("average", "f64", "f4", "f4"),
        ("min", "f32", "f8", "f8"),
        ("max", "bf16", "f4", "f4"),
    ],
)
def test_says_what_ref_says(aggregate: str, x: str, weight: str, split: str) -> None:
    program = program_of(x, forest(11, weight, split), aggregate)
    there = program.copy().compile("ref")
    here = program.compile("cpu")
    assert not here.compiled.fallbacks()
    for rows in ROWS:
        given = {"x": values(x, rows)}
        (got,), (wanted,) = here.eval(given), there.eval(given)
        assert got.dtype == wanted.dtype
        assert got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("test", range(16))
def test_one_test_for_all_nodes(test: int) -> None:
    """A kernel is told of it by there being one number alone, whatever that is."""
    held = forest(5, "f4", "f4")
    found = []
    for tests in (np.full(len(held[1]), test, np.uint8), np.array([test], np.uint8)):
        program = program_of("f32", [held[0], tests, *held[2:]])
        for target in ("ref", "cpu"):
            found += program.copy().compile(target).eval({"x": values("f32", 20)})
    assert len({each.tobytes() for each in found}) == 1


def test_one_test_for_as_many_nodes_as_a_run_tells() -> None:
    held = forest(2, "f4", "f4")
    program = migx.Program()
    main = program.main
    x = main.add_parameter("x", migx.Shape("f32", (Dim("n"), FEATURES)))
    dims = main.add_parameter("dims", migx.Shape("i64", (1,)))
    literals = [main.add_literal(value) for value in held]
    test = main.add_literal(np.array([12], np.uint8))
    literals[1] = main.add_instruction(ops.Multibroadcast((Dim("nodes"),)), test, dims)
    main.add_return(main.add_instruction(ops.TreeEnsemble(), x, *literals))
    given = {"x": values("f32", 5), "dims": np.array([len(held[0])])}
    (wanted,) = program.copy().compile("ref").eval(given)
    assert np.array_equal(program.compile("cpu").eval(given)[0], wanted)


def test_no_trees_and_one_target() -> None:
    for operands in (forest(1, "f4", "f4", 1), [*forest(1, "f4", "f4")[:-1], np.zeros(0, "i4")]):
        program = program_of("f32", operands)
        wanted = program.copy().compile("ref").eval({"x": values("f32", 5)})[0]
        assert program.compile("cpu").eval({"x": values("f32", 5)})[0].tobytes() == wanted.tobytes()


def test_only_trees_that_may_change_or_are_broken_are_checked_on_the_way() -> None:
    """At each of 8 walks abreast: a node and a feature."""

    def checks(held: list[Array], replaceable: bool = False) -> int:
        program = migx.Program()
        main = program.main
        x = main.add_parameter("x", migx.Shape("f32", (Dim("n"), FEATURES)))
        literals = [main.add_literal(value, replaceable=replaceable) for value in held]
        main.add_return(main.add_instruction(ops.TreeEnsemble(), x, *literals))
        kernel = kernel_for(produced(program), host())
        assert kernel is not None
        return kernel.text.count("icmp ult")

    sound, broken = forest(2, "f4", "f4"), forest(2, "f4", "f4")
    BROKEN["feature"](broken)
    assert checks(broken) == checks(sound, replaceable=True) == checks(sound) + 2 * ABREAST


BROKEN: dict[str, Callable[[list[Any]], None]] = {
    "circle": lambda held: held[3].fill(0),
    "node": lambda held: held[3].fill(2 * INNER),
    "leaf": lambda held: held[3].fill(-1 - 2 * LEAVES),
    "feature": lambda held: held[0].fill(FEATURES),
    "negative feature": lambda held: held[0].fill(-1),
    "root": lambda held: held[5].fill(INNER * 2),
}


@pytest.mark.parametrize("target", ["cpu", "ref"])
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_there_is_an_error(name: str, target: str) -> None:
    held = forest(1, "f4", "f4")
    BROKEN[name](held)
    program = program_of("f32", held).compile(target)
    with pytest.raises(EvaluationError, match="cycle, or names a node, a leaf or a feature"):
        program.eval({"x": values("f32", 3)})
    assert program.eval({"x": values("f32", 0)})[0].shape == (0, TARGETS)


@pytest.mark.parametrize("name", OTHER_MACHINES)
def test_other_machines(name: str) -> None:
    at = produced(program_of("f32", forest(2, "f4", "f4")))
    kernel = kernel_for(at, OTHER_MACHINES[name])
    assert kernel is not None
    assert jit.compiled(kernel.text)


def test_half_precision_weights_have_no_kernel() -> None:
    at = produced(program_of("f32", forest(2, "f2", "f4")))
    assert kernel_for(at, host()) is None
