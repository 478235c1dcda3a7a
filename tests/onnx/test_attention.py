"""The attention operators of onnxruntime's own domain, by its word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import migx
from migx.argument import Argument
from migx.errors import OnnxError
from migx.ops.fused import Group
from migx.testing.oracles import Trial
from tests.onnx.build import Array, peer, read, saved
from tests.onnx.one_node import assert_as_peer, node_model, results

RNG = np.random.default_rng(11)


def floats(*dims: int) -> Array:
    return RNG.standard_normal(dims, np.float32)


def whole(*values: Any) -> Array:
    return np.array(values[0] if len(values) == 1 else values, np.int32)


HIDDEN, WEIGHTS, BIAS = floats(2, 3, 8), floats(8, 24), floats(24)
PAST = floats(2, 2, 2, 4, 4)
LENGTHS, MASK = whole([2, 3]), whole([[1, 1, 0], [1, 1, 1]])
WIDE_MASK = whole([[1, 0, 1, 1, 1, 1, 0], [1] * 7])
QUERIES = "MultiHeadAttention"
Q, K, V = floats(2, 3, 8), floats(2, 5, 8), floats(2, 5, 8)
COS, SIN = np.cos(floats(16, 8)), np.sin(floats(16, 8))

ATTENTION: dict[str, tuple[list[Any], int, dict[str, Any]]] = {
    "plain": ([HIDDEN, WEIGHTS, BIAS], 1, {}),
    "lengths": ([HIDDEN, WEIGHTS, BIAS, LENGTHS], 1, {}),
    "ends_and_starts": ([HIDDEN, WEIGHTS, BIAS, whole([2, 3, 0, 1])], 1, {}),
    "mask": ([HIDDEN, WEIGHTS, BIAS, MASK], 1, {"scale": 0.3}),
    "mask_by_query": ([HIDDEN, WEIGHTS, BIAS, np.tile(MASK[:, None], (1, 3, 1))], 1, {}),
    "causal": ([HIDDEN, WEIGHTS, BIAS], 1, {"unidirectional": 1}),
    "past": ([HIDDEN, WEIGHTS, BIAS, WIDE_MASK, PAST], 2, {"unidirectional": 1}),
    "bias": ([HIDDEN, WEIGHTS, BIAS, None, None, floats(2, 2, 3, 3)], 1, {}),
    "sizes": (
        [HIDDEN, floats(8, 28), floats(28), MASK],
        1,
        {"qkv_hidden_sizes": [8, 8, 12], "mask_filter_value": -5.0},
    ),
}
HEADS: dict[str, tuple[list[Any], int, dict[str, Any]]] = {
    "plain": ([Q, K, V], 1, {}),
    "bias": ([Q, K, V, floats(24)], 1, {"scale": 0.7}),
    "mask": ([Q, K, V, None, whole([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])], 1, {}),
    "lengths": ([Q, K, V, None, whole([3, 4])], 1, {"mask_filter_value": -50.0}),
    "attention_bias": ([Q, K, V, None, None, floats(1, 2, 3, 5)], 1, {}),
    "heads": ([Q, floats(2, 2, 6, 4), floats(2, 2, 6, 4)], 1, {}),
    "past": (
        [Q, floats(2, 3, 8), floats(2, 3, 8), None, None, None, *PAST],
        3,
        {"unidirectional": 1},
    ),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_attention(case: str, tmp_path: Path) -> None:
    inputs, outputs, options = ATTENTION[case]
    assert_as_peer(tmp_path, "Attention", inputs, outputs, num_heads=2, constant=(1,), **options)


@pytest.mark.parametrize("case", HEADS)
def test_scores_of_heads(case: str, tmp_path: Path) -> None:
    """Onnxruntime has the least float where migx has -inf."""
    inputs, _, options = HEADS[case]
    model, fed = node_model(QUERIES, inputs, 4, num_heads=2, **options)
    model.graph.output[3].type.tensor_type.elem_type = 1  # onnxruntime infers no type for it
    found, wanted = read(model, tmp_path).compile("ref").eval(fed)[3], peer(model, fed)[3]
    least = np.finfo(np.float32).min
    np.testing.assert_allclose(np.maximum(found, least), wanted, 1e-4, 1e-5)


@pytest.mark.parametrize("case", HEADS)
def test_multi_head_attention(case: str, tmp_path: Path) -> None:
    inputs, outputs, options = HEADS[case]
    assert_as_peer(tmp_path, QUERIES, inputs, outputs, num_heads=2, **options)


def test_quantised_attention(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (2, 3, 8), np.uint8)
    weights = RNG.integers(-128, 128, (8, 24), np.int8)
    scales = [np.array(s, np.float32) for s in (0.02, 0.01)]
    inputs = [x, weights, BIAS, *scales, MASK, np.array(120, np.uint8), np.array(3, np.int8)]
    assert_as_peer(tmp_path, "QAttention", inputs, num_heads=2, constant=(1, 3, 4, 6, 7))


def test_packed_operands_are_those_apart(tmp_path: Path) -> None:
    three = floats(2, 3, 2, 3, 4)
    q, k, v = (three[:, :, :, i].reshape(2, 3, 8) for i in range(3))
    (wanted,) = results(tmp_path, QUERIES, [q, k, v], num_heads=2)
    for packed in ([three], [q, np.ascontiguousarray(three[:, :, :, 1:])]):
        (found,) = results(tmp_path, QUERIES, packed, num_heads=2)
        np.testing.assert_array_equal(found, wanted)


ROTARY: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "hidden": ([floats(2, 3, 16), whole([[1, 2, 5], [0, 4, 9]]).astype(np.int64)], {}),
    "offset": ([floats(2, 3, 16), np.array([4])], {}),
    "heads": ([floats(2, 2, 3, 8), np.array([2])], {"interleaved": 1}),
    "partial": (
        [floats(2, 2, 3, 12), np.array([2])],
        {"rotary_embedding_dim": 8, "num_heads": 2, "interleaved": 1},
    ),
}


@pytest.mark.parametrize("case", ROTARY)
def test_rotary_embedding(case: str, tmp_path: Path) -> None:
    inputs, options = ROTARY[case]
    assert_as_peer(tmp_path, "RotaryEmbedding", [*inputs, COS[:, :4], SIN[:, :4]], **options)


PLACES = np.random.default_rng(3).integers(0, 16, (3, 2, 3))
THREE_PLACES: dict[str, tuple[Array, dict[str, Any]]] = {
    "sections": (floats(2, 3, 32), {"mrope_section": [4, 1, 3], "num_heads": 2}),
    "interleaved_sections": (
        floats(2, 3, 32),
        {"mrope_section": [4, 2, 2], "mrope_layout": 1, "num_heads": 2},
    ),
    "heads": (floats(2, 2, 3, 16), {"mrope_section": [2, 3, 3], "interleaved": 1}),
    "partial": (
        floats(2, 2, 3, 24),
        {"mrope_section": [3, 3, 2], "rotary_embedding_dim": 16, "num_heads": 2, "mrope_layout": 1},
    ),
    "scaled": (
        floats(2, 2, 3, 24),
        {"mrope_section": [3, 3, 2], "rotary_embedding_dim": 16, "num_heads": 2, "scale": 0.5},
    ),
    "packed": (floats(2, 2, 3, 16), {"mrope_section": [2, 3, 3], "is_packed_batching": 1}),
}


@pytest.mark.parametrize("case", THREE_PLACES)
def test_rotary_embedding_of_three_places(case: str, tmp_path: Path) -> None:
    x, options = THREE_PLACES[case]
    assert_as_peer(tmp_path, "MRotaryEmbedding", [x, PLACES, COS, SIN], **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mrope_section": [4, 4]}, "three numbers of pairs are wanted"),
        ({"mrope_section": [4, 2, 3]}, r"'x2' f32\[16, 8\]: \(16, 9\) is wanted"),
        ({"mrope_section": [4, 2, 2], "mrope_layout": 2}, "no mrope_layout 2"),
    ],
)
def test_refused_sections(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    given, _ = node_model("MRotaryEmbedding", [floats(2, 3, 32), PLACES, COS, SIN], **options)
    with pytest.raises(OnnxError, match=said):
        read(given, tmp_path)


def test_places_of_a_rotary_embedding_may_have_other_symbols(tmp_path: Path) -> None:
    x, places = floats(2, 3, 16), np.array([[5, 1, 0], [2, 3, 7]])
    symbols = {0: ["batch", "length", 16], 1: ["items", 3]}
    options: dict[str, Any] = {"num_heads": 2, "symbolic": symbols}
    assert_as_peer(tmp_path, "RotaryEmbedding", [x, places, COS[:, :4], SIN[:, :4]], **options)


def group_query(
    length: int, past: int, lasts: list[int], total: int, *tables: Array, packed: bool = False
) -> list[Any]:
    """Operands of four heads of queries that share two of keys and values, of size 16."""
    given: list[Any] = [floats(2, length, 64), floats(2, length, 32), floats(2, length, 32)]
    if packed:
        given = [np.concatenate(given, -1), None, None]
    state = [floats(2, 2, past, 16), floats(2, 2, past, 16)]
    return [*given, *state, whole(lasts), np.array(total, np.int32), *tables]


GROUPS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "prompt": (group_query(4, 0, [3, 3], 4), {}),
    "padded_prompt": (group_query(4, 0, [3, 1], 4, COS, SIN), {"do_rotary": 1}),
    "step": (group_query(1, 5, [5, 5], 6, COS, SIN), {"do_rotary": 1, "rotary_interleaved": 1}),
    "uneven_step": (group_query(1, 5, [3, 5], 6, COS, SIN), {"do_rotary": 1}),
    "room_to_spare": (group_query(1, 9, [5, 5], 6, COS, SIN), {"do_rotary": 1}),
    "packed": (group_query(3, 0, [2, 2], 3, COS, SIN, packed=True), {"do_rotary": 1}),
    "capped": (group_query(4, 0, [3, 3], 4), {"softcap": 2.0, "scale": 0.5}),
    "window": (group_query(6, 0, [5, 5], 6), {"local_window_size": 2}),
    "window_step": (group_query(1, 5, [5, 5], 6), {"local_window_size": 3}),
    "smooth": (group_query(4, 0, [3, 3], 4), {"smooth_softmax": 1}),
    "sink": ([*group_query(4, 0, [3, 3], 4), None, None, None, None, floats(4)], {}),
    "bias": ([*group_query(4, 0, [3, 3], 4), None, None, None, floats(2, 4, 4, 4)], {}),
}


@pytest.mark.parametrize("case", GROUPS)
@pytest.mark.parametrize("known", [True, False])
def test_group_query_attention(case: str, known: bool, tmp_path: Path) -> None:
    inputs, options = GROUPS[case]
    constant = (6,) if known else ()
    model, fed = node_model(
        "GroupQueryAttention",
        inputs,
        3,
        constant=constant,
        num_heads=4,
        kv_num_heads=2,
        **options,
    )
    found, wanted = read(model, tmp_path).compile("ref").eval(fed), peer(model, fed)
    for b, last in enumerate(inputs[5].tolist()):
        # What padding sees is nobody's, as is the room that is not used yet.
        found_y, wanted_y = (of[0][b, : last + 1] for of in (found, wanted))
        np.testing.assert_allclose(found_y, wanted_y, 1e-4, 1e-5)
        for got, want in zip(found[1:], wanted[1:], strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(got[b, :, : last + 1], want[b, :, : last + 1], 1e-4, 1e-5)


def names_of(past_of_values: str) -> dict[int, list[str | int]]:
    """Symbols for all sizes but those of heads."""
    return {
        0: ["n", "length", 64],
        1: ["n", "length", 32],
        2: ["n", "length", 32],
        3: ["n", 2, "past", 16],
        4: ["n", 2, past_of_values, 16],
        5: ["n"],
    }


@pytest.mark.parametrize("past_of_values", ["past", "past_of_values"])
def test_the_past_may_have_any_length(past_of_values: str, tmp_path: Path) -> None:
    names = names_of(past_of_values)
    options: dict[str, Any] = {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1}
    first = group_query(1, 5, [5, 5], 6, COS, SIN)
    model, _ = node_model("GroupQueryAttention", first, 3, symbolic=names, **options)
    program = read(model, tmp_path).compile("ref")
    for length, past in ((1, 5), (4, 0), (1, 2)):
        total = length + past
        inputs = group_query(length, past, [total - 1] * 2, total, COS, SIN)
        fed = {f"x{i}": value for i, value in enumerate(inputs)}
        for got, want in zip(program.eval(fed), peer(model, fed), strict=True):
            np.testing.assert_allclose(got, want, 1e-4, 1e-5)


ONE_KERNEL: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "plain": ({}, []),
    "capped, in a window": ({"softcap": 2.0, "local_window_size": 4}, []),
    "biased": ({}, [None, None, None, floats(2, 4, 1, 6)]),
    "beside a sink": ({}, [None, None, None, None, floats(4)]),
    "beside a sink of 0": ({"smooth_softmax": 1}, []),
}


@pytest.mark.parametrize("case", ONE_KERNEL)
def test_groups_are_one_kernel_of_attention(case: str, tmp_path: Path) -> None:
    options, more = ONE_KERNEL[case]
    inputs = [*group_query(1, 5, [5, 3], 6), *more]
    model, fed = node_model(
        "GroupQueryAttention",
        inputs,
        3,
        symbolic=names_of("past") | {10: ["n", 4, "length", "total"]},
        num_heads=4,
        kv_num_heads=2,
        **options,
    )
    program = read(model, tmp_path)
    Trial(program.copy(), {n: Argument.of(a) for n, a in fed.items()}).target("cpu")
    main = program.compile("cpu").compiled.program.main
    assert [at.op_as(Group).tag for at in main if isinstance(at.op, Group)] == ["attention"]


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("no k_quant_type 'PER_ROW'; there are NONE, PER_TENSOR", {"k_quant_type": "PER_ROW"}),
    ("i8 is wanted", {"k_quant_type": "PER_TENSOR"}),
    ("local_window_size 2 with causal 0", {"causal": 0, "local_window_size": 2}),
    ("no qk_output 3; there are 0, 1", {"qk_output": 3}),
]


@pytest.mark.parametrize(("message", "options"), REFUSED)
def test_what_is_not_supported_is_said(
    message: str, options: dict[str, Any], tmp_path: Path
) -> None:
    inputs = group_query(4, 0, [3, 3], 4)
    model, _ = node_model("GroupQueryAttention", inputs, num_heads=4, kv_num_heads=2, **options)
    with pytest.raises(OnnxError, match=message):
        migx.parse_onnx(saved(model, tmp_path))


WIDE: dict[str, tuple[str, list[Any], int, dict[int, Any], dict[str, Any]]] = {
    "queries": (QUERIES, [Q, Q, Q], 1, dict.fromkeys(range(3), (2, 3, "h")), {"num_heads": 2}),
    "weights": ("Attention", [HIDDEN, WEIGHTS, BIAS], 1, {1: (8, "w"), 2: "w"}, {"num_heads": 2}),
    "groups": (
        "GroupQueryAttention",
        [floats(2, 1, 64), floats(2, 1, 32), floats(2, 1, 32), floats(2, 2, 8, 16),
         floats(2, 2, 8, 16), whole([7, 7]), np.array(8, np.int32)],
        3,
        {0: (2, 1, "h"), 1: (2, 1, "g"), 2: (2, 1, "g"), 3: (2, 2, 8, "d"), 4: (2, 2, 8, "d")},
        {"num_heads": 4, "kv_num_heads": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WIDE)
def test_the_size_of_a_head_may_be_a_symbol(case: str, tmp_path: Path) -> None:
    """Its root, which scales the products, is computed when the size is known."""
    kind, inputs, outputs, symbolic, options = WIDE[case]
    assert_as_peer(tmp_path, kind, inputs, outputs, symbolic=symbolic, **options)


def test_without_a_number_of_heads_widths_must_be_numbers(tmp_path: Path) -> None:
    inputs = [floats(2, 3, 16), whole([[0, 1, 2]] * 2).astype(np.int64), COS[:, :4], SIN[:, :4]]
    model, _ = node_model("RotaryEmbedding", inputs, symbolic={0: (2, 3, "h")})
    with pytest.raises(OnnxError, match="last dims of 'x0' and 'x2' must be numbers"):
        read(model, tmp_path)
