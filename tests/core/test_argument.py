"""Arguments: bytes mapped from files, equality of bits, packed data, DLPack."""

from __future__ import annotations

import gc
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from migx.argument import Argument, Source
from migx.dim import Dim
from migx.errors import DataError, MigxError, ShapeError
from migx.program import Program
from migx.shape import BF16, F8E5M2, F16, F32, F64, I4, I32, I64, STR, U2, UNPACKED, DType, Shape

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)
NUMERIC = [t for t in DType.known.values() if t.is_tensor and not t.is_packed and t is not STR]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of eight bytes of padding, VALUES, one byte more, and VALUES again, misaligned."""
    path = tmp_path / "weights.bin"
    path.write_bytes(b"\xff" * 8 + VALUES.tobytes() + b"\xff" + VALUES.tobytes())
    return path


def held(path: Path, offset: int, length: int = 24, shape: Shape | None = None) -> Argument:
    return Argument(shape or Shape(F32, VALUES.shape), source=Source(path, offset, length))


def test_values_in_a_file_are_mapped_not_copied(weights: Path) -> None:
    one, other = held(weights, 8), held(weights, 8)
    assert one.available
    np.testing.assert_array_equal(one.array, VALUES)
    assert not one.array.flags.writeable
    assert not one.array.flags.owndata
    assert np.shares_memory(one.array, other.array)
    assert one.array is one.array
    with pytest.raises(ValueError, match="read-only"):
        one.array[0] = 1


def test_misaligned_values_are_copied_once(weights: Path) -> None:
    argument = held(weights, 33)
    np.testing.assert_array_equal(argument.array, VALUES)
    assert argument.array.flags.aligned
    assert argument.array.ctypes.data % 4 == 0
    assert argument == held(weights, 8) == Argument.of(VALUES)


def test_a_file_that_changes_is_read_again(weights: Path) -> None:
    before = held(weights, 8)
    old = before.digest()
    assert old == hashlib.sha256(VALUES.tobytes()).hexdigest()
    fresh = weights.with_name("fresh.bin")
    fresh.write_bytes(b"\0" * 8 + (VALUES + 1).tobytes())
    os.replace(fresh, weights)
    after = held(weights, 8)
    np.testing.assert_array_equal(after.array, VALUES + 1)
    assert after.digest() == hashlib.sha256((VALUES + 1).tobytes()).hexdigest()
    assert before.digest() == old


def test_a_mapping_goes_with_its_last_array(weights: Path) -> None:
    from migx.base import mapping

    array = held(weights, 8).array
    assert any(weights in key for key in mapping._mapped)
    del array
    gc.collect()
    assert not any(weights in key for key in mapping._mapped)


@pytest.mark.parametrize(
    ("offset", "length", "message"),
    [
        (40, 24, "has 57 bytes, but a tensor is declared at bytes 40 to 64"),
        (8, 20, r"f32\[2, 3\] takes 24 bytes, got 20"),
        (0, 57, "takes 24 bytes, got 57"),
    ],
)
def test_bytes_that_are_too_few_or_too_many(
    weights: Path, offset: int, length: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        _ = held(weights, offset, length).array


def test_files_that_are_not_there_or_empty(tmp_path: Path) -> None:
    missing = held(tmp_path / "missing.bin", 0)
    assert not missing.available
    with pytest.raises(DataError, match=r"cannot read tensor data: No such file .*missing\.bin"):
        _ = missing.data
    with pytest.raises(DataError, match="cannot read tensor data"):
        missing.digest()
    folder = held(tmp_path, 0, 0, Shape(F32, (0, 3)))
    assert not folder.available
    with pytest.raises(DataError, match="cannot read tensor data"):
        _ = folder.data
    (tmp_path / "empty.bin").touch()
    empty = held(tmp_path / "empty.bin", 0, 0, Shape(F32, (0, 3)))
    assert empty.array.shape == (0, 3)
    assert empty == Argument.of(np.empty((0, 3), np.float32))


@pytest.mark.parametrize("dtype", NUMERIC, ids=str)
def test_every_type_keeps_its_bits_through_a_file(dtype: DType, tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 256, 6 * dtype.bits // 8).astype(np.uint8)
    if dtype.kind == "bool":
        raw %= 2
    (tmp_path / "x").write_bytes(raw.tobytes())
    mapped = held(tmp_path / "x", 0, raw.size, Shape(dtype, (3, 2)))
    assert mapped.array.dtype == dtype.numpy
    array = raw.view(dtype.numpy).reshape(3, 2)
    assert mapped == Argument.of(array)
    assert mapped.tobytes() == raw.tobytes()
    assert (
        mapped.digest() == Argument.of(array).digest() == hashlib.sha256(raw.tobytes()).hexdigest()
    )


def test_a_literal_known_by_its_hash_alone() -> None:
    known = Argument.of(VALUES)
    bare = Argument(known.shape, digest=known.digest())
    assert not bare.available
    assert bare == known
    assert known == bare
    assert bare != Argument.of(VALUES + 1)
    with pytest.raises(DataError, match=r"a literal f32\[2, 3\] is known by its hash alone"):
        _ = bare.array


FLOATS: list[float] = [0.0, -0.0, 1.0, float("nan"), float("inf")]


@given(st.lists(st.sampled_from(FLOATS), max_size=3), st.lists(st.sampled_from(FLOATS), max_size=3))
def test_equality_is_of_bits(left: list[float], right: list[float]) -> None:
    a, b = (Argument.of(np.array(values, np.float16)) for values in (left, right))
    assert (a == b) == (list(map(repr, left)) == list(map(repr, right)))
    if a == b:
        assert hash(a) == hash(b)


def test_nans_of_different_payload_differ() -> None:
    one, other = (np.array([bits], np.uint32).view(np.float32) for bits in (0x7FC00000, 0x7FC00001))
    assert Argument.of(one) == Argument.of(one.copy())
    assert Argument.of(one) != Argument.of(other)


def test_equality_is_of_type_and_dims_but_not_of_layout() -> None:
    known = Argument.of(VALUES)
    assert known == Argument.of(np.asfortranarray(VALUES))
    assert known == Argument(Shape(F32, (2, 3), (1, 2)), np.asfortranarray(VALUES))
    assert known != Argument.of(VALUES.reshape(3, 2))
    assert known != Argument.of(VALUES.view(np.int32))
    assert known != VALUES.tolist()
    zeros: list[Any] = [np.zeros(2, dtype) for dtype in (np.float32, np.int32, np.uint32)]
    assert len({Argument.of(z).shape for z in zeros}) == len(zeros)
    assert Argument.of(zeros[0]) != Argument.of(zeros[1])


def test_tuples_are_equal_part_by_part() -> None:
    pair = Argument.tuple([Argument.of(VALUES), Argument.of(np.int32(1))])
    assert pair.shape == Shape.tuple(Shape(F32, (2, 3)), Shape(I32))
    assert pair == Argument.tuple([Argument.of(VALUES.copy()), Argument.of(np.int32(1))])
    assert pair != Argument.tuple([Argument.of(VALUES), Argument.of(np.int32(2))])
    assert pair.tobytes() == VALUES.tobytes() + b"\1\0\0\0"
    assert pair.nbytes == 28
    with pytest.raises(ShapeError, match=r"of shape .*f32\[2, 3\], i32\[\].* is not an array"):
        _ = pair.array


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (1.5, None, F32),
        (3, None, I64),
        ([[1, 2], [3, 4]], None, I64),
        ([1.0, 2.0], F64, F64),
        (3, "f16", F16),
        (True, None, DType.of("bool")),
        (np.float64(2), None, F64),
        (np.array([1.0]), None, F64),
        (np.array([1.0], F8E5M2.numpy), None, F8E5M2),
        ([1.5], BF16, BF16),
        (np.array([1, 2], ">i4"), None, I32),
        ([1.0, -128.0], "i8", DType.of("i8")),
        (-3.4028234663852886e38, "f32", F32),
        ([float("inf"), float("-inf")], "f16", F16),
        (["a", "bc"], None, STR),
        (np.array(["a", "bc"]), None, STR),
    ],
)
def test_of_finds_the_type(value: Any, dtype: Any, expected: DType) -> None:
    made = Argument.of(value, dtype)
    assert made.shape == Shape(expected, np.shape(value))
    assert made.array.dtype == expected.numpy
    assert made.tolist() == np.asarray(value).tolist()


def test_of_copies_nothing_needlessly() -> None:
    made = Argument.of(VALUES)
    assert made.array is VALUES
    assert Argument.of(made) is made
    assert np.shares_memory(Argument.of(VALUES, F32).array, VALUES)
    assert np.shares_memory(Argument.of(VALUES.T).array, VALUES)


def test_strings_are_compared_as_strings() -> None:
    assert Argument.of(["a", "b"]) == Argument.of(np.array(["a", "b"], object))
    assert Argument.of(["a", "b"]) != Argument.of(["ab", ""])


class Elsewhere:
    """An array of another library, known by DLPack alone."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_dlpack_shares_memory_both_ways() -> None:
    values = VALUES.copy()
    made = Argument.of(Elsewhere(values))
    assert made.shape == Shape(F32, (2, 3))
    assert np.shares_memory(made.array, values)
    assert np.shares_memory(np.from_dlpack(made), values)
    np.testing.assert_array_equal(np.asarray(made), values)
    assert np.asarray(made, np.float64).dtype == np.float64


