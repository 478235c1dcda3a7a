"""Biases for positions, by numpy: onnxruntime has no kernels for them on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migx.errors import OnnxError
from tests.onnx.build import Array, read
from tests.onnx.one_node import node_model, results

RNG = np.random.default_rng(22)


def floats(*dims: int) -> Array:
    return RNG.standard_normal(dims, np.float32)


def buckets(queries: int, keys: int, count: int, most: int, both: bool) -> Array:
    """The bucket of each pair, as T5 has them."""
    ahead = np.arange(keys) - np.arange(queries)[:, None]
    begin = np.where(ahead > 0, count // 2, 0) if both else 0
    count = count // 2 if both else count
    far = abs(ahead) if both else np.maximum(-ahead, 0)
    exact = count // 2
    with np.errstate(divide="ignore"):
        part = np.log(far.astype(np.float32) / exact) / np.log(most / exact) * (count - exact)
    large = np.minimum(exact + np.maximum(part, 0).astype(np.int64), count - 1)
    return np.asarray(begin + np.where(far < exact, far, large))


@pytest.mark.parametrize("target", ["ref", "cpu"])
@pytest.mark.parametrize("both", [False, True])
def test_as_t5(both: bool, target: str, tmp_path: Path) -> None:
    table = floats(32, 6)
    operands = [table.T.copy().reshape(32, 6), np.array([1]), np.array([1])]
    options: dict[str, Any] = {"max_distance": 128, "is_bidirectional": int(both)}
    given, _ = node_model("RelativePositionBias", operands, constant=[0], **options)
    program = read(given, tmp_path).compile(target)
    for queries, keys in ((1, 1), (5, 7), (300, 300)):
        (found,) = program.eval({"x1": np.array([queries]), "x2": np.array([keys])})
        wanted = table[buckets(queries, keys, 32, 128, both)].transpose(2, 0, 1)[None]
        np.testing.assert_array_equal(found, wanted)


def test_gates(tmp_path: Path) -> None:
    x, bias, positions = floats(2, 3, 16), floats(16), floats(1, 2, 3, 3)
    weight, offset, a = floats(8, 4), floats(4), floats(1, 2, 1, 1)
    operands = [x, bias, positions, weight, offset, a]
    (found,) = results(tmp_path, "GatedRelativePositionBias", operands, num_heads=2)
    rows = (x + bias).reshape(2, 3, 2, 8).transpose(0, 2, 1, 3) @ weight + offset
    u, r = np.split(1 / (1 + np.exp(-rows.reshape(2, 2, 3, 2, 2).sum(-1))), 2, -1)
    np.testing.assert_allclose(found, (u * (r * a - 1) + 2) * positions, 1e-5, 1e-6)


@pytest.mark.parametrize(
    ("kind", "operands", "options", "said"),
    [
        (
            "RelativePositionBias",
            [floats(32, 2), np.array([3]), np.array([3])],
            {"max_distance": 8},
            "32 buckets for a max_distance of 8",
        ),
        (
            "GatedRelativePositionBias",
            [*map(floats, (1, 4, 8, 4, 1)), None, np.zeros((1, 1), np.int32)],
            {"num_heads": 1},
            "token_offset is not supported",
        ),
    ],
)
def test_refused(
    kind: str, operands: list[Any], options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(OnnxError, match=said):
        read(node_model(kind, operands, **options)[0], tmp_path)
