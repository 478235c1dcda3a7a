"""GroupQueryAttention with keys and values kept in few bits, scores as results, norms, and queries
that see what comes after them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migx.errors import MigxError, OnnxError
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


@pytest.mark.parametrize(
    "epsilons", [{"qk_norm_epsilon": 0.01}, {"q_norm_epsilon": 0.01, "k_norm_epsilon": 0.02}]
)
def test_norms_come_before_all_else(epsilons: dict[str, float], tmp_path: Path) -> None:
    """Onnxruntime has these for graphics processors alone."""
    inputs = operands(1, 3, floats(1, 2, 2, 16), 4, *TURNED)
    weights = floats(SIZE), floats(SIZE)
    options = {**COUNTS, "do_rotary": 1}
    found = results(tmp_path, KIND, [*inputs, *[None] * 5, *weights], 3, **epsilons, **options)
    normed = list(inputs)
    for i, weight in enumerate(weights):
        heads = inputs[i].reshape(1, 3, -1, SIZE).astype(np.float64)
        epsilon = list(epsilons.values())[-1 if i else 0]
        heads = heads / np.sqrt((heads**2).mean(-1, keepdims=True) + epsilon) * weight
        normed[i] = heads.reshape(inputs[i].shape).astype(np.float32)
    model, fed = node_model(KIND, normed, 3, **options)
    for got, want in zip(found, peer(model, fed), strict=True):
        np.testing.assert_allclose(got, want, 1e-4, 1e-5)


def test_refused_type_of_what_is_kept(tmp_path: Path) -> None:
    scale = np.ones(1, np.float32)
    inputs = operands(1, 1, floats(1, 2, 4, 16), 4, *TURNED, *NONE, None, scale, scale)
    with pytest.raises(OnnxError, match=r"'x3' f32\[1, 2, 4, 16\]: i8 is wanted"):
        read(node_model(KIND, inputs, 3, k_quant_type="PER_TENSOR", **COUNTS)[0], tmp_path)


def left(count: int, room: int, window: int) -> int:
    """How many of so many places a cache for a window still holds."""
    at_once = room - window + 1
    return count - at_once * -(-max(count - room, 0) // at_once)


WINDOWS: list[tuple[int, int, int, int, int]] = [
    # room, window, new keys, keys before them, batch
    (6, 4, 1, 0, 1), (6, 4, 1, 5, 1), (6, 4, 1, 6, 1), (6, 4, 3, 9, 1), (6, 4, 11, 0, 1),
    (6, 4, 9, 7, 1), (4, 4, 1, 13, 2), (7, 3, 5, 0, 2), (5, 1, 1, 9, 1),
]  # fmt: skip


@pytest.mark.parametrize("more", ["", "bias", "symbols"])
@pytest.mark.parametrize("case", WINDOWS)
def test_caches_that_hold_a_window(
    case: tuple[int, int, int, int, int], more: str, tmp_path: Path
) -> None:
    """Rows of the present behind those that are left hold anything, zeros here."""
    room, window, length, before, batch = case
    total = before + length
    bias = [None, floats(1, HEADS, length, total)] if more == "bias" else []
    past = floats(batch, GROUPS, room, SIZE)
    inputs = operands(batch, length, past, total - 1, *TURNED, *bias)
    options = {**COUNTS, "do_rotary": 1, "local_window_size": window, "sliding_window_cache": 1}
    model, fed = node_model(KIND, inputs, 3, **options)
    if more == "symbols":
        for given in model.graph.input[3:5]:
            given.type.tensor_type.shape.dim[2].dim_param = "room"
    program, wanted = read(model, tmp_path), peer(model, fed)
    used = left(total, room, window)
    for target in ("ref", "cpu"):
        found = program.compile(target).eval(fed)
        np.testing.assert_allclose(found[0], wanted[0], 1e-4, 1e-5)
        for got, want in zip(found[1:], wanted[1:], strict=True):
            np.testing.assert_allclose(got[:, :, :used], want[:, :, :used], 1e-5, 1e-6)
            assert got.shape == want.shape
            assert not got[:, :, used:].any()


@pytest.mark.parametrize("slides", [0, 1])
def test_padded_chunks(slides: int, tmp_path: Path) -> None:
    """Rows of queries, keys and values behind those that count are no part of anything."""
    batch, length, room = 2, 4, 16
    inputs = operands(batch, length, floats(batch, GROUPS, room, SIZE), 7, *TURNED)
    lasts, counts = np.array([7, 5], np.int32), np.array([2, 4], np.int32)
    inputs[5] = lasts
    options = {**COUNTS, "do_rotary": 1, "local_window_size": 3, "sliding_window_cache": slides}
    model, fed = node_model(KIND, [*inputs, *[None] * 7, counts], 3, **options)
    found, wanted = read(model, tmp_path).compile("cpu").eval(fed), peer(model, fed)
    for i, (last, count) in enumerate(zip(lasts, counts, strict=True)):
        np.testing.assert_allclose(found[0][i, :count], wanted[0][i, :count], 1e-4, 1e-5)
        for got, want in zip(found[1:], wanted[1:], strict=True):
            np.testing.assert_allclose(got[i, :, : last + 1], want[i, :, : last + 1], 1e-5, 1e-6)


@pytest.mark.parametrize("known", [True, False])
def test_refused_room(known: bool, tmp_path: Path) -> None:
    inputs = operands(1, 1, floats(1, GROUPS, 3, SIZE), 3)
    options = {**COUNTS, "local_window_size": 4, "sliding_window_cache": 1}
    model, fed = node_model(KIND, inputs, 3, **options)
    if not known:
        for given in model.graph.input[3:5]:
            given.type.tensor_type.shape.dim[2].dim_param = "room"
    with pytest.raises(MigxError, match="local_window_size 4 is from 1 to the room of past_key"):
        read(model, tmp_path).compile("ref").eval(fed)


def test_refused_scores_of_a_window(tmp_path: Path) -> None:
    inputs = operands(1, 1, floats(1, GROUPS, 3, SIZE), 3)
    options = {"local_window_size": 2, "sliding_window_cache": 1, "qk_output": 1, **COUNTS}
    with pytest.raises(OnnxError, match="qk_output with sliding_window_cache"):
        read(node_model(KIND, inputs, 4, **options)[0], tmp_path)
