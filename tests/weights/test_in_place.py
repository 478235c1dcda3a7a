"""Updates in place: what they hold at once, and what is left of one that fails."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import migx
from migx.errors import WeightError
from migx.program import Program
from migx.weights import epochs
from migx.weights.epochs import LiveWeights
from tests.weights.build import Array

SIZE, COUNT = 256, 8
EACH = 4 * SIZE * SIZE
"""Bytes of a matrix."""


def matrices(seed: int) -> dict[str, Array]:
    """Matrices whose products neither grow nor shrink values much, so that roundings do not."""
    rng, scale = np.random.default_rng(seed), np.float32(SIZE**-0.5)
    return {f"w{i}": scale * rng.standard_normal((SIZE, SIZE), np.float32) for i in range(COUNT)}


A, B, C = map(matrices, (1, 2, 3))
X = {"x": np.linspace(-1, 1, 2 * SIZE, dtype=np.float32).reshape(2, SIZE)}


@pytest.fixture
def program() -> Iterator[Program]:
    """A chain of products with matrices that are turned first, so that each makes a slot; what it
    takes is traced.
    """
    tracemalloc.start()
    yield chain()
    tracemalloc.stop()


def chain() -> Program:
    made = migx.Program()
    main = made.main
    y = main.add_parameter("x", migx.Shape("f32", (migx.Dim("n"), SIZE)))
    for name, value in A.items():
        weight = main.add_literal(value, name=name)
        turned = main.add_instruction(migx.ops.Transpose((1, 0)), weight)
        scaled = main.add_instruction(migx.ops.Tanh(), turned)
        y = main.add_instruction(migx.ops.Tanh(), main.add_instruction(migx.ops.Dot(), y, scaled))
    main.add_return(y)
    made.make_replaceable()
    return made.compile("ref", passes="hoist_weights")


def wanted(weights: dict[str, Array]) -> Array:
    y = X["x"]
    for value in weights.values():
        y = np.tanh(y @ np.tanh(value.T))
    return y


def given(program: Program, values: dict[str, Array], **how: Any) -> int:
    """The bytes that an update takes at most beyond what was held before it."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    with program.update_weights(**how) as new:
        new.update(values)
    return tracemalloc.get_traced_memory()[1] - before


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One slot is computed at once."""
    monkeypatch.setattr(epochs, "AT_ONCE", 1)


@pytest.mark.usefixtures("few")
def test_never_two_of_all_are_held(program: Program) -> None:
    """The first takes a copy of what is given, for what was there is the program's own; then one
    slot is computed at once, by way of a value or two, and takes the place of another.
    """
    assert given(program, B, in_place=True) < (COUNT + 4) * EACH
    np.testing.assert_allclose(program.eval(X)[0], wanted(B), rtol=1e-4, atol=1e-4)
    assert given(program, C, in_place=True) < 4 * EACH
    np.testing.assert_allclose(program.eval(X)[0], wanted(C), rtol=1e-4, atol=1e-4)
    assert given(program, B) > COUNT * EACH  # of the slots alone


@pytest.mark.usefixtures("few")
def test_what_was_given_may_change_afterwards(program: Program) -> None:
    values = {name: value.copy() for name, value in B.items()}
    given(program, values, in_place=True)
    (before,) = program.eval(X)
    for value in values.values():
        value[...] = 0
    assert np.array_equal(program.eval(X)[0], before)
    with program.update_weights() as new:
        assert all(np.array_equal(new[name], value) for name, value in B.items())


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("at", [0, 3])
def test_what_fails_at_first_changes_nothing_and_later_leaves_no_half(
    at: int, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = program.eval(X)
    computed, calls = LiveWeights._computed, iter(range(COUNT))

    def failing(self: LiveWeights, *args: Any) -> Any:
        if next(calls) == at:
            raise MemoryError
        return computed(self, *args)

    message = f"no memory for {COUNT * EACH:,} bytes .*: give fewer at a time$"
    with monkeypatch.context() as patch:
        patch.setattr(LiveWeights, "_computed", failing)
        with pytest.raises(WeightError, match=message):
            given(program, B, in_place=True)
    if at == 0:
        assert np.array_equal(program.eval(X)[0], before)
    else:
        with pytest.raises(WeightError, match=f"{COUNT} weights have no value"):
            program.eval(X)
    given(program, B)
    np.testing.assert_allclose(program.eval(X)[0], wanted(B), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("at_once", [1, 3 * EACH, 1 << 30])
def test_parts_are_as_large_as_asked_for(program: Program, at_once: int) -> None:
    recipe = program.compiled.weights._recipe
    parts = list(recipe.batches(recipe.slots, at_once))
    sizes = [sum(int(at.shape.nbytes) for at in part.values()) for part in parts]
    assert sum(sizes) == COUNT * EACH
    assert [name for part in parts for name in part] == list(recipe.slots)
    assert all(size <= at_once + EACH for size in sizes[:-1])
    assert len(parts) == {1: COUNT, 3 * EACH: 3, 1 << 30: 1}[at_once]
