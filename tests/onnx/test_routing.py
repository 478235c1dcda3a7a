"""A router of its own, by the word of onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migx.errors import OnnxError
from tests.onnx.build import Array, peer, read
from tests.onnx.one_node import assert_as_peer, node_model

RNG = np.random.default_rng(21)


def floats(*dims: int) -> Array:
    return RNG.standard_normal(dims, np.float32)


SCORES, BIAS = floats(7, 24), floats(24) / 10
CASES: dict[str, tuple[list[Array], dict[str, Any]]] = {
    "of_all": ([SCORES, BIAS], {"top_k": 3}),
    "of_groups": ([SCORES, BIAS], {"top_k": 2, "n_group": 4, "topk_group": 2, "group_topk": 2}),
    "of_one_group": (
        [SCORES, BIAS],
        {"top_k": 3, "n_group": 2, "group_topk": 99, "router_sentinel": -7.0},
    ),
    "of_halves": ([SCORES.astype(np.float16), BIAS], {"top_k": 2, "n_group": 3, "topk_group": 2}),
    "of_fewer_than_wanted": ([SCORES, BIAS], {"top_k": 7, "n_group": 4, "topk_group": 1}),
    "of_batches": ([SCORES.reshape(1, 7, 24), BIAS], {"top_k": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_as_onnxruntime(case: str, tmp_path: Path) -> None:
    operands, options = CASES[case]
    rtol = 1e-3 if operands[0].dtype == np.float16 else 1e-5
    assert_as_peer(tmp_path, "MoEGroupRouter", operands, rtol=rtol, **options)


@pytest.mark.parametrize("operands", [[SCORES, BIAS], [floats(3, 256), BIAS, floats(24, 256)]])
def test_the_scores_of_all(operands: list[Array], tmp_path: Path) -> None:
    """Products are of 256 terms about one: a sigmoid of them is off by 256 roundings at most."""
    given, fed = node_model("MoEGroupRouter", operands, 3, top_k=2)
    given.graph.node[0].output[0] = ""
    del given.graph.output[0]
    for got, want in zip(
        read(given, tmp_path).compile("ref").eval(fed), peer(given, fed), strict=True
    ):
        np.testing.assert_allclose(got, want, 0, 256 * 2.0**-22)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_k": 25}, "25 of 24 cannot be chosen"),
        ({"top_k": 2, "n_group": 5}, "group_topk 2 of n_group 5, of 24 experts"),
        ({"top_k": 2, "n_group": 2, "topk_group": 3}, "3 of 2 cannot be chosen"),
        ({}, "attribute 'top_k' is missing"),
    ],
)
def test_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(OnnxError, match=said):
        read(node_model("MoEGroupRouter", [SCORES, BIAS], **options)[0], tmp_path)
