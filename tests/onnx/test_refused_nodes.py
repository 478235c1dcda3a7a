"""Nodes that say what they cannot mean, or what is not supported: the error names it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migx.errors import OnnxError
from tests.onnx.build import Array, read
from tests.onnx.one_node import node_model

ML = "ai.onnx.ml"


def floats(*dims: int) -> Array:
    return np.zeros(dims, np.float32)


IMAGE, KERNELS, SQUARE = floats(1, 2, 5, 5), floats(3, 2, 3, 3), floats(1, 1, 4, 4)
ROWS, HEADS = floats(2, 3), [floats(1, 2, 4), floats(4, 12), floats(12)]
LINEAR: dict[str, Any] = {"domain": ML, "coefficients": [0.1] * 6, "intercepts": [0.0, 0.0]}

Case = tuple[str, Sequence[Array | None], dict[str, Any], str]


def case(kind: str, inputs: Sequence[Array | None], options: dict[str, Any], said: str) -> Case:
    return kind, inputs, options, said


CASES = [
    case("Conv", [IMAGE, KERNELS], {"domain": "", "auto_pad": "SOME"}, "no auto_pad 'SOME'"),
    case(
        "Conv",
        [IMAGE, KERNELS],
        {"domain": "", "pads": [1, 1, 1]},
        "pads, strides and dilations must fit 2 spatial dims",
    ),
    case(
        "DepthToSpace", [ROWS], {"domain": "", "blocksize": 2}, "'x0' f32[2, 3]: 4 axes are wanted"
    ),
    case("Max", [], {"domain": ""}, "has input size 0 not in range [min=1"),
    case(
        "MaxUnpool",
        [IMAGE, np.zeros(IMAGE.shape, np.int64)],
        {"domain": "", "kernel_shape": [2, 2], "pads": [0, 0, 1]},
        "i64[1, 2, 5, 5]) or attributes do not fit it: Attribute pads has",
    ),
    case("FastGelu", [None, ROWS[0]], {}, "input 0 is missing"),
    case("SwiGLU", [ROWS], {}, "its parts (1, 1) add up to 2, the axis has 3"),
    case("BiasSplitGelu", [ROWS, ROWS[0]], {}, "its parts (1, 1) add up to 2, the axis has 3"),
    case(
        "DepthToSpace",
        [SQUARE],
        {"domain": "", "blocksize": 1, "mode": "CDR"},
        "no mode 'CDR'; there are DCR, CRD",
    ),
    case(
        "BitShift",
        [np.ones(2, np.uint8)] * 2,
        {"domain": "", "direction": "UP"},
        "no direction 'UP'; there are LEFT, RIGHT",
    ),
    case(
        "Gelu",
        [ROWS],
        {"domain": "", "version": 20, "approximate": "erf"},
        "no approximate 'erf'; there are none, tanh",
    ),
    case(
        "ConvTranspose",
        [IMAGE, floats(2, 3, 3, 3)],
        {"domain": "", "auto_pad": "SAME"},
        "no auto_pad 'SAME'; there are NOTSET, SAME_UPPER",
    ),
    case(
        "MultiHeadAttention",
        [HEADS[0]] * 3,
        {"num_heads": 0},
        "0 heads of f32[1, 2, 4]: 1 or more of [batch, length, size] are wanted",
    ),
    case(
        "RotaryEmbedding",
        [ROWS, np.zeros((2, 3), np.int64), floats(8, 1), floats(8, 1)],
        {},
        "'x0' f32[2, 3]: 3 or 4 axes are wanted",
    ),
    case(
        "DynamicQuantizeLSTM",
        [
            floats(5, 3, 2),
            *[np.zeros((1, n, 16), np.uint8) for n in (2, 4)],
            *[None] * 5,
            floats(1),
        ],
        {"hidden_size": 4, "direction": "inward"},
        "no direction 'inward'; there are forward, reverse, bidirectional",
    ),
    case(
        "GRU",
        [floats(5, 3, 2), floats(1, 12, 2), floats(1, 12, 4)],
        {"domain": "", "hidden_size": 4, "clip": -1.0},
        "clip is -1.0; it is 0 or more",
    ),
    case(
        "Reshape",
        [ROWS, np.array([2, 3, 0])],
        {"domain": "", "constant": [1]},
        "dims (2, 3, 0) copy a dim that f32[2, 3] does not have",
    ),
    case(
        "Reshape",
        [ROWS, np.array([-1, -1])],
        {"domain": "", "constant": [1]},
        "dims (-1, -1) do not determine -1",
    ),
    case(
        "ReduceSum",
        [ROWS, np.array([1, -1])],
        {"domain": "", "constant": [1]},
        "axes (1, -1) name one twice",
    ),
    case(
        "Split",
        [floats(6), np.array([2, 2, 2])],
        {"domain": "", "constant": [1], "outputs": 2},
        "it has 2 outputs and 3 sizes",
    ),
    case(
        "Split",
        [floats(6), np.array([2, 2, 2])],
        {"domain": "", "outputs": 2},
        "it has 2 outputs and 3 sizes",
    ),
    case(
        "ScatterElements",
        [ROWS, np.zeros((1, 3), np.int64), floats(1, 3)],
        {"domain": "", "version": 18, "reduction": "avg"},
        "no reduction 'avg'; there are none, add, mul, max, min",
    ),
    case(
        "Slice",
        [floats(6), *(np.array([i]) for i in (0, 5, 0, 0))],
        {"domain": "", "constant": [1, 2, 3, 4]},
        "its step is 0",
    ),
    case("Resize", [SQUARE], {"domain": ""}, "it needs scales or sizes"),
    case(
        "Resize",
        [SQUARE, None, np.array([1, 1, 2, 2], np.float32)],
        {
            "domain": "",
            "constant": [2],
            "coordinate_transformation_mode": "tf_crop_and_resize",
        },
        "tf_crop_and_resize needs a region of interest",
    ),
    case(
        "Resize",
        [SQUARE, None, None, np.array([1, 1, 8, 8])],
        {"domain": "", "version": 18, "constant": [3], "keep_aspect_ratio_policy": "fit"},
        "no keep_aspect_ratio_policy 'fit'",
    ),
    case(
        "STFT",
        [floats(1, 20, 1), np.array(4)],
        {"domain": "", "constant": [1]},
        "it has neither a window nor a frame length",
    ),
    case("StringConcat", [ROWS, ROWS], {"domain": "", "version": 20}, "but strings are wanted"),
    case("Normalizer", [ROWS], {"domain": ML, "norm": "L3"}, "no norm 'L3'; there are MAX, L1, L2"),
    case("Imputer", [ROWS], {"domain": ML}, "it has no imputed values"),
    case("LabelEncoder", [ROWS], {"domain": ML, "version": 2}, "it has no keys or no values"),
    case(
        "LabelEncoder",
        [np.array([1, 2])],
        {"domain": ML, "version": 2, "keys_floats": [np.nan, 1.0], "values_int64s": [1, 2]},
        "'x0' i64[2] is compared with keys float32",
    ),
    case("OneHotEncoder", [ROWS], {"domain": ML}, "it has no categories"),
    case("LinearClassifier", [ROWS], LINEAR, "it has no class labels"),
    case(
        *(
            "LinearClassifier",
            [ROWS],
            {**LINEAR, "classlabels_ints": [0, 1], "post_transform": "X"},
        ),
        "the post transform X is not supported",
    ),
    case(
        "CDist", [ROWS, ROWS], {"metric": "cosine"}, "no metric 'cosine'; there are euclidean, sq"
    ),
    case("Attention", HEADS, {"num_heads": 2, "do_rotary": 1}, "do_rotary is not supported"),
    case(
        "Attention",
        [*HEADS, None, None, None, np.array(1, np.int32)],
        {"num_heads": 2},
        "past_sequence_length is not supported",
    ),
    case(
        "MultiHeadAttention",
        [*[HEADS[0]] * 3, *[None] * 6, np.zeros((1, 1, 2), np.int32)],
        {"num_heads": 2},
        "cache_indirection is not supported",
    ),
    case(
        "GatherBlockQuantized",
        [np.zeros((4, 32), np.uint8), np.array([1, 2]), floats(4, 1)],
        {"gather_axis": 0, "quantize_axis": 0, "block_size": 32},
        "gather_axis and quantize_axis are both 0",
    ),
    case(
        "EmbedLayerNormalization",
        [None, None, floats(5, 4), None, None, floats(4), floats(4)],
        {},
        "input 0 is missing",
    ),
    case(
        "MatMulNBits",
        [floats(1, 32), np.zeros((2, 1, 20), np.uint8), floats(2)],
        {"K": 32, "N": 2, "bits": 5, "block_size": 32},
        "weights of 5 bits are not supported",
    ),
    case(
        "MatMulNBits",
        [floats(1, 32), np.zeros((2, 1, 16), np.uint8), floats(2)],
        {"K": 32, "N": 2, "bits": 4, "block_size": 32, "weight_prepacked": 1},
        "weight_prepacked 1 is not supported; 0 is",
    ),
    case(
        "MatMulNBits",
        [floats(1, 32), np.zeros((2, 1, 16), np.uint8), floats(2)],
        {"K": 32, "N": 2, "bits": 4, "block_size": 32},
        "packed weights must be a constant, not",
    ),
]


@pytest.mark.parametrize(("kind", "inputs", "options", "said"), CASES)
def test_what_is_wrong_is_said(
    kind: str, inputs: Sequence[Array | None], options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    model, _ = node_model(kind, inputs, **options)
    with pytest.raises(OnnxError, match=f"{kind} 'y0': .*{re.escape(said)}"):
        read(model, tmp_path)
