"""Pooling and local response normalisation against onnxruntime."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import migx
from migx.dim import Dim
from migx.errors import ShapeError
from migx.op import bind
from migx.ops.pooling import Lrn, Pooling
from migx.shape import Shape
from tests.ops.peers import assert_same, peer, run, shape_of

Array = NDArray[Any]
N, H = Dim("n"), Dim("h")
RNG = np.random.default_rng(5)
KINDS = {"max": "MaxPool", "average": "AveragePool", "lpnorm": "LpPool"}
DIMS: list[tuple[tuple[int, ...], int]] = [
    ((2, 3, 13), 3),
    ((1, 2, 9, 11), 3),
    ((1, 1, 5, 6, 7), 2),
]


def floats(*dims: int) -> Array:
    return RNG.standard_normal(dims, np.float32)


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pooling(mode: str, stride: int, dilation: int, ceil_mode: bool) -> None:
    count_pads = (False, True) if mode == "average" else (False,)
    for (dims, length), pads, count in itertools.product(
        DIMS, [(0, 0), (1, 1), (0, 1)], count_pads
    ):
        x, n = floats(*dims), len(dims) - 2
        padding = (pads[0],) * n + (pads[1],) * n
        geometry = (length,) * n, padding, (stride,) * n, (dilation,) * n
        found = run(Pooling(mode, *geometry, ceil_mode, count, lp_order=3), x)
        names = ("kernel_shape", "pads", "strides", "dilations")
        attributes: dict[str, Any] = dict(zip(names, geometry, strict=True))
        attributes |= {"average": {"count_include_pad": int(count)}, "lpnorm": {"p": 3}}.get(
            mode, {}
        )
        wanted = peer(KINDS[mode], [x], ceil_mode=int(ceil_mode), **attributes)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, 1e-5, 1e-6)


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize(("dims", "length"), [((1, 1), 2), ((2, 2), 3), ((1, 7), 2), ((2, 5), 3)])
def test_windows_larger_than_all_there_is_hang_over(
    mode: str, stride: int, dims: tuple[int, int], length: int
) -> None:
    x, lengths = floats(2, 3, *dims), (length, length)
    found = run(Pooling(mode, lengths, stride=(stride, stride), ceil_mode=True), x)
    attributes: dict[str, Any] = {"kernel_shape": lengths, "strides": (stride, stride)}
    wanted = peer(KINDS[mode], [x], ceil_mode=1, **attributes)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, 1e-5, 1e-6)


def test_a_window_that_does_not_start_is_refused() -> None:
    """One that goes further over the end than a stride takes it is not there at all."""
    for length, stride in ((4, 2), (3, 1)):
        op = Pooling("max", (length, 1), stride=(stride, 1), ceil_mode=True)
        with pytest.raises(ShapeError, match=f"window of {length} with dilation 1 does not fit"):
            shape_of(op, Shape("f32", (1, 1, 2, 2)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float16, ml_dtypes.bfloat16, np.float64])
def test_maxima_are_exact_in_every_type(dtype: Any) -> None:
    x = RNG.integers(0, 9, (1, 2, 6, 6)).astype(dtype) - np.asarray(4).astype(dtype)
    wide = run(Pooling("max", (3, 3), (1, 1, 1, 1), (2, 2)), x.astype(np.float32))
    assert_same(run(Pooling("max", (3, 3), (1, 1, 1, 1), (2, 2)), x), wide.astype(dtype))


def test_averages_are_rounded_once() -> None:
    x = floats(1, 2, 6, 6).astype(np.float16)
    wide = run(Pooling("average", (3, 3)), x.astype(np.float32))
    assert_same(run(Pooling("average", (3, 3)), x), wide.astype(np.float16))


def test_nan_is_the_greatest_and_padding_never() -> None:
    x = np.full((1, 1, 3), -np.inf, np.float32)
    x[0, 0, 0] = np.nan
    found = run(Pooling("max", (2,), (1, 1), (1,), (1,)), x)
    np.testing.assert_array_equal(found[0, 0], [np.nan, np.nan, -np.inf, -np.inf])


def test_global_pooling_has_the_dims_of_x_as_lengths() -> None:
    op = Pooling("average", (H, 7))
    assert shape_of(op, Shape("f32", (N, 64, H, 7))) == Shape("f32", (N, 64, 1, 1))
    x = floats(2, 3, 5, 7)
    found = run(bind(op, {"h": 5}), x)
    np.testing.assert_allclose(found, peer("GlobalAveragePool", [x]), 1e-5)


def test_shapes_may_be_symbolic() -> None:
    x = Shape("f16", (N, 3, H, 9))
    assert shape_of(Pooling("max", (2, 3), stride=(2, 2)), x).dims == (N, 3, (H - 2) // 2 + 1, 4)
    padded, size = Pooling("max", (3, 3), (1, 1, 1, 1), (2, 2), ceil_mode=True), Dim("h", 3)
    dims = shape_of(padded, Shape("f32", (N, 3, size, 8))).dims
    assert (dims[0], dims[1], dims[3]) == (N, 3, 5)
    concrete = Shape("f32", (N, 3, size, 8)).with_dims(dims).bind({"n": 1, "h": 8}).dims
    assert concrete == shape_of(padded, Shape("f32", (1, 3, 8, 8))).dims


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_lrn(size: int) -> None:
    x, (alpha, beta, bias) = floats(2, 6, 3, 4), (0.05, 0.6, 2.0)
    before, after = (size - 1) // 2, size // 2
    squares = np.pad(x.astype(np.float64) ** 2, ((0, 0), (before, after), (0, 0), (0, 0)))
    total = sum(squares[:, i : i + 6] for i in range(size))
    found = run(Lrn(size, alpha, beta, bias), x)
    np.testing.assert_allclose(found, x / (bias + alpha / size * total) ** beta, 1e-6)
    if size % 2:
        wanted = peer("LRN", [x], size=size, alpha=alpha, beta=beta, bias=bias)
        np.testing.assert_allclose(found, wanted, 1e-5)
    assert shape_of(Lrn(size), Shape("f32", (N, 6, H))) == Shape("f32", (N, 6, H))


@pytest.mark.parametrize("mode", ["max", "average", "lpnorm"])
def test_windows_of_one_element_are_as_many_as_there_are_elements(mode: str) -> None:
    """None where there are none, as in a local response normalisation of an empty image."""
    one = Pooling(mode, (1, 2), stride=(2, 1))
    assert run(one, floats(2, 3, 0, 4)).shape == (2, 3, 0, 3)
    assert shape_of(one, Shape("f32", (2, 3, 5, 4))).dims == (2, 3, 3, 3)
    empty = {"x": floats(2, 3, 0, 4)}
    program = migx.parse(
        "module main(x: f32[2, 3, h, 4]) {\n  %0 = lrn(x) {size=3}\n  return %0\n}"
    )
    (found,) = program.compile("cpu").eval(empty)
    assert np.asarray(found).shape == (2, 3, 0, 4)


X = Shape("f32", (1, 3, 5, 5))
REFUSED: list[tuple[Any, Shape, str]] = [
    (Pooling("sum", (2, 2)), X, "pooling modes are max, average and lpnorm, not 'sum'"),
    (Pooling("average", (2, 2)), Shape("i8", (1, 3, 5, 5)), "pooling computes on float, not i8"),
    (Pooling("max", (2,)), X, r"lengths needs 2 numbers, got \(2,\)"),
    (Pooling("max", (2, 0)), X, r"lengths are 1 or more, got \(2, 0\)"),
    (Pooling("max", (2, 2), (1, 1)), X, "padding needs 4 numbers"),
    (Pooling("max", (2, 2), stride=(1,)), X, "stride needs 2 numbers"),
    (Pooling("max", (2, 2), dilation=(0, 1)), X, "stride and dilation are at least 1"),
    (Pooling("max", (6, 2)), X, "window of 6 with dilation 1 does not fit in 5"),
    (Pooling("max", (2, 2)), Shape("f32", (3, 5)), "pooling needs .N, C, spatial...., got f32"),
    (Lrn(0), X, "lrn of 0 channels"),
    (Lrn(3), Shape("i32", (1, 3)), "lrn computes on float, not i32"),
]


@pytest.mark.parametrize(("op", "shape", "message"), REFUSED, ids=[r[2] for r in REFUSED])
def test_what_is_provably_wrong_is_refused(op: Any, shape: Shape, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        shape_of(op, shape)