class Lost(Elsewhere):
    """One that is no more where it says."""

    def __dlpack__(self, **options: Any) -> Any:
        raise RuntimeError("device lost")


def test_what_another_library_refuses_is_an_error_of_ours() -> None:
    with pytest.raises(
        ShapeError, match="Lost gives no array by DLPack, RuntimeError: device lost"
    ):
        Argument.of(Lost(VALUES))


def test_packed_types_hold_flat_bytes(tmp_path: Path) -> None:
    shape = Shape(I4, (3, 3))
    made = Argument.packed(shape, bytes([0x21, 0x43, 0x65, 0x87, 0x09]))
    assert made.array.tolist() == [0x21, 0x43, 0x65, 0x87, 0x09]
    assert made.nbytes == 5
    assert made == Argument.packed(shape, np.array([[0x21, 0x43, 0x65, 0x87, 0x09]], np.uint8))
    assert made != Argument.packed(Shape(U2, (20,)), made.tobytes())
    (tmp_path / "x").write_bytes(made.tobytes())
    assert held(tmp_path / "x", 0, 5, shape) == made
    for wrong in (b"\0" * 4, b"\0" * 9):
        with pytest.raises(DataError, match=rf"i4\[3, 3\] takes 5 bytes, got {len(wrong)}"):
            Argument.packed(shape, wrong)
    elements = [[1, 2, 3], [4, 5, 6], [7, -8, -7]]
    assert made == Argument.of(elements, I4)
    assert made == Argument.of(np.asfortranarray(np.array(elements, UNPACKED[I4])))


