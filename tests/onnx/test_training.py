"""One step of each optimiser, by ONNX's formulas, and what is drawn at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.onnx.build import Array
from tests.onnx.one_node import results

RNG = np.random.default_rng(6)
DOMAIN = "ai.onnx.preview.training"
X, G, V, H = (RNG.standard_normal((2, 3), np.float32) for _ in range(4))
H = np.abs(H)
RATE, STEPS = np.array(0.1, np.float32), [np.array(n) for n in (0, 3)]


def step(folder: Path, kind: str, count: Array, *state: Array, **options: Any) -> list[Array]:
    """The results for a group of tensors that is given twice, of which one is turned."""
    pairs = [v for value in (X, G, *state) for v in (value, -value if value is not H else value)]
    outputs = 2 * (1 + len(state))
    found = results(folder, kind, [RATE, count, *pairs], outputs, domain=DOMAIN, **options)
    for first, second in zip(found[::2], found[1::2], strict=True):
        np.testing.assert_allclose(np.abs(first), np.abs(second), 1e-6)
    return found[::2]


@pytest.mark.parametrize("count", STEPS)
def test_adagrad(count: Array, tmp_path: Path) -> None:
    options = {"norm_coefficient": 0.01, "decay_factor": 0.2, "epsilon": 1e-3}
    slope = 0.01 * X + G
    squares = H + slope**2
    wanted = X - 0.1 / (1 + count * 0.2) * slope / (np.sqrt(squares) + 1e-3)
    found = step(tmp_path, "Adagrad", count, H, **options)
    np.testing.assert_allclose(found[0], wanted, 1e-4, 1e-5)
    np.testing.assert_allclose(found[1], squares, 1e-5)


@pytest.mark.parametrize("mode", ["standard", "nesterov"])
@pytest.mark.parametrize("count", STEPS)
def test_momentum(count: Array, mode: str, tmp_path: Path) -> None:
    options = {"norm_coefficient": 0.01, "alpha": 0.9, "beta": 0.5, "mode": mode}
    slope = 0.01 * X + G
    velocity = 0.9 * V + (0.5 if count else 1) * slope
    way = velocity if mode == "standard" else slope + 0.9 * velocity
    found = step(tmp_path, "Momentum", count, V, **options)
    np.testing.assert_allclose(found[0], X - 0.1 * way, 1e-4, 1e-5)
    np.testing.assert_allclose(found[1], velocity, 1e-4, 1e-5)


@pytest.mark.parametrize("count", STEPS)
def test_adam(count: Array, tmp_path: Path) -> None:
    options = {
        "norm_coefficient": 0.01,
        "alpha": 0.9,
        "beta": 0.8,
        "epsilon": 1e-3,
        "norm_coefficient_post": 0.1,
    }
    slope = 0.01 * X + G
    mean, square = 0.9 * V + 0.1 * slope, 0.8 * H + 0.2 * slope**2
    rate = 0.1 * np.sqrt(1 - 0.8**count) / (1 - 0.9**count) if count else 0.1
    wanted = 0.9 * (X - rate * mean / (np.sqrt(square) + 1e-3))
    found = step(tmp_path, "Adam", count, V, H, **options)
    np.testing.assert_allclose(found[0], wanted, 1e-4, 1e-5)
    np.testing.assert_allclose(found[1], mean, 1e-4, 1e-5)
    np.testing.assert_allclose(found[2], square, 1e-4, 1e-5)


LIKE = np.zeros((400, 50), np.float32)


@pytest.mark.parametrize("kind", ["RandomUniform", "RandomNormal"])
def test_random_tensors(kind: str, tmp_path: Path) -> None:
    uniform = kind == "RandomUniform"
    options: dict[str, Any] = {"low": -1.0, "high": 3.0} if uniform else {"mean": 1.0, "scale": 1.2}
    (first,) = results(tmp_path, f"{kind}Like", [LIKE], domain="", seed=3.0, **options)
    (second,) = results(tmp_path, kind, [], domain="", seed=3.0, shape=[400, 50], **options)
    np.testing.assert_array_equal(first, second)
    assert abs(float(first.mean()) - 1) < 0.05
    assert abs(float(first.std()) - 1.2) < 0.1
    (other,) = results(tmp_path, kind, [], domain="", shape=[400, 50], dtype=11, **options)
    assert other.dtype == np.float64
    assert (other != first).any()


def test_bernoulli_and_multinomial_follow_their_chances(tmp_path: Path) -> None:
    (found,) = results(tmp_path, "Bernoulli", [LIKE + np.float32(0.3)], domain="", dtype=9)
    assert found.dtype == np.bool_
    assert abs(float(found.mean()) - 0.3) < 0.02
    chances = np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    with np.errstate(divide="ignore"):
        logs = np.log(chances).astype(np.float32)
    (drawn,) = results(tmp_path, "Multinomial", [logs], domain="", sample_size=5000, dtype=7)
    shares = [np.bincount(row, minlength=3) / 5000 for row in drawn]
    assert drawn.dtype == np.int64
    np.testing.assert_allclose(shares, chances, atol=0.03)
