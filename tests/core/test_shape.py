"""Element types and shapes: layout questions answered by numpy, symbols kept, mistakes named."""

from __future__ import annotations

import copy
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migx.dim import Dim
from migx.errors import DimError, ShapeError
from migx.shape import (
    BF16,
    F4,
    F16,
    F32,
    I4,
    I8,
    I64,
    OPTIONAL,
    SEQUENCE,
    STR,
    TUPLE,
    U2,
    DType,
    Shape,
    row_major,
)

N, M = Dim("n"), Dim("m", 1, 8)


def f32(*dims: Any, strides: Any = None) -> Shape:
    return Shape(F32, dims, strides)


@pytest.mark.parametrize("name", DType.known)
def test_there_is_one_object_for_each_element_type(name: str) -> None:
    dtype = DType.known[name]
    assert DType.of(name) is DType.of(dtype) is dtype
    assert copy.deepcopy(dtype) is dtype
    assert str(dtype) == name
    if dtype.is_tensor and not dtype.is_packed:
        assert DType.of(dtype.numpy) is dtype
        assert dtype.numpy.itemsize * 8 == dtype.bits or dtype is STR
    assert dtype.roundoff == (2.0**-dtype.digits if dtype.is_float else 0)


@pytest.mark.parametrize("dtype", [t for t in DType.known.values() if t.digits], ids=str)
def test_roundoff_is_half_a_step_at_1(dtype: DType) -> None:
    numpy = ml_dtypes.float4_e2m1fn if dtype is F4 else dtype.numpy
    limits: Any = ml_dtypes.finfo(numpy)  # type: ignore[no-untyped-call]
    assert float(limits.eps) == 2 * dtype.roundoff


def test_element_types_by_other_names() -> None:
    assert DType.of(np.float16) is DType.of(np.dtype("float16")) is F16
    assert DType.of(ml_dtypes.bfloat16) is BF16
    for unpacked, packed in ((ml_dtypes.int4, I4), (ml_dtypes.float4_e2m1fn, F4)):
        assert DType.of(np.dtype(unpacked)) is packed


@pytest.mark.parametrize("unknown", ["f33", "", np.complex64, np.dtype("datetime64[s]"), None, 3])
def test_what_is_no_element_type(unknown: Any) -> None:
    with pytest.raises(ShapeError, match=r"no element type .*; there are bool, i8"):
        DType.of(unknown)


@pytest.mark.parametrize(
    ("other", "ours"),
    [
        *[("float32", "f32"), ("F32", "f32"), ("torch.float16", "f16"), ("half", "f16")],
        *[("float", "f32"), ("double", "f64"), ("bfloat16", "bf16"), ("int4", "i4")],
        *[("uint8", "u8"), ("int", "i32 or i64"), ("float8_e4m3fn", "f8e4m3fn")],
    ],
)
def test_element_types_that_are_called_otherwise_here(other: str, ours: str) -> None:
    with pytest.raises(ShapeError, match=f"no element type '{other}': it is called {ours} here"):
        DType.of(other)


def test_extents_are_a_tuple() -> None:
    with pytest.raises(ShapeError, match=r"dims are a tuple, as \(2,\), not 2"):
        Shape(F16, 2)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"strides are a tuple, as \(1,\), not 1"):
        Shape(F16, (2,), 1)  # type: ignore[arg-type]


