"""Typed buffers: the inputs, outputs and literals of programs.

An ``Argument`` is a shape and its data: a numpy array, the packed bytes of a sub-byte type, a tuple
of arguments, or an opaque host value. A literal read from a file is mapped at first use, never
copied. One known by its hash alone has no data, and still equals the literal it was printed from.
"""

from __future__ import annotations

import hashlib
import math
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from migx.base.mapping import MappedFile, Stamp, mapped
from migx.errors import DataError, MigxError, SealedWeight, ShapeError
from migx.shape import F32, F64, TUPLE, UNPACKED, DType, Shape, integers


@dataclass(frozen=True)
class Source:
    """A tensor in a file: ``length`` bytes at ``offset`` of ``file``."""

    file: Path
    offset: int
    length: int

    def mapped(self) -> MappedFile | None:
        """The mapped file, None if empty; ``DataError`` if it is missing or too short."""
        try:
            found = mapped(self.file)
        except OSError as error:
            raise DataError(f"cannot read tensor data: {error.strerror}: {self.file}") from error
        size = 0 if found is None else len(found)
        if self.offset + self.length > size:
            raise DataError(
                f"{self.file} has {size} bytes, but a tensor is declared at bytes "
                f"{self.offset} to {self.offset + self.length}"
            )
        return found

    def read(self, file: MappedFile | None) -> NDArray[np.uint8]:
        """The bytes in a file from ``mapped``, read-only."""
        if file is None:
            return np.empty(0, np.uint8)
        return np.frombuffer(file, np.uint8, self.length, self.offset)

    @property
    def present(self) -> bool:
        """Whether the file is there and long enough; a folder is no file, whatever its size."""
        try:
            found = self.file.stat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size >= self.offset + self.length

    def digest(self) -> str:
        """SHA-256 of the bytes, cached until the file changes."""
        content = self.read(self.mapped())
        known = (self, Stamp.of(self.file))
        if known not in _digests:
            _digests[known] = hashlib.sha256(content.data).hexdigest()
        return _digests[known]


_digests: dict[tuple[Source, Stamp], str] = {}