@pytest.mark.parametrize(
    ("value", "of"),
    [
        *[(None, ""), (object(), ""), (2**70, ""), ([1, None], " of NoneType and int")],
        *[(np.array([None, 3], object), " of NoneType and int"), (["a", 1], " of int")],
        (np.array([b"a"]), " of bytes"),
    ],
)
def test_what_is_neither_numbers_nor_text_is_refused(value: object, of: str) -> None:
    wrong = f"{type(value).__name__}{of} is neither numbers nor text"
    with pytest.raises(ShapeError, match=wrong):
        Argument.of(value)


def test_masked_elements_have_no_value() -> None:
    whole: Any = np.ma.masked_array(np.ones(3, np.float32), [False] * 3)
    assert Argument.of(whole).tolist() == [1, 1, 1]
    whole[1] = np.ma.masked
    for value in (whole, np.ma.masked):
        with pytest.raises(ShapeError, match=r"masked have no value, 1 of .*filled\(0\)"):
            Argument.of(value)
    program = Program()
    program.main.add_return(program.main.add_parameter("x", Shape("f32", (3,))))
    with pytest.raises(MigxError, match="'x'.*masked"):
        program.compile("ref").eval({"x": whole})


def test_rows_of_different_lengths_are_no_array() -> None:
    with pytest.raises(ShapeError, match="list is no array: its rows differ in length"):
        Argument.of([[1.0], [1.0, 2.0]])


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        ([1, 300], "i8", "300 is no element of i8: it holds whole numbers from -128 to 127"),
        (np.array([300]), "i8", "300 is no element of i8"),
        (1.5, "i8", "1.5 is no element of i8"),
        (np.float32(2**31), "i32", "2147483648.0 is no element of i32"),
        (2**64 - 1, "i64", "18446744073709551615 is no element of i64"),
        (-1, "u64", "-1 is no element of u64"),
        (2, "bool", "2 is no element of bool: it holds whole numbers from 0 to 1"),
        (float("nan"), "i8", "nan is no element of i8"),
        (8, "i4", "8 is no element of i4: it holds whole numbers from -8 to 7"),
        (0.3, "f4", "0.3 is no element of f4: it would become 0.5"),
        (1e40, None, r"1e\+40 is no element of f32: it would become inf"),
        (65520, "f16", "65520 is no element of f16: it would become inf"),
        (float("inf"), "f8e4m3fn", "inf is no element of f8e4m3fn: it would become nan"),
        ("1", "i64", "str does not convert to i64"),
        (1, "str", "i64 does not convert to str"),
        (Argument.of(1.0), "i8", r"f32\[\] does not have type i8"),
    ],
)
def test_elements_that_another_type_does_not_hold(value: Any, dtype: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Argument.of(value, dtype)


@pytest.mark.parametrize("to", NUMERIC, ids=str)
def test_every_type_takes_from_every_other_what_it_holds(to: DType) -> None:
    for each in NUMERIC:
        ones = Argument.of(np.ones(3, each.numpy), to)
        assert ones.shape == Shape(to, (3,))
        assert ones.array.astype(np.float32).tolist() == [1, 1, 1]


def test_opaque_values_are_handed_through() -> None:
    absent = Argument(Shape.opaque("optional"))
    assert absent.data is None
    members = [Argument.of(1.0), Argument.of(2.0)]
    sequence = Argument(Shape.opaque("sequence", Shape(F32, (Dim("n"),))), members)
    assert sequence.data is members
    assert sequence.available
    with pytest.raises(ShapeError, match="is not an array"):
        _ = absent.array


def test_a_numpy_scalar_counts_as_an_array_of_no_dims() -> None:
    made = Argument(Shape(F32), np.float32(2))
    assert made.array.shape == ()
    assert made == Argument.of(np.float32(2))
    assert repr(made) == "Argument(f32[])"


def test_a_class_of_values_elsewhere_says_how_they_come_to_the_host() -> None:
    class Held(Argument):
        elsewhere = True

    with pytest.raises(DataError, match="Held, a value elsewhere, needs a property data"):
        Held(Shape("f32", (2,))).array  # noqa: B018
