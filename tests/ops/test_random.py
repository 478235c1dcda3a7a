"""Random tensors: reproducible, of the right distribution, in the right type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from migx.dim import Dim
from migx.errors import ShapeError
from migx.op import bind, traits
from migx.ops.random import RandomNormal, RandomUniform
from migx.shape import BF16, F4, F16, F32, F64, I32, DType, Shape
from tests.ops.peers import run

DRAWS: list[type[Any]] = [RandomUniform, RandomNormal]


@pytest.mark.parametrize("cls", DRAWS)
@pytest.mark.parametrize("to", [F16, BF16, F32, F64], ids=str)
def test_a_seed_decides_every_value(cls: type[Any], to: DType) -> None:
    first = run(cls(5, (4, 3), to))
    np.testing.assert_array_equal(first, run(cls(5, (4, 3), to)))
    assert (first != run(cls(6, (4, 3), to))).any()
    assert len(np.unique(first.astype(np.float64))) > 6


def test_values_do_not_change_from_one_release_to_the_next() -> None:
    # Generator streams may change with numpy; Philox's raw words, which these come from, do not.
    words = np.random.Philox(1).random_raw(2)
    halves = np.array([w >> s & 0xFFFFFFFF for w in words.tolist() for s in (0, 32)], np.uint32)
    expected = (halves >> 8).astype(np.float32) * np.float32(2**-24)
    np.testing.assert_array_equal(run(RandomUniform(1, (4,))), expected)


def test_uniform_fills_its_range() -> None:
    x = run(RandomUniform(1, (20000,), low=-2.0, high=6.0))
    assert -2 <= x.min() < -1.99
    assert 5.99 < x.max() < 6
    histogram, _ = np.histogram(x, 8, (-2, 6))
    assert abs(histogram - 2500).max() < 250


def test_normal_has_its_mean_and_deviation() -> None:
    x = run(RandomNormal(1, (20000,), mean=3.0, scale=2.0)).astype(np.float64)
    z = (x - 3) / 2
    assert abs(z.mean()) < 0.03
    assert abs(z.std() - 1) < 0.03
    assert abs((z**3).mean()) < 0.1
    assert abs((z**4).mean() - 3) < 0.2


@pytest.mark.parametrize("cls", DRAWS)
def test_dims_may_be_symbolic(cls: type[Any]) -> None:
    op = cls(0, (Dim("n"), 2))
    assert op.compute_shape([]) == Shape(F32, (Dim("n"), 2))
    assert run(bind(op, {"n": 3})).shape == (3, 2)
    assert traits(op).pure
    assert not traits(op).foldable


@pytest.mark.parametrize("cls", DRAWS)
def test_errors_say_what_would_be_right(cls: type[Any]) -> None:
    for to in (I32, F4):
        with pytest.raises(ShapeError, match=f"makes floats of 8 bits or more, not {to}"):
            cls(0, (2,), to).compute_shape([])
    with pytest.raises(ShapeError, match="needs a seed of 0 or more, got -1"):
        cls(-1, (2,)).compute_shape([])
    with pytest.raises(ShapeError, match="takes 0 inputs, got 1"):
        cls(0, (2,)).compute_shape([Shape(F32)])
