"""Operators of onnxruntime's own domain that are met rarely, by its word or by numpy's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migx.errors import InputError, OnnxError
from tests.onnx.build import Array, peer, read
from tests.onnx.one_node import assert_as_peer, node_model, results

RNG = np.random.default_rng(17)


def floats(*dims: int) -> Array:
    return RNG.standard_normal(dims, np.float32)


IMAGES, KERNEL = floats(2, 3, 6, 5), floats(3, 2, 3, 3)
BOXES = np.array(
    [[0, 0, 1, 1], [0.2, 0.1, 0.7, 0.9], [-0.2, 0.3, 0.5, 1.2], [0.8, 0.9, 0.1, 0.2]], np.float32
)
WHICH = np.array([0, 1, 1, 0], np.int32)
X, BLOCK, MIX = floats(2, 3, 4, 8), floats(2, 3, 8), floats(2, 3, 4, 4)
FLAT = X.reshape(2, 3, 32)
TOKENS = np.array([[1, 2, 3, 1, 2], [4, 4, 4, 4, 4], [0, 1, 2, 3, 4]])


def size(*numbers: int) -> Array:
    return np.array(numbers, np.int32)


Case = tuple[str, list[Any], int, dict[str, Any]]
CASES: dict[str, Case] = {
    "crop": ("CropAndResize", [IMAGES, BOXES, WHICH, size(4, 3)], 1, {"constant": [3]}),
    "crop_nearest": (
        "CropAndResize",
        [IMAGES, BOXES, WHICH, size(5, 7)],
        1,
        {"constant": [3], "mode": "nearest", "extrapolation_value": 0.5},
    ),
    "crop_halves": (
        "CropAndResize",
        [IMAGES.astype(np.float16), BOXES.astype(np.float16), WHICH, size(5, 7)],
        1,
        {"constant": [3], "rtol": 1e-3},
    ),
    "crop_nearest_halves": (
        "CropAndResize",
        [IMAGES.astype(np.float16), BOXES.astype(np.float16), WHICH, size(5, 7)],
        1,
        {"constant": [3], "mode": "nearest"},
    ),
    "range_of_two": ("Range", [np.array(2.0), np.array(5.0), None], 1, {}),
    "crop_middle": ("CropAndResize", [IMAGES, BOXES, WHICH, size(1, 2)], 1, {"constant": [3]}),
    "transposed": (
        "ConvTransposeWithDynamicPads",
        [IMAGES, KERNEL, np.array([1, 0, 1, 2])],
        1,
        {"constant": [2], "strides": [2, 2], "output_padding": [1, 0]},
    ),
    "transposed_with_bias": (
        "ConvTransposeWithDynamicPads",
        [IMAGES, KERNEL, np.array([0, 0, 0, 0]), floats(2)],
        1,
        {"constant": [2]},
    ),
    "unfold": ("UnfoldTensor", [X], 1, {"size": 3, "step": 2}),
    "unfold_inside": ("UnfoldTensor", [X], 1, {"dim": 1, "size": 3}),
    "unfold_integers": (
        "UnfoldTensor",
        [np.arange(12, dtype=np.int32).reshape(4, 3)],
        1,
        {"dim": -2, "size": 2},
    ),
    "runs": ("NGramRepeatBlock", [TOKENS, floats(3, 6)], 1, {"ngram_size": 3}),
    "runs_of_one": ("NGramRepeatBlock", [TOKENS, floats(3, 6)], 1, {"ngram_size": 1}),
    "runs_that_are_longer": ("NGramRepeatBlock", [TOKENS, floats(3, 6)], 1, {"ngram_size": 6}),
    "scaled_silu": ("ScaledSiLU", [X], 1, {"alpha": 1.3}),
    "scaled_silu_by_operand": ("ScaledSiLU", [X, np.array(0.4, np.float32)], 1, {"alpha": 2.0}),
    "gated_add": ("GatedAdd", [X, X[::-1].copy(), floats(2, 3, 4, 1)], 1, {}),
    "branches": ("BranchwiseRMSNorm", [X, floats(4, 8)], 1, {}),
    "branches_flat": ("BranchwiseRMSNorm", [FLAT, floats(32)], 1, {"num_branches": 4}),
    "branches_alike": (
        "BranchwiseRMSNorm",
        [FLAT, floats(8)],
        1,
        {"num_branches": 4, "epsilon": 0.1},
    ),
    "branches_unscaled": ("BranchwiseRMSNorm", [X], 1, {}),
    "before": ("HyperConnectionPreMix", [X, floats(2, 3, 4)], 1, {"reduction_scale": 0.5}),
    "before_by_columns": ("HyperConnectionPreMix", [X, floats(2, 3, 4, 1)], 1, {}),
    "before_by_elements": (
        "HyperConnectionPreMix",
        [FLAT, floats(2, 3, 32)],
        1,
        {"num_branches": 4},
    ),
    "after": ("HyperConnectionPostMix", [X, BLOCK, floats(2, 3, 4)], 1, {}),
    "after_mixed": ("HyperConnectionPostMix", [X, BLOCK, floats(2, 3, 4, 8), MIX], 1, {}),
    "after_flat": (
        "HyperConnectionPostMix",
        [FLAT, BLOCK, floats(2, 3, 4), MIX],
        1,
        {"num_branches": 4},
    ),
    "engram": ("EngramGate", [X, floats(2, 3, 4, 8), BLOCK, floats(4, 8), floats(4, 8)], 1, {}),
    "engram_normed": (
        "EngramGate",
        [X, floats(2, 3, 4, 8), BLOCK, *(floats(4, 8) for _ in range(3))],
        2,
        {"epsilon": 0.01},
    ),
    "affine": ("Affine", [X], 1, {"domain": "", "version": 9, "alpha": 1.5, "beta": -0.5}),
    "scale": ("Scale", [X], 1, {"domain": "", "version": 9, "scale": 0.3}),
    "image": (
        "ImageScaler",
        [IMAGES],
        1,
        {"domain": "", "version": 9, "scale": 2.0, "bias": [1.0, 0.0, -3.0]},
    ),
    "tanh": ("ScaledTanh", [X], 1, {"domain": "", "version": 9, "alpha": 1.7, "beta": 0.6}),
    "softplus": (
        "ParametricSoftplus",
        [X],
        1,
        {"domain": "", "version": 9, "alpha": 1.2, "beta": 0.7},
    ),
    "crop_borders": ("Crop", [IMAGES], 1, {"domain": "", "version": 9, "border": [1, 2, 0, 1]}),
    "crop_from": (
        "Crop",
        [IMAGES],
        1,
        {"domain": "", "version": 9, "border": [1, 2, 0, 0], "scale": [3, 2]},
    ),
    "slice": (
        "DynamicSlice",
        [X, np.array([1, -3]), np.array([2, 100]), np.array([1, 3])],
        1,
        {"domain": "", "version": 9},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_as_onnxruntime(case: str, tmp_path: Path) -> None:
    kind, inputs, outputs, options = CASES[case]
    assert_as_peer(tmp_path, kind, inputs, outputs, **options)


def test_a_gate_that_is_a_product(tmp_path: Path) -> None:
    gate, weight = floats(2, 3, 4, 5), floats(5, 1)
    (found,) = results(tmp_path, "GatedAdd", [X, X[::-1].copy(), gate, weight])
    np.testing.assert_allclose(found, X + X[::-1] / (1 + np.exp(-gate @ weight)), 1e-5, 1e-6)


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_one_program_unfolds_any_length(target: str, tmp_path: Path) -> None:
    given, fed = node_model("UnfoldTensor", [X], symbolic={0: (2, 3, 4, "n")}, size=3, step=2)
    program = read(given, tmp_path).compile(target)
    for length in (8, 3, 6):
        fed = {"x0": X[..., :length].copy()}
        np.testing.assert_array_equal(program.eval(fed)[0], peer(given, fed)[0])


@pytest.mark.parametrize("target", ["ref", "cpu"])
@pytest.mark.parametrize("runs", [1, 3, 10**12])
def test_runs_of_any_length_in_rows_of_any_length(target: str, runs: int, tmp_path: Path) -> None:
    symbolic = {0: ("batch", "length")}
    given, fed = node_model(
        "NGramRepeatBlock", [TOKENS, floats(3, 6)], symbolic=symbolic, ngram_size=runs
    )
    program = read(given, tmp_path).compile(target)
    for length in (5, 3, 2, 0):
        fed["x0"] = TOKENS[:, :length].copy()
        wanted = fed["x1"].copy()
        for row, tokens in zip(wanted, fed["x0"].tolist(), strict=True):
            for i in range(length - runs + 1):
                if tokens[i : i + runs - 1] == tokens[length - runs + 1 :]:
                    row[tokens[i + runs - 1]] = -np.inf
        np.testing.assert_array_equal(program.eval(fed)[0], wanted)


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_halves_of_what_is_odd_in_a_run(target: str, tmp_path: Path) -> None:
    given, fed = node_model("SwiGLU", [FLAT], symbolic={0: (2, 3, "n")})
    program = read(given, tmp_path).compile(target)
    assert program.eval(fed)[0].shape == (2, 3, 16)
    with pytest.raises(InputError, match="with n=7: reshape cannot make f32"):
        program.eval({"x0": FLAT[..., :7].copy()})


def test_parts_of_an_axis_that_is_longer_in_a_run(tmp_path: Path) -> None:
    sizes = np.array([20, 12])
    given, fed = node_model("Split", [FLAT, sizes], 2, domain="", constant=[1],
                            symbolic={0: (2, 3, "n")}, axis=2)  # fmt: skip
    program = read(given, tmp_path).compile("ref")
    assert [part.shape[2] for part in program.eval(fed)] == [20, 12]
    with pytest.raises(InputError, match=r"with n=33: reshape cannot make f32\[2, 3, 32\]"):
        program.eval({"x0": floats(2, 3, 33)})


def matrices(dims: tuple[int, ...], dtype: type, seed: int) -> Array:
    """Orthogonal matrices with rows in any order, times numbers: none is nearly singular."""
    rng = np.random.default_rng(seed)
    made = np.linalg.qr(rng.standard_normal(dims))[0]
    return np.asarray(made * rng.uniform(0.5, 2, (*dims[:-1], 1))).astype(dtype)


@pytest.mark.parametrize("target", ["ref", "cpu"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("dims", [(1, 1), (3, 3), (2, 4, 4), (2, 3, 7, 7), (0, 3, 3)])
def test_inverses(dims: tuple[int, ...], dtype: type, target: str, tmp_path: Path) -> None:
    """The condition is 4 at most, and elimination rounds n times in each of n columns. Halves are
    rounded once.
    """
    x = matrices(dims, dtype, sum(dims))
    symbolic = {0: [*(f"d{i}" for i in range(len(dims) - 2)), "n", "n"]}
    given, fed = node_model("Inverse", [x], symbolic=symbolic)
    (found,) = read(given, tmp_path).compile(target).eval(fed)
    assert (found.dtype, found.shape) == (x.dtype, x.shape)
    step = {2: 2.0**-11, 4: dims[-1] ** 2 * 2.0**-24, 8: dims[-1] ** 2 * 2.0**-53}
    bound = 16 * step[x.dtype.itemsize]
    np.testing.assert_allclose(found, np.linalg.inv(x.astype(np.float64)), 0, bound)
    if dtype is not np.float16:  # whose inverses onnxruntime computes in halves
        np.testing.assert_allclose(found, peer(given, fed)[0], 0, 2 * bound)


def test_a_column_that_begins_with_zero_is_no_hindrance(tmp_path: Path) -> None:
    x = np.array([[0, 2, 0], [0, 0, 4], [8, 0, 0]], np.float32)
    (found,) = results(tmp_path, "Inverse", [x])
    np.testing.assert_array_equal(found, np.linalg.inv(x))


# What onnxruntime has for graphics processors alone.


def pairs(x: Array) -> Array:
    return np.stack([x.real, x.imag], -1).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_transforms_there_and_back(count: int, tmp_path: Path) -> None:
    x = floats(2, 3, 4, 8)
    (found,) = results(tmp_path, "Rfft", [x], signal_ndim=count)
    wanted = np.fft.rfftn(x, axes=range(-count, 0))
    np.testing.assert_allclose(found, pairs(wanted), 1e-4, 1e-4)
    (back,) = results(tmp_path, "Irfft", [found], signal_ndim=count)
    np.testing.assert_allclose(back, x, 1e-4, 1e-5)


@pytest.mark.parametrize("kind", ["ComplexMul", "ComplexMulConj"])
def test_complex_products(kind: str, tmp_path: Path) -> None:
    x, y = floats(2, 3, 4, 2), floats(4, 2)
    (found,) = results(tmp_path, kind, [x, y])
    a, b = (v[..., 0] + 1j * v[..., 1] for v in (x, y))
    np.testing.assert_allclose(found, pairs(a * (b.conj() if kind.endswith("Conj") else b)), 1e-5)


REFUSED: list[tuple[str, list[Any], dict[str, Any], str]] = [
    ("CropAndResize", [IMAGES, BOXES, WHICH, size(4, 3)], {}, "'x3' must be two known integers"),
    (
        "CropAndResize",
        [IMAGES, BOXES, WHICH, size(4, 3)],
        {"constant": [3], "mode": "cubic"},
        "no mode 'cubic'; there are bilinear, nearest",
    ),
    (
        "ConvTransposeWithDynamicPads",
        [IMAGES, KERNEL, np.array([1, 0, 1, 2])],
        {},
        "pads must be a constant",
    ),
    ("UnfoldTensor", [X], {"size": 9}, "size 9 of an axis of 8"),
    ("UnfoldTensor", [X], {"size": 2, "step": 0}, "size 2 and step 0; both are 1 or more"),
    ("NGramRepeatBlock", [TOKENS, floats(3, 6)], {"ngram_size": 0}, "ngram_size 0; it is 1 or"),
    ("Inverse", [X], {}, r"f32\[2, 3, 4, 8\]: matrices \[..., n, n\] are wanted"),
    ("BranchwiseRMSNorm", [FLAT], {"num_branches": 5}, "32 are not 5 streams"),
    (
        "HyperConnectionPreMix",
        [X, floats(2, 3, 5)],
        {},
        r"\(2, 3, 4\), \(2, 3, 4, 1\) or \(2, 3, 4, 8\) is wanted",
    ),
    ("Rfft", [X], {"normalized": 1}, "normalized is 0 and onesided 1"),
    ("Rfft", [X], {"signal_ndim": 5}, "signal_ndim 5 of 4 axes"),
]


@pytest.mark.parametrize(("kind", "inputs", "options", "said"), REFUSED)
def test_refused(
    kind: str, inputs: list[Any], options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(OnnxError, match=said):
        read(node_model(kind, inputs, **options)[0], tmp_path)
