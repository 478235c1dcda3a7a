"""Reductions, scans and searches along an axis, against numpy and onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from migx.argument import Argument
from migx.dim import Dim
from migx.errors import ShapeError
from migx.op import bind, result_of, traits
from migx.ops import reduce
from migx.ops.reduce import (
    Argmax,
    Argmin,
    Logsoftmax,
    PrefixScanSum,
    ReduceAll,
    ReduceAny,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    Softmax,
    Topk,
)
from migx.shape import DType, Shape
from tests.ops.peers import assert_same, onnx_node, peer, run, shape_of

Array = NDArray[Any]
N, K = Dim("n"), Dim("k")
RNG = np.random.default_rng(7)
X = RNG.standard_normal((3, 4, 5)).astype(np.float32)
SMALL = RNG.integers(-3, 4, (3, 4, 5))


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def topk(op: Topk, *values: Array) -> tuple[Array, Array]:
    arguments = [Argument.of(v) for v in values]
    shape = op.compute_shape([a.shape for a in arguments])
    result = result_of(op, shape, arguments)
    assert result.shape.may_match(shape)
    return result.parts[0].array, result.parts[1].array


NUMPY: dict[str, Callable[..., Any]] = {
    "ReduceSum": np.sum,
    "ReduceMean": np.mean,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
}


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2), ()])
@pytest.mark.parametrize("name", NUMPY)
def test_reductions_of_floats(name: str, axes: tuple[int, ...]) -> None:
    op = getattr(reduce, name)(axes)
    wanted = NUMPY[name](X.astype(np.float64), axis=axes, keepdims=True)
    np.testing.assert_allclose(run(op, X), wanted, 1e-5)
    for narrow in (np.float16, ml_dtypes.bfloat16):
        x = (X / 4).astype(narrow)
        exact = NUMPY[name](x.astype(np.float32), axis=axes, keepdims=True).astype(narrow)
        np.testing.assert_allclose(run(op, x).astype(float), exact.astype(float), 1e-2)
    assert traits(op).reduction


@pytest.mark.parametrize("dtype", ["i8", "u8", "i32", "i64", "u64"])
def test_reductions_of_integers_wrap(dtype: str) -> None:
    info = np.iinfo(DType.of(dtype).numpy)
    x = RNG.integers(info.min, info.max, (4, 9), info.dtype, endpoint=True)
    rows = x.tolist()

    def column(values: list[int]) -> Array:
        wrapped = [(v - int(info.min)) % 2**info.bits + int(info.min) for v in values]
        return np.array(wrapped, info.dtype).reshape(-1, 1)

    assert_same(run(ReduceSum((1,)), x), column([sum(r) for r in rows]))
    products = [int(np.prod(np.array(r, object))) for r in rows]
    assert_same(run(ReduceProd((1,)), x), column(products))
    assert_same(run(ReduceMax((1,)), x), column([max(r) for r in rows]))
    assert_same(run(ReduceMin((1,)), x), column([min(r) for r in rows]))
    if info.bits < 64:
        assert_same(run(ReduceMean((1,)), x), column([int(sum(r) / 9) for r in rows]))


def test_reductions_of_nothing() -> None:
    empty = np.zeros((2, 0), np.float32)
    for op, wanted in (
        (ReduceSum((1,)), 0),
        (ReduceProd((1,)), 1),
        (ReduceMax((1,)), -np.inf),
        (ReduceMin((1,)), np.inf),
        (ReduceMean((1,)), np.nan),
    ):
        assert_same(run(op, empty), np.full((2, 1), wanted, np.float32))
    for narrow, most in ((ml_dtypes.float8_e4m3fn, 448), (ml_dtypes.float8_e4m3fnuz, 240)):
        none = np.zeros((0, 1), narrow)
        assert_same(run(ReduceMax((0,)), none), np.array([[-most]], narrow))
        assert_same(run(ReduceMin((0,)), none), np.array([[most]], narrow))
    assert_same(run(ReduceMax((0,)), np.zeros((0, 1), np.int8)), np.array([[-128]], np.int8))
    assert_same(run(ReduceMin((0,)), np.zeros((0, 1), np.bool_)), np.array([[True]]))
    assert_same(run(ReduceMean((0,)), np.zeros((0, 1), np.int32)), np.array([[0]], np.int32))


def test_nan_and_bools() -> None:
    x = np.array([[1, np.nan], [2, 3]], np.float32)
    for op in (ReduceMax((1,)), ReduceMin((1,))):
        assert np.isnan(run(op, x)).ravel().tolist() == [True, False]
    flags = np.array([[True, False], [True, True]])
    assert run(ReduceAll((1,)), flags).ravel().tolist() == [False, True]
    assert run(ReduceAny((0, 1)), ~flags).ravel().tolist() == [True]
    assert run(ReduceMax((1,)), flags).ravel().tolist() == [True, True]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("last", [False, True])
def test_argmax_and_argmin(axis: int, last: bool) -> None:
    for cls, kind in ((Argmax, "ArgMax"), (Argmin, "ArgMin")):
        for x in (X, SMALL.astype(np.int32)):
            wanted = peer(kind, [x], axis=axis, select_last_index=int(last), keepdims=1)
            assert_same(run(cls(axis, last), x), wanted)
    half = SMALL.astype(ml_dtypes.bfloat16)
    assert_same(run(Argmax(axis), half), np.argmax(SMALL, axis, keepdims=True))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(axis: int) -> None:
    large = X * 60
    for cls, kind in ((Softmax, "Softmax"), (Logsoftmax, "LogSoftmax")):
        np.testing.assert_allclose(
            run(cls(axis), large), peer(kind, [large], axis=axis), 1e-5, 1e-6
        )
    half = run(Softmax(axis), X.astype(np.float16))
    np.testing.assert_allclose(half, run(Softmax(axis), X), 2e-3)
    masked = np.where(np.arange(5) < 2, X, np.float32(-np.inf))
    np.testing.assert_allclose(run(Softmax(2), masked).sum(2), 1, 1e-6)
    assert run(Softmax(1), np.zeros((2, 0), np.float32)).shape == (2, 0)
    kept = X.copy()
    run(Logsoftmax(axis), kept)
    assert_same(kept, X)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_prefix_scan_sum(axis: int, exclusive: bool, reverse: bool) -> None:
    op = PrefixScanSum(axis, exclusive, reverse)
    where = np.array(axis)
    options = {"exclusive": int(exclusive), "reverse": int(reverse)}
    cumsum = onnx_node("CumSum", [X, where], **options)
    np.testing.assert_allclose(run(op, X), cumsum(X, where)[0], 1e-5, 1e-6)
    tiny = RNG.integers(-128, 128, (3, 4, 5)).astype(np.int8)
    wide = run(op, tiny.astype(np.int64))
    assert_same(run(op, tiny), wide.astype(np.int8))
    assert run(op, np.zeros((0, 0, 0), np.float32)).shape == (0, 0, 0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("largest", [False, True])
def test_topk_puts_the_lower_index_of_equals_first(axis: int, k: int, largest: bool) -> None:
    count = np.array([k])
    for x in (X, SMALL):
        node = onnx_node("TopK", [x, count], outputs=2, axis=axis, largest=int(largest), sorted=1)
        values, indices = topk(Topk(k, axis, largest), x)
        for found, wanted in zip((values, indices), node(x, count), strict=True):
            assert_same(found, wanted)


def test_topk_of_every_kind_of_number() -> None:
    for dtype in ("u8", "f16", "bf16", "i8", "f8e4m3fn"):
        x = np.array([3, 1, 3, 2], DType.of(dtype).numpy)
        values, indices = topk(Topk(3, 0), x)
        assert (values.tolist(), indices.tolist()) == ([3, 3, 2], [0, 2, 3])
        assert values.dtype == x.dtype


def test_topk_reads_k_at_run_time() -> None:
    op, x, k = Topk(K, 0), f32(4, 6, 5), np.array([2])
    assert topk(op, x, k)[1].tolist() == [1, 2]
    assert topk(bind(op, {"k": 2}), x)[1].tolist() == [1, 2]  # type: ignore[arg-type]
    rule = shape_of(op, Shape("f32", (N, 4)), Shape("i64", (1,)))
    assert rule == Shape.tuple(Shape("f32", (K, 4)), Shape("i64", (K, 4)))


def test_shapes_may_be_symbolic() -> None:
    x = Shape("f32", (N, 3, N))
    assert shape_of(ReduceSum((0, 1)), x) == Shape("f32", (1, 1, N))
    assert shape_of(Argmax(2), x) == Shape("i64", (N, 3, 1))
    assert shape_of(Softmax(2), Shape("f32", (N, 3, 2), (1, N, 9))) == Shape("f32", (N, 3, 2))
    assert shape_of(PrefixScanSum(0), x) == x


F32 = Shape("f32", (2, 3))
REFUSED: list[tuple[Any, Shape, str]] = [
    (ReduceSum((2,)), F32, "reduce_sum: axis 2 is not one of the 2 axes"),
    (ReduceSum((-1,)), F32, "reduce_sum: axis -1 is not one"),
    (ReduceSum((1, 1)), F32, r"reduce_sum: each axis once, got \(1, 1\)"),
    (ReduceSum((0,)), Shape("bool", (2,)), "reduce_sum computes on int or uint or float, not bool"),
    (ReduceAll((0,)), F32, "reduce_all computes on bool, not f32"),
    (Argmax(0), Shape("f32", (0, 3)), "argmax needs elements on axis 0"),
    (Argmin(0), Shape("str", (3,)), "argmin computes on"),
    (Softmax(0), Shape("i32", (3,)), "softmax computes on float, not i32"),
    (Logsoftmax(2), F32, "logsoftmax: axis 2"),
    (PrefixScanSum(3), F32, "prefix_scan_sum: axis 3"),
    (Topk(4, 1), F32, "topk: k = 4 is more than axis 1 of .* has"),
    (Topk(Dim("k", 4), 1), F32, "topk: k = k is more than axis 1 of .* has"),
]


@pytest.mark.parametrize(("op", "shape", "message"), REFUSED, ids=[r[2] for r in REFUSED])
def test_what_is_provably_wrong_is_refused(op: Any, shape: Shape, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        shape_of(op, shape)