class Argument:
    """A value of a known shape. ``Argument.of(array)`` takes the shape from the array.

    ``data`` is a numpy array (with the shape's dims; flat bytes for packed types), a tuple of
    arguments for a tuple, or any host value for an opaque shape. Equality compares type, dims and
    bits.
    """

    __slots__ = ("__weakref__", "_data", "_digest", "_mapped", "shape", "source")
    sealed: ClassVar[dict[int, set[int]]] = {}
    """The ids of arguments that a thread may not read now; see ``migx.weights.sealed``."""
    elsewhere: ClassVar[bool] = False
    """Whether the value is in memory that the host does not write to."""

    def __init__(
        self,
        shape: Shape,
        data: Any = None,
        *,
        source: Source | None = None,
        digest: str | None = None,
    ) -> None:
        self.shape, self.source = shape, source
        self._data, self._digest = data, digest
        self._mapped: MappedFile | None = None

    @classmethod
    def of(cls, value: Any, dtype: DType | str | None = None) -> Argument:
        """An argument from an array, a number, nested lists, or anything that supports DLPack;
        copied only if necessary.

        Python floats become f32 and Python ints i64 unless ``dtype`` says otherwise. ``ShapeError``
        names an element that the type cannot hold: integers and packed types must hold it exactly,
        other floats are rounded. Arrays of ``ml_dtypes.int4`` and the like are packed. Masked
        arrays are refused if an element is masked.
        """
        if isinstance(value, Argument):
            if dtype is not None and value.shape.dtype is not DType.of(dtype):
                raise ShapeError(f"{value.shape} does not have type {dtype}")
            return value
        array = _array(value)
        made = DType.of(array.dtype)
        wanted = made if dtype is None else DType.of(dtype)
        if dtype is None and made is F64 and not hasattr(value, "dtype"):
            wanted = F32
        if wanted is not made:
            array = _held(array, made, wanted)
        shape = Shape(wanted, array.shape)
        if wanted.is_packed:
            codes = array.view(np.uint8) & np.uint8(2**wanted.bits - 1)
            array = packed_codes(codes.reshape(-1), wanted.bits)
        return cls(shape, array)

    @classmethod
    def packed(cls, shape: Shape, data: bytes | NDArray[np.uint8]) -> Argument:
        """An argument from its bytes in the order of ``tobytes``: standard layout, sub-byte types
        with the low bits first. ``DataError`` if their number is wrong.
        """
        flat = (
            np.frombuffer(data, np.uint8)
            if isinstance(data, bytes)
            else data.reshape(-1).view(np.uint8)
        )
        return cls(shape, _shaped(shape, flat))

    @classmethod
    def tuple(cls, parts: Sequence[Argument]) -> Argument:
        return cls(Shape.tuple(*(p.shape for p in parts)), tuple(parts))

    @property
    def data(self) -> Any:
        """The data, mapped from its source at first use."""
        if Argument.sealed and id(self) in Argument.sealed.get(get_ident(), ()):
            raise SealedWeight(f"the value of a replaceable weight {self.shape} is looked into")
        if self._data is None and self.shape.dtype.is_tensor:
            if type(self).elsewhere:
                raise DataError(f"{type(self).__name__}, a value elsewhere, needs a property data")
            if self.source is None:
                raise DataError(
                    f"a literal {self.shape} is known by its hash alone: its bytes are missing"
                )
            if self._digest is not None and self.source.digest() != self._digest:
                raise DataError(
                    f"{self.source.file} has changed: the bytes of the {self.shape} at "
                    f"{self.source.offset} and on have another hash"
                )
            self._mapped = self._mapped or self.source.mapped()
            self._data = _shaped(self.shape, self.source.read(self._mapped))
        return self._data

    @property
    def mapped(self) -> MappedFile | None:
        """The file the data is mapped from, as it is now or was at first use; None for data in
        memory, or if the file does not exist.
        """
        if self._mapped is None and self._data is None and self.source and self.source.present:
            self._mapped = self.source.mapped()
        return self._mapped

    def give_back(self) -> None:
        """Releases the pages of mapped data, until it is read again."""
        if self._mapped is not None and self.source is not None:
            self._mapped.give_back(self.source.offset, self.source.length)

    def freeze(self) -> None:
        """Makes the data read-only for later readers, so that writing to a result that is a view of
        a literal cannot change the program.
        """
        if isinstance(self._data, np.ndarray):
            self._data = read_only(self._data)

    def read_only(self) -> Argument:
        """The same value in the same memory, read-only."""
        if not isinstance(self._data, np.ndarray) or not self._data.flags.writeable:
            return self
        return Argument(self.shape, read_only(self._data))

    def viewed(self, shape: Shape, array: NDArray[Any]) -> Argument:
        """An argument from an array that may be a view of this value. If this value lies in a file,
        so does a view whose elements are adjacent there.
        """
        made, whole = Argument(shape, array), self._data
        adjacent = array.flags.c_contiguous and shape.strides is None
        if self.source is None or not adjacent or not np.may_share_memory(array, whole):
            return made
        first, start = (a.__array_interface__["data"][0] for a in (whole, array))
        offset = self.source.offset + start - first
        made.source, made._mapped = Source(self.source.file, offset, array.nbytes), self._mapped
        return made

    def by_member(self, change: Callable[[Argument], Argument]) -> Argument:
        """A function's result for the value, or for a tuple, for each of its members."""
        if self.shape.dtype is TUPLE:
            return Argument.tuple([part.by_member(change) for part in self.parts])
        return change(self)

    @classmethod
    def stack(cls, values: Sequence[Argument], axis: int) -> Argument:
        """Values of the same type and dims, stacked along a new axis."""
        return Argument.of(np.stack([value.array for value in values], axis))

    @property
    def available(self) -> bool:
        """Whether the bytes exist, in memory or in a file."""
        return self._data is not None or (self.source is not None and self.source.present)

    @property
    def array(self) -> NDArray[Any]:
        """The value as a numpy array; flat bytes for packed types."""
        data = self.data if self._data is None or Argument.sealed else self._data
        if isinstance(data, np.ndarray):
            return data
        if isinstance(data, np.generic):
            return np.asarray(data)
        raise ShapeError(f"a value of shape {self.shape} is not an array")

    @property
    def elements(self) -> NDArray[Any]:
        """The value as a numpy array of elements; packed types are unpacked to a byte each, as
        ``ml_dtypes.int4`` and the like.
        """
        dtype = self.shape.dtype
        if not dtype.is_packed:
            return self.array
        dims = [int(d) for d in self.shape.dims]
        codes = unpacked_codes(self.array, dtype.bits)[: math.prod(dims)]
        return codes.view(UNPACKED[dtype]).reshape(dims)

    @property
    def parts(self) -> Sequence[Argument]:
        """The members of a tuple."""
        members: Sequence[Argument] = self.data
        return members

    @property
    def nbytes(self) -> int:
        return int(self.shape.nbytes)

    def tobytes(self) -> bytes:
        """The bytes in standard layout."""
        return (
            b"".join(p.tobytes() for p in self.parts) if self.shape.parts else self.array.tobytes()
        )

    def digest(self) -> str:
        """SHA-256 of the bytes in standard layout, computed once."""
        if self._digest is None:
            if Argument.sealed and id(self) in Argument.sealed.get(get_ident(), ()):
                raise SealedWeight(f"the bytes of a replaceable weight {self.shape} are hashed")
            in_file = self._data is None and self.source is not None
            self._digest = self.source.digest() if in_file and self.source else self._hash()
        return self._digest

    def _hash(self) -> str:
        if isinstance(self.data, Sequence):
            return hashlib.sha256("".join(p.digest() for p in self.parts).encode()).hexdigest()
        if not self.shape.dtype.is_tensor:
            return hashlib.sha256(repr(self.data).encode()).hexdigest()
        if self.shape.dtype.kind == "string":
            return hashlib.sha256(repr(self.array.tolist()).encode()).hexdigest()
        return hashlib.sha256(np.ascontiguousarray(self.array).view(np.uint8).data).hexdigest()

    def tolist(self) -> Any:
        return self.array.tolist()

    def is_throughout(self, number: float) -> bool:
        """Whether there are elements and each equals a number, rounded to their type. 0.0 differs
        from -0.0: x + 0.0 is not always x.
        """
        array = self.array
        if not array.size:
            return False
        first, signed = array[(0,) * array.ndim], number == 0 and self.shape.dtype.is_float
        with np.errstate(over="ignore"):  # the number may overflow the type
            if first != number or (signed and _signs(first) != _signs(number)):
                return False
        same = np.all(array == first) and (not signed or np.all(_signs(array) == _signs(first)))
        return bool(same)

    def __getstate__(self) -> Any:
        """The pickled state; for a value in a file, where it is."""
        state: Any = super().__getstate__()
        mapped_data = {} if self.source is None else {"_data": None, "_mapped": None}
        return state[0], state[1] | mapped_data

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Argument) or not self.shape.same_type(other.shape):
            return False
        if self.source is not None and self.source == other.source:
            return True
        return self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.shape.as_standard())

    def __repr__(self) -> str:
        return f"Argument({self.shape})"


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The array if it is read-only, otherwise a read-only view of it."""
    if array.flags.writeable:
        array = array.view()
        array.setflags(write=False)
    return array


def _from_dlpack(value: Any) -> NDArray[Any]:
    """A value of another library as an array in this machine's memory."""
    try:
        return np.from_dlpack(value)
    except MigxError:
        raise
    except Exception as error:  # another library's code may raise anything
        raise ShapeError(
            f"{type(value).__name__} gives no array by DLPack, {type(error).__name__}: {error}; "
            "give one in this machine's memory, such as numpy.asarray of it"
        ) from error


