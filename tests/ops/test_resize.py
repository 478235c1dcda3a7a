"""Resize against onnxruntime, onnx's reference evaluator, and values worked out by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from migx.dim import Dim
from migx.errors import ShapeError
from migx.op import bind
from migx.ops.resize import Resize
from migx.shape import DType, Shape
from tests.ops.peers import assert_same, run, shape_of

Array = NDArray[Any]
RNG = np.random.default_rng(11)
X = RNG.standard_normal((1, 2, 5, 6)).astype(np.float32)
SIZES = [(1, 2, 9, 4), (1, 2, 3, 13), (1, 2, 10, 12), (1, 2, 1, 1)]
COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]


def resize_model(attributes: dict[str, Any], **inputs: Array) -> bytes:
    """A model of one Resize node with these inputs and attributes."""
    names = [n if n in inputs else "" for n in ("x", "roi", "scales", "sizes")]
    kinds = {n: helper.np_dtype_to_tensor_dtype(a.dtype) for n, a in inputs.items()}
    declared = [helper.make_tensor_value_info(n, kinds[n], a.shape) for n, a in inputs.items()]
    result = helper.make_tensor_value_info("y", kinds["x"], None)
    node = helper.make_node("Resize", names, ["y"], **attributes)
    graph = helper.make_graph([node], "resize", declared, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return bytes(model.SerializeToString())


def by_onnxruntime(x: Array, sizes: tuple[int, ...], **attributes: Any) -> Array:
    inputs = {"x": x, "sizes": np.array(sizes)}
    session = onnxruntime.InferenceSession(resize_model(attributes, **inputs))
    found: list[Array] = session.run(None, inputs)
    return found[0]


def by_reference(x: Array, scales: Any, roi: Any = (), **attributes: Any) -> Array:
    """The answer of onnx's own evaluator, which its node tests are made with."""
    inputs = {"x": x, "roi": np.array(roi, np.float32), "scales": np.array(scales, np.float32)}
    model = onnx.load_from_string(resize_model(attributes, **inputs))
    found = ReferenceEvaluator(model).run(None, inputs)
    return np.asarray(found[0])  # type: ignore[index]


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest(coordinates: str, rounding: str) -> None:
    for sizes in SIZES:
        op = Resize(sizes, (), "nearest", coordinates, rounding)
        attributes = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
        assert_same(run(op, X), by_onnxruntime(X, sizes, mode="nearest", **attributes))


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_interpolation(mode: str, coordinates: str) -> None:
    for sizes, outside in itertools.product(SIZES, (False, True) if mode == "cubic" else (False,)):
        op = Resize(sizes, (), mode, coordinates, cubic_coeff_a=-0.6, exclude_outside=outside)
        attributes = {"coordinate_transformation_mode": coordinates, "cubic_coeff_a": -0.6}
        wanted = by_onnxruntime(X, sizes, mode=mode, exclude_outside=int(outside), **attributes)
        np.testing.assert_allclose(run(op, X), wanted, 1e-4, 1e-5)


