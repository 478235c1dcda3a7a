"""Transposed convolutions whose padding ONNX derives from the dims asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.onnx.build import peer, read
from tests.onnx.one_node import node_model


@pytest.mark.parametrize("padding", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("length", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_same_dims_times_the_stride(
    stride: int, length: int, padding: str, tmp_path: Path
) -> None:
    """Also where a kernel is shorter than its stride, of which onnxruntime makes fewer dims unless
    ``output_shape`` says how many. All values are small integers, so sums are exact.
    """
    x = np.arange(1, 4, dtype=np.float32).reshape(1, 1, 3)
    w = np.arange(1, 1 + length, dtype=np.float32).reshape(1, 1, length)
    asked: dict[str, Any] = {"strides": [stride], "auto_pad": padding}
    model, inputs = node_model("ConvTranspose", [x, w], domain="", **asked)
    (found,) = read(model, tmp_path).compile("ref").eval(inputs)
    assert found.shape == (1, 1, 3 * stride)
    said, _ = node_model("ConvTranspose", [x, w], domain="", output_shape=[3 * stride], **asked)
    assert np.array_equal(found, peer(said, inputs)[0])
    if length >= stride:
        assert np.array_equal(found, peer(model, inputs)[0])


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_no_padding_by_its_name(kind: str, tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(1, 1, 6)
    model, inputs = node_model(kind, [x, x[..., :2]], domain="", auto_pad="VALID", strides=[2])
    (found,) = read(model, tmp_path).compile("ref").eval(inputs)
    assert np.array_equal(found, peer(model, inputs)[0])