@st.composite
def laid_out(draw: st.DrawFn) -> tuple[Shape, np.ndarray[Any, Any]]:
    """The shape of a view that numpy made, and the view."""
    dims = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    array: np.ndarray[Any, Any] = np.arange(int(np.prod(dims)), dtype=np.float32).reshape(dims)
    array = array.transpose(draw(st.permutations(range(len(dims)))))
    steps = [draw(st.sampled_from([1, 1, 2])) for _ in dims]
    array = array[tuple(slice(None, None, step) for step in steps)]
    if draw(st.booleans()):
        array = np.broadcast_to(array, (draw(st.integers(1, 3)), *array.shape))
    return f32(*array.shape, strides=[s // 4 for s in array.strides]), array


@given(laid_out())
def test_layout_is_what_numpy_says(case: tuple[Shape, np.ndarray[Any, Any]]) -> None:
    shape, array = case
    assert shape.elements == array.size
    assert shape.rank == array.ndim
    if array.size:
        assert shape.standard == array.flags.c_contiguous
        low, high = np.lib.array_utils.byte_bounds(array)
        assert shape.nbytes == high - low
        assert shape.element_space == (high - low) // 4
        assert shape.packed == (shape.element_space == array.size and not shape.broadcasted)
        assert shape.broadcasted == any(
            s == 0 and d > 1 for s, d in zip(array.strides, array.shape, strict=True)
        )
    else:
        assert shape.nbytes == 0
    assert shape.as_standard() == f32(*array.shape)
    assert shape.same_type(shape.as_standard())
    assert (shape == shape.as_standard()) == shape.standard


@given(laid_out(), st.data())
def test_permuted_is_the_view_numpy_makes(
    case: tuple[Shape, np.ndarray[Any, Any]], data: st.DataObject
) -> None:
    shape, array = case
    order = data.draw(st.permutations(range(array.ndim)))
    view = array.transpose(order)
    permuted = shape.permuted(order)
    assert permuted.dims == view.shape
    if array.size:
        moving = [i for i, d in enumerate(view.shape) if d > 1]
        assert [permuted.true_strides[i] * 4 for i in moving] == [view.strides[i] for i in moving]
        assert permuted.standard == view.flags.c_contiguous


def test_strides_that_mean_the_same_are_one_shape() -> None:
    standard = f32(2, 1, 3)
    for strides in ((3, 3, 1), (3, 0, 1), (3, 99, 1)):
        assert f32(2, 1, 3, strides=strides) == standard
        assert hash(f32(2, 1, 3, strides=strides)) == hash(standard)
    assert f32(2, 1, 3, strides=(1, 1, 2)) != standard
    assert f32(N, M, strides=(M, 1)) == f32(N, M)
    assert f32(N, M, strides=(1, N)).strides == (1, N)
    assert f32(N, M, 4).true_strides == row_major((N, M, 4)) == (M * 4, 4, 1)
    assert f32().true_strides == ()


def test_transposed_is_any_order_but_the_falling_one() -> None:
    assert not f32(2, 3).transposed
    assert f32(2, 3).permuted((1, 0)).transposed
    assert not f32(2, 1).permuted((1, 0)).transposed
    assert not f32(2, 3, strides=(0, 1)).transposed
    assert f32(N, M).permuted((1, 0)).transposed
    assert not f32(4, N, M).transposed


@pytest.mark.parametrize(
    ("dtype", "dims", "nbytes"),
    [(I4, (3, 5), 8), (I4, (0, 5), 0), (U2, (3, 3), 3), (F4, (), 1), (STR, (3,), 0), (I8, (7,), 7)],
)
def test_sub_byte_types_share_bytes(dtype: DType, dims: tuple[int, ...], nbytes: int) -> None:
    shape = Shape(dtype, dims)
    assert shape.nbytes == nbytes
    assert dtype.is_packed == (dtype.bits in (2, 4))


def test_sub_byte_types_have_no_views() -> None:
    assert Shape(I4, (2, 3), (3, 1)).standard
    assert Shape(I4, (1, 6)).permuted((1, 0)) == Shape(I4, (6, 1))
    with pytest.raises(ShapeError, match="i4 is packed storage: standard layout only"):
        Shape(I4, (2, 3), (1, 2))
    with pytest.raises(ShapeError, match="i4 is packed storage: standard layout only"):
        Shape(I4, (2, 3)).permuted((1, 0))


def test_symbols_are_bound_and_substituted_everywhere() -> None:
    inner = Shape(I4, (N, 3))
    shape = Shape.tuple(f32(N, M, strides=(1, N)), inner)
    assert {s.name for s in shape.symbols()} == {"n", "m"}
    assert not shape.static
    assert shape.bind({"n": 2, "m": 5}) == Shape.tuple(f32(2, 5, strides=(1, 2)), Shape(I4, (2, 3)))
    assert shape.substitute({"n": M}) == Shape.tuple(f32(M, M, strides=(1, M)), Shape(I4, (M, 3)))
    assert shape.bind({"n": 2, "m": 1}).parts[0].standard
    assert inner.nbytes == (N * 12 + 7) // 8
    with pytest.raises(DimError, match="dim m has no size; sizes are given for n"):
        shape.bind({"n": 2})
    static = f32(2, 3)
    assert static.bind({}) is static


def test_symbolic_layout() -> None:
    shape = f32(N, M, 4)
    assert shape.elements == N * M * 4
    assert shape.element_space == N * M * 4
    assert shape.packed
    assert shape.permuted((2, 0, 1)).packed
    spread = f32(N, M, strides=(0, 1))
    assert spread.element_space == M
    assert spread.broadcasted
    assert not spread.packed


def test_tuples_and_opaque_values() -> None:
    pair = Shape.tuple(f32(2), Shape(I64, (3,)))
    assert (pair.dtype, pair.nbytes, pair.dims) == (TUPLE, 32, ())
    assert pair == Shape.tuple(f32(2), Shape(I64, (3,)))
    assert pair != Shape.tuple(f32(2))
    assert hash(pair) != hash(Shape.tuple(f32(2)))
    assert pair.same_type(Shape.tuple(f32(2, strides=(2,)), Shape(I64, (3,))))
    assert not pair.same_type(Shape.tuple(f32(2), Shape(I64, (4,))))
    assert not pair.same_type(Shape.tuple(f32(2)))
    assert Shape.tuple().nbytes == 0
    sequence = Shape.opaque("sequence", f32(N))
    assert (sequence.dtype, sequence.parts) == (SEQUENCE, (f32(N),))
    assert Shape.opaque(OPTIONAL) != Shape.opaque(OPTIONAL, f32())
    assert not SEQUENCE.is_tensor


def test_may_match_is_false_only_where_it_is_proven() -> None:
    assert f32(N, 3).may_match(f32(4, M))
    assert f32(2, strides=(2,)).may_match(f32(2))
    assert Shape.tuple(f32(N)).may_match(Shape.tuple(f32(M)))
    for other in (f32(4), f32(N, 4), f32(N + 1, 3), Shape(F16, (N, 3)), Shape.tuple(f32(N, 3))):
        assert not f32(N, 3).may_match(other)
    assert not Shape.tuple(f32(2)).may_match(Shape.tuple(f32(3)))


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (f32(), "f32[]"),
        (f32(N * 2 + 1, 3), "f32[2*n + 1, 3]"),
        (f32(2, 3).permuted((1, 0)), "f32[3, 2]{1, 3}"),
        (Shape.tuple(f32(2), Shape(I4, (3,))), "tuple(f32[2], i4[3])"),
        (Shape.opaque("sequence", f32(2)), "sequence(f32[2])"),
        (Shape.opaque("optional"), "optional()"),
    ],
)
def test_text(shape: Shape, text: str) -> None:
    assert str(shape) == text
    assert repr(shape) == f"<{text}>"
    assert shape.as_standard().text == shape.text


