"""Operators on each element: onnxruntime is the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.onnx.build import Array
from tests.onnx.one_node import assert_as_peer

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
