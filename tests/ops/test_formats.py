"""Weight formats: what they mean, padding, the way back, and what is no format."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migx.argument import Argument
from migx.errors import ShapeError
from migx.ops.formats import PackWeight, UnpackWeight, pack, read, unpack
from migx.shape import F32, DType, Shape


def counted(*dims: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.arange(1, 1 + np.prod(dims), dtype=np.float32).reshape(dims)


def test_plain_orders_are_transposes() -> None:
    w = counted(4, 3, 2, 5)
    for text, order in {"hwio": (2, 3, 1, 0), "ohwi": (0, 2, 3, 1), "dcba": (3, 2, 1, 0)}.items():
        assert np.array_equal(read(text, 4).ordered(w), w.transpose(order)), text
    assert np.array_equal(
        read("wio", 3).ordered(counted(2, 3, 4)), counted(2, 3, 4).transpose(2, 1, 0)
    )


def test_a_matrix_in_panels() -> None:
    w = counted(3, 5)
    packed = read("Ba4b", 2).ordered(w)
    assert packed.shape == (2, 3, 4)
    assert np.array_equal(packed[0], w[:, :4])
    assert np.array_equal(packed[1], np.pad(w[:, 4:], [(0, 0), (0, 3)]))


def test_blocks_of_two_axes() -> None:
    w = counted(20, 6, 1, 2)
    packed = read("ABcd16a4b", 4).ordered(w)
    assert packed.shape == (2, 2, 1, 2, 16, 4)
    assert packed[1, 1, 0, 1, 2, 1] == w[18, 5, 0, 1]
    assert packed[1, 1, 0, 1, 4, 1] == 0  # row 20 is padding


def test_an_axis_divided_twice() -> None:
    w = counted(16, 32)
    packed = read("AB4b16a4b", 2).ordered(w)
    assert packed.shape == (1, 2, 4, 16, 4)
    assert packed[0, 1, 2, 7, 3] == w[7, 16 + 2 * 4 + 3]


@st.composite
def formats(draw: st.DrawFn) -> tuple[str, tuple[int, ...]]:
    dims = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    letters = [chr(ord("a") + i) for i in draw(st.permutations(range(len(dims))))]
    blocked = draw(st.lists(st.tuples(st.integers(2, 5), st.sampled_from(letters)), max_size=3))
    names = {c for _, c in blocked}
    outer = "".join(c.upper() if c in names else c for c in letters)
    return outer + "".join(f"{n}{c}" for n, c in blocked), dims


@given(formats())
def test_unpacking_gives_back_what_was_packed(drawn: tuple[str, tuple[int, ...]]) -> None:
    text, dims = drawn
    w = counted(*dims)
    packed = pack(Argument.of(w), text)
    assert packed.shape == PackWeight(text).compute_shape([Shape(F32, dims)])
    assert UnpackWeight(text, dims).compute_shape([packed.shape]) == Shape(F32, dims)
    assert np.array_equal(unpack(packed, text, dims).array, w)
    assert np.count_nonzero(packed.array) == w.size


@given(formats(), st.sampled_from(["i4", "u4", "u2"]))
def test_what_is_packed_below_a_byte_is_packed_again(
    drawn: tuple[str, tuple[int, ...]], name: str
) -> None:
    text, dims = drawn
    dtype, count = DType.of(name), int(np.prod(dims))
    codes = np.arange(1, 1 + count) % 2**dtype.bits
    whole = np.zeros(-(-count * dtype.bits // 8), np.uint8)
    for place, code in enumerate(codes):
        per = 8 // dtype.bits
        whole[place // per] |= code << place % per * dtype.bits
    value = Argument(Shape(dtype, dims), whole)
    packed = pack(value, text)
    assert packed.shape == PackWeight(text).compute_shape([value.shape])
    assert len(packed.array) == int(packed.shape.nbytes)
    assert unpack(packed, text, dims) == value


@pytest.mark.parametrize(
    ("text", "rank", "message"),
    [
        ("a b", 2, "is no weight format"),
        ("", 1, "is no weight format"),
        ("aa", 2, "does not name each of the 2 axes ab"),
        ("hwio", 2, "does not name each of the 2 axes"),
        ("AB16a", 2, "capital letters are the axes that have blocks"),
        ("ab16a", 2, "capital letters are the axes that have blocks"),
        ("Ab1a", 2, "capital letters are the axes that have blocks"),
    ],
)
def test_what_is_no_format(text: str, rank: int, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        read(text, rank)


def test_packed_dims_are_checked() -> None:
    with pytest.raises(ShapeError, match=r"\[3, 5\] in format Ba4b is \[2, 3, 4\]"):
        UnpackWeight("Ba4b", (3, 5)).compute_shape([Shape(F32, (2, 3, 5))])
