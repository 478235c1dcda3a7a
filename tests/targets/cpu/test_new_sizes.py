"""Plans for sizes that change from run to run."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import migx
from migx import planning, sizes
from migx.dims.extents import BySizes, Latest
from migx.errors import InputError
from migx.planning import Life, arranged
from migx.sizes import expect_shape
from migx.targets.cpu.plans.form import Form
from migx.targets.cpu.runs import piece
from tests.targets.cpu.test_control import REFUSED
from tests.targets.flow import PAIR, pair, same

TEXT = """module main(x: f32[n, 8], y: f32[m, 8], w: f32[k, 4]) {
  %0 = dot(x, w)
  %1 = relu(%0)
  %2 = concat(y, x) {axis=0}
  %3 = dot(%2, w)
  return %1, %3
}"""


def given(n: int, m: int) -> dict[str, Any]:
    dice = np.random.default_rng(0)
    dims = {"x": (n, 8), "y": (m, 8), "w": (8, 4)}
    return {k: dice.standard_normal(d).astype(np.float32) for k, d in dims.items()}


def test_sizes_inside_a_tuple_may_change() -> None:
    program, ref = migx.parse(PAIR).compile("cpu"), migx.parse(PAIR).compile("ref")
    for n in (3, 5, 2, 5):
        assert same(program.eval(pair(n)), ref.eval(pair(n)))
    with pytest.raises(InputError, match=r"dim n is 3 in x\[0\] and 2 in x\[1\]"):
        program.eval({"x": (pair(3)["x"][0], pair(2)["x"][1])})


def test_another_size_asks_again_only_what_it_concerns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def noted(at: Any, *rest: Any) -> None:
        asked.append(at.name)
        expect_shape(at, *rest)

    monkeypatch.setattr(sizes, "expect_shape", noted)
    program = migx.parse(TEXT).compile("cpu")
    expected = migx.parse(TEXT).compile("ref")
    for n, m, wanted in (
        (2, 3, ["concat", "dot", "dot"]),
        (2, 4, ["concat", "dot"]),
        (2, 3, []),  # a plan that is kept
        (5, 3, ["concat", "dot", "dot"]),
        (0, 3, ["concat", "dot", "dot"]),
    ):
        inputs = given(n, m)
        right = expected.eval(inputs)
        asked.clear()
        for got, wanted_there in zip(program.eval(inputs), right, strict=True):
            np.testing.assert_allclose(got, wanted_there, rtol=1e-5, atol=1e-6)
        assert sorted(asked) == wanted, f"n={n}, m={m}"


def test_what_was_asked_last_is_known() -> None:
    asked: list[dict[str, int]] = []

    def doubled(sizes: Mapping[str, int]) -> int:
        asked.append(dict(sizes))
        return 2 * sizes["n"]

    double = Latest(["n"], doubled)
    assert [double.at({"n": n, "m": m}) for n, m in ((1, 1), (1, 2), (3, 2))] == [2, 2, 6]
    assert len(asked) == 2
    several = BySizes(["n"], doubled, most=2)
    assert [several.at({"n": n}) for n in (1, 3, 1, 3, 5, 1)] == [2, 6, 2, 6, 10, 2]
    assert [sizes["n"] for sizes in asked[2:]] == [1, 3, 5, 1], (
        "the first to come is the first to go"
    )


def test_what_is_refused_is_refused_again() -> None:
    text = "module main(x: f32[n], y: f32[m]) {\n %0 = mul(x, y)\n return %0\n}"
    program = migx.parse(text).compile("cpu")
    for _ in range(2):
        with pytest.raises(migx.errors.InputError, match="n=2, m=3"):
            program.eval({"x": np.ones(2, np.float32), "y": np.ones(3, np.float32)})
        assert (
            program.eval({"x": np.ones(3, np.float32), "y": np.ones(3, np.float32)})[0].sum() == 3
        )


def test_what_only_refused_sizes_need_goes_with_their_plans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(piece, "PLANS", 2)
    program = migx.parse(REFUSED.replace("ends=(2,)", "ends=(99,)")).compile("cpu")
    before = forms()
    for n in range(1, 9):
        (result,) = program.eval({"c": np.array(False), "x": np.full((n, 4), n, np.float32)})
        assert result == n
    assert forms() - before <= 3, "that of the outline as it is, and those of two plans"


def test_sizes_near_each_other_are_arranged_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[int]] = []

    def noted(lives: list[Life]) -> tuple[list[int], int]:
        made.append([life.nbytes for life in lives])
        return arranged(lives)

    monkeypatch.setattr(planning, "arranged", noted)
    text = """module main(x: f32[n, 256], w: f32[256, 256]) {
  %0 = dot(x, w)
  %1 = dot(%0, w)
  %2 = dot(%1, w)
  return %2
}"""
    program = migx.parse(text).compile("cpu")
    executable: Any = program.compiled.executable
    ((planned,),) = executable.pieces.values()
    asked = 0
    for n in range(400, 440):
        plan = planned.plans.at({"n": n})
        asked += 1
        needed = 2 * 1024 * n
        assert needed <= plan.arena_bytes <= needed * 17 / 16
    assert len(made) < asked / 8


def forms() -> int:
    """How many forms there are."""
    gc.collect()
    return sum(type(each) is Form for each in gc.get_objects())
