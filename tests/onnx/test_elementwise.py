"""Operators on each element: onnxruntime is the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.onnx.build import Array, read
from tests.onnx.one_node import assert_as_peer, node_model

X = np.random.default_rng(1).normal(0, 2, (3, 4, 5))
CHANNELS = np.random.default_rng(2).uniform(0.01, 1, (4, 4))


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("BatchNormalization", list(CHANNELS)),
        ("LeakyRelu", []),
    ],
)
def test_a_default_is_a_number_of_f32(kind: str, more: list[Array], tmp_path: Path) -> None:
    """As the protobuf type says, and so in f64 what one is that is given."""
    assert_as_peer(tmp_path, kind, [X, *more], domain="", rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dims", [(), (3, 0), (4, 5)])
@pytest.mark.parametrize("asked", [{}, {"alpha": 0.3}])
def test_celu(dims: tuple[int, ...], asked: dict[str, Any], tmp_path: Path) -> None:
    """The function by which ONNX defines it makes a vector of a scalar."""
    x = np.random.default_rng(1).normal(0, 2, dims).astype(np.float32)
    assert_as_peer(tmp_path, "Celu", [np.asarray(x)], domain="", rtol=1e-6, **asked)


@pytest.mark.parametrize("target", ["ref", "cpu"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_softplus_of_what_is_far_below_zero(dtype: type, target: str, tmp_path: Path) -> None:
    """Five roundings, of which that of an exponential counts in the next."""
    x: Array = np.array([-30, -15, -9, -3, -0.5, 0, 0.5, 20], dtype)
    model, fed = node_model("Softplus", [x], domain="")
    (found,) = read(model, tmp_path).compile(target).eval(fed)
    wanted = np.logaddexp(x.astype(np.float64), 0)
    eps, least = (float(getattr(np.finfo(dtype), n)) for n in ("eps", "smallest_subnormal"))
    np.testing.assert_allclose(found, wanted, 8 * eps, least)


@pytest.mark.parametrize("target", ["ref", "cpu"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_mean_and_variance_of_what_is_far_from_zero(
    dtype: type, target: str, tmp_path: Path
) -> None:
    """Differences from a mean of about 100 are off by its rounding, 2^-18, at most some times; what
    is all the same is no NaN.
    """
    x: Array = np.random.default_rng(4).normal(100, 1, (2, 3, 8, 8)).astype(dtype)
    model, fed = node_model("MeanVarianceNormalization", [x], domain="")
    (found,) = read(model, tmp_path).compile(target).eval(fed)
    wide = x.astype(np.float64)
    wanted = (wide - wide.mean((0, 2, 3), keepdims=True)) / wide.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(found, wanted, 8 * float(np.finfo(dtype).eps), 2.0**-16)
    (found,) = read(model, tmp_path).compile(target).eval({"x0": np.full_like(x, 0.1)})
    assert np.isfinite(found).all()
