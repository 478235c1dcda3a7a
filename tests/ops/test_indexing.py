"""Picking and putting elements by index, and boxes, against onnxruntime and numpy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from migx.argument import Argument
from migx.dim import Dim
from migx.errors import EvaluationError, ShapeError
from migx.op import bind, result_of
from migx.ops import indexing
from migx.ops.detection import Nonmaxsuppression
from migx.ops.indexing import (
    Compress,
    Gather,
    GatherElements,
    Gathernd,
    Nonzero,
    Onehot,
    ReverseSequence,
    ScatterAdd,
    ScatterndAdd,
    ScatterndNone,
    ScatterNone,
    Trilu,
)
from migx.shape import Shape
from tests.ops.peers import assert_same, onnx_node, peer, run, shape_of

Array = NDArray[Any]
N, M = Dim("n"), Dim("m")
RNG = np.random.default_rng(3)
X = RNG.normal(size=(3, 4, 5)).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def indices(high: int, *dims: int) -> Array:
    """Random indices, negative ones among them."""
    return RNG.integers(-high, high, dims)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dims", [(), (2,), (2, 3), (0,)], ids=str)
def test_gather_is_onnx_gather(axis: int, dims: tuple[int, ...]) -> None:
    index = indices(X.shape[axis], *dims)
    assert_same(run(Gather(axis), X, index), peer("Gather", [X, index], axis=axis))


def test_gather_of_other_types() -> None:
    words = np.array(["a", "b"], object)
    assert_same(run(Gather(0), words, ints(1, -2)), words[::-1])
    assert_same(run(Gather(0), words, np.array(1)), np.array("b", object))
    half = X.astype(ml_dtypes.bfloat16)
    assert_same(
        run(Gather(1), half.transpose(2, 0, 1), ints(2, 0).astype(np.int32)),
        half.transpose(2, 0, 1)[:, [2, 0]],
    )
    assert_same(run(Gather(0), half[0, 0], np.array(3, np.uint64)), half[0, 0, 3, None].reshape(()))


@pytest.mark.parametrize(("dtype", "row"), [("u4", (3, 2)), ("i4", (10,)), ("u2", (4,))])
@pytest.mark.parametrize("dims", [(), (2, 2), (0,)], ids=str)
def test_slices_of_packed_elements_are_picked(dtype: str, row: Any, dims: tuple[int, ...]) -> None:
    """They are bytes, which stay as they are."""
    rows = RNG.integers(0, 256, (5, int(Shape(dtype, row).nbytes)), np.uint8)
    data, index = Argument.packed(Shape(dtype, (5, *row)), rows.reshape(-1)), indices(5, *dims)
    op = Gather(0)
    shape = op.compute_shape([data.shape, Shape("i64", dims)])
    assert shape == Shape(dtype, (*dims, *row))
    made = result_of(op, shape, [data, Argument.of(index)])
    assert made.shape == shape
    assert_same(made.array, rows[index].reshape(-1))


@pytest.mark.parametrize(
    ("batch", "highs", "dims"),
    [
        (0, [3], (2, 1)),
        (0, [3, 4, 5], (2, 6, 3)),
        (0, [3, 4], (2,)),
        (1, [4], (3, 1)),
        (1, [4, 5], (3, 2, 2)),
        (2, [5], (3, 4, 2, 1)),
    ],
)
def test_gathernd_is_onnx_gather_nd(batch: int, highs: list[int], dims: tuple[int, ...]) -> None:
    index = np.stack([indices(high, *dims[:-1]) for high in highs], -1)
    assert_same(run(Gathernd(batch), X, index), peer("GatherND", [X, index], batch_dims=batch))


@pytest.mark.parametrize("dims", [(3, 4, 5), (2, 1, 3), (3, 0, 5)], ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_elements_is_onnx_gather_elements(axis: int, dims: tuple[int, ...]) -> None:
    index = indices(X.shape[axis], *dims)
    wanted = peer("GatherElements", [X, index], axis=axis)
    assert_same(run(GatherElements(axis), X, index), wanted)
    assert_same(run(GatherElements(axis), np.asfortranarray(X), index), wanted)


SUMS = {"none": None, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


@pytest.mark.parametrize("mode", SUMS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scatter_is_onnx_scatter_elements(mode: str, axis: int) -> None:
    op = getattr(indexing, f"Scatter{mode.title()}")(axis)
    # What is overwritten twice has no one meaning, so those indices are distinct.
    dims = (3, 4, 5) if mode == "none" else (3, 2, 5)
    index = np.argsort(RNG.random(dims), axis) if mode == "none" else indices(X.shape[axis], *dims)
    updates = RNG.normal(size=dims).astype(np.float32)
    assert_same(
        run(op, X, index, updates),
        peer("ScatterElements", [X, index, updates], axis=axis, reduction=mode),
    )
    assert op.name == f"scatter_{mode}"


@pytest.mark.parametrize("mode", SUMS)
@pytest.mark.parametrize("width", [1, 2, 3])
def test_scatternd_is_onnx_scatter_nd(mode: str, width: int) -> None:
    op = getattr(indexing, f"Scatternd{mode.title()}")()
    tuples = RNG.permutation(np.argwhere(np.ones(X.shape[:width])))[:3] - [3, 4, 5][:width]
    index = tuples.reshape(1, -1, width)
    updates = RNG.normal(size=(*index.shape[:-1], *X.shape[width:])).astype(np.float32)
    assert_same(run(op, X, index, updates), peer("ScatterND", [X, index, updates], reduction=mode))
    assert op.name == f"scatternd_{mode}"


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, np.float16, ml_dtypes.bfloat16, np.bool_])
def test_scatter_repeats_in_its_own_type(dtype: Any) -> None:
    x, index, updates = np.zeros(3, dtype), ints(1, -2, 1, 0), np.ones(4, dtype)
    assert_same(run(ScatterAdd(0), x, index, updates), np.array([1, 3, 0]).astype(dtype))
    assert_same(run(ScatterndAdd(), x, index[:, None], updates), np.array([1, 3, 0]).astype(dtype))
    assert x.tolist() == np.zeros(3, dtype).tolist()


def test_scatter_rounds_sums_once() -> None:
    x, index, updates = (
        np.array([256], ml_dtypes.bfloat16),
        ints(0, 0),
        np.ones(2, ml_dtypes.bfloat16),
    )
    assert run(ScatterAdd(0), x, index, updates).astype(float).tolist() == [258]


def test_scatter_of_nothing_and_of_views() -> None:
    assert_same(run(ScatterNone(0), X, np.empty((0, 4, 5), np.int64), X[:0]), X)
    view = X.transpose(2, 1, 0)
    wanted = view.copy()
    wanted[0], wanted[1] = view[1], view[0]
    assert_same(run(ScatterndNone(), view, ints(0, 1)[:, None], view[1::-1]), wanted)
    words = np.array(["a", "b"], object)
    assert run(ScatterNone(0), words, ints(-1), np.array(["c"], object)).tolist() == ["a", "c"]


OUTSIDE: list[tuple[Any, tuple[Array, ...], str]] = [
    (Gather(1), (X, ints(0, 4)), "gather: index 4 is outside axis 1, which has 4 elements"),
    (Gather(0), (X, ints(-4)), "gather: index -4 is outside axis 0, which has 3 elements"),
    (Gather(0), (X[:0], ints(0)), "index 0 is outside axis 0, which has 0 elements"),
    (Gathernd(1), (X, ints(0, 4, 0)[:, None]), "gathernd: index 4 is outside axis 1"),
    (Gathernd(), (X, ints(0, 5)), "gathernd: index 5 is outside axis 1, which has 4 elements"),
    (GatherElements(2), (X, ints(5).reshape(1, 1, 1)), "index 5 is outside axis 2"),
    (
        ScatterNone(0),
        (X, ints(3).reshape(1, 1, 1), X[:1, :1, :1]),
        "scatter_none: index 3 is outside axis 0",
    ),
    (ScatterndAdd(), (X, ints(-4), X[0]), "scatternd_add: index -4 is outside axis 0"),
]


@pytest.mark.parametrize(("op", "arrays", "message"), OUTSIDE)
def test_an_index_outside_is_named(op: Any, arrays: tuple[Array, ...], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        run(op, *arrays)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32])
def test_onehot_is_onnx_one_hot(axis: int, dtype: Any) -> None:
    index, values = np.array([[0, 2, -1], [5, -3, -6]], dtype), np.array([-2, 7], np.float32)
    wanted = peer("OneHot", [index.astype(np.int64), np.array(5), values], axis=axis)
    assert_same(run(Onehot(axis, 5), index, values), wanted)
    assert_same(run(bind(Onehot(axis, N), {"n": 5}), index, values), wanted)
    assert_same(run(Onehot(axis, N), index, values, np.array([5], np.int32)), wanted)


def test_onehot_of_other_types() -> None:
    assert run(Onehot(0, 2), np.array(1), np.array(["off", "on"], object)).tolist() == ["off", "on"]
    assert_same(
        run(Onehot(0, 2), np.array(0), np.array([0, 1], ml_dtypes.bfloat16)),
        np.array([1, 0], ml_dtypes.bfloat16),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, ml_dtypes.bfloat16])
@pytest.mark.parametrize("dims", [(), (4,), (2, 3, 4), (0, 2)], ids=str)
def test_nonzero_finds_all(dtype: Any, dims: tuple[int, ...]) -> None:
    x = RNG.integers(0, 2, dims).astype(dtype)
    found = run(Nonzero(N), x)
    where = [i for i in np.ndindex(dims) if x[i] != 0]
    assert_same(found, np.array(where, np.int64).reshape(len(where), len(dims)).T)


def test_nonzero_of_nan_and_minus_zero() -> None:
    assert run(Nonzero(N), np.array([np.nan, -0.0, 1e-45], np.float32)).tolist() == [[0, 2]]


def test_compress_is_onnx_compress() -> None:
    condition = np.array([True, False, True])
    assert_same(run(Compress(1, N), X, condition), peer("Compress", [X, condition], axis=1))


@pytest.mark.parametrize(("batch", "time"), [(0, 1), (1, 0)])
def test_reverse_sequence_is_onnx_reverse_sequence(batch: int, time: int) -> None:
    lens = RNG.integers(1, X.shape[time] + 1, X.shape[batch])
    wanted = peer("ReverseSequence", [X, lens], batch_axis=batch, time_axis=time)
    assert_same(run(ReverseSequence(batch, time), X, lens), wanted)
    moved = run(ReverseSequence(2 * batch, 2 * time), X.transpose(0, 2, 1), lens)
    assert_same(moved, wanted.transpose(0, 2, 1))


def test_reverse_sequence_of_a_wrong_length() -> None:
    with pytest.raises(EvaluationError, match=r"lengths \[4, 5, 0\] of an axis of 4 elements"):
        run(ReverseSequence(0, 1), X, ints(4, 5, 0))


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("k", [None, -9, -1, 0, 2, 9])
def test_trilu_is_onnx_trilu(upper: bool, k: int | None) -> None:
    inputs = [X] if k is None else [X, np.array(k)]
    assert_same(run(Trilu(upper), *inputs), peer("Trilu", inputs, upper=int(upper)))
    assert_same(
        run(Trilu(upper), np.ones((2, 2), bool)), np.array([[1, upper], [not upper, 1]], bool)
    )


@pytest.mark.parametrize("upper", [True, False])
def test_a_triangle_whose_diagonal_is_far_away(upper: bool) -> None:
    for k in (2**63 - 1, -(2**63)):
        kept = X if (k < 0) is upper else np.zeros_like(X)
        assert_same(run(Trilu(upper), X, np.array(k)), kept)


I64S = Shape("i64", (N,))
SHAPES: list[tuple[Any, list[Shape], str]] = [
    (Gather(1), [Shape("f32", (N, M)), Shape("i32", (2, N))], "f32[n, 2, n]"),
    (Gathernd(1), [Shape("f32", (N, M, 3)), Shape("i64", (N, 7, 1))], "f32[n, 7, 3]"),
    (GatherElements(0), [Shape("f32", (N, M)), Shape("i64", (M, N))], "f32[m, n]"),
    (
        ScatterAdd(0),
        [Shape("f16", (N, 3), (1, N)), Shape("i64", (M, 3)), Shape("f16", (M, 3))],
        "f16[n, 3]",
    ),
    (
        ScatterndNone(),
        [Shape("f32", (N, 3)), Shape("i64", (M, 1)), Shape("f32", (M, 3))],
        "f32[n, 3]",
    ),
    (Onehot(1, N), [Shape("i64", (M, 2)), Shape("bool", (2,))], "bool[m, n, 2]"),
    (Nonzero(N), [Shape("bool", (M, 2, 2))], "i64[3, n]"),
    (Compress(0, N), [Shape("f32", (M, 2)), Shape("bool", (3,))], "f32[n, 2]"),
    (ReverseSequence(), [Shape("f32", (N, M), (1, N)), Shape("i64", (M,))], "f32[n, m]"),
    (Trilu(), [Shape("f32", (N, M), (1, N))], "f32[n, m]"),
    (Nonmaxsuppression(False, N), [Shape("f32", (1, M, 4)), Shape("f32", (1, 2, M))], "i64[n, 3]"),
]


@pytest.mark.parametrize(("op", "shapes", "wanted"), SHAPES, ids=lambda v: getattr(v, "name", ""))
def test_shape_of_symbolic_dims(op: Any, shapes: list[Shape], wanted: str) -> None:
    assert str(shape_of(op, *shapes)) == wanted


F = Shape("f32", (2, 3))
REFUSED: list[tuple[Any, list[Shape], str]] = [
    (Gather(2), [F, I64S], "axis 2 is not one of the 2 axes"),
    (Gather(0), [F, F], r"gather needs integer indices, got f32\[2, 3\]"),
    (Gather(0), [Shape("i4", (2,)), I64S], r"slices of i4\[2\] along axis 0 are not whole bytes"),
    (Gather(1), [Shape("u4", (2, 2)), I64S], r"slices of u4\[2, 2\] along axis 1 are not whole"),
    (Gathernd(), [F, Shape("i64", (1, 3))], r"a number from 1 to 2, got i64\[1, 3\]"),
    (Gathernd(), [F, Shape("i64", (1, N))], r"a number from 1 to 2, got i64\[1, n\]"),
    (Gathernd(1), [F, Shape("i64", (3, 1))], "need 1 equal leading dims"),
    (Gathernd(1), [F, Shape("i64", (1,))], "need 1 equal leading dims"),
    (Gathernd(-1), [F, Shape("i64", (3, 1))], "need -1 equal leading dims"),
    (GatherElements(0), [F, Shape("i64", (2, 4))], "no larger dim but for axis 0"),
    (GatherElements(0), [F, I64S], "must have the rank of"),
    (
        ScatterAdd(0),
        [F, Shape("i64", (2, 2)), Shape("f32", (2, 3))],
        "scatter_add needs equal dims",
    ),
    (
        ScatterAdd(0),
        [F, Shape("i64", (2, 3)), Shape("f16", (2, 3))],
        "inputs of one type, got f32, f16",
    ),
    (
        ScatterndNone(),
        [F, Shape("i64", (5, 1)), Shape("f32", (5, 2))],
        r"got f32\[5, 2\] and f32\[5, 3\]",
    ),
    (
        Onehot(0, 3),
        [I64S, Shape("f32", (3,))],
        r"onehot needs equal dims, got f32\[3\] and f32\[2\]",
    ),
    (Onehot(2, 3), [I64S, Shape("f32", (2,))], "axis 2 is not one of the 2 axes"),
    (Compress(0, N), [F, Shape("bool", (3,))], r"a condition bool\[n\], n <= 2, got bool\[3\]"),
    (Compress(0, N), [F, I64S], r"a condition bool\[n\], n <= 2, got i64\[n\]"),
    (ReverseSequence(0, 0), [F, I64S], "axis 0 is both batch and time"),
    (
        ReverseSequence(0, 1),
        [F, Shape("i64", (3,))],
        r"needs equal dims, got i64\[3\] and i64\[2\]",
    ),
    (Onehot(0, 3), [Shape("u64", (N,)), F], r"indices that i64 holds, got u64\[n\]"),
    (Trilu(), [F, Shape("u64", (1,))], r"indices that i64 holds, got u64\[1\]"),
    (Trilu(), [I64S], r"trilu needs two axes or more, got i64\[n\]"),
    (
        Nonmaxsuppression(False, N),
        [F, F],
        "boxes .batch, n, 4. and scores .batch, classes, n., got",
    ),
    (
        Nonmaxsuppression(False, N),
        [Shape("f32", (1, 5, 4)), Shape("f32", (1, 2, 6))],
        r"got f32\[1, 5, 4\] and",
    ),
    (
        Nonmaxsuppression(False, N),
        [Shape("f32", (1, 5, 4)), Shape("f32", (1, 2, 5)), Shape("i64", (2,))],
        "limits of one element",
    ),
]


@pytest.mark.parametrize(("op", "shapes", "message"), REFUSED, ids=lambda v: getattr(v, "name", ""))
def test_what_is_refused(op: Any, shapes: list[Shape], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        shape_of(op, *shapes)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(
    "limits", [(3, 0.5, 0.4), (100, 0.0, None), (100, 0.9, 0.2), (0, 0.5, None), (2, None, None)]
)
def test_nonmaxsuppression_is_onnx_non_max_suppression(
    center: bool, limits: tuple[Any, ...]
) -> None:
    boxes = RNG.random((2, 30, 4)).astype(np.float32)
    scores = RNG.random((2, 3, 30)).round(1).astype(np.float32)
    dtypes = (np.int64, np.float32, np.float32)
    given = [None if v is None else np.array([v], t) for v, t in zip(limits, dtypes, strict=True)]
    wanted = onnx_node("NonMaxSuppression", [boxes, scores, *given], center_point_box=int(center))
    undefined = Argument(Shape.opaque("optional"))
    found = run(
        Nonmaxsuppression(center, N), boxes, scores, *(undefined if v is None else v for v in given)
    )
    assert_same(found, wanted(boxes, scores, *given)[0])


def test_nonmaxsuppression_of_equal_and_flipped_boxes() -> None:
    boxes = np.array([[[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 2, 1], [3, 3, 3, 3]]], np.float32)
    scores = np.array([[[0.5, 0.5, 0.9, 0.1]]], np.float32)
    limits = np.array(9), np.array(0.5, np.float32)
    assert run(Nonmaxsuppression(False, N), boxes, scores, *limits)[:, 2].tolist() == [2, 0, 3]
    assert run(Nonmaxsuppression(False, N), boxes, scores).tolist() == []
