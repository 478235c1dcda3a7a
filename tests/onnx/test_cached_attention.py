"""Attention over what is kept in room for more, by the word of onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from migx.errors import OnnxError
from tests.onnx.build import Array, peer, read
from tests.onnx.one_node import node_model

RNG = np.random.default_rng(13)
TARGETS = ["ref", "cpu"]


def floats(*dims: int) -> Array:
    return RNG.standard_normal(dims, np.float32)


def whole(*values: Any) -> Array:
    return np.array(values[0] if len(values) == 1 else values, np.int32)


# One query at a time

KIND = "DecoderMaskedMultiHeadAttention"
BATCH, HEADS, SIZE, ROOM, PAST = 4, 2, 8, 7, 3
Q, K, V = (floats(BATCH, 1, HEADS * SIZE) for _ in range(3))
KEPT = [floats(BATCH, HEADS, ROOM, SIZE) for _ in range(2)]
OF_ENCODER = [floats(BATCH, HEADS, 5, SIZE) for _ in range(2)]
MASK = RNG.integers(0, 2, (BATCH, PAST + 1)).astype(np.int32) | whole([0, 0, 0, 1])
BIAS, ADDED = floats(3 * HEADS * SIZE), floats(BATCH, HEADS, 1, PAST + 1)
BEAMS = RNG.integers(0, 2, (BATCH // 2, 2, ROOM)).astype(np.int32)

DECODING: dict[str, tuple[list[Any], int, dict[str, Any]]] = {
    "kept": ([Q, K, V, None, None, *KEPT, whole([PAST])], 3, {}),
    "first": ([Q, K, V, None, None, *KEPT, whole([0])], 3, {"scale": 0.5}),
    "mask": ([Q, K, V, MASK, None, *KEPT, whole([PAST])], 3, {"mask_filter_value": -5.0}),
    "all": ([Q, K, V, MASK, ADDED, *KEPT, whole([PAST]), None, None, BIAS], 3, {}),
    "scores": ([Q, K, V, None, ADDED, *KEPT, whole([PAST])], 4, {"output_qk": 1}),
    "beams": ([Q, K, V, None, None, *KEPT, whole([PAST]), whole([2]), BEAMS], 3, {}),
    "beams_and_mask": ([Q, K, V, MASK, None, *KEPT, whole([PAST]), whole([2]), BEAMS], 3, {}),
    "one_beam": (
        [Q, K, V, None, None, *KEPT, whole([PAST]), whole([1]), BEAMS.reshape(BATCH, 1, ROOM) * 0],
        3,
        {},
    ),
    "encoder": ([Q, *OF_ENCODER], 1, {}),
    "encoder_all": ([Q, *OF_ENCODER, MASK[:, [0, 1, 2, 3, 3]], *[None] * 6, BIAS], 1, {}),
}


def decoding(case: str) -> tuple[onnx.ModelProto, dict[str, Array]]:
    inputs, outputs, options = DECODING[case]
    share = int(len(inputs) > 5 and inputs[5] is not None)
    options = {"num_heads": HEADS, "past_present_share_buffer": share, **options}
    model, fed = node_model(KIND, inputs, outputs, **options)
    if outputs == 4:  # onnxruntime infers no type for it
        model.graph.output[3].CopyFrom(helper.make_tensor_value_info("y3", TensorProto.FLOAT, None))
    return model, fed


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", DECODING)
def test_one_query(case: str, target: str, tmp_path: Path) -> None:
    model, fed = decoding(case)
    found, wanted = read(model, tmp_path).compile(target).eval(fed), peer(model, fed)
    for got, want in zip(found, wanted, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_allclose(got, want, 1e-4, 1e-5)


def test_what_onnxruntime_has_no_kernel_for_on_a_cpu(tmp_path: Path) -> None:
    """Queries, keys and values side by side; keys in room of their own."""
    model, fed = decoding("kept")
    wanted = peer(model, fed)
    beside = [np.concatenate([Q, K, V], -1), None, None, None, None, *KEPT, whole([PAST])]
    options: dict[str, Any] = {"num_heads": HEADS, "past_present_share_buffer": 1}
    model, fed = node_model(KIND, beside, 3, **options)
    for got, want in zip(read(model, tmp_path).compile("ref").eval(fed), wanted, strict=True):
        np.testing.assert_allclose(got, want, 1e-4, 1e-5)
    alone = [Q, K, V, None, None, *(x[:, :, :PAST] for x in KEPT)]
    model, fed = node_model(KIND, alone, 3, num_heads=HEADS)
    found = read(model, tmp_path).compile("ref").eval(fed)
    np.testing.assert_allclose(found[0], wanted[0], 1e-4, 1e-5)
    for got, want in zip(found[1:], wanted[1:], strict=True):
        np.testing.assert_array_equal(got, want[:, :, : PAST + 1])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([np.repeat(Q, 2, 1), K, V, None, None, *KEPT, whole([PAST])], "one query is wanted"),
        ([Q, K, V], "past keys need keys"),
        ([Q, *OF_ENCODER, None, None, *KEPT, whole([PAST])], "past keys need keys"),
    ],
)
def test_refused_queries(inputs: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(OnnxError, match=said):
        read(node_model(KIND, inputs, 3, num_heads=HEADS)[0], tmp_path)


# In blocks

BLOCK, BLOCKS = 16, 4
LAYOUTS = np.array(
    [
        [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1]],
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]],
    ]
)
COS, SIN = (f(floats(BLOCK * BLOCKS, 8)) for f in (np.cos, np.sin))


def rows_and_columns(layouts: Array) -> list[Array]:
    """Where the columns of each row begin, and the columns; shorter lists end with -1."""
    columns = [np.nonzero(layout)[1] for layout in layouts]
    most = max(map(len, columns))
    padded = [np.pad(c, (0, most - len(c)), constant_values=-1) for c in columns]
    begins = np.pad(np.cumsum(layouts.sum(2), 1), ((0, 0), (1, 0)))
    return [begins.astype(np.int32), np.asarray(padded, np.int32)]


def in_place(model: onnx.ModelProto, fed: dict[str, Array]) -> list[Array]:
    """What onnxruntime gives where the present shares the memory of the past, as it wants it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    binding = session.io_binding()
    held = {n: onnxruntime.OrtValue.ortvalue_from_numpy(v) for n, v in fed.items()}
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("y0")
    binding.bind_ortvalue_output("y1", held["x3"])
    binding.bind_ortvalue_output("y2", held["x4"])
    session.run_with_iobinding(binding)
    made: list[Array] = binding.copy_outputs_to_cpu()
    return made


