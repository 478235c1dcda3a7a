"""Attention on packed tokens gives what onnxruntime's gives on padded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migx.errors import OnnxError
from tests.onnx.build import Array, peer, read
from tests.onnx.one_node import node_model

RNG = np.random.default_rng(23)
COUNTS = np.array([2, 5, 0, 3], np.int32)
BATCH, LENGTH, HEADS, SIZE = 4, 5, 2, 8
SEEN = np.arange(LENGTH) < COUNTS[:, None]
FLAT = SEEN.reshape(-1)
PLACES = np.argsort(~FLAT, kind="stable").astype(np.int32).reshape(BATCH, LENGTH)
BEFORE = np.array([0, *np.cumsum(COUNTS)], np.int32)
PACKED = {0: ("tokens", SIZE)}
TARGETS = pytest.mark.parametrize("target", ["ref", "cpu"])


def floats(*dims: int) -> Array:
    return RNG.standard_normal(dims, np.float32)


def tokens(x: Array) -> Array:
    return np.asarray(x.reshape(BATCH * LENGTH, *x.shape[2:])[FLAT])


@TARGETS
def test_padding_is_removed_and_restored(target: str, tmp_path: Path) -> None:
    x = floats(BATCH, LENGTH, SIZE)
    model, fed = node_model(
        "RemovePadding", [x, COUNTS], 4, symbolic={0: ("b", "s", SIZE), 1: ("b",)}
    )
    found = read(model, tmp_path).compile(target).eval(fed)
    wanted = [tokens(x), PLACES, BEFORE, np.array([5], np.int32)]
    for got, want in zip(found, wanted, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    model, fed = node_model(
        "RestorePadding", [tokens(x), PLACES], symbolic={**PACKED, 1: ("b", "s")}
    )
    (restored,) = read(model, tmp_path).compile(target).eval(fed)
    np.testing.assert_array_equal(restored, np.where(SEEN[..., None], x, 0))


@TARGETS
@pytest.mark.parametrize("options", [{}, {"scale": 0.4, "qkv_hidden_sizes": [8, 8, 12]}], ids=str)
def test_attention(options: dict[str, Any], target: str, tmp_path: Path) -> None:
    x, width = floats(BATCH, LENGTH, SIZE), 28 if options else 24
    weights, bias, scores = floats(SIZE, width), floats(width), floats(1, HEADS, LENGTH, LENGTH)
    model, fed = node_model(
        "Attention", [x, weights, bias, COUNTS, None, scores], num_heads=HEADS, **options
    )
    (whole,) = peer(model, fed)
    model, fed = node_model(
        "PackedAttention",
        [tokens(x), weights, bias, PLACES, BEFORE, scores],
        symbolic={**PACKED, 3: ("b", LENGTH), 4: ("c",)},
        num_heads=HEADS,
        **options,
    )
    (found,) = read(model, tmp_path).compile(target).eval(fed)
    np.testing.assert_allclose(found, tokens(whole), 1e-4, 1e-5)


@TARGETS
@pytest.mark.parametrize("beside", [True, False])
def test_multi_head_attention(beside: bool, target: str, tmp_path: Path) -> None:
    q, k, v = (floats(BATCH, LENGTH, SIZE) for _ in range(3))
    bias = floats(3 * SIZE)
    model, fed = node_model("MultiHeadAttention", [q, k, v, bias, COUNTS], num_heads=HEADS)
    (whole,) = peer(model, fed)
    given: list[Array | None] = [tokens(q), tokens(k), tokens(v)]
    if beside:
        apart = [x.reshape(-1, HEADS, SIZE // HEADS) for x in given if x is not None]
        given = [np.stack(apart, 2), None, None]
    model, fed = node_model(
        "PackedMultiHeadAttention", [*given, bias, PLACES, BEFORE], num_heads=HEADS
    )
    (found,) = read(model, tmp_path).compile(target).eval(fed)
    np.testing.assert_allclose(found, tokens(whole), 1e-4, 1e-5)


def test_refused(tmp_path: Path) -> None:
    model, _ = node_model("RemovePadding", [floats(4, 5), COUNTS])
    with pytest.raises(OnnxError, match=r"'x0' f32\[4, 5\]: 3 axes are wanted"):
        read(model, tmp_path)
