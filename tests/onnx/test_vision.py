"""ONNX operators on images, by onnxruntime's word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migx.errors import EvaluationError
from tests.onnx.build import Array
from tests.onnx.one_node import assert_as_peer, results

RNG = np.random.default_rng(21)


def floats(*dims: int) -> Array:
    return RNG.standard_normal(dims, np.float32)


IMAGE, GRID = floats(2, 3, 5, 6), floats(2, 4, 3, 2) * np.float32(0.9)
REGIONS = np.array([[0, 0, 5, 4], [1.5, 0.5, 4.2, 3.1], [3, 2, 3.2, 2.1]], np.float32)
WHICH = np.array([1, 0, 1])
POOLED = np.array([[1, 0, 0, 5, 4], [0, 1, 0, 4, 3]], np.float32)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [0, 1])
def test_grid_sample(mode: str, padding: str, corners: int, tmp_path: Path) -> None:
    assert_as_peer(
        tmp_path,
        "GridSample",
        [IMAGE, GRID],
        domain="",
        mode=mode,
        padding_mode=padding,
        align_corners=corners,
        symbolic={0: ["n", 3, "h", "w"], 1: ["n", "p", "q", 2]},
    )


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [(1, 2, 4, 3), (2, 3, 2, 5), (1, 2, 3, 2, 4)])
def test_affine_grid(size: tuple[int, ...], known: bool, corners: int, tmp_path: Path) -> None:
    axes = len(size) - 2
    assert_as_peer(
        tmp_path,
        "AffineGrid",
        [floats(size[0], axes, axes + 1), np.array(size)],
        domain="",
        version=20,
        constant=(1,) if known else (),
        align_corners=corners,
        symbolic={0: ["n", axes, axes + 1], 1: ["k"]},  # how many sizes follows from the maps
    )


CASES: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "align": ("RoiAlign", [IMAGE, REGIONS, WHICH], {"output_height": 2, "output_width": 3}),
    "align_unshifted": (
        "RoiAlign",
        [IMAGE, REGIONS, WHICH],
        {"coordinate_transformation_mode": "output_half_pixel", "sampling_ratio": 2},
    ),
    "align_scaled": (
        "RoiAlign",
        [IMAGE, REGIONS * 4, WHICH],
        {"spatial_scale": 0.25, "sampling_ratio": 3, "output_height": 4},
    ),
    "roi_pool": ("MaxRoiPool", [IMAGE, POOLED], {"pooled_shape": [2, 3]}),
    "roi_pool_scaled": (
        "MaxRoiPool",
        [IMAGE, POOLED * np.array([1, 2, 2, 2, 2], np.float32)],
        {"pooled_shape": [3, 2], "spatial_scale": 0.5},
    ),
    "columns": (
        "Col2Im",
        [floats(2, 3 * 4, 9), np.array([6, 5]), np.array([2, 2])],
        {"version": 18, "strides": [2, 1], "pads": [0, 0, 0, 0], "dilations": [1, 2]},
    ),
    "columns_of_known_windows": (
        "Col2Im",
        [floats(2, 3 * 4, 16), np.array([3, 3]), np.array([2, 2])],
        {"version": 18, "pads": [1, 1, 1, 1], "constant": (1, 2)},
    ),
    "unpool": (
        "MaxUnpool",
        [floats(1, 1, 2, 2), np.array([[[[5, 7], [8, 15]]]])],
        {"kernel_shape": [2, 2], "strides": [2, 2]},
    ),
    "unpool_to_a_list_of_unknown_length": (
        "MaxUnpool",
        [floats(1, 1, 2, 2), np.array([[[[5, 7], [8, 15]]]]), np.array([1, 1, 4, 4])],
        {"kernel_shape": [2, 2], "strides": [2, 2], "symbolic": {2: ["k"]}},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_as_onnxruntime(case: str, tmp_path: Path) -> None:
    kind, inputs, options = CASES[case]
    assert_as_peer(tmp_path, kind, inputs, domain="", **options)


@pytest.mark.parametrize("axes", [(2, 3), (3, 2), (3,)])
def test_a_region_of_some_axes_is_resized(axes: tuple[int, ...], tmp_path: Path) -> None:
    region = np.repeat([0.2, 0.9], len(axes)).astype(np.float32)
    inputs = [IMAGE, region, None, np.array([8, 7][: len(axes)])]
    how: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}
    assert_as_peer(
        tmp_path, "Resize", inputs, domain="", version=18, constant=[1, 3], axes=axes, **how
    )


@pytest.mark.parametrize("factor", [2.0, 1.5, 0.7, 1 / 3])
def test_dims_with_names_are_scaled(factor: float, tmp_path: Path) -> None:
    scales = np.array([1, 1, factor, factor], np.float32)
    named: dict[str, Any] = {"symbolic": {0: ("n", 3, "h", "w")}, "constant": [2]}
    assert_as_peer(tmp_path, "Resize", [IMAGE, None, scales], domain="", version=18, **named)


@pytest.mark.parametrize("shape", [None, (1, 1, 4, 4)])
@pytest.mark.parametrize("index", [16, -1])
def test_a_place_outside_the_image_is_an_error(
    index: int, shape: tuple[int, ...] | None, tmp_path: Path
) -> None:
    operands = [floats(1, 1, 2, 2), np.array([[[[0, 3], [8, index]]]])]
    target = [] if shape is None else [np.array(shape)]
    with pytest.raises(EvaluationError, match="an index is outside the image"):
        results(
            tmp_path,
            "MaxUnpool",
            [*operands, *target],
            domain="",
            kernel_shape=[2, 2],
            strides=[2, 2],
        )


def test_windows_of_nothing_are_an_error(tmp_path: Path) -> None:
    operands = [floats(1, 5, 5), np.array([5, 5]), np.array([0, 5])]
    with pytest.raises(EvaluationError, match=r"windows \[0, 5\] of \[5, 5\]"):
        results(tmp_path, "Col2Im", operands, domain="", version=18)


def test_regions_without_an_end_are_an_error(tmp_path: Path) -> None:
    for corner in (np.nan, np.inf):
        region = np.array([[0, 0, corner, 4]], np.float32)
        with pytest.raises(EvaluationError, match="a corner of a region is not finite"):
            results(tmp_path, "RoiAlign", [IMAGE, region, np.array([0])], domain="")


@pytest.mark.parametrize("masked", [False, True])
def test_deformable_convolution(masked: bool, tmp_path: Path) -> None:
    x, w = floats(2, 4, 6, 5), floats(6, 2, 3, 2)
    offset = floats(2, 2 * 6 * 2, 3, 6)
    mask = RNG.random((2, 2 * 6, 3, 6), np.float32) if masked else None
    assert_as_peer(
        tmp_path,
        "DeformConv",
        [x, w, offset, floats(6), mask] if masked else [x, w, offset],
        domain="",
        version=19,
        group=2,
        offset_group=2,
        pads=[1, 1, 1, 1],
        strides=[2, 1],
    )