def test_derived_shapes() -> None:
    view = f32(2, 3).permuted((1, 0))
    assert view.with_type(F16) == Shape(F16, (3, 2))
    assert view.with_dims((6,)) == f32(6)
    assert view.with_dims((3, 4), (1, 3)) == f32(3, 4, strides=(1, 3))
    assert Shape("f32", [2, 3]) == f32(2, 3)


def test_numbers_of_numpy_are_numbers() -> None:
    dims: Any = (np.int64(2), 3)
    strides: Any = (np.int32(1), np.uint8(2))
    shape = Shape("f32", dims, strides)
    assert shape == Shape("f32", (2, 3), (1, 2))
    assert {type(e) for e in (*shape.dims, *shape.true_strides)} == {int}


@pytest.mark.parametrize(
    ("dims", "strides", "message"),
    [
        ((2.0,), None, "a dim is an int or a Dim, not 2.0 of float"),
        ((True,), None, "not True of bool"),
        ((np.True_,), None, "not np.True_ of bool"),
        ((np.int64(-3),), None, r"a dim cannot be negative: -3 in \(-3,\)"),
        ((3, -1), None, r"a dim cannot be negative: -1 in \(3, -1\)"),
        ((2, 3), (1,), "1 strides for 2 dims"),
        ((1,) * 65, None, "a tensor has at most 64 axes, not 65"),
        ((2, 3), (-3, 1), r"a stride cannot be negative: \(-3, 1\)"),
    ],
)
def test_wrong_dims(dims: Any, strides: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Shape(F32, dims, strides)


@pytest.mark.parametrize("order", [(0,), (0, 0), (0, 2), (1, 0, 2)])
def test_wrong_permutations(order: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"does not permute the 2 axes of f32\[2, 3\]"):
        f32(2, 3).permuted(order)
