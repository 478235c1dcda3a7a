"""Gated delta networks, by the word of onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migx.errors import OnnxError
from tests.onnx.build import Array, peer, read
from tests.onnx.one_node import assert_as_peer, node_model

BATCH, LENGTH, KEYS, HEADS, SIZE, WIDTH = 2, 3, 2, 4, 6, 5


def drawn(seed: int, *, flat: bool = False, wide: bool = False, gates: bool = False) -> list[Any]:
    """Operands at random: keys of length one, states that decay."""
    rng = np.random.default_rng(seed)
    lead = (BATCH * LENGTH,) if flat else (BATCH, LENGTH)
    q, k = (rng.standard_normal((*lead, KEYS, SIZE), np.float32) for _ in range(2))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    v = rng.standard_normal((*lead, HEADS, WIDTH), np.float32)
    each = (HEADS, SIZE) if wide else (HEADS,)
    decay, rate = -rng.random((*lead, *each), np.float32), rng.random((*lead, HEADS), np.float32)
    state = rng.standard_normal((BATCH, HEADS, WIDTH, SIZE), np.float32)
    more = [rng.random(HEADS, np.float32), rng.random(each, np.float32)] if gates else []
    return [q, k, v, None, decay, rate, state, *more]


def packed(operands: list[Any]) -> list[Any]:
    """The same with queries, keys and values in one operand."""
    rows = [v.reshape(*v.shape[:-2], -1) for v in operands[:3]]
    return [np.concatenate(rows, -1), None, None, *operands[3:]]


def without(operands: list[Any], *places: int) -> list[Any]:
    return [None if i in places else v for i, v in enumerate(operands)]


CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "linear": (without(drawn(0), 4, 5), {"update_rule": "linear"}),
    "gated": (without(drawn(1, wide=True), 5), {"update_rule": "gated"}),
    "delta": (without(drawn(2), 4), {"update_rule": "delta", "scale": 0.7}),
    "both": (drawn(3), {}),
    "without_a_past": (drawn(4)[:6], {}),
    "one_behind_the_other": (drawn(5, flat=True), {}),
    "packed": (packed(drawn(6)), {}),
    "packed_one_behind_the_other": (packed(drawn(7, flat=True)), {}),
    "of_length_one": (drawn(8), {"qk_l2_norm": 1}),
    "softplus": (drawn(9, gates=True), {"gate_activation": "softplus"}),
    "qwen": (
        drawn(10, gates=True, wide=True),
        {"gate_activation": "qwen", "beta_activation": "sigmoid"},
    ),
    "sigmoid": (drawn(11, gates=True), {"gate_activation": "sigmoid", "gate_lower_bound": -2.0}),
    "kda": (drawn(12, gates=True, wide=True), {"gate_activation": "kda"}),
}


@pytest.mark.parametrize("case", CASES)
def test_as_onnxruntime(case: str, tmp_path: Path) -> None:
    """States are sums of four steps, of numbers about one."""
    operands, options = CASES[case]
    assert_as_peer(tmp_path, "GatedDeltaNet", operands, 2, **options)


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_one_program_takes_any_number_of_steps(target: str, tmp_path: Path) -> None:
    operands = drawn(13)
    symbolic = {i: ("batch", "length", *v.shape[2:]) for i, v in enumerate(operands) if i < 6 and
                v is not None}  # fmt: skip
    symbolic[6] = ("batch", HEADS, WIDTH, SIZE)
    given, fed = node_model("GatedDeltaNet", operands, 2, symbolic=symbolic)
    program = read(given, tmp_path).compile(target)
    for length in (3, 1):
        now: dict[str, Array] = {n: v if n == "x6" else v[:, :length] for n, v in fed.items()}
        for got, want in zip(program.eval(now), peer(given, now), strict=True):
            np.testing.assert_allclose(got, want, 1e-4, 1e-5)


REFUSED: list[tuple[list[Any], dict[str, Any], str]] = [
    ([*drawn(0)[:3], np.array([0, 3, 6], np.int32)], {}, "cu_seqlens is not supported"),
    (drawn(0), {"state_update_capacity": 2}, "state_update_capacity 2 is not supported; 0 is"),
    (drawn(0), {"update_rule": "square"}, "no update_rule 'square'; there are linear, gated,"),
    (drawn(0), {"gate_activation": "tanh"}, "no gate_activation 'tanh'; there are none, softplus"),
    (drawn(0), {"beta_activation": "tanh"}, "no beta_activation 'tanh'; there are none, sigmoid"),
    (drawn(0, flat=True)[:6], {}, "initial_state says how many members a batch has"),
    (packed(drawn(0))[:6], {}, "initial_state says how many heads packed operands have"),
    (
        [np.zeros((BATCH, LENGTH, 45), np.float32), *packed(drawn(0))[1:]],
        {},
        r"its parts \(12, 12, 20\) add up to 44, the axis has 45",
    ),
    (
        [*drawn(0)[:6], np.zeros((BATCH, 1, WIDTH, SIZE), np.float32)],
        {},
        r"\(2, 4, 5, 6\) is wanted",
    ),
]


@pytest.mark.parametrize(("operands", "options", "said"), REFUSED)
def test_refused(operands: list[Any], options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(OnnxError, match=said):
        read(node_model("GatedDeltaNet", operands, **options)[0], tmp_path)
