"""Linear attention and what stands around it, by the word of onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migx.errors import OnnxError
from tests.onnx.build import Array, peer, read
from tests.onnx.one_node import assert_as_peer, node_model, results

RULES = ["linear", "gated", "delta", "gated_delta"]


class Heads:
    """Operands of LinearAttention at random: keys of length one, states that decay."""

    def __init__(self, seed: int, rule: str, heads: tuple[int, int, int], **options: Any) -> None:
        rng = np.random.default_rng(seed)
        self.batch, self.length = int(rng.integers(1, 3)), int(rng.choice([1, 2, 5, 9]))
        self.size, self.width = 6, 4
        queries, keys, states = heads
        counts = {"q_num_heads": queries, "kv_num_heads": states}
        self.options: dict[str, Any] = {**counts, "update_rule": rule}
        self.options |= {k: v for k, v in options.items() if k == "scale"}
        lead = (self.batch, self.length)
        q, k = (rng.standard_normal((*lead, n, self.size), np.float32) for n in (queries, keys))
        k /= np.linalg.norm(k, axis=-1, keepdims=True)
        wide = options.get("wide", False)
        decay = -rng.random((*lead, states * (self.size if wide else 1)), np.float32)
        rate = rng.random((*lead, 1 if options.get("one_rate") else states), np.float32)
        past = rng.standard_normal((self.batch, states, self.size, self.width), np.float32)
        self.operands: list[Array | None] = [
            q.reshape(*lead, -1),
            k.reshape(*lead, -1),
            rng.standard_normal((*lead, states * self.width), np.float32),
            past if options.get("past") else None,
            decay if rule.startswith("gated") else None,
            rate if rule.endswith("delta") else None,
        ]
        while self.operands[-1] is None:
            self.operands.pop()


CASES: list[tuple[tuple[int, int, int], dict[str, Any]]] = [
    ((2, 2, 2), {}),
    ((4, 2, 2), {"past": True, "wide": True}),
    ((6, 2, 2), {"scale": 0.7, "one_rate": True}),
    ((2, 2, 4), {"past": True}),
    ((4, 1, 4), {"past": True, "wide": True, "one_rate": True}),
]


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("rule", RULES)
def test_as_onnxruntime(rule: str, case: int, tmp_path: Path) -> None:
    """States are sums of ten steps at most, of numbers about one."""
    heads, options = CASES[case]
    of = Heads(5 * RULES.index(rule) + case, rule, heads, **options)
    assert_as_peer(tmp_path, "LinearAttention", of.operands, 2, **of.options)


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_steps_one_by_one_are_all_at_once(target: str, tmp_path: Path) -> None:
    """One program takes any number of steps, none as well; what it carries is all it needs."""
    of = Heads(3, "gated_delta", (4, 2, 2), past=True)
    held = [v for v in of.operands if v is not None]
    held = [v if i == 3 else np.concatenate([v] * 3, 1) for i, v in enumerate(held)]
    names: tuple[str | int, ...] = ("batch", "length")
    symbolic = {i: (*names, v.shape[-1]) for i, v in enumerate(held) if i != 3}
    symbolic[3] = ("batch", *held[3].shape[1:])
    given, fed = node_model("LinearAttention", held, 2, symbolic=symbolic, **of.options)
    program = read(given, tmp_path).compile(target)
    wanted = peer(given, fed)
    for got, want in zip(program.eval(fed), wanted, strict=True):
        np.testing.assert_allclose(got, want, 1e-4, 1e-5)
    state, made = held[3], []
    for at in range(held[0].shape[1]):
        one = {f"x{i}": v[:, at : at + 1] for i, v in enumerate(held) if i != 3}
        y, state = program.eval({**one, "x3": state})
        made.append(y)
    np.testing.assert_allclose(np.concatenate(made, 1), wanted[0], 1e-4, 1e-5)
    np.testing.assert_allclose(state, wanted[1], 1e-4, 1e-5)
    none = {f"x{i}": v[:, :0] for i, v in enumerate(held) if i != 3}
    y, state = program.eval({**none, "x3": held[3]})
    assert y.shape == (of.batch, 0, 4 * of.width)
    np.testing.assert_array_equal(state, held[3])


RNG = np.random.default_rng(4)


def floats(*dims: int) -> Array:
    return RNG.standard_normal(dims, np.float32)


X, W, BIAS = floats(2, 6, 5), floats(6, 1, 4), floats(6)
LAST = np.ascontiguousarray(X.transpose(0, 2, 1))
AROUND: dict[str, tuple[str, list[Any], int, dict[str, Any]]] = {
    "conv": ("CausalConvWithState", [X, W], 2, {}),
    "conv_all": (
        "CausalConvWithState",
        [X, W, BIAS, floats(2, 6, 3)],
        2,
        {"activation": "silu"},
    ),
    "conv_spaced": (
        "CausalConvWithState",
        [X, W, None, floats(2, 6, 6)],
        2,
        {"activation": "swish", "dilation": 2},
    ),
    "conv_of_one": ("CausalConvWithState", [X[..., :1], W, BIAS, floats(2, 6, 3)], 2, {}),
    "conv_of_one_tap": ("CausalConvWithState", [X, W[..., :1], BIAS], 2, {}),
    "conv_channels_last": (
        "CausalConvWithState",
        [LAST, W, BIAS, floats(2, 3, 6)],
        2,
        {"channels_last": 1},
    ),
    "conv_channels_apart": (
        "CausalConvWithState",
        [LAST.reshape(2, 5, 2, 3), W, BIAS, floats(2, 3, 2, 3)],
        2,
        {"channels_last": 1, "activation": "silu"},
    ),
    "gate": ("LinearAttentionGate", [X, BIAS[:5], -np.abs(BIAS[:5])], 1, {}),
    "gates": ("LinearAttentionGate", [X * 20, BIAS[:5], -np.abs(BIAS[:5]), floats(2, 6, 5)], 2, {}),
    "norm": ("GatedRMSNorm", [X, BIAS[:5], floats(2, 6, 5)], 1, {}),
    "norm_of_heads": (
        "GatedRMSNorm",
        [LAST, BIAS[:3], floats(2, 5, 6)],
        1,
        {"activation": "sigmoid", "epsilon": 0.01},
    ),
}


@pytest.mark.parametrize("case", AROUND)
def test_around_as_onnxruntime(case: str, tmp_path: Path) -> None:
    kind, inputs, outputs, options = AROUND[case]
    assert_as_peer(tmp_path, kind, inputs, outputs, **options)


def test_in_f16_it_is_computed_in_f32(tmp_path: Path) -> None:
    """On a CPU onnxruntime has it in f32 alone: results are those, rounded once."""
    of = Heads(9, "gated_delta", (2, 2, 2), past=True)
    half = [None if v is None else v.astype(np.float16) for v in of.operands]
    wide = [None if v is None else v.astype(np.float32) for v in half]
    found = results(tmp_path, "LinearAttention", half, 2, **of.options)
    wanted = results(tmp_path, "LinearAttention", wide, 2, **of.options)
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got, want.astype(np.float16))


Q = np.zeros((1, 3, 8), np.float32)
HEADS = {"q_num_heads": 2, "kv_num_heads": 2}
REFUSED: list[tuple[str, list[Array | None], dict[str, Any], str]] = [
    ("LinearAttention", [Q, Q, Q], HEADS, "update_rule 'gated_delta' wants decay"),
    ("LinearAttention", [Q, Q, Q], {**HEADS, "update_rule": "delta"}, "'delta' wants beta"),
    ("LinearAttention", [Q, Q, Q], {**HEADS, "update_rule": "some"}, "no update_rule 'some'"),
    ("LinearAttention", [Q, Q, Q], {**HEADS, "state_window": 2}, "state_window is not supported"),
    (
        "LinearAttention",
        [Q, Q, Q],
        {"q_num_heads": 2, "kv_num_heads": 3, "update_rule": "linear"},
        "2 heads of queries, 3 of values: one must divide the other",
    ),
    (
        "LinearAttention",
        [Q, Q, Q, None, Q[..., :3]],
        {**HEADS, "update_rule": "gated"},
        r"'x4' f32\[1, 3, 3\]: its last dim is 2 or 8",
    ),
    (
        "LinearAttention",
        [Q, Q, Q, Q],
        {**HEADS, "update_rule": "linear"},
        r"'x3' f32\[1, 3, 8\]: \(1, 2, 4, 4\) is wanted",
    ),
    ("CausalConvWithState", [X, W, None, X], {}, r"'x3' .*: \(2, 6, 3\) is wanted"),
    ("CausalConvWithState", [X, W], {"activation": "relu"}, "no activation 'relu'; there are none"),
    ("CausalConvWithState", [X, W], {"state_window": 1}, "ndim is 1 and state_window 0"),
    ("CausalConvWithState", [X, W], {"dilation": 0}, "dilation 0; it is 1 or more"),
    ("CausalConvWithState", [X, W], {"state_length": 9}, "state_length 9 is not supported; 0 is"),
    ("GatedRMSNorm", [X, BIAS[:4], X], {}, "5 is no multiple of 4"),
    ("GatedRMSNorm", [X, BIAS[:5], X], {"activation": "relu"}, "there are silu, swish, sigmoid"),
]


@pytest.mark.parametrize(("kind", "operands", "options", "said"), REFUSED)
def test_refused(
    kind: str, operands: list[Array | None], options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(OnnxError, match=said):
        read(node_model(kind, operands, **options)[0], tmp_path)
