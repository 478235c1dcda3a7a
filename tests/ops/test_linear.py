"""Matrix products and convolutions against onnxruntime and exact integer sums."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from migx.dim import Dim
from migx.errors import ShapeError
from migx.op import bind
from migx.ops import linear
from migx.ops.linear import Convolution, ConvolutionBackwards, Dot, QuantConvolution, QuantDot
from migx.shape import Shape
from tests.ops.peers import assert_same, peer, run, shape_of

Array = NDArray[Any]
N, M, K = Dim("n"), Dim("m"), Dim("k")
RNG = np.random.default_rng(3)


def floats(*dims: int) -> Array:
    return RNG.standard_normal(dims, np.float32)


def whole(dtype: Any, *dims: int) -> Array:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, dims, dtype, endpoint=True)


DOTS = [
    ((2, 3), (3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((2, 1, 1, 0), (2, 1, 0, 3)),
    ((0, 2, 3), (0, 3, 4)),
]


@pytest.mark.parametrize(("a", "b"), DOTS)
def test_dot_of_floats(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = floats(*a), floats(*b)
    np.testing.assert_allclose(run(Dot(), x, y), np.matmul(x, y), 1e-6)
    assert_same(run(Dot(), x.astype(float), y.astype(float)), x.astype(float) @ y.astype(float))
    for narrow in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
        p, q = x.astype(narrow), y.astype(narrow)
        once = (p.astype(np.float32) @ q.astype(np.float32)).astype(narrow)
        assert_same(run(Dot(), p, q), once)


def test_dot_with_a_broadcast_side() -> None:
    x, y = floats(4, 2, 3), floats(3, 5)
    np.testing.assert_allclose(run(Dot(), x, np.broadcast_to(y, (4, 3, 5))), x @ y, 1e-5)
    np.testing.assert_allclose(run(Dot(), np.broadcast_to(x[0], x.shape), x.transpose(0, 2, 1)),
                               x[0] @ x.transpose(0, 2, 1), 1e-5)  # fmt: skip


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64])
@pytest.mark.parametrize("shrink", [1, 2**4])
def test_dot_of_integers_is_exact_modulo_their_width(dtype: Any, shrink: int) -> None:
    x, y = whole(dtype, 3, 40) // shrink, whole(dtype, 40, 5) // shrink
    exact = x.astype(object) @ y.astype(object)
    assert_same(run(Dot(), x, y), (exact % 2**64).astype(np.uint64).astype(dtype))


@pytest.mark.parametrize("a", [np.int8, np.uint8])
@pytest.mark.parametrize("b", [np.int8, np.uint8])
@pytest.mark.parametrize("depth", [0, 100, 3000])
def test_quant_dot_is_exact(a: Any, b: Any, depth: int) -> None:
    x, y = whole(a, 4, depth), whole(b, depth, 3)
    assert_same(run(QuantDot(), x, y), x.astype(np.int32) @ y.astype(np.int32))


# x, w, padding, stride, dilation, group
CONVOLUTIONS: dict[str, tuple[Any, ...]] = {
    "plain": ((2, 3, 9, 8), (4, 3, 3, 3), (0, 0, 0, 0), (1, 1), (1, 1), 1),
    "uneven": ((2, 3, 9, 8), (4, 3, 3, 2), (1, 0, 2, 1), (2, 3), (1, 2), 1),
    "pointwise": ((2, 6, 5, 5), (4, 6, 1, 1), (0, 0, 0, 0), (1, 1), (1, 1), 1),
    "pointwise strided": ((2, 6, 5, 5), (4, 6, 1, 1), (0, 0, 0, 0), (2, 2), (1, 1), 1),
    "grouped": ((2, 6, 7, 7), (9, 2, 3, 3), (1, 1, 1, 1), (1, 1), (1, 1), 3),
    "depthwise": ((2, 6, 7, 7), (6, 1, 3, 3), (1, 1, 1, 1), (2, 1), (1, 2), 6),
    "depthwise multiplied": ((2, 3, 7, 7), (6, 1, 3, 3), (1, 1, 1, 1), (1, 1), (1, 1), 3),
    "one axis": ((2, 4, 20), (6, 2, 5), (2, 1), (3,), (2,), 2),
    "three axes": ((1, 2, 5, 6, 7), (3, 2, 2, 3, 2), (1, 0, 1, 0, 1, 1), (1, 2, 1), (1, 1, 2), 1),
    "no images": ((0, 3, 5, 5), (4, 3, 3, 3), (0, 0, 0, 0), (1, 1), (1, 1), 1),
}


def conv(kind: str, x: Array, w: Array, *geometry: Any, **more: Any) -> Array:
    padding, stride, dilation, group = geometry
    return peer(kind, [x, w], pads=padding, strides=stride, dilations=dilation, group=group, **more)


@pytest.mark.parametrize("buffer", [1, 1 << 21])
@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution(case: tuple[Any, ...], buffer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_BUFFER", buffer)
    a, b, *geometry = case
    x, w = floats(*a), floats(*b)
    wanted = conv("Conv", x, w, *geometry)
    found = run(Convolution(*geometry), x, w)
    np.testing.assert_allclose(found, wanted, 1e-4, 1e-5)
    assert found.shape == wanted.shape
    p, q = x.astype(np.float16), w.astype(np.float16)
    once = run(Convolution(*geometry), p.astype(np.float32), q.astype(np.float32))
    assert_same(run(Convolution(*geometry), p, q), once.astype(np.float16))


@pytest.mark.parametrize("case", list(CONVOLUTIONS.values())[:-1], ids=list(CONVOLUTIONS)[:-1])
def test_quant_convolution_is_exact(case: tuple[Any, ...]) -> None:
    a, b, *geometry = case
    x, w = whole(np.uint8, *a), whole(np.int8, *b)
    wanted = conv("Conv", x.astype(np.float32), w.astype(np.float32), *geometry)
    assert_same(run(QuantConvolution(*geometry), x, w), wanted.astype(np.int32))


def test_quant_convolution_of_many_channels_is_exact() -> None:
    x, w = whole(np.uint8, 1, 900, 3, 3), np.full((1, 900, 3, 3), -128, np.int8)
    assert run(QuantConvolution(), x, w).item() == -128 * int(x.sum(dtype=np.int64))


BACKWARDS: dict[str, tuple[Any, ...]] = {
    "doubling": ((2, 4, 3, 5), (4, 3, 2, 2), (0, 0, 0, 0), (2, 2), (1, 1), 1, (0, 0)),
    "overlapping": ((2, 4, 3, 5), (4, 3, 3, 3), (1, 1, 1, 1), (2, 2), (1, 1), 1, (1, 1)),
    "grouped": ((1, 6, 4, 4), (6, 2, 3, 2), (0, 1, 1, 0), (1, 2), (2, 1), 3, (0, 0)),
    "one axis": ((2, 3, 7), (3, 4, 4), (1, 2), (3,), (1,), 1, (2,)),
    "three axes": ((1, 2, 2, 3, 2), (2, 3, 2, 2, 3), (0, 0, 1, 0, 1, 0), (1, 2, 1), (1, 1, 2), 1,
                   (0, 1, 0)),
}  # fmt: skip


@pytest.mark.parametrize("case", BACKWARDS.values(), ids=BACKWARDS)
def test_convolution_backwards(case: tuple[Any, ...]) -> None:
    a, b, padding, stride, dilation, group, more = case
    op = ConvolutionBackwards(padding, stride, dilation, group, more)
    x, w = floats(*a), floats(*b)
    wanted = conv("ConvTranspose", x, w, padding, stride, dilation, group, output_padding=more)
    found = run(op, x, w)
    np.testing.assert_allclose(found, wanted, 1e-4, 1e-5)
    assert found.shape == wanted.shape


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_convolution_by_the_definition(data: st.DataObject) -> None:
    group, each, share = (data.draw(st.integers(1, 3)) for _ in range(3))
    lengths, stride, dilation = (
        tuple(data.draw(st.integers(1, 3)) for _ in range(2)) for _ in range(3)
    )
    padding = tuple(data.draw(st.integers(0, 2)) for _ in range(4))
    spans = [(k - 1) * d + 1 for k, d in zip(lengths, dilation, strict=True)]
    dims = [span + data.draw(st.integers(0, 4)) for span in spans]
    x = RNG.integers(-9, 9, (2, group * share, *dims)).astype(np.float32)
    w = RNG.integers(-9, 9, (group * each, share, *lengths)).astype(np.float32)
    widths = [(0, 0), (0, 0), (padding[0], padding[2]), (padding[1], padding[3])]
    windows = sliding_window_view(np.pad(x, widths), spans, (2, 3))
    windows = windows[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    windows = windows.reshape(2, group, share, *windows.shape[2:])
    wanted = np.einsum("ngchwij,gocij->ngohw", windows, w.reshape(group, each, share, *lengths))
    op = Convolution(padding, stride, dilation, group)
    assert_same(run(op, x, w), wanted.reshape(2, group * each, *wanted.shape[3:]))


def test_shapes_may_be_symbolic() -> None:
    assert shape_of(Dot(), Shape("f32", (N, M, K)), Shape("f32", (N, K, 4))).dims == (N, M, 4)
    assert shape_of(QuantDot(), Shape("u8", (M, K)), Shape("i8", (4, N))) == Shape("i32", (M, N))
    image, weights = Shape("f32", (N, 3, M, 32)), Shape("f32", (8, 3, 3, 3))
    strided = Convolution((1, 1, 1, 1), (2, 2))
    assert shape_of(strided, image, weights).dims == (N, 8, (M - 1) // 2 + 1, 16)
    back = ConvolutionBackwards((0, 0, 0, 0), (2, 2))
    assert shape_of(back, image, Shape("f32", (3, 5, 2, 2))).dims == (N, 5, 2 * M, 64)
    same = Convolution((M % 2, 0, M // 4, 0), (1, 1))
    x, w = floats(1, 3, 6, 4), floats(8, 3, 3, 3)
    assert run(bind(same, {"m": 6}), x, w).shape == (1, 8, 5, 2)


X, W = Shape("f32", (1, 4, 5, 5)), Shape("f32", (6, 4, 3, 3))
REFUSED: list[tuple[Any, tuple[Shape, ...], str]] = [
    (Dot(), (Shape("f32", (2, 3)), Shape("f32", (4, 5))), r"dot needs \[..., m, k\]"),
    (Dot(), (Shape("f32", (3,)), Shape("f32", (3, 5))), r"dot needs \[..., m, k\]"),
    (Dot(), (Shape("f32", (2, 2, 3)), Shape("f32", (3, 3, 5))), "dot needs equal dims"),
    (Dot(), (Shape("f32", (2, 3)), Shape("f16", (3, 5))), "dot needs inputs of one type"),
    (Dot(), (Shape("bool", (2, 3)), Shape("bool", (3, 5))), "dot computes on"),
    (QuantDot(), (Shape("i16", (2, 3)), Shape("i8", (3, 5))), "multiplies i8 and u8, not i16"),
    (Convolution(), (X,), "convolution takes 2 inputs, got 1"),
    (Convolution(), (Shape("f32", (1, 4)), W), r"convolution needs \[N, C, spatial...\]"),
    (Convolution((0, 0)), (X, W), r"padding needs 4 numbers, got \(0, 0\)"),
    (Convolution(stride=(0, 1)), (X, W), "stride and dilation are at least 1"),
    (Convolution((-1, 0, 0, 0)), (X, W), "padding at least 0"),
    (Convolution(), (X, Shape("f32", (6, 4, 3))), "weights of 4 axes"),
    (Convolution(), (X, Shape("f32")), "needs weights of 4 axes, got f32.. for"),
    (ConvolutionBackwards(), (X, Shape("f32")), "backwards needs weights of 4 axes, got f32.. for"),
    (Convolution(), (X, Shape("f32", (6, 3, 3, 3))), "for 3 input channels, but .* has 4"),
    (Convolution(group=4), (X, Shape("f32", (6, 1, 3, 3))), "4 groups do not divide 6 channels"),
    (
        Convolution(),
        (X, Shape("f32", (6, 4, 6, 3))),
        "window of 6 with dilation 1 does not fit in 5",
    ),
    (Convolution(dilation=(1, 3)), (X, W), "window of 3 with dilation 3 does not fit in 5"),
    (QuantConvolution(), (X, W), "quant_convolution multiplies i8 and u8, not f32"),
    (ConvolutionBackwards(), (X, W), "for 6 input channels, but .* has 4"),
    (ConvolutionBackwards(group=3), (X, Shape("f32", (4, 1, 3, 3))), "divide 4 channels, got 3"),
    (ConvolutionBackwards((4, 0, 4, 0)), (X, Shape("f32", (4, 1, 3, 3))), "cuts off more than"),
]


@pytest.mark.parametrize(("op", "shapes", "message"), REFUSED, ids=[r[2] for r in REFUSED])
def test_what_is_provably_wrong_is_refused(
    op: Any, shapes: tuple[Shape, ...], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        shape_of(op, *shapes)
