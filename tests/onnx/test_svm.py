"""Support vector machines, by onnxruntime's word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migx.errors import OnnxError
from tests.onnx.one_node import assert_as_peer, results

RNG = np.random.default_rng(12)
X = RNG.standard_normal((40, 3), np.float32)
DOMAIN = "ai.onnx.ml"
KERNELS = {
    "LINEAR": [0.0, 0.0, 0.0],
    "RBF": [0.4, 0.0, 0.0],
    "POLY": [0.5, 1.2, 3.0],
    "SIGMOID": [0.3, 0.1, 0.0],
}


def numbers(*dims: int) -> list[float]:
    values: list[float] = RNG.standard_normal(dims).reshape(-1).tolist()
    return values


def classifier(classes: int, *, chances: bool, kernel: str = "RBF") -> dict[str, Any]:
    """The attributes of a machine for some classes, of one, two, ... vectors."""
    pairs, counts = classes * (classes - 1) // 2, list(range(1, classes + 1))
    made: dict[str, Any] = {
        "coefficients": numbers(classes - 1, sum(counts)),
        "support_vectors": numbers(sum(counts), 3),
        "vectors_per_class": counts,
        "rho": numbers(pairs),
        "kernel_type": kernel,
        "kernel_params": KERNELS[kernel],
        "classlabels_ints": [10 * i for i in range(classes)],
    }
    if chances:
        made.update(prob_a=[-abs(a) for a in numbers(pairs)], prob_b=numbers(pairs))
    return made


@pytest.mark.parametrize("one_class", [0, 1])
@pytest.mark.parametrize("kernel", [*KERNELS, None])
def test_regressor(kernel: str | None, one_class: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"coefficients": numbers(3), "rho": [0.2], "n_supports": 0}
    if kernel is not None:
        options = {"coefficients": numbers(4), "support_vectors": numbers(4, 3), "rho": [0.2]}
        options |= {"n_supports": 4, "kernel_type": kernel}
    options["kernel_params"] = KERNELS[kernel or "LINEAR"]
    assert_as_peer(tmp_path, "SVMRegressor", [X], domain=DOMAIN, one_class=one_class, **options)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("chances", [False, True])
def test_classifier(classes: int, chances: bool, kernel: str, tmp_path: Path) -> None:
    options = classifier(classes, chances=chances, kernel=kernel)
    assert_as_peer(tmp_path, "SVMClassifier", [X], 2, domain=DOMAIN, rtol=1e-3, **options)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("transform", ["LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("chances", [False, True])
def test_transforms(classes: int, transform: str, chances: bool, tmp_path: Path) -> None:
    options = classifier(classes, chances=chances) | {"post_transform": transform}
    assert_as_peer(tmp_path, "SVMClassifier", [X], 2, domain=DOMAIN, rtol=1e-3, **options)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("sign", [1, -1])
def test_without_support_vectors(classes: int, sign: int, tmp_path: Path) -> None:
    weights = [sign * abs(v) for v in numbers(classes, 3)]
    options: dict[str, Any] = {"coefficients": weights, "rho": [0.1]}
    options |= {"classlabels_ints": [7, 8, 9][:classes], "kernel_params": KERNELS["LINEAR"]}
    assert_as_peer(tmp_path, "SVMClassifier", [X], 2, domain=DOMAIN, **options)


def test_probit_is_the_inverse_of_the_normal_distribution(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "coefficients": [1.0],
        "intercepts": [0.0],
        "post_transform": "PROBIT",
    }
    given = np.array([[0.5], [0.8413447], [0.0227501]], np.float32)
    (found,) = results(tmp_path, "LinearRegressor", [given], domain=DOMAIN, **options)
    np.testing.assert_allclose(found, [[0.0], [1.0], [-2.0]], atol=0.01)  # an approximation


def test_what_does_not_fit_is_an_error(tmp_path: Path) -> None:
    options = classifier(3, chances=False)
    with pytest.raises(OnnxError, match="it has 2 labels, and vectors for 3"):
        results(
            tmp_path,
            "SVMClassifier",
            [X],
            2,
            domain=DOMAIN,
            **options | {"classlabels_ints": [1, 2]},
        )
    with pytest.raises(OnnxError, match="no kernel_type 'NEAR'; there are LINEAR, POLY, RBF,"):
        results(
            tmp_path, "SVMClassifier", [X], 2, domain=DOMAIN, **options | {"kernel_type": "NEAR"}
        )