def _array(value: Any) -> NDArray[Any]:
    """Anything array-like as an array in native byte order, with strings as Python objects."""
    if not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__"):
        value = _from_dlpack(value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ShapeError(
            f"{type(value).__name__} is no array: its rows differ in length"
        ) from error
    if array is not value and isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        masked = np.count_nonzero(np.ma.getmaskarray(value))
        raise ShapeError(
            f"elements that are masked have no value, {masked} of {value.size}: fill them, as in "
            "array.filled(0)"
        )
    if array.dtype.kind in "US":
        array = np.asarray(value, object)
    if array.dtype == object:
        kinds = {type(each) for each in array.flat}
        if other := [kind.__name__ for kind in kinds if not issubclass(kind, str)]:
            what = type(value).__name__
            of = "" if other == [what] else f" of {' and '.join(sorted(other))}"
            raise ShapeError(f"{what}{of} is neither numbers nor text")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


_WIDE = {"bool": np.uint8, "uint": np.uint64, "int": np.int64, "float": np.float64}


def _held(array: NDArray[Any], given: DType, wanted: DType) -> NDArray[Any]:
    """Elements converted to another type. ``ShapeError`` names one that it cannot hold."""
    if given.kind not in _WIDE or wanted.kind not in _WIDE:
        raise ShapeError(f"{given} does not convert to {wanted}")
    if given.is_packed or (given.is_float and given.bits == 8):  # numpy casts these to few types
        array = array.astype(_WIDE[given.kind])
    with np.errstate(all="ignore"):
        made: NDArray[Any] = array.astype(UNPACKED.get(wanted, wanted.numpy))
        rounded = wanted.is_float and not wanted.is_packed
        if np.can_cast(array.dtype, made.dtype) or (rounded and np.isfinite(made).all()):
            return made
        wide = array.astype(_WIDE[given.kind])
        lost = _lost(wide, made, wanted)
    if lost.any():
        why = f"it would become {made[lost][0]}"
        if not wanted.is_float:
            why = "it holds whole numbers from {} to {}".format(*integers(wanted))
        raise ShapeError(f"{wide[lost][0]} is no element of {wanted}: {why}")
    return made


def _lost(wide: NDArray[Any], made: NDArray[Any], wanted: DType) -> Any:
    """A mask of the elements that another type cannot hold."""
    if wanted.is_float and not wanted.is_packed:
        return (np.isfinite(wide) != np.isfinite(made)) | (np.isnan(wide) != np.isnan(made))
    lost = made.astype(wide.dtype) != wide
    if wanted.is_float:
        return lost
    least, greatest = integers(wanted)
    return lost | (wide < least) | (wide >= greatest + 1)


def packed_codes(codes: NDArray[Any], bits: int) -> NDArray[Any]:
    """Codes of a few bits packed into bytes along the last axis, padded with zeros."""
    per, count = 8 // bits, codes.shape[-1]
    lanes = np.zeros((*codes.shape[:-1], -(-count // per) * per), np.uint8)
    lanes[..., :count] = codes
    packed = lanes[..., ::per].copy()
    for lane in range(1, per):
        packed |= lanes[..., lane::per] << lane * bits
    return packed


def unpacked_codes(data: NDArray[Any], bits: int) -> NDArray[Any]:
    """The codes of a few bits in packed bytes, in order, padding included."""
    per = 8 // bits
    codes = np.empty((data.size, per), np.uint8)
    for lane in range(per):
        np.bitwise_and(data >> lane * bits, (1 << bits) - 1, out=codes[:, lane])
    return codes.reshape(-1)


def _signs(number: Any) -> Any:
    return np.signbit(np.asarray(number, np.float64))


def _shaped(shape: Shape, flat: NDArray[np.uint8]) -> NDArray[Any]:
    """Bytes as an array of the shape, copied only if misaligned."""
    if len(flat) != shape.nbytes:
        raise DataError(f"{shape} takes {shape.nbytes} bytes, got {len(flat)}")
    if shape.dtype.is_packed:
        return flat
    array = np.frombuffer(flat, shape.dtype.numpy) if len(flat) else np.empty(0, shape.dtype.numpy)
    aligned: NDArray[Any] = np.require(array, requirements="A")
    return aligned.reshape([int(d) for d in shape.dims])
