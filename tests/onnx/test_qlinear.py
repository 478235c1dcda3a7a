"""Operators on quantised values, by onnxruntime's word.

It multiplies integers and rounds once, where real numbers may fall to the other side of a half: one
step of the result is allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.onnx.build import Array, peer, read
from tests.onnx.one_node import assert_as_peer, node_model

RNG = np.random.default_rng(5)


def codes(kind: Any, *dims: int) -> Array:
    info = np.iinfo(kind)
    return RNG.integers(info.min, info.max, dims, kind, endpoint=True)


def floats(*dims: int) -> Array:
    return RNG.standard_normal(dims, np.float32)


def scale(*values: float) -> Array:
    return np.array(values[0] if len(values) == 1 else values, np.float32)


def zero(value: int, kind: Any = np.uint8) -> Array:
    return np.array(value, kind)


Scaled = tuple[Array, Array, Array]


def scaled(kind: Any, by: float, at: int, *dims: int) -> Scaled:
    return codes(kind, *dims), scale(by), zero(at, kind)


U, S = np.uint8, np.int8
Y = (scale(0.1), zero(120))
IMAGE = scaled(U, 0.02, 100, 1, 4, 6, 6)
LAST = scaled(U, 0.02, 100, 1, 6, 6, 4)
KERNELS = (codes(S, 8, 4, 3, 3), scale(*RNG.uniform(0.01, 0.02, 8)), np.zeros(8, np.int8))
WINDOW: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
WIDE = codes(np.int32, 8) // 1000000

CASES: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "quantize": ("QuantizeLinear", [floats(3, 8), scale(0.02), zero(7, np.int16)], {}),
    "dequantize": (
        "DequantizeLinear",
        [codes(np.uint16, 3, 4), scale(0.1, 0.2, 0.3, 0.4), np.zeros(4, np.uint16)],
        {"axis": 1},
    ),
    "matmul": (
        "QLinearMatMul",
        [*scaled(U, 0.02, 120, 2, 3, 8), *scaled(S, 0.01, 0, 8, 5), scale(0.05), zero(99)],
        {"domain": "", "constant": (1, 2, 3, 4, 5, 6, 7)},
    ),
    "conv": (
        "QLinearConv",
        [*IMAGE, *KERNELS, scale(0.2), zero(120), WIDE],
        {"domain": "", "pads": [1, 1, 1, 1], "constant": range(1, 9)},
    ),
    "conv_of_channels_last": (
        "QLinearConv",
        [*LAST, *KERNELS, scale(0.2), zero(120), WIDE],
        {"channels_last": 1, "constant": range(1, 9)},
    ),
    "gemm": (
        "QGemm",
        [*scaled(U, 0.02, 120, 3, 8), *scaled(S, 0.01, 0, 8, 5), WIDE[:5], *Y],
        {"constant": (1, 2, 4, 5, 7, 8)},
    ),
    "gemm_to_real": (
        "QGemm",
        [*scaled(U, 0.02, 120, 3, 8), codes(S, 5, 8), scale(0.01, 0.02, 0.03, 0.01, 0.02),
         np.zeros(5, np.int8), WIDE[:5]],
        {"transB": 1, "alpha": 0.5, "constant": (1, 2, 4, 5)},
    ),
    "integers_to_float": (
        "MatMulIntegerToFloat",
        [codes(U, 3, 8), codes(S, 8, 5), scale(0.02), scale(*RNG.uniform(0.01, 0.02, 5)),
         zero(120), np.zeros(5, np.int8), floats(5)],
        {"constant": (1,)},
    ),
    "dynamic": (
        "DynamicQuantizeMatMul",
        [floats(2, 3, 8), codes(S, 8, 5), scale(0.02), zero(3, S), floats(5)],
        {"constant": (1,)},
    ),
    "add": ("QLinearAdd", [*scaled(U, 0.02, 120, 2, 8), *scaled(U, 0.03, 99, 8), *Y], {}),
    "mul": (
        "QLinearMul",
        [*scaled(S, 0.02, 5, 2, 8), *scaled(S, 0.03, 0, 2, 1), scale(0.1), zero(4, S)],
        {},
    ),
    "mul by a number": ("QLinearMul", [*scaled(U, 0.02, 5, 2, 8), *scaled(U, 0.03, 0), *Y], {}),
    "sigmoid": ("QLinearSigmoid", [*IMAGE, scale(1 / 256), zero(0)], {"constant": (1, 2, 3, 4)}),
    "leaky": ("QLinearLeakyRelu", [*IMAGE, *Y], {"alpha": 0.2, "constant": (1, 2, 3, 4)}),
    "softmax": (
        "QLinearSoftmax",
        [*IMAGE, scale(1 / 256), zero(0)],
        {"axis": 1, "opset": 13, "constant": (1, 2, 3, 4)},
    ),
    "average": ("QLinearAveragePool", [*IMAGE, *Y], WINDOW),
    "average_of_last": ("QLinearAveragePool", [*LAST, *Y], {**WINDOW, "channels_last": 1}),
    "global": ("QLinearGlobalAveragePool", [*IMAGE, *Y], {}),
    "global_of_last": ("QLinearGlobalAveragePool", [*LAST, *Y], {"channels_last": 1}),
    "concat": (
        "QLinearConcat",
        [*Y, *scaled(U, 0.02, 120, 2, 3), *scaled(U, 0.05, 99, 2, 4)],
        {"axis": 1, "constant": (0, 1, 3, 4, 6, 7)},
    ),
    "where": (
        "QLinearWhere",
        [
            np.array([True, False, True]),
            *scaled(U, 0.02, 120, 2, 3),
            *scaled(U, 0.05, 99, 1, 3),
            *Y,
        ],
        {"constant": (2, 3, 5, 6, 7, 8)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_as_onnxruntime(case: str, tmp_path: Path) -> None:
    kind, inputs, options = CASES[case]
    assert_as_peer(tmp_path, kind, inputs, steps=1, **options)


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_embeddings_by_bytes(segments: bool, masked: bool, tmp_path: Path) -> None:
    words, kinds = np.array([[1, 4, 2], [0, 3, 3]], np.int32), np.array([[0, 1, 1], [0, 0, 1]])
    tables = [codes(U, 5, 8), codes(U, 4, 8), codes(U, 2, 8) if segments else None]
    rows = [*tables, codes(U, 8), codes(U, 8)]
    given = [None if v is None else scale(0.01 + i / 99) for i, v in enumerate(rows)]
    points = [None if v is None else zero(100 + i) for i, v in enumerate(rows)]
    mask = np.array([[1, 1, 0], [1, 1, 1]], np.int32) if masked else None
    picks = [words, kinds.astype(np.int32) if segments else None]
    inputs = [*picks, *rows, mask, *given, *points]
    assert_as_peer(tmp_path, "QEmbedLayerNormalization", inputs, 2, epsilon=0.01)


LSTMS: dict[str, dict[str, Any]] = {
    "by direction": {},
    "by column": {"columns": (16,)},
    "backward": {"direction": "reverse"},
    "of their own lengths": {"lengths": [3, 5, 1]},
    "shorter than the batch": {"lengths": [2, 4, 1]},
    "peepholes": {"peepholes": True},
    "activations": {
        "activations": ["HardSigmoid", "Tanh", "Relu", "Sigmoid", "Affine", "Tanh"],
        "activation_alpha": [0.3, 0.7],
        "activation_beta": [0.4, 0.1],
    },
    "more activations": {
        "activations": ["Sigmoid", "ScaledTanh", "ThresholdedRelu"] * 2,
        "activation_alpha": [0.8, 0.1] * 2,
        "activation_beta": [0.6] * 2,
    },
    "coupled": {"input_forget": 1, "clip": 0.5},
}


@pytest.mark.parametrize("case", LSTMS)
def test_dynamic_lstm_rounds_what_its_weights_meet(case: str, tmp_path: Path) -> None:
    """The inputs by their range, and the hidden states by theirs at each step."""
    rng, options, hidden = np.random.default_rng(8), dict(LSTMS[case]), 4
    columns, lengths = options.pop("columns", ()), options.pop("lengths", None)
    peepholes = options.pop("peepholes", False)
    options = {"direction": "bidirectional"} | options
    n = 2 if options["direction"] == "bidirectional" else 1

    def real(*dims: int) -> Array:
        return rng.standard_normal(dims, np.float32)

    def levels(*dims: int) -> Array:
        return rng.integers(-128, 128, dims, np.int8)

    scales = np.asarray(rng.uniform(0.004, 0.005, (n, *columns)), np.float32)
    inputs = [
        real(5, 3, 3),
        levels(n, 3, 4 * hidden),
        levels(n, hidden, 4 * hidden),
        real(n, 8 * hidden),
        None if lengths is None else np.array(lengths, np.int32),
        real(n, 3, hidden),
        real(n, 3, hidden),
        real(n, 3 * hidden) if peepholes else None,
        *(scales, np.zeros((n, *columns), np.int8)) * 2,
    ]
    constant = (1, 2, 8, 9, 10, 11)
    options |= {"hidden_size": hidden, "constant": constant}
    options["symbolic"] = {0: ["time", "batch", 3]}
    model, fed = node_model("DynamicQuantizeLSTM", inputs, 3, **options)
    program, wanted = read(model, tmp_path), peer(model, fed)
    for target in ("ref", "cpu"):
        for got, want in zip(program.copy().compile(target).eval(fed), wanted, strict=True):
            np.testing.assert_allclose(got, want, 1e-5, 1e-6)


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize(
    ("kind", "apart"),
    [(TensorProto.UINT4, False), (TensorProto.INT4, False),
     (TensorProto.UINT8, False), (TensorProto.UINT8, True)],
)  # fmt: skip
def test_gather_of_blocks(kind: int, apart: bool, zeros: bool, tmp_path: Path) -> None:
    """The bytes of a table may be weights of a product, whose blocks lie apart, in other dims."""
    low, high = (-8, 8) if kind == TensorProto.INT4 else (0, 16)
    table, points = RNG.integers(low, high, (6, 32)), RNG.integers(low, high, (6, 2))
    if kind == TensorProto.UINT8:
        table, points = (np.ascontiguousarray(v[:, ::2] | v[:, 1::2] << 4) for v in (table, points))
    named = {"table": table, "points": points}
    held = [helper.make_tensor(n, kind, v.shape, v.reshape(-1).tolist()) for n, v in named.items()]
    scales = np.asarray(RNG.uniform(0.1, 0.2, (6, 2)), np.float32)
    held.append(onnx.numpy_helper.from_array(scales, "scales"))
    inputs = ["table", "rows", "scales", *(["points"] if zeros else [])]
    node = helper.make_node(
        "GatherBlockQuantized", inputs, ["y"], domain="com.microsoft", block_size=16,
        quantize_axis=1, gather_axis=0,
    )  # fmt: skip
    nodes = [node]
    if apart:
        node.input[0] = "joined"
        nodes.insert(0, helper.make_node("Reshape", ["table", "dims"], ["joined"]))
        held[0].dims[:] = 6, 2, table.shape[1] // 2
        inputs.append("dims")
        held.append(onnx.numpy_helper.from_array(np.array(table.shape), "dims"))
    held = [t for t in held if t.name in inputs]
    graph = helper.make_graph(
        nodes, "node",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, [2, "n"])],
        [onnx.ValueInfoProto(name="y")], held,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    fed = {"rows": np.array([[5, 0, 2], [1, 1, 3]])}
    (found,), (wanted,) = read(model, tmp_path).compile("ref").eval(fed), peer(model, fed)
    np.testing.assert_allclose(found, wanted, 1e-6)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_means_of_rows(keepdims: int, tmp_path: Path) -> None:
    """Which onnxruntime declares, and has no kernel for."""
    x = np.arange(12, dtype=np.uint8).reshape(3, 4)
    inputs = [x, scale(0.5), zero(3), scale(0.25), zero(2)]
    model, fed = node_model("QLinearReduceMean", inputs, axes=[1], keepdims=keepdims)
    (found,) = read(model, tmp_path).compile("ref").eval(fed)
    means = (x.mean(1, keepdims=True) - 3) * 0.5 / 0.25 + 2
    wanted = np.clip(means.round(), 0, 255).reshape((3, 1) if keepdims else (3,))
    assert (found.dtype, found.tolist()) == (np.uint8, wanted.tolist())
