"""Norms with products over weights of a few bits, and hashes of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migx.errors import OnnxError
from tests.onnx.build import Array, read
from tests.onnx.one_node import assert_as_peer, node_model, results

RNG = np.random.default_rng(23)
DEPTH, ROWS, FEWER, BLOCK = 64, 24, 16, 32


def floats(*dims: int) -> Array:
    return RNG.standard_normal(dims, np.float32)


def packed(rows: int) -> tuple[list[Array], Array]:
    """Weights of four bits and their scales, as a node has them; and the numbers they stand for."""
    levels = RNG.integers(0, 16, (rows, DEPTH), np.uint8)
    scales = RNG.uniform(0.01, 0.02, (rows, DEPTH // BLOCK)).astype(np.float32)
    pairs = levels.reshape(rows, DEPTH // BLOCK, BLOCK // 2, 2)
    real = (levels - 8.0) * np.repeat(scales, BLOCK, 1)
    return [np.asarray(pairs[..., 0] | pairs[..., 1] << 4, np.uint8), scales], real.T


X, SKIP, SCALE = floats(2, 3, DEPTH), floats(2, 3, DEPTH), floats(DEPTH)
OPTIONS: dict[str, Any] = {"K": DEPTH, "block_size": BLOCK, "bits": 4, "epsilon": 0.001}


def before(skip: bool, scale: bool) -> tuple[list[Array | None], Array, Array]:
    """The first operands, what they add up to, and what is multiplied."""
    total = (X + SKIP if skip else X).astype(np.float64)
    root = np.sqrt((total**2).mean(-1, keepdims=True) + OPTIONS["epsilon"])
    given = [X, SKIP if skip else None, SCALE if scale else None]
    return given, total, total / root * SCALE if scale else total


def held(inputs: list[Array | None]) -> list[int]:
    """The places of what is packed, which must be constant."""
    return [i for i, v in enumerate(inputs) if v is not None and v.dtype == np.uint8]


# onnxruntime has these for WebGPU alone.


@pytest.mark.parametrize(("skip", "scale"), [(False, False), (False, True), (True, True)])
@pytest.mark.parametrize("bias", [False, True])
def test_gated_projections(skip: bool, scale: bool, bias: bool, tmp_path: Path) -> None:
    given, total, x = before(skip, scale)
    (gate, up), wide = zip(*(packed(ROWS) for _ in range(2)), strict=True)
    biases = [floats(ROWS) if bias else None for _ in range(2)]
    inputs = [*given, *gate, biases[0], *up, biases[1]]
    options = {**OPTIONS, "N": ROWS, "activation": "silu", "constant": held(inputs)}
    found = results(tmp_path, "MatMulNBitsMlp", inputs, 2, **options)
    a, b = (x @ w + (0 if c is None else c) for w, c in zip(wide, biases, strict=True))
    np.testing.assert_allclose(found[0], a / (1 + np.exp(-a)) * b, 1e-4, 1e-5)
    np.testing.assert_allclose(found[1], total, 1e-6)


@pytest.mark.parametrize("skip", [False, True])
def test_projections_of_attention(skip: bool, tmp_path: Path) -> None:
    given, total, x = before(skip, True)
    parts, wide = zip(*(packed(n) for n in (ROWS, FEWER, FEWER)), strict=True)
    biases = [floats(ROWS), None, floats(FEWER)]
    inputs = [*given, *(v for p, b in zip(parts, biases, strict=True) for v in (*p, b))]
    options = {**OPTIONS, "Nq": ROWS, "Nkv": FEWER, "constant": held(inputs)}
    *found, summed = results(tmp_path, "MatMulNBitsQkv", inputs, 4, **options)
    for got, w, bias in zip(found, wide, biases, strict=True):
        np.testing.assert_allclose(got, x @ w + (0 if bias is None else bias), 1e-4, 1e-5)
    np.testing.assert_allclose(summed, total, 1e-6)


def test_refused_activation(tmp_path: Path) -> None:
    (gate, _), (up, _) = packed(ROWS), packed(ROWS)
    inputs = [X, None, None, *gate, None, *up]
    options = {**OPTIONS, "N": ROWS, "activation": "gelu", "constant": held(inputs)}
    with pytest.raises(OnnxError, match="activation 'gelu' is not supported; silu is"):
        read(node_model("MatMulNBitsMlp", inputs, 2, **options)[0], tmp_path)


# Integers


def test_products_and_sums_of_bytes(tmp_path: Path) -> None:
    x, y = (RNG.integers(0, 256, (2, 3), np.uint8) for _ in range(2))
    zeros = np.array(7, np.uint8), np.array(200, np.uint8)
    (found,) = results(tmp_path, "MulInteger", [x, zeros[0], y, zeros[1]])
    np.testing.assert_array_equal(found, (x.astype(np.int32) - 7) * (y.astype(np.int32) - 200))
    for kind, wide in ((np.uint8, np.uint32), (np.int8, np.int32)):
        (found,) = results(tmp_path, "ReduceSumInteger", [x.view(kind)], axes=[1], keepdims=0)
        assert found.dtype == wide
        np.testing.assert_array_equal(found, x.view(kind).sum(1, wide))


def test_softmax_of_a_sum(tmp_path: Path) -> None:
    x, bias = floats(2, 3, 4, 5), floats(2, 1, 4, 5)
    (found,) = results(tmp_path, "BiasSoftmax", [x, bias], axis=2, is_inner_broadcast=1)
    rows = np.exp((x + bias).reshape(2, 3, 20).astype(np.float64))
    wanted = (rows / rows.sum(-1, keepdims=True)).reshape(x.shape)
    np.testing.assert_allclose(found, wanted, 1e-5, 1e-7)


MANY = 10**12


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_hashes(
    dtype: Any, past: bool, end: bool, segments: bool, length: int, tmp_path: Path
) -> None:
    """Products wrap around, and residues are positive."""
    rng = np.random.default_rng(length)
    top = min(MANY, int(np.iinfo(dtype).max))
    inputs: list[Array | None] = [
        rng.integers(0, 6, (2, length)).astype(dtype),
        rng.integers(-top, top, 4).astype(dtype),
        np.array([97, 101, 103, 107, 109, 113], dtype),
        rng.integers(0, 6, (2, 3)).astype(dtype) if past else None,
        np.arange(6).astype(dtype) * 200 if past != end else None,
        np.array(2, dtype) if end else None,
        np.sort(rng.integers(0, 3, (2, length)), 1).astype(np.int32) if segments else None,
    ]
    while inputs[-1] is None:
        inputs.pop()
    options: dict[str, Any] = {"max_ngram_size": 4, "n_head_per_ngram": 2, "pad_id": 5}
    options["reset_on_eos"] = int(end)
    assert_as_peer(tmp_path, "NGramHashMapping", inputs, 2, **options)


def test_refused_sizes(tmp_path: Path) -> None:
    given = [np.zeros((2, 3), np.int64), np.ones(1, np.int64), np.ones(2, np.int64)]
    options: dict[str, Any] = {"max_ngram_size": 1, "n_head_per_ngram": 2, "pad_id": 5}
    with pytest.raises(OnnxError, match="max_ngram_size 1 is 2 or more"):
        read(node_model("NGramHashMapping", given, 2, **options)[0], tmp_path)
