"""Views, copies and joins against numpy and onnxruntime; the strides of views against numpy's."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import migx
from migx.argument import Argument
from migx.dim import Dim
from migx.errors import DimError, EvaluationError, InputError, ShapeError
from migx.op import bind, traits
from migx.ops._row_major import row_major
from migx.ops.dims import DimensionsOf, DimLiteral, DynamicRange
from migx.ops.layout import (
    Broadcast,
    Concat,
    Contiguous,
    DynamicSlice,
    Multibroadcast,
    Pad,
    Reshape,
    Reverse,
    Slice,
    Squeeze,
    Step,
    Transpose,
    Unsqueeze,
)
from migx.shape import I32, Shape
from tests.ops.peers import assert_same, evaluate, onnx_node, peer, run, shape_of

Array = NDArray[Any]
N, M, BIG = Dim("n"), Dim("m"), Dim("big", 2)
X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
INTS = np.iinfo(np.int64)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def moving_strides(shape: Shape) -> list[Any]:
    """The strides that matter: those of axes of more than one element."""
    return [s for d, s in zip(shape.dims, shape.true_strides, strict=True) if d != 1]


@st.composite
def views(draw: st.DrawFn, dims: tuple[int, ...]) -> Any:
    """A random view that a tensor of these dims can have."""
    rank = len(dims)
    axis = draw(st.integers(0, rank - 1)) if rank else 0
    kind = draw(st.sampled_from([Transpose, Unsqueeze, Multibroadcast, Broadcast, Reshape]))
    if rank:
        kind = draw(st.sampled_from([kind, Slice, Step, Squeeze]))
    if kind is Slice:
        start = draw(st.integers(0, dims[axis]))
        return Slice((axis,), (start,), (draw(st.integers(start, dims[axis])),))
    if kind is Step:
        return Step((axis,), (draw(st.integers(1, 3)),))
    if kind is Squeeze:
        return Squeeze(tuple(i for i, d in enumerate(dims) if d == 1))
    if kind is Transpose:
        return Transpose(tuple(draw(st.permutations(range(rank)))))
    if kind is Unsqueeze:
        return Unsqueeze(tuple(draw(st.sets(st.integers(0, rank), max_size=1))))
    repeats = draw(st.integers(1, 3))
    if kind is Multibroadcast:
        return Multibroadcast((repeats, *(repeats if d == 1 else d for d in dims)))
    if kind is Broadcast:
        return Broadcast(1, (repeats, *dims, repeats))
    return Reshape(tuple(draw(st.permutations(dims))))


@settings(max_examples=150, deadline=None)
@given(st.data(), st.lists(st.integers(1, 4), max_size=3))
def test_strides_of_views_are_those_numpy_makes(data: st.DataObject, dims: list[int]) -> None:
    array = np.arange(np.prod(dims, dtype=int), dtype=np.int16).reshape(dims)
    shape = Shape("i16", dims)
    for _ in range(data.draw(st.integers(1, 6))):
        if len(shape.dims) > 5:
            break
        op = data.draw(views(array.shape))
        standard, before = shape.standard, array
        shape = shape_of(op, shape)
        array = op.compute(array)
        assert array.shape == shape.dims
        if array.size == 0:
            return
        made = Shape("i16", array.shape, [s // array.itemsize for s in array.strides])
        assert moving_strides(made) == moving_strides(shape)
        assert not standard or np.shares_memory(array, before)


MEANINGS: list[tuple[Any, list[Array], Array]] = [
    (Transpose((2, 0, 1)), [X], X.transpose(2, 0, 1)),
    (Transpose(()), [X[0, 0, 0]], X[0, 0, 0, None].reshape(())),
    (Reshape((4, 6)), [X], X.reshape(4, 6)),
    (Reshape((3, 2)), [X[0, :, :2].T], X[0, :, :2].T.reshape(3, 2)),
    (Reshape(()), [X[:1, :1, :1]], np.array(0, np.float32)),
    (Squeeze((0, 2)), [X[:1, :, :1]], X[0, :, 0]),
    (Unsqueeze((0, 3, 4)), [X], X[None, :, :, None, None]),
    (Broadcast(1, (5, 2, 3, 4)), [X], np.stack([X] * 5)),
    (Broadcast(0, (2, 3, 4, 2)), [X], np.stack([X, X], 3)),
    (Multibroadcast((2, 2, 3, 4)), [X[:, :1]], np.stack([np.repeat(X[:, :1], 3, 1)] * 2)),
    (Multibroadcast((0, 4)), [X[0, 0]], np.empty((0, 4), np.float32)),
    (Contiguous(), [X.T], np.ascontiguousarray(X.T)),
    (Contiguous(), [np.array(3, np.int8)], np.array(3, np.int8)),
    (Slice((2, 0), (1, 0), (3, 1)), [X], X[:1, :, 1:3]),
    (Slice((0,), (2,), (2,)), [X], X[2:2]),
    (Step((1, 2), (2, 3)), [X], X[:, ::2, ::3]),
    (Reverse((0, 2)), [X], X[::-1, :, ::-1]),
    (Concat(1), [X, X[:, :0], X[:, 1:]], np.concatenate([X, X[:, 1:]], 1)),
    (
        Concat(0),
        [X.astype(ml_dtypes.bfloat16)] * 2,
        np.tile(X.astype(ml_dtypes.bfloat16), (2, 1, 1)),
    ),
    (Concat(0), [np.array(["a"], object), np.array(["b"], object)], np.array(["a", "b"], object)),
    (Pad((1, 0)), [np.array(["a"], object)], np.array(["", "a"], object)),
    (Pad((1, 0)), [np.ones(1, ml_dtypes.float8_e4m3fn)], np.array([0, 1], ml_dtypes.float8_e4m3fn)),
    (DimLiteral((2, 3), (2, 1)), [], np.array([[2], [3]])),
    (DimLiteral((5,), (), I32), [], np.array(5, np.int32)),
    (DimensionsOf(1, 3), [X], np.array([3, 4])),
    (DimensionsOf(1, 1), [X], np.array([], np.int64)),
]


@pytest.mark.parametrize(("op", "arrays", "wanted"), MEANINGS, ids=lambda v: getattr(v, "name", ""))
def test_meaning(op: Any, arrays: list[Array], wanted: Array) -> None:
    assert_same(run(op, *arrays), wanted)


SHAPES: list[tuple[Any, list[Shape], Shape]] = [
    (Transpose((1, 0)), [Shape("f32", (N, 3))], Shape("f32", (3, N), (1, 3))),
    (Transpose((0, 1)), [Shape("f32", (N, M))], Shape("f32", (N, M))),
    (Reshape((N * 3,)), [Shape("f32", (3, N), (1, 3))], Shape("f32", (N * 3,))),
    (Reshape((N, 4)), [Shape("f32", (M, 2))], Shape("f32", (N, 4))),
    (Squeeze((1,)), [Shape("f32", (N, M, 3))], Shape("f32", (N, 3))),
    (Squeeze((0,)), [Shape("f32", (1, 3, N), (9, 1, 3))], Shape("f32", (3, N), (1, 3))),
    (Unsqueeze((1,)), [Shape("f32", (3, N), (1, 3))], Shape("f32", (3, 1, N), (1, N * 3, 3))),
    (Unsqueeze((2, 0)), [Shape("f32", (N,))], Shape("f32", (1, N, 1))),
    (Broadcast(1, (2, N, 3)), [Shape("f32", (M,))], Shape("f32", (2, N, 3), (0, 1, 0))),
    (Multibroadcast((N, M, 4)), [Shape("f32", (M, 1))], Shape("f32", (N, M, 4), (0, 1, 0))),
    (Multibroadcast((4, 3)), [Shape("f32", (BIG, 3))], Shape("f32", (4, 3))),
    (Slice((0,), (1,), (N,)), [Shape("f32", (M, 3))], Shape("f32", (N - 1, 3))),
    (Slice((1,), (N,), (N + 2,)), [Shape("f32", (5, M))], Shape("f32", (5, 2), (M, 1))),
    (Step((0,), (2,)), [Shape("f32", (N, 3))], Shape("f32", ((N + 1) // 2, 3), (6, 1))),
    (
        DynamicSlice((1,), (M,)),
        [Shape("f32", (2, N)), *[Shape("i64", (1,))] * 3],
        Shape("f32", (2, M)),
    ),
    (Reverse((0,)), [Shape("f32", (3, N), (1, 3))], Shape("f32", (3, N))),
    (Concat(0), [Shape("f32", (N, M)), Shape("f32", (2, 3))], Shape("f32", (N + 2, 3))),
    (Pad((N, 0, 1, -2)), [Shape("f32", (3, M))], Shape("f32", (N + 4, M - 2))),
    (DimLiteral((N, M * 2), (2,)), [], Shape("i64", (2,))),
    (DimensionsOf(0, 2), [Shape("i4", (N, 3))], Shape("i64", (2,))),
    (DynamicRange(N), [Shape("f16")] * 3, Shape("f16", (N,))),
]


@pytest.mark.parametrize(("op", "shapes", "wanted"), SHAPES, ids=lambda v: getattr(v, "name", ""))
def test_shape_of_symbolic_dims(op: Any, shapes: list[Shape], wanted: Shape) -> None:
    assert shape_of(op, *shapes) == wanted


@pytest.mark.parametrize("sizes", [{"n": 1, "m": 4}, {"n": 4, "m": 4}, {"n": 1, "m": 1}], ids=str)
def test_a_broadcast_undecided_is_a_view_once_bound(sizes: dict[str, int]) -> None:
    op, given = Multibroadcast((2, M, 3)), Shape("f32", (N, 3))
    symbolic = shape_of(op, given)
    assert not symbolic.standard
    late, early = symbolic.bind(sizes), shape_of(bind(op, sizes), given.bind(sizes))
    assert late.same_type(early)
    assert moving_strides(late) == moving_strides(early)


def test_a_size_that_does_not_broadcast_is_refused_once_bound() -> None:
    sizes = {"n": 3, "m": 4}
    with pytest.raises(ShapeError, match=r"f32\[3\] does not broadcast to \[4\]"):
        shape_of(bind(Multibroadcast((M,)), sizes), Shape("f32", (N,)).bind(sizes))


REFUSED: list[tuple[Any, list[Shape], str]] = [
    (Transpose((0, 0)), [Shape("f32", (2, 3))], r"\(0, 0\) does not permute the 2 axes"),
    (Transpose((1, 0)), [Shape("i4", (2, 3))], "transpose does not compute on i4"),
    (Transpose((0,)), [], "transpose takes 1 input, got 0"),
    (Reshape((5, 5)), [Shape("f32", (2, 3))], r"cannot make f32\[5, 5\], which has 25 .* has 6"),
    (Reshape((N + 7,)), [Shape("f32", (6,))], r"f32\[n \+ 7\]"),
    (Reshape((N,)), [Shape("f32", (6,)), Shape("i64", (2,))], r"list of 1 integers, got i64\[2\]"),
    (Squeeze((1,)), [Shape("f32", (1, 3))], r"axis 1 of f32\[1, 3\] has 3 elements, not 1"),
    (Squeeze((0, 0)), [Shape("f32", (1, 3))], r"an axis is named twice in \(0, 0\)"),
    (Unsqueeze((3,)), [Shape("f32", (1, 3))], "axis 3 is not one of the 3 axes"),
    (
        Broadcast(1, (2, 3)),
        [Shape("f32", (2,))],
        r"\[2, 3\] does not hold the dims of f32\[2\] from axis 1",
    ),
    (Broadcast(1, (2, 3)), [Shape("f32", (2, 3))], "from axis 1 on"),
    (Multibroadcast((3, 4)), [Shape("f32", (2, 4))], r"f32\[2, 4\] does not broadcast to \[3, 4\]"),
    (Multibroadcast((4,)), [Shape("f32", (1, 4))], "does not broadcast"),
    (
        Multibroadcast((4,)),
        [Shape("f32", (4,)), Shape("f32", (1,))],
        r"list of integers, got f32\[1\]",
    ),
    (Slice((0,), (0,), (4,)), [Shape("f32", (3,))], "0 to 4 is not within axis 0 .* end <= 3"),
    (Slice((0,), (3,), (2,)), [Shape("f32", (3,))], "3 to 2 is not within"),
    (Slice((0,), (-1,), (2,)), [Shape("f32", (3,))], "-1 to 2 is not within"),
    (Slice((0,), (N + 4,), (N + 5,)), [Shape("f32", (3,))], "is not within axis 0"),
    (Slice((0,), (0, 1), (2,)), [Shape("f32", (3,))], r"2 values \(0, 1\) for the axes \(0,\)"),
    (Step((0,), (0,)), [Shape("f32", (3,))], "steps are 1 or more, got 0 for axis 0"),
    (
        DynamicSlice((0,), (4,)),
        [Shape("f32", (3,)), *[Shape("i64", (1,))] * 3],
        "4 elements of axis 0",
    ),
    (Concat(0), [], "concat takes one input or more"),
    (
        Concat(0),
        [Shape("f32", (2, 3)), Shape("f32", (2, 4))],
        r"equal but for axis 0, got f32\[2, 3\] and",
    ),
    (Concat(0), [Shape("f32", (2, 3)), Shape("f32", (2,))], "equal but for axis 0"),
    (Concat(0), [Shape("f32", (2,)), Shape("f16", (2,))], "inputs of one type, got f32, f16"),
    (Pad((0, 0)), [Shape("f32", (2, 3))], r"2 pads for f32\[2, 3\], not 4"),
    (Pad((0, 0), "mirror"), [Shape("f32", (2,))], "constant, reflect, edge, wrap, not 'mirror'"),
    (Pad((5, -3)), [Shape("f32", (2,))], r"pads \[5, -3\] drop more of f32\[2\] than there is"),
    (
        Pad((0, 0)),
        [Shape("f32", (2,)), Shape("f32", (2,))],
        "a value to pad with of one element",
    ),
    (DimLiteral((2, 3), (3,)), [], r"2 values for dims \[3\]"),
    (DimensionsOf(1, 3), [Shape("f32", (2, 3))], r"f32\[2, 3\] has no axes 1 up to 3"),
    (DynamicRange(N), [Shape("f32", (1,))] * 3, "numbers of rank 0"),
    (DynamicRange(N), [Shape("bool")] * 3, "numbers of rank 0, got bool"),
]


@pytest.mark.parametrize(("op", "shapes", "message"), REFUSED, ids=lambda v: getattr(v, "name", ""))
def test_what_is_refused(op: Any, shapes: list[Shape], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        shape_of(op, *shapes)


def test_views_say_so() -> None:
    seen = (Transpose, Reshape, Squeeze, Unsqueeze, Broadcast, Multibroadcast, Slice, Step)
    assert all(traits(kind).view == 0 for kind in seen)
    assert all(traits(kind).view is None for kind in (Contiguous, Concat, Pad, DynamicSlice))


def test_dynamic_slice_is_onnx_slice() -> None:
    x = np.arange(5, dtype=np.float32)
    places = [ints(i) for i in (INTS.min, -9, -6, -5, -2, 0, 3, 5, 9, INTS.max)]
    steps = [ints(i) for i in (1, 3, -1, -2, -7)]
    slice_of = onnx_node("Slice", [x, ints(0), ints(0), ints(0), ints(1)])
    op = DynamicSlice((0,), (N,))
    for start, end, step in itertools.product(places, places, steps):
        if step < 0 and end == INTS.max:  # to onnxruntime alone, this end is the first element
            continue
        assert_same(run(op, x, start, end, step), slice_of(x, start, end, ints(0), step)[0])
    assert_same(run(op, x[:0], ints(9), ints(-9), ints(-1)), x[:0])
    with pytest.raises(EvaluationError, match="a step is 0"):
        run(op, x, ints(0), ints(1), ints(0))


PADS = [(1, 2, 0, 1), (-1, 0, 1, 1), (0, -1, -1, 2), (-1, -2, 1, 1), (0, 0, 0, 0), (2, 3, 2, 3)]


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad_is_onnx_pad(mode: str) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    pad = onnx_node("Pad", [x, ints(0)], mode=mode)
    for pads in PADS:
        assert_same(run(Pad(pads, mode), x), pad(x, ints(*pads))[0])


def test_pad_with_a_value() -> None:
    value = np.array([7], np.int8)
    assert_same(run(Pad((1, 2)), np.ones(1, np.int8), value), np.array([7, 1, 7, 7], np.int8))
    assert run(Pad((3, 4), "reflect"), np.ones(1)).tolist() == [1] * 8
    with pytest.raises(EvaluationError, match="none to edge"):
        run(Pad((1, 1), "edge"), np.ones(0))


@pytest.mark.parametrize(
    ("dims", "target", "allowzero"),
    [
        ((2, 3, 4), (0, -1), 0),
        ((2, 3, 4), (4, 0, -1), 0),
        ((0, 3), (3, 0), 1),
        ((6,), (-1, 2), 0),
        ((1,), (), 0),
    ],
)
def test_reshape_to_dims_known_at_run_time(
    dims: tuple[int, ...], target: tuple[int, ...], allowzero: int
) -> None:
    x, wanted = np.zeros(dims, np.float32), ints(*target)
    op = Reshape(tuple(Dim(f"d{i}") for i in range(len(target))), bool(allowzero))
    assert_same(run(op, x, wanted), peer("Reshape", [x, wanted], allowzero=allowzero))


def test_reshape_to_dims_that_do_not_fit() -> None:
    with pytest.raises(
        EvaluationError, match=r"cannot make \[4, -1\] of \[6\], which has 6 elements"
    ):
        run(Reshape((N, M)), np.zeros(6), ints(4, -1))
    with pytest.raises(EvaluationError, match="no dim at the place of 0"):
        run(Reshape((N, M)), np.zeros(6), ints(6, 0))


def test_multibroadcast_to_dims_known_at_run_time() -> None:
    x = X[0, :, :1]
    for target in [(3, 4), (1, 1), (2, 1, 5), (3, 1)]:
        op = Multibroadcast(tuple(Dim(f"d{i}") for i in range(len(target))))
        assert_same(run(op, x, ints(*target)), peer("Expand", [x, ints(*target)]))
    with pytest.raises(EvaluationError, match=r"\[3, 1\] does not broadcast to \[2, 1\]"):
        run(Multibroadcast((N, M)), x, ints(2, 1))
    with pytest.raises(EvaluationError, match="does not broadcast to"):
        run(Multibroadcast((N, M)), x, ints(-1, 1))
    with pytest.raises(EvaluationError, match=r"\[3, 1\] is too large when broadcast to \[3, 4611"):
        run(Multibroadcast((N, M)), x, ints(3, 1 << 62))


@pytest.mark.parametrize(
    ("dtype", "start", "limit", "delta"),
    [
        ("f4", 0, 1, 0.1),
        ("f4", 5, -2.5, -1.5),
        ("f8", 3, 3, 1),
        ("i8", 10, -4, -3),
        ("i4", 0, 7, 7),
        ("i2", 9, 0, 1),
    ],
)
def test_dynamic_range_is_onnx_range(dtype: str, start: float, limit: float, delta: float) -> None:
    scalars = [np.array(v, dtype) for v in (start, limit, delta)]
    found, wanted = run(DynamicRange(N), *scalars), peer("Range", scalars)
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_dynamic_range_at_the_ends_of_a_type() -> None:
    ends = [np.array(v, np.int8) for v in (-128, 127, 1)]
    assert_same(run(DynamicRange(N), *ends), np.arange(-128, 127).astype(np.int8))
    wide = [np.array(v, np.uint64) for v in (2**64 - 5, 2**64 - 1, 2)]
    assert_same(run(DynamicRange(N), *wide), np.array([2**64 - 5, 2**64 - 3], np.uint64))
    narrow = [np.array(v, ml_dtypes.bfloat16) for v in (0, 300, 1)]
    assert_same(
        run(DynamicRange(N), *narrow), np.arange(300, dtype=np.float32).astype(ml_dtypes.bfloat16)
    )
    with pytest.raises(EvaluationError, match="from 0 to 3 by 0: needs finite limits"):
        run(DynamicRange(N), ints(0)[0], ints(3)[0], ints(0)[0])


def test_dims_become_numbers_when_they_are_bound() -> None:
    op = DimLiteral((N, N * M + 1), (1, 2))
    assert run(bind(op, {"n": 3, "m": 5})).tolist() == [[3, 16]]
    with pytest.raises(DimError, match="has no value yet"):
        run(op)


def test_dimensions_of_packed_storage() -> None:
    packed = Argument.packed(Shape("i4", (3, 5)), bytes(8))
    assert evaluate(DimensionsOf(0, 2), packed).tolist() == [3, 5]


@given(
    st.lists(st.sampled_from((1, 3, 16, 17, 64)), min_size=1, max_size=2),
    st.sampled_from(("u1", "f2", "f4", "f8")),
    st.randoms(use_true_random=False),
)
def test_large_copies_are_the_same_whatever_the_layout(
    dims: list[int], dtype: str, random: Random
) -> None:
    shape = [*dims, 320]
    x = (np.arange(np.prod(shape)) % 251).astype(dtype).reshape(shape)
    x = x.transpose(random.sample(range(x.ndim), x.ndim))[..., :: random.choice((1, -1, 2))]
    copy = row_major(x)
    assert copy.flags.c_contiguous
    assert copy.dtype == x.dtype
    assert np.array_equal(copy, x)


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_what_is_empty_is_broadcast_to_nothing(target: str) -> None:
    """Its stride, by which an element would be repeated, leads nowhere."""
    program = migx.parse("""module main(x: f32[2, n]) {
  %0 = multibroadcast(x) {out_lens=(2, 0)}
  return %0
}
""").compile(target)
    assert program.eval({"x": np.ones((2, 0), np.float32)})[0].shape == (2, 0)
    with pytest.raises(InputError, match="does not broadcast"):
        program.eval({"x": np.ones((2, 3), np.float32)})