SPARSE: dict[str, tuple[int, list[int], int, dict[str, Any]]] = {
    "prompt": (40, [40, 40], 40, {}),
    "padded_prompt": (40, [40, 23], 40, {"do_rotary": 1}),
    "prompt_of_all": (64, [64, 64], 64, {"do_rotary": 1, "rotary_interleaved": 1}),
    "step": (1, [38, 57], 57, {"do_rotary": 1}),
    "step_in_the_first_block": (1, [3, 5], 5, {"scale": 0.4}),
    "steps": (5, [38, 52], 52, {"do_rotary": 1}),
    "packed": (20, [20, 20], 20, {"do_rotary": 1, "packed": True}),
}


def blocks_of(case: str) -> tuple[list[Any], dict[str, Any]]:
    """The operands of a case, and its attributes."""
    length, lengths, total, given = SPARSE[case]
    options = {"num_heads": 4, "kv_num_heads": 2, "sparse_block_size": BLOCK, **given}
    inputs: list[Any] = [floats(2, length, 64), floats(2, length, 32), floats(2, length, 32)]
    if options.pop("packed", False):
        inputs = [np.concatenate(inputs, -1), None, None]
    inputs += [floats(2, 2, 64, 16), floats(2, 2, 64, 16), *rows_and_columns(LAYOUTS)]
    inputs += [whole([total]), whole(lengths)]
    return [*inputs, *([COS, SIN] if options.get("do_rotary") else [])], options


def alone(inputs: list[Any], b: int) -> list[Any]:
    """The operands of one item of a batch, without padding."""
    length, seen, total = inputs[0].shape[1], int(inputs[8][b]), int(inputs[7][0])
    real = seen if total == length else length
    first = [None if v is None else v[b : b + 1, :real] for v in inputs[:3]]
    kept = [v[b : b + 1] for v in inputs[3:5]]
    return [*first, *kept, *inputs[5:7], whole([seen]), whole([seen]), *inputs[9:]]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("case", SPARSE)
def test_blocks(case: str, known: bool, target: str, tmp_path: Path) -> None:
    """Onnxruntime is asked for each item of a batch alone: of items of several lengths it has the
    first head of each right, and no other.
    """
    inputs, options = blocks_of(case)
    constant = (5, 6, 7) if known else ()
    model, fed = node_model("SparseAttention", inputs, 3, constant=constant, **options)
    found = read(model, tmp_path).compile(target).eval(fed)
    for b, seen in enumerate(inputs[8].tolist()):
        y, *present = in_place(
            *node_model("SparseAttention", alone(inputs, b), 3, constant=constant, **options)
        )
        np.testing.assert_allclose(found[0][b, : y.shape[1]], y[0], 1e-4, 1e-5)
        for got, want in zip(found[1:], present, strict=True):
            assert got.shape[1:] == want.shape[1:]
            np.testing.assert_allclose(got[b, :, :seen], want[0, :, :seen], 1e-4, 1e-5)


def test_refused_layouts(tmp_path: Path) -> None:
    given = [floats(2, 4, 48), floats(2, 4, 16), floats(2, 4, 16)]
    kept = [floats(2, 1, 64, 16), floats(2, 1, 64, 16)]
    inputs = [*given, *kept, *rows_and_columns(LAYOUTS), whole([4]), whole([4, 4])]
    options: dict[str, Any] = {"num_heads": 3, "kv_num_heads": 1, "sparse_block_size": BLOCK}
    with pytest.raises(OnnxError, match="2 layouts for 3 heads, which are no multiple of them"):
        read(node_model("SparseAttention", inputs, 3, **options)[0], tmp_path)
