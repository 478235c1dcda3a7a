"""Derived bounds of values in the bodies of loops and branches, in tuples, maps and lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import migx
from migx.argument import Argument
from migx.testing.bounds import Budget, compare
from migx.testing.oracles import run_on_ref
from tests.core.budgets import drawn, verdict

LOOP = """
module main(x: f32[2], n: i64[], c: bool[]) {
  %0 = @literal() {value=[true]} : bool[]
  %1 = loop(n, %0, x) [body] : tuple(f32[2])
  %2 = get_tuple_elem(%1) : f32[2]
  return %2
}

module body(i: i64[], again: bool[], h: f32[2]) {
  %0 = if(main:c) [yes, no] : tuple(f32[2])
  %1 = get_tuple_elem(%0) : f32[2]
  return again, %1
}

module yes() {
  return body:h
}

module no() {
  %0 = tanh(body:h) : f32[2]
  return %0
}
"""


@pytest.mark.parametrize("taken", [True, False])
def test_a_branch_in_a_loop_is_bounded_as_the_loop_is(taken: bool) -> None:
    arrays = drawn(2), np.array(3), np.array(taken)
    expected = arrays[0] if taken else np.tanh(np.tanh(np.tanh(arrays[0].astype(np.float64))))
    assert not verdict(LOOP, lambda x, n, c: expected, *arrays)
    assert verdict(LOOP, lambda x, n, c: expected * 1.001, *arrays)


@pytest.mark.parametrize(("name", "free"), [("tanh", True), ("tan", False)])
def test_what_is_free_in_a_loop_is_free_after_it(name: str, free: bool) -> None:
    program = migx.parse(LOOP)
    arrays = {"x": drawn(2), "n": np.array(3), "c": np.array(False)}
    inputs = {n: Argument.of(array) for n, array in arrays.items()}
    ((_, error),) = run_on_ref(program, inputs, program, {name: (np.inf,)})
    assert isinstance(error, np.ndarray)
    assert np.isinf(error).all() == free


def test_values_in_a_module_are_as_far_off_as_what_is_given_to_it() -> None:
    program = migx.parse(
        """module main(x: f32[4, 100], w: f32[100, 8]) {
  %0 = dot(x, w) : f32[4, 8]
  %1 = neg(%0) : f32[4, 8]
  %2 = add(%1, %0) : f32[4, 8]
  return %2
}
"""
    )
    inputs = {"x": Argument.of(drawn(4, 100)), "w": Argument.of(drawn(100, 8))}
    ((_, wanted),) = run_on_ref(program, inputs, program)
    migx.run_passes(program, "fuse_pointwise")
    assert "pointwise" in [at.op.name for at in program.main]
    ((_, found),) = run_on_ref(program, inputs, program)
    np.testing.assert_array_equal(found, wanted)


def test_tuples_are_held_member_by_member() -> None:
    first, second = (Argument.of(drawn(3, seed=seed)) for seed in range(2))
    pair, turned = Argument.tuple([first, second]), Argument.tuple([first, first])
    assert compare("y", pair, pair, (None, None)).passed
    found = compare("y", turned, pair, (None, np.zeros(3)))
    assert found.name == "y[1]"
    assert "3 of 3" in found.problem
    assert compare("y", turned, pair, (None, np.full(3, np.inf))).passed
    assert "expected a tuple of 2" in compare("y", Argument.tuple([first]), pair).problem


def test_what_maps_and_lists_hold_is_compared_as_one() -> None:
    """What is small is held to the greatest of all there is."""
    right = [{"a": 1.0, "b": 1e-3}, {"a": 0.5, "b": 0.25}]
    near = [{"a": 1.0, "b": 1e-3 + 1e-7}, {"a": 0.5, "b": 0.25}]
    budget = Budget(variance=(2.0**-24) ** 2)
    assert compare("y", near, right, budget).passed
    assert "1 of 4" in compare("y", near, right, None).problem
    far = [right[0], {"a": 0.5, "b": 0.26}]
    assert compare("y", far, right, budget).largest == pytest.approx(0.01)
    assert not compare("y", far, right, budget).passed
    for other in (right[:1], [right[0], {"a": 0.5, "c": 0.25}], right[0], np.zeros(2)):
        assert "other members" in compare("y", other, right, budget).problem
    words: list[Any] = [{"a": "u", "b": "long"}, [np.zeros(2, np.float32)]]
    assert compare("y", words, words, None).passed
    assert not compare("y", [{"a": "u", "b": "lung"}, words[1]], words, None).passed