@pytest.mark.parametrize("coordinates", ["half_pixel", "half_pixel_symmetric", "align_corners"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("antialias", [False, True])
def test_scales_that_give_no_whole_size(mode: str, coordinates: str, antialias: bool) -> None:
    # By 2.3, a place would lie halfway but for the rounding of the factor, which is not seen there.
    for down, across in [(0.5, 1.5), (0.7, 2.2), (1.7, 0.4)]:
        scales = tuple(np.array([1, 1, down, across], np.float32).tolist())
        sizes = (1, 2, int(5 * down), int(6 * across))
        smooth = antialias and mode != "nearest"
        op = Resize(sizes, scales, mode, coordinates, antialias=smooth)
        attributes = {"coordinate_transformation_mode": coordinates, "antialias": int(smooth)}
        wanted = by_reference(X, scales, mode=mode, **attributes)
        np.testing.assert_allclose(run(op, X), wanted, 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("factor", "coordinates", "rounding", "index", "place"),
    [
        (1.2, "asymmetric", "floor", 6, 5),
        (0.6, "asymmetric", "floor", 3, 5),
        (2.3, "half_pixel", "round_prefer_floor", 11, 4),
        (2.3, "half_pixel", "round_prefer_ceil", 11, 5),
    ],
)
def test_the_rounding_of_a_factor_moves_no_place(
    factor: float, coordinates: str, rounding: str, index: int, place: int
) -> None:
    x = np.arange(10, dtype=np.float32)
    scale = float(np.float32(factor))
    op = Resize((int(10 * factor),), (scale,), "nearest", coordinates, rounding)
    assert run(op, x)[index] == place


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_crop_and_resize(mode: str) -> None:
    roi, scales = (0, 0, 0.35, 0.22, 1, 1, 0.62, 1.31), (1.0, 1.0, 0.625, 2.0)
    crop = "tf_crop_and_resize"
    op = Resize((1, 2, 3, 12), scales, mode, crop, extrapolation_value=7.5, roi=roi)
    options = {"coordinate_transformation_mode": crop, "extrapolation_value": 7.5}
    wanted = by_reference(X, scales, roi, mode=mode, **options)
    found = run(op, X)
    np.testing.assert_allclose(found, wanted, 1e-4, 1e-5)
    assert (found == 7.5).any()
    centre = Resize((1, 2, 5, 1), (), "nearest", crop, roi=(0, 0, 0, 0.5, 1, 1, 1, 0.7))
    assert_same(run(centre, X), X[..., 3:4])


def test_values_worked_out_by_hand() -> None:
    x = np.array([1, 2, 3], np.float32)
    assert run(Resize((6,), (), "nearest", "asymmetric", "floor"), x).tolist() == [1, 1, 2, 2, 3, 3]
    assert run(Resize((5,), (), "linear", "align_corners"), x).tolist() == [1, 1.5, 2, 2.5, 3]
    assert run(Resize((1,), (), "linear", "pytorch_half_pixel"), x).tolist() == [1]
    for_nn = Resize((2,), (), "nearest", "tf_half_pixel_for_nn", "floor")
    assert run(for_nn, x).tolist() == [1, 3]
    assert run(Resize((1,), (), "linear", antialias=True), x).tolist() == [2]
    assert run(Resize((0,), (), "linear"), x).tolist() == []


def test_only_neighbours_count() -> None:
    x = np.array([1, 2, 3, np.inf, 5, 6, 7], np.float32)
    found = run(Resize((14,), (), "linear"), x)
    assert np.isfinite(found[:5]).all()
    assert np.isfinite(found[9:]).all()


@pytest.mark.parametrize("dtype", ["i8", "u8", "i64", "bool", "f16", "bf16", "f64"])
def test_nearest_copies_every_type(dtype: str) -> None:
    x = np.array([[0, 1, 1]], DType.of(dtype).numpy)
    assert_same(run(Resize((2, 6)), x), np.repeat(np.repeat(x, 2, 0), 2, 1))
    texts = np.array(["a", "b"], object)
    assert run(Resize((4,)), texts).tolist() == ["a", "a", "b", "b"]


def test_integers_truncate_and_saturate() -> None:
    constant = np.full((1, 7), 7, np.uint8)
    for mode, size in itertools.product(("linear", "cubic"), (3, 11, 13)):
        assert_same(run(Resize((1, size), (), mode), constant), np.full((1, size), 7, np.uint8))
    step = np.array([0, 0, 255, 255], np.uint8)
    assert run(Resize((7,), (), "linear", "align_corners"), step)[3] == 127
    assert run(Resize((8,), (), "cubic"), step).tolist()[1:3] == [0, 0]
    half = X.astype(np.float16)
    once = run(Resize(SIZES[0], (), "cubic"), half.astype(np.float32)).astype(np.float16)
    assert_same(run(Resize(SIZES[0], (), "cubic"), half), once)


def test_sizes_may_be_symbolic() -> None:
    n = Dim("n")
    op = Resize((1, 2, 2 * n, 6), (1.0, 1.0, 2.0, 1.0))
    assert shape_of(op, Shape("f32", (1, 2, n, 6))) == Shape("f32", (1, 2, 2 * n, 6))
    assert_same(run(bind(op, {"n": 5}), X), np.repeat(X, 2, 2))


IMAGE = Shape("f32", (1, 2, 5, 6))
REFUSED: list[tuple[Resize, Shape, str]] = [
    (Resize((1, 2)), IMAGE, r"sizes needs 4 numbers, got \(1, 2\)"),
    (Resize((1, 2, 3, 4), (1.0,)), IMAGE, r"scales needs 0 or 4 numbers, got \(1.0,\)"),
    (Resize((1, 2, 3, 4), mode="area"), IMAGE, "mode is one of nearest, linear, cubic, not 'area'"),
    (Resize((1, 2, 3, 4), nearest_mode="up"), IMAGE, "nearest_mode is one of .* not 'up'"),
    (Resize((1, 2, 3, 4), (), "linear", "corners"), IMAGE, "coordinate_transformation_mode is one"),
    (Resize((1, 2, 3, 4), (), "linear", "tf_crop_and_resize"), IMAGE, "roi needs 8 numbers"),
    (Resize((2,), (), "linear"), Shape("bool", (1,)), "resize computes on .* not bool"),
]


@pytest.mark.parametrize(("op", "shape", "message"), REFUSED, ids=[r[2] for r in REFUSED])
def test_what_is_provably_wrong_is_refused(op: Resize, shape: Shape, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        shape_of(op, shape)
