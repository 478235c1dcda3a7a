"""Transforms of signals against numpy's, and the mel matrix against onnxruntime's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migx.errors import EvaluationError, OnnxError
from tests.onnx.build import Array
from tests.onnx.one_node import assert_as_peer, results

RNG = np.random.default_rng(2)
REAL, COMPLEX = (RNG.standard_normal((2, 7, 5, n), np.float32) for n in (1, 2))


def paired(x: Array) -> Array:
    return np.stack([x.real, x.imag], -1).astype(np.float32)


def joined(x: Array) -> Array:
    return np.asarray(x[..., 0] if x.shape[-1] == 1 else x[..., 0] + 1j * x[..., 1])


def length(value: int) -> Array:
    return np.array(value)


@pytest.mark.parametrize("constant", [(), (1,), (1, 2)])
@pytest.mark.parametrize("x", [REAL, COMPLEX], ids=["real", "complex"])
@pytest.mark.parametrize("axis", [1, -2])
@pytest.mark.parametrize("size", [None, 4, 9])
def test_dft(
    size: int | None, axis: int, x: Array, constant: tuple[int, ...], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"domain": "", "version": 20}
    operands = [x, None if size is None else length(size), length(axis)]
    held = tuple(i for i in constant if operands[i] is not None)
    at = axis % 4
    (found,) = results(tmp_path, "DFT", operands, constant=held, **options)
    np.testing.assert_allclose(found, paired(np.fft.fft(joined(x), size, at)), 1e-4, 1e-5)
    (found,) = results(tmp_path, "DFT", operands, constant=held, inverse=1, **options)
    np.testing.assert_allclose(found, paired(np.fft.ifft(joined(x), size, at)), 1e-4, 1e-5)


def test_dft_of_one_side(tmp_path: Path) -> None:
    options: dict[str, Any] = {"domain": "", "version": 20, "onesided": 1}
    (half,) = results(tmp_path, "DFT", [REAL, None, length(1)], **options)
    np.testing.assert_allclose(half, paired(np.fft.rfft(REAL[..., 0], axis=1)), 1e-4, 1e-5)
    operands = [half, length(7), length(1)]
    (back,) = results(tmp_path, "DFT", operands, inverse=1, **options)
    np.testing.assert_allclose(back, REAL, 1e-4, 1e-5)


def test_the_axis_was_an_attribute(tmp_path: Path) -> None:
    assert_as_peer(
        tmp_path, "DFT", [REAL], domain="", version=17, axis=2, symbolic={0: ["n", "h", "w", 1]}
    )


def test_a_transform_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="1 element or more, not 0"):
        results(tmp_path, "DFT", [REAL, length(0), length(1)], domain="", version=20)


def test_the_axis_of_the_parts_is_not_transformed(tmp_path: Path) -> None:
    square = RNG.standard_normal((2, 2, 2), np.float32)
    for axis in (2, -1):
        with pytest.raises(EvaluationError, match="its axis is the last"):
            results(tmp_path, "DFT", [square, None, length(axis)], domain="", version=20)


def test_frames_go_forward(tmp_path: Path) -> None:
    operands = [RNG.standard_normal((2, 40, 1), np.float32), length(-3), None, length(8)]
    with pytest.raises(EvaluationError, match="its frame_step is not above 0"):
        results(tmp_path, "STFT", operands, domain="")
    with pytest.raises(OnnxError, match="its frame_step is -3"):
        results(tmp_path, "STFT", operands, domain="", constant=(1,))


def test_a_mel_matrix_of_what_is_none_is_an_error(tmp_path: Path) -> None:
    edges = [np.array(v, np.float32) for v in (-700.0, 3800.0)]
    for bands, low in ((-1, edges[1]), (8, edges[0])):
        operands = [length(bands), length(64), length(8000), low, edges[1]]
        with pytest.raises(EvaluationError, match=f"{bands} bands from .* of 64 elements"):
            results(tmp_path, "MelWeightMatrix", operands, domain="")


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("constant", [(), (1,), (1, 2, 3)])
@pytest.mark.parametrize("window", [False, True])
def test_stft(window: bool, constant: tuple[int, ...], onesided: int, tmp_path: Path) -> None:
    signal = RNG.standard_normal((2, 40, 1), np.float32)
    shape = np.hanning(8).astype(np.float32) if window else None
    operands = [signal, length(3), shape, length(8)]
    held = tuple(i for i in constant if operands[i] is not None)
    options: dict[str, Any] = {"domain": "", "onesided": onesided}
    assert_as_peer(tmp_path, "STFT", operands, constant=held, atol=1e-4, **options)


def test_a_real_signal_may_lack_its_last_axis(tmp_path: Path) -> None:
    signal = RNG.standard_normal((2, 40), np.float32)
    operands = [signal, length(3), np.hanning(8).astype(np.float32), length(8)]
    assert_as_peer(tmp_path, "STFT", operands, domain="", constant=(1, 2, 3), atol=1e-4)


@pytest.mark.parametrize("constant", [(), (0, 1)])
def test_mel_weight_matrix(constant: tuple[int, ...], tmp_path: Path) -> None:
    edges = [np.array(v, np.float32) for v in (20.0, 3800.0)]
    operands = [length(8), length(64), length(8000), *edges]
    assert_as_peer(tmp_path, "MelWeightMatrix", operands, domain="", constant=constant)
