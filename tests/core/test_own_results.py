"""Results are the caller's own, and what a run is given stays as it was."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

import migx
from migx import ops
from migx.errors import EvaluationError
from migx.op import Array, Op, Shapes, Traits
from migx.program import Program
from migx.shape import Shape

targets = pytest.mark.parametrize("target", ["ref", "cpu"])

VIEWS = """
module main(x: f32[4, 2], y: f32[4, 2]) {
  %0 = transpose(x) {permutation=(1, 0)}
  %1 = add(x, y)
  %2 = slice(%0) {axes=(0,), starts=(1,), ends=(2,)}
  %3 = transpose(%1) {permutation=(1, 0)}
  %4 = multibroadcast(y) {out_lens=(3, 4, 2)}
  %5 = @literal() {value=[1.0, 2.0]} : f32[2]
  %6 = reshape(%5) {dims=(2, 1)}
  %7 = identity(x)
  return %0, %1, %2, y, %1, %3, %4, %5, %6, %7
}
"""
BRANCHES = """
module main(x: f32[2], c: bool[]) {
  %0 = if(c) [yes, no]
  %1 = get_tuple_elem(%0) {index=0}
  %2 = get_tuple_elem(%0) {index=1}
  return %1, %2, %1
}

module yes() {
  %0 = abs(main:x)
  return %0, %0
}

module no() {
  %0 = neg(main:x)
  return %0, main:x
}
"""
HELD = """
module main(x: f32[2]) {
  %0 = sequence_construct(x, x)
  return %0
}
"""


def arrays(results: list[Any]) -> list[Array]:
    return [a for result in results for a in (result if isinstance(result, list) else [result])]


@targets
@pytest.mark.parametrize(
    ("text", "given"),
    [
        (VIEWS, {"x": np.arange(8.0).reshape(4, 2), "y": np.ones((4, 2))}),
        (BRANCHES, {"x": np.array([-1.0, 2.0]), "c": np.array(True)}),
        (BRANCHES, {"x": np.array([-1.0, 2.0]), "c": np.array(False)}),
        (HELD, {"x": np.array([1.0, 2.0])}),
    ],
)
def test_results_share_no_memory(text: str, given: dict[str, Array], target: str) -> None:
    given = {n: v.astype(np.float32) if v.dtype == np.float64 else v for n, v in given.items()}
    program = migx.parse(text).compile(target, passes="" if target == "ref" else None)
    first = arrays(program.eval(given))
    for one, other in combinations([*first, *given.values()], 2):
        assert not np.may_share_memory(one, other)
    wanted = [result.copy() for result in first]
    for result in first:
        result[...] = 77
    for result, right in zip(arrays(program.eval(given)), wanted, strict=True):
        assert np.array_equal(result, right)


class DoubledInPlace(Op):
    """Twice the input, which it must not write to."""

    traits = Traits(pointwise=True)

    def compute_shape(self, shapes: Shapes, modules: Any = ()) -> Shape:
        return shapes[0].as_standard()

    def compute(self, x: Array) -> Array:
        x *= 2
        return x


class DoubledInFull(DoubledInPlace):
    """The same, asking for its arguments as they are."""

    def compute(self, arguments: Any) -> Any:
        arguments[0].array[...] *= 2
        return arguments[0]


class DoubledOfAll(DoubledInPlace):
    """The same, of however many arrays."""

    def compute(self, *arguments: Array) -> Array:
        return super().compute(*arguments)


@targets
@pytest.mark.parametrize("op", [DoubledInPlace(), DoubledInFull(), DoubledOfAll()])
@pytest.mark.parametrize("inner", [False, True])
def test_an_operation_cannot_write_to_what_it_reads(op: Op, inner: bool, target: str) -> None:
    program, given = Program(), np.ones(3, np.float32)
    x = program.main.add_parameter("x", Shape("f32", (3,)))
    read = program.main.add_instruction(ops.Neg(), x) if inner else x
    program.main.add_return(program.main.add_instruction(op, read), read)
    program.compile(target)
    with pytest.raises(EvaluationError, match="read-only"):
        program.eval({"x": given})
    assert given.tolist() == [1, 1, 1]
