"""GroupQueryAttention with keys and values kept in few bits, scores as results, norms, and queries
that see what comes after them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migx.errors import OnnxError
from tests.onnx.build import Array, peer, read
from tests.onnx.one_node import assert_as_peer, node_model, results

RNG = np.random.default_rng(29)
KIND, HEADS, GROUPS, SIZE, ROOM = "GroupQueryAttention", 4, 2, 16, 6
COUNTS: dict[str, Any] = {"num_heads": HEADS, "kv_num_heads": GROUPS}
COS, SIN = (f(RNG.standard_normal((16, SIZE // 2), np.float32)) for f in (np.cos, np.sin))


def floats(*dims: int) -> Array:
    return RNG.standard_normal(dims, np.float32)


def operands(batch: int, length: int, past: Array, last: int, *more: Any) -> list[Any]:
    """Queries, keys and values, the same past of both, and what follows."""
    given = [floats(batch, length, n * SIZE) for n in (HEADS, GROUPS, GROUPS)]
    lasts = np.full(batch, last, np.int32)
    return [*given, past, past[..., ::-1].copy(), lasts, np.array(last + 1, np.int32), *more]


TURNED = [COS, SIN]
NONE = [None] * 2
SCORES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "step": (operands(2, 1, floats(2, 2, 5, 16), 5), {}),
    "room": (operands(2, 1, floats(2, 2, 9, 16), 5), {}),
    "prompt": (operands(2, 4, floats(2, 2, 0, 16), 3), {"scale": 0.3}),
    "capped": (operands(1, 3, floats(1, 2, 2, 16), 4), {"softcap": 1.5}),
    "window": (operands(1, 5, floats(1, 2, 0, 16), 4), {"local_window_size": 2}),
    "sink": (operands(1, 3, floats(1, 2, 0, 16), 2, *NONE, *NONE, floats(4)), {}),
    "biased": (operands(1, 3, floats(1, 2, 0, 16), 2, *NONE, None, floats(1, 4, 3, 3)), {}),
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("mode", [1, 2])
@pytest.mark.parametrize("case", SCORES)
def test_scores(case: str, mode: int, known: bool, tmp_path: Path) -> None:
    """Where keys come after a query both have zeros."""
    inputs, options = SCORES[case]
    options = {**COUNTS, **options, "qk_output": mode, "constant": (6,) if known else ()}
    model, fed = node_model(KIND, inputs, 4, **options)
    found, wanted = read(model, tmp_path).compile("ref").eval(fed), peer(model, fed)
    for i in (0, 3):
        assert found[i].shape == wanted[i].shape
        np.testing.assert_allclose(found[i], wanted[i], 1e-4, 1e-5)


SEEN: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "prompt": (operands(2, 4, floats(2, 2, 0, 16), 3), {}),
    "more": (operands(1, 3, floats(1, 2, 4, 16), 6, *TURNED), {"do_rotary": 1}),
    "step": (operands(2, 1, floats(2, 2, 5, 16), 5), {}),
}


@pytest.mark.parametrize("case", SEEN)
def test_queries_see_all_keys(case: str, tmp_path: Path) -> None:
    inputs, options = SEEN[case]
    assert_as_peer(tmp_path, KIND, inputs, 3, causal=0, **COUNTS, **options)


@pytest.mark.parametrize("target", ["ref", "cpu"])
@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("kind", ["PER_TENSOR", "PER_CHANNEL"])
@pytest.mark.parametrize("bits", [8, 4])
def test_kept_in_few_bits(bits: int, kind: str, length: int, target: str, tmp_path: Path) -> None:
    """What is kept is the same in every bit; what is computed of it is real."""
    dims = (1, GROUPS, 1, SIZE) if kind == "PER_CHANNEL" else (1,)
    scale = (RNG.uniform(0.01, 0.02, dims) * 2 ** (8 - bits)).astype(np.float32)
    dtype, width = (np.int8, SIZE) if bits == 8 else (np.uint8, SIZE // 2)
    past = RNG.integers(0, 256, (1, GROUPS, 4, width)).astype(np.uint8).view(dtype)
    inputs = operands(1, length, past, 3 + length, *TURNED, *NONE, None, scale, scale / 2)
    options = {**COUNTS, "do_rotary": 1, "kv_cache_bit_width": bits}
    options |= {"k_quant_type": kind, "v_quant_type": kind}
    model, fed = node_model(KIND, inputs, 3, **options)
    found, wanted = read(model, tmp_path).compile(target).eval(fed), peer(model, fed)
    np.testing.assert_allclose(found[0], wanted[0], 1e-4, 1e-5)
    for got, want in zip(found[1:], wanted[1:], strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_array_equal(got, want)


def test_norms_come_before_all_else(tmp_path: Path) -> None:
    """Onnxruntime has these for graphics processors alone."""
    inputs = operands(1, 3, floats(1, 2, 2, 16), 4, *TURNED)
    weights = floats(SIZE), floats(SIZE)
    options = {**COUNTS, "do_rotary": 1}
    found = results(
        tmp_path, KIND, [*inputs, *[None] * 5, *weights], 3, qk_norm_epsilon=0.01, **options
    )
    normed = list(inputs)
    for i, weight in enumerate(weights):
        heads = inputs[i].reshape(1, 3, -1, SIZE).astype(np.float64)
        heads = heads / np.sqrt((heads**2).mean(-1, keepdims=True) + 0.01) * weight
        normed[i] = heads.reshape(inputs[i].shape).astype(np.float32)
    model, fed = node_model(KIND, normed, 3, **options)
    for got, want in zip(found, peer(model, fed), strict=True):
        np.testing.assert_allclose(got, want, 1e-4, 1e-5)


def test_refused_type_of_what_is_kept(tmp_path: Path) -> None:
    scale = np.ones(1, np.float32)
    inputs = operands(1, 1, floats(1, 2, 4, 16), 4, *TURNED, *NONE, None, scale, scale)
    with pytest.raises(OnnxError, match=r"'x3' f32\[1, 2, 4, 16\]: i8 is wanted"):
        read(node_model(KIND, inputs, 3, k_quant_type="PER_TENSOR", **COUNTS)[0], tmp_path)
