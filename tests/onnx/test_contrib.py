"""Operators of onnxruntime's own domain, by its word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.onnx.build import Array
from tests.onnx.one_node import assert_as_peer, results

RNG = np.random.default_rng(7)


def floats(*dims: int) -> Array:
    return RNG.standard_normal(dims, np.float32)


X, SKIP, GAMMA, BETA, BIAS = floats(2, 3, 8), floats(2, 3, 8), floats(8), floats(8), floats(8)
IMAGE, KERNEL = floats(1, 4, 5, 6), floats(6, 4, 3, 3)
WORDS = np.array([[1, 4, 2], [0, 3, 3]], np.int32)
SEGMENTS, MASK = np.array([[0, 1, 1], [0, 0, 1]], np.int32), np.array([[1, 1, 0], [1, 1, 1]])
TABLES = floats(5, 8), floats(4, 8), floats(2, 8)

CASES: dict[str, tuple[str, list[Any], int, dict[str, Any]]] = {
    "gelu": ("Gelu", [X], 1, {}),
    "bias_gelu": ("BiasGelu", [X, BIAS], 1, {}),
    "fast_gelu": ("FastGelu", [X], 1, {}),
    "fast_gelu_with_bias": ("FastGelu", [X, BIAS], 1, {}),
    "quick_gelu": ("QuickGelu", [X], 1, {"alpha": 1.5}),
    "skip": ("SkipLayerNormalization", [X, SKIP, GAMMA], 1, {}),
    "skip_all": ("SkipLayerNormalization", [X, SKIP[:1], GAMMA, BETA, BIAS], 1, {"epsilon": 0.1}),
    "simplified": ("SimplifiedLayerNormalization", [X, GAMMA], 1, {"domain": "", "axis": -1}),
    "skip_simplified": ("SkipSimplifiedLayerNormalization", [X, SKIP, GAMMA, BIAS], 1, {}),
    "embed": ("EmbedLayerNormalization", [WORDS, None, *TABLES[:2], None, GAMMA, BETA], 2, {}),
    "embed_all": (
        "EmbedLayerNormalization",
        [WORDS, SEGMENTS, *TABLES, GAMMA, BETA, MASK.astype(np.int32), WORDS % 3],
        3,
        {"epsilon": 0.01},
    ),
    "embed_one_segment": (
        "EmbedLayerNormalization",
        [WORDS, None, *TABLES, GAMMA, BETA],
        2,
        {},
    ),
    "fused_matmul": (
        "FusedMatMul",
        [floats(2, 4, 3), floats(2, 5, 4)],
        1,
        {"transA": 1, "transB": 1, "alpha": 0.5},
    ),
    "fused_matmul_of_batches": (
        "FusedMatMul",
        [floats(4, 2, 3), floats(2, 3, 5)],
        1,
        {"transBatchA": 1},
    ),
    "fused_gemm": (
        "FusedGemm",
        [floats(3, 4), floats(5, 4), floats(5)],
        1,
        {"transB": 1, "alpha": 0.5, "activation": "LeakyRelu", "activation_alpha": 0.2},
    ),
    "fused_conv": ("FusedConv", [IMAGE, KERNEL, floats(6)], 1, {"activation": "Relu"}),
    "fused_conv_clipped": (
        "FusedConv",
        [IMAGE, KERNEL],
        1,
        {"activation": "Clip", "activation_params": [0.0, 1.5], "pads": [1, 1, 1, 1]},
    ),
    "fused_conv_with_sum": (
        "FusedConv",
        [IMAGE, KERNEL, floats(6), floats(1, 6, 3, 4)],
        1,
        {"activation": "LeakyRelu", "activation_params": [0.3]},
    ),
    "pad": ("Pad", [X, np.array([0, 1, 0, 0, -1, 2]), np.array(2, np.float32)], 1, {}),
    "range": ("Range", [np.array(2.0), np.array(9.0), np.array(2.5)], 1, {}),
    "range_by_one": ("Range", [np.array(2), np.array(5)], 1, {}),
    "trilu": ("Trilu", [X, np.array(1)], 1, {"upper": 0}),
    "gather_tuples": ("GatherND", [X, np.array([[0, 2], [1, 0]])], 1, {}),
    "grid_sample": (
        "GridSample",
        [IMAGE, np.tanh(floats(1, 3, 2, 2))],
        1,
        {"mode": "bicubic", "padding_mode": "border", "align_corners": 1},
    ),
    "expand_dims": ("ExpandDims", [X, np.array(-1, np.int32)], 1, {}),
    "unique": ("Unique", [np.array([3, 1, 3, 2, 1], np.float32)], 3, {}),
    "integers_of_16_bits": (
        "MatMulInteger16",
        [np.array([[300, -2]], np.int16), np.array([[700], [5]], np.int16)],
        1,
        {},
    ),
    "nhwc_max_pool": (
        "NhwcMaxPool",
        [RNG.integers(0, 255, (1, 5, 6, 3), np.uint8)],
        1,
        {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [0, 1, 1, 0]},
    ),
    "distances": ("CDist", [floats(4, 3), floats(5, 3)], 1, {"metric": "euclidean"}),
    "square_distances": ("CDist", [floats(4, 3), floats(5, 3)], 1, {}),
    "numbers_of_bitsandbytes": (
        "MatMulBnb4",
        [floats(2, 3, 32), RNG.integers(0, 256, 96, np.uint8), np.abs(floats(12))],
        1,
        {"K": 32, "N": 6, "block_size": 16, "quant_type": 0},
    ),
    "quantiles_in_blocks_that_end_within_rows": (
        "MatMulBnb4",
        [floats(2, 5), RNG.integers(0, 256, 8, np.uint8), np.abs(floats(1))],
        1,
        {"K": 5, "N": 3, "block_size": 16, "quant_type": 1, "constant": (1, 2)},
    ),
    "fused_conv_hard_sigmoid": (
        "FusedConv",
        [IMAGE, KERNEL],
        1,
        {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_as_onnxruntime(case: str, tmp_path: Path) -> None:
    kind, inputs, outputs, options = CASES[case]
    assert_as_peer(tmp_path, kind, inputs, outputs, **options)


def test_the_sum_before_a_normalisation_is_a_result(tmp_path: Path) -> None:
    _, mean, inverse, total = results(
        tmp_path, "SkipLayerNormalization", [X, SKIP, GAMMA, BETA, BIAS], 4
    )
    whole = X + SKIP + BIAS
    np.testing.assert_allclose(total, whole, 1e-6)
    np.testing.assert_allclose(mean, whole.mean(-1, keepdims=True), 1e-4, 1e-6)
    np.testing.assert_allclose(inverse, 1 / whole.std(-1, keepdims=True), 1e-4)


def gelu(x: Array) -> Array:
    from migx.ops._erf import erf

    return np.asarray(0.5 * x * (1 + erf(x * np.float32(np.sqrt(0.5)))))


# onnxruntime has these for graphics processors alone.


def test_bias_add_and_split_gelu(tmp_path: Path) -> None:
    (found,) = results(tmp_path, "BiasAdd", [X, BIAS, SKIP])
    np.testing.assert_allclose(found, X + BIAS + SKIP, 1e-6)
    (found,) = results(tmp_path, "BiasSplitGelu", [X, BIAS])
    left, right = np.split(X + BIAS, 2, -1)
    np.testing.assert_allclose(found, left * gelu(right), 1e-4, 1e-6)


@pytest.mark.parametrize("rounded", [0, 1])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_gate_and_what_goes_through_it(dtype: type, rounded: int, tmp_path: Path) -> None:
    both: Array = floats(2, 12).astype(dtype)
    gate, up = (half.astype(np.float64) for half in np.split(both, 2, -1))
    (found,) = results(tmp_path, "SwiGLU", [*np.split(both, 2, -1)], round_activation=rounded)
    rtol = 4e-3 if dtype is np.float16 else 1e-5
    assert found.dtype == dtype
    np.testing.assert_allclose(found, gate / (1 + np.exp(-gate)) * up, rtol, 1e-6)
    options: dict[str, Any] = {"limit": 0.5, "activation_alpha": 1.7, "activation_beta": 1.0}
    (found,) = results(tmp_path, "SwiGLU", [both], round_activation=rounded, **options)
    gate, up = np.minimum(gate, 0.5), np.clip(up, -0.5, 0.5)
    np.testing.assert_allclose(found, gate / (1 + np.exp(-1.7 * gate)) * (up + 1), rtol, 1e-6)


def test_product_with_gelu(tmp_path: Path) -> None:
    (found,) = results(tmp_path, "GemmFastGelu", [X, floats(8, 8), BIAS])
    assert found.shape == X.shape
    (wanted,) = results(tmp_path, "FastGelu", [np.zeros_like(X), BIAS])
    (found,) = results(tmp_path, "GemmFastGelu", [X, np.zeros((8, 8), np.float32), BIAS])
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("rank", [2, 4])
def test_group_norm_of_a_sum(rank: int, tmp_path: Path) -> None:
    x, skip = floats(2, 3, 4, 8), floats(2, 8)
    skip = skip if rank == 2 else np.broadcast_to(skip[:, None, None], x.shape).copy()
    options: dict[str, Any] = {"groups": 2, "activation": 1}
    found = results(tmp_path, "SkipGroupNorm", [x, GAMMA, BETA, skip, BIAS], 2, **options)
    total = x + (skip[:, None, None] if rank == 2 else skip) + BIAS
    (wanted,) = results(tmp_path, "GroupNorm", [total, GAMMA, BETA], **options)
    np.testing.assert_allclose(found[1], total, 1e-6)
    np.testing.assert_allclose(found[0], wanted, 1e-5, 1e-6)


@pytest.mark.parametrize("activation", [0, 1])
def test_group_norm_of_channels_that_stand_last(activation: int, tmp_path: Path) -> None:
    x = floats(2, 3, 4, 8)
    (found,) = results(
        tmp_path, "GroupNorm", [x, GAMMA, BETA], groups=2, activation=activation, channels_last=1
    )
    apart = x.reshape(2, 3, 4, 2, 4)
    spread = apart.var((1, 2, 4), keepdims=True) + 1e-5
    wanted = ((apart - apart.mean((1, 2, 4), keepdims=True)) / np.sqrt(spread)).reshape(x.shape)
    wanted = wanted * GAMMA + BETA
    wanted = wanted / (1 + np.exp(-wanted)) if activation else wanted
    np.testing.assert_allclose(found, wanted, 1e-4, 1e-5)


def test_convolution_of_channels_that_stand_last(tmp_path: Path) -> None:
    (plain,) = results(tmp_path, "FusedConv", [IMAGE, KERNEL, GAMMA[:6]], pads=[1, 0, 1, 0])
    order = (0, 2, 3, 1)
    (found,) = results(
        tmp_path,
        "NhwcConv",
        [IMAGE.transpose(order), KERNEL.transpose(order), GAMMA[:6]],
        pads=[1, 0, 1, 0],
    )
    np.testing.assert_allclose(found, plain.transpose(order), 1e-5, 1e-6)
