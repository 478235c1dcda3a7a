"""The type of a value: element type, dims and strides; or a tuple of shapes; or an opaque host
value.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import ml_dtypes
import numpy as np

from migx import dim
from migx.dim import Dim, Extent
from migx.dims.intervals import whole_number
from migx.dims.symbol import Symbol
from migx.errors import ShapeError

Dims: TypeAlias = tuple[Extent, ...]
Parts: TypeAlias = "tuple[Shape, ...]"
Symbols: TypeAlias = tuple[Symbol, ...]
EXTENTS = frozenset({int, Dim})
MOST_AXES = 64
"""The most axes of a numpy array."""


class DType:
    """An element type. Each is one object, so ``is`` compares them; ``DType.of("f32")`` finds it by
    name.

    ``kind`` is one of ``bool``, ``int``, ``uint``, ``float``, ``string``, ``tuple``, ``opaque``.
    ``bits`` is the width of an element in memory. Types under eight bits are storage types: packed
    (``is_packed``: several elements share a byte), in standard layout, and read only by unpacking.
    ``digits`` is the length of the significand in bits, the hidden bit included; 0 if the type is
    not rounded.
    """

    __slots__ = (
        *("bits", "digits", "kind", "name", "numpy"),
        *("is_float", "is_integer", "is_packed", "is_tensor"),
    )
    known: ClassVar[dict[str, DType]] = {}

    def __init__(self, name: str, kind: str, bits: int, numpy: Any, digits: int = 0) -> None:
        self.name, self.kind, self.bits, self.digits = name, kind, bits, digits
        self.numpy: np.dtype[Any] = np.dtype(numpy)
        self.is_float, self.is_integer = kind == "float", kind in ("int", "uint")
        self.is_packed, self.is_tensor = bits in (2, 4), kind not in ("tuple", "opaque")
        DType.known[name] = self

    @staticmethod
    def of(given: DType | str | np.dtype[Any] | type) -> DType:
        """The element type for a name (``f32``), a numpy type, or itself."""
        if isinstance(given, DType):
            return given
        found = DType.known.get(given) if isinstance(given, str) else _by_numpy(given)
        if found is None:
            raise ShapeError(no_type(given))
        return found

    @property
    def roundoff(self) -> float:
        """The unit roundoff, the largest relative error of rounding to nearest; 0 if exact."""
        return 2.0**-self.digits if self.digits else 0.0

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"DType.of({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return DType.of, (self.name,)


BOOL = DType("bool", "bool", 8, np.bool_)
I8, I16 = DType("i8", "int", 8, np.int8), DType("i16", "int", 16, np.int16)
I32, I64 = DType("i32", "int", 32, np.int32), DType("i64", "int", 64, np.int64)
U8, U16 = DType("u8", "uint", 8, np.uint8), DType("u16", "uint", 16, np.uint16)
U32, U64 = DType("u32", "uint", 32, np.uint32), DType("u64", "uint", 64, np.uint64)
F16, BF16 = (
    DType("f16", "float", 16, np.float16, 11),
    DType("bf16", "float", 16, ml_dtypes.bfloat16, 8),
)
F32, F64 = DType("f32", "float", 32, np.float32, 24), DType("f64", "float", 64, np.float64, 53)
F8E4M3FN = DType("f8e4m3fn", "float", 8, ml_dtypes.float8_e4m3fn, 4)
F8E4M3FNUZ = DType("f8e4m3fnuz", "float", 8, ml_dtypes.float8_e4m3fnuz, 4)
F8E5M2 = DType("f8e5m2", "float", 8, ml_dtypes.float8_e5m2, 3)
F8E5M2FNUZ = DType("f8e5m2fnuz", "float", 8, ml_dtypes.float8_e5m2fnuz, 3)
F8E8M0 = DType("f8e8m0", "float", 8, ml_dtypes.float8_e8m0fnu, 1)
_BY_NUMPY = {t.numpy: t for t in DType.known.values()}
# Storage types: their numpy type is that of the bytes they are packed into.
I4, U4 = DType("i4", "int", 4, np.uint8), DType("u4", "uint", 4, np.uint8)
I2, U2 = DType("i2", "int", 2, np.uint8), DType("u2", "uint", 2, np.uint8)
F4 = DType("f4", "float", 4, np.uint8, 2)
# Host types: arrays of Python strings, tuples, and values that no kernel reads.
STR = DType("str", "string", 0, np.object_)
TUPLE = DType("tuple", "tuple", 0, np.object_)
SEQUENCE = DType("sequence", "opaque", 0, np.object_)
OPTIONAL = DType("optional", "opaque", 0, np.object_)
MAP = DType("map", "opaque", 0, np.object_)
_BY_NUMPY[STR.numpy] = STR

UNPACKED: dict[DType, np.dtype[Any]] = {
    I4: np.dtype(ml_dtypes.int4), U4: np.dtype(ml_dtypes.uint4), I2: np.dtype(ml_dtypes.int2),
    U2: np.dtype(ml_dtypes.uint2), F4: np.dtype(ml_dtypes.float4_e2m1fn),
}  # fmt: skip
"""The numpy types of unpacked elements: one to a byte."""
_BY_NUMPY.update({numpy: dtype for dtype, numpy in UNPACKED.items()})
_CALLED = {
    **{numpy.name: dtype.name for numpy, dtype in _BY_NUMPY.items() if dtype is not STR},
    "half": "f16", "float": "f32", "double": "f64", "short": "i16", "int": "i32 or i64",
    "long": "i64", "string": "str",
}  # fmt: skip
"""Element types by the names that other libraries use."""


def _by_numpy(given: Any) -> DType | None:
    """The element type for a numpy type; None for anything else, or one without a counterpart."""
    try:
        return None if given is None else _BY_NUMPY.get(np.dtype(given))
    except TypeError:
        return None


def no_type(given: object) -> str:
    """The message for an unknown element type: its name here, if only the name differs, or all that
    there are.
    """
    name = str(given).rpartition(".")[2].lower()
    called = _CALLED.get(name, name if name in DType.known else None)
    known = f"; there are {', '.join(DType.known)}"
    return (
        f"no element type {given!r}{known if called is None else f': it is called {called} here'}"
    )


class Shape:
    """The type of a value: ``Shape("f32", (2, 3))``, ``Shape("f32", (Dim("batch"), 3))``,
    ``Shape.tuple(a, b)``.

    ``strides`` count elements, one for each dim; None is standard layout (row-major and packed),
    and equivalent strides are stored as None. Tuples, sequences, optionals and maps have ``parts``
    and no dims. Immutable and hashable.
    """

    __slots__ = ("_bare", "_hash", "_symbols", "_text", "dims", "dtype", "parts", "strides")
    dtype: DType
    dims: Dims
    strides: Dims | None
    parts: Parts

    def __init__(
        self,
        dtype: DType | str,
        dims: Iterable[Extent] = (),
        strides: Iterable[Extent] | None = None,
        parts: Parts = (),
    ) -> None:
        self.dtype = dtype if type(dtype) is DType else DType.of(dtype)
        given = type(dims) is tuple and EXTENTS.issuperset(map(type, dims))
        self.dims = dims if given else _extents("dims", dims)  # type: ignore[assignment]
        self.parts = parts
        self.strides = None if strides is None else self._checked(_extents("strides", strides))
        self._hash: int | None = None
        self._symbols: Symbols | None = None
        self._bare: frozenset[str] | None = None
        self._text: str | None = None
        for extent in self.dims:
            if type(extent) is int and extent < 0:
                raise ShapeError(f"a dim cannot be negative: {extent} in {self.dims}")
        if len(self.dims) > MOST_AXES:
            raise ShapeError(f"a tensor has at most {MOST_AXES} axes, not {len(self.dims)}")

    def _checked(self, strides: Dims) -> Dims | None:
        if len(strides) != len(self.dims):
            raise ShapeError(f"{len(strides)} strides for {len(self.dims)} dims")
        if any(type(stride) is int and stride < 0 for stride in strides):
            if 0 not in self.dims:
                raise ShapeError(f"a stride cannot be negative: {strides}")
            strides = tuple(dim.maximum(stride, 0) for stride in strides)  # it has no elements
        same = all(
            d == 1 or s == t
            for d, s, t in zip(self.dims, strides, row_major(self.dims), strict=True)
        )
        if self.dtype.is_packed and not same:
            raise ShapeError(
                f"{self.dtype} is packed storage: standard layout only, not strides {strides}"
            )
        # The stride of an axis of size 1 is irrelevant: stored as 0, so that equal layouts are
        # equal.
        return (
            None
            if same
            else tuple(0 if d == 1 else s for d, s in zip(self.dims, strides, strict=True))
        )

    @classmethod
    def tuple(cls, *parts: Shape) -> Shape:
        """The shape of a tuple of values."""
        return cls(TUPLE, parts=parts)

    @classmethod
    def opaque(cls, dtype: DType | str, *parts: Shape) -> Shape:
        """The shape of a host value that no kernel reads: ``sequence``, ``optional`` or ``map``."""
        return cls(dtype, parts=parts)

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def elements(self) -> Extent:
        """The number of elements, repeated ones counted each time."""
        return dim.product(self.dims)

    @property
    def element_space(self) -> Extent:
        """The number of elements in memory; less than ``elements`` for a broadcast."""
        if self.strides is None:
            return self.elements
        if any(d == 0 for d in self.dims):
            return 0
        return 1 + sum((d - 1) * s for d, s in zip(self.dims, self.strides, strict=True))

    @property
    def nbytes(self) -> Extent:
        """The size in bytes, sub-byte types packed; the sum over the parts of a tuple."""
        if self.parts:
            return sum(part.nbytes for part in self.parts)
        return (self.element_space * self.dtype.bits + 7) // 8

    @property
    def standard(self) -> bool:
        """Whether elements are row-major without gaps or repetition."""
        return self.strides is None

    @property
    def true_strides(self) -> Dims:
        """The strides, also if they are standard."""
        return row_major(self.dims) if self.strides is None else self.strides

    @property
    def broadcasted(self) -> bool:
        """Whether some axis of more than one element has stride 0."""
        return any(s == 0 and d != 1 for d, s in zip(self.dims, self.strides or (), strict=False))

    @property
    def packed(self) -> bool:
        """Whether the elements fill their memory exactly once, in any order of axes."""
        return not self.broadcasted and self.element_space == self.elements

    @property
    def transposed(self) -> bool:
        """Whether the strides are not in descending order."""
        moving = [s for d, s in zip(self.dims, self.true_strides, strict=True) if d != 1 and s != 0]
        falling = (dim.at_most(b, a) for a, b in itertools.pairwise(moving))
        return self.strides is not None and not all(falling)

    @property
    def static(self) -> bool:
        """Whether it has no symbols."""
        return not self.symbols()

    def symbols(self) -> Symbols:
        """The symbols in dims, strides and parts, with repetition. An opaque host value has none:
        its symbols are no sizes, but say that its elements differ.
        """
        if self._symbols is None:
            self._symbols = () if self.dtype.kind == "opaque" else tuple(self._found_symbols())
        return self._symbols

    def bare_symbols(self) -> frozenset[str]:
        """The names of the symbols that are by themselves a dim, of this shape or a part: a value
        of this shape tells their sizes.
        """
        if self._bare is None:
            shapes = () if self.static else (self, *self.parts)  # a host value is static, too
            dims = (extent for shape in shapes for extent in shape.dims)
            symbols = (extent.symbol for extent in dims if isinstance(extent, Dim))
            self._bare = frozenset(s.name for s in symbols if s is not None)
        return self._bare

    def _found_symbols(self) -> Iterator[Symbol]:
        for extent in (*self.dims, *(self.strides or ())):
            if isinstance(extent, Dim):
                yield from dim.symbols(extent)
        for part in self.parts:
            yield from part.symbols()

    def substitute(self, values: Mapping[str, Extent]) -> Shape:
        """This shape with symbols replaced by the extents given."""
        return self.mapped(lambda e: dim.substitute(e, values))

    def bind(self, sizes: Mapping[str, int]) -> Shape:
        """This shape with every symbol replaced by its size; ``DimError`` names one without."""
        return self.mapped(lambda e: dim.evaluate(e, sizes))

    def mapped(self, change: Callable[[Extent], Extent]) -> Shape:
        """This shape with a function applied to each extent, also in strides and parts; itself if
        it has no symbols.
        """
        if self.static:
            return self
        strides = None if self.strides is None else tuple(map(change, self.strides))
        parts = tuple(p.mapped(change) for p in self.parts)
        return Shape(self.dtype, tuple(map(change, self.dims)), strides, parts)

    def with_dims(self, dims: Iterable[Extent], strides: Iterable[Extent] | None = None) -> Shape:
        return Shape(self.dtype, dims, strides)

    def with_type(self, dtype: DType | str) -> Shape:
        """The shape with the same dims, another element type and standard layout."""
        return Shape(dtype, self.dims)

    def as_standard(self) -> Shape:
        return self if self.strides is None else Shape(self.dtype, self.dims)

    def permuted(self, permutation: Sequence[int]) -> Shape:
        """The view in which axis ``i`` is axis ``permutation[i]`` of this shape."""
        if sorted(permutation) != list(range(self.rank)):
            raise ShapeError(
                f"{tuple(permutation)} does not permute the {self.rank} axes of {self}"
            )
        strides = self.true_strides
        return Shape(
            self.dtype, [self.dims[i] for i in permutation], [strides[i] for i in permutation]
        )

    def same_type(self, other: Shape) -> bool:
        """Whether element type and dims agree, whatever the layout."""
        return self is other or (
            self.dtype is other.dtype
            and self.dims == other.dims
            and len(self.parts) == len(other.parts)
            and all(a.same_type(b) for a, b in zip(self.parts, other.parts, strict=True))
        )

    def may_match(self, other: Shape) -> bool:
        """Whether element type and dims agree for some sizes of the symbols; False is a proof that
        they never do.
        """
        return (
            self.dtype is other.dtype
            and self.rank == other.rank
            and len(self.parts) == len(other.parts)
            and all(map(dim.may_equal, self.dims, other.dims))
            and all(a.may_match(b) for a, b in zip(self.parts, other.parts, strict=True))
        )

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Shape)
            and self.dtype is other.dtype
            and self.dims == other.dims
            and self.strides == other.strides
            and self.parts == other.parts
        )

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash((self.dtype.name, self.dims, self.strides, self.parts))
        return self._hash

    @property
    def text(self) -> str:
        """Element type and dims without layout: ``f32[batch, 3]``, ``tuple(f32[2], i64[3])``,
        ``sequence(f32[2])``.
        """
        if self._text is None:
            if self.dtype.is_tensor:
                self._text = f"{self.dtype.name}[{', '.join(map(str, self.dims))}]"
            else:
                self._text = f"{self.dtype.name}({', '.join(map(str, self.parts))})"
        return self._text

    def __str__(self) -> str:
        return (
            self.text
            if self.strides is None
            else f"{self.text}{{{', '.join(map(str, self.strides))}}}"
        )

    def __repr__(self) -> str:
        return f"<{self}>"


def integers(dtype: DType) -> tuple[int, int]:
    """The least and the greatest value of an integer type, or of bool."""
    if dtype is BOOL:
        return 0, 1
    half = 1 << (dtype.bits - 1)
    return (-half, half - 1) if dtype.kind == "int" else (0, 2 * half - 1)


def _extents(what: str, given: Iterable[Extent]) -> Dims:
    """The extents as a tuple; ``ShapeError`` if a single one, or nothing iterable, is given, or one
    is not an integer.
    """
    if not isinstance(given, Iterable):
        raise ShapeError(f"{what} are a tuple, as ({given!r},), not {given!r}")
    return tuple(e if type(e) in EXTENTS else _whole(e) for e in given)


def _whole(given: Any) -> int:
    """An integer of numpy's, or of any type with ``__index__``, as an ``int``."""
    if (number := whole_number(given)) is None:
        symbol = f"; Dim({given!r}) is the symbol" if isinstance(given, str) else ""
        kind = type(given).__name__
        raise ShapeError(f"a dim is an int or a Dim, not {given!r} of {kind}{symbol}")
    return number


def row_major(dims: Sequence[Extent]) -> Dims:
    """The strides of standard layout for some dims."""
    strides: list[Extent] = []
    step: Extent = 1
    for extent in reversed(dims):
        strides.append(step)
        step = step * extent
    return tuple(reversed(strides))
