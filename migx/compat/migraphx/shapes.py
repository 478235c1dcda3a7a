"""MIGraphX's shapes: lens, strides, and an enum of element types whose integers programs use."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any, TypeAlias

from migx import dim
from migx.dim import Dim, Extent
from migx.errors import CompatError, ShapeError
from migx.parser import within
from migx.shape import TUPLE, DType, Shape, row_major
from migx.syntax import Reader

UNBOUNDED = 2**64 - 1
"""The ``max`` of a dim without an upper bound."""


class type_t(enum.IntEnum):
    """Element types. The integers are MIGraphX's, which ``convert`` takes."""

    bool_type = 0
    half_type = 1
    float_type = 2
    double_type = 3
    uint8_type = 4
    int8_type = 5
    uint16_type = 6
    int16_type = 7
    int32_type = 8
    int64_type = 9
    uint32_type = 10
    uint64_type = 11
    fp8e4m3fnuz_type = 12
    fp8e4m3fn_type = 13
    fp8e5m2_type = 14
    bf16_type = 15
    fp8e5m2fnuz_type = 16


PREFIXES = {"half": "f16", "float": "f32", "double": "f64", "uint": "u", "int": "i", "fp8": "f8"}
"""Prefixes of element type names in MIGraphX and in migx."""


def _dtype(code: type_t) -> DType:
    name = code.name.removesuffix("_type")
    known = next((p for p in PREFIXES if name.startswith(p)), "")
    return DType.of(PREFIXES.get(known, "") + name.removeprefix(known))


DTYPES = {code: _dtype(code) for code in type_t}
TYPES = {dtype: code for code, dtype in DTYPES.items()}


def type_of(dtype: DType) -> type_t:
    """The enum's member for an element type; ``CompatError`` if MIGraphX has none."""
    if dtype not in TYPES:
        raise CompatError(f"MIGraphX's API has no element type {dtype}; migx.Program shows it")
    return TYPES[dtype]


def dtype_of(given: str | int) -> DType:
    """The element type for a name (``float``, ``float_type``) or a member of the enum."""
    if not isinstance(given, str):
        return DTYPES[type_t(given)]
    name = given if given.endswith("_type") else f"{given}_type"
    if name not in type_t.__members__:
        known = ", ".join(m.removesuffix("_type") for m in type_t.__members__)
        raise ShapeError(f"no element type {given!r}; there are {known}")
    return DTYPES[type_t[name]]


class dynamic_dimension:
    """A dim between ``min`` and ``max``, both inclusive. ``optimals`` are sizes worth a specialised
    variant. ``dynamic_dimension("2 * n + 1", {"n": dynamic_dimension(1, 4)})`` is computed from
    named dims, which are the same in all shapes.
    """

    def __init__(
        self,
        min: int | str = 0,
        max: int | Mapping[str, dynamic_dimension] = 0,
        optimals: Iterable[int] = (),
    ) -> None:
        self.expression: Dim | None = None
        if isinstance(min, str) or isinstance(max, Mapping):
            self._hold(_parsed(str(min), max if isinstance(max, Mapping) else {}))
            return
        self.min, self.max, self.optimals = index(min), index(max), set(optimals)
        if not 0 <= self.min <= self.max:
            raise ShapeError(f"a dim from {min} to {max}: 0 <= min <= max is wanted")

    @classmethod
    def of(cls, extent: Extent) -> dynamic_dimension:
        """An extent of a program: a number, or an expression over symbols."""
        made = cls.__new__(cls)
        made._hold(extent)
        return made

    def _hold(self, extent: Extent) -> None:
        """Sets the extent, its bounds, and the optimals of a symbol."""
        low, high = dim.bounds(extent)
        if high < 0:
            raise ShapeError(f"a dim of {extent} is below 0, whatever its symbols are")
        self.expression = extent if isinstance(extent, Dim) else None
        symbol = self.expression.symbol if self.expression is not None else None
        self.min, self.max = int(max(low, 0)), UNBOUNDED if high == math.inf else int(high)
        self.optimals = set(symbol.optimals if symbol else ())

    @property
    def high(self) -> int | None:
        """The largest size; None if unbounded."""
        return None if self.max == UNBOUNDED else self.max

    def is_fixed(self) -> bool:
        """Whether it is a single number."""
        return self.min == self.max

    def is_symbolic(self) -> bool:
        """Whether it is an expression over symbols, like the dims of programs."""
        return self.expression is not None

    def extent(self, name: str) -> Extent:
        """Its number, its expression, or the symbol ``name`` with its bounds."""
        if self.expression is not None:
            return self.expression
        if self.is_fixed():
            return self.min
        return Dim(name, self.min, self.high, self.optimals)

    def __repr__(self) -> str:
        told = ", ".join(map(str, sorted(self.optimals)))
        span = str(self.min) if self.is_fixed() else f"[{self.min}..{self.max}]"
        return f"{span}|{{{told}}}" if told else span


def _parsed(text: str, symbols: Mapping[str, dynamic_dimension]) -> Extent:
    """The extent of an expression over symbols; ``ShapeError`` if it is invalid, or names an
    unknown symbol.
    """
    reader = Reader(f"[{text.replace('//', '/').replace('/', '//')}]", within("."))
    reader.symbols = {
        name: Dim(name, bounds.min, bounds.high, bounds.optimals)
        for name, bounds in symbols.items()
    }
    read = reader.extents("[", "]")
    if len(read) != 1 or reader.next.kind != "end":
        raise ShapeError(f"{text!r} is no expression over symbols, such as '2 * n + 1'")
    if unknown := [s.name for s in dim.symbols(read[0]) if s.name not in symbols]:
        raise ShapeError(f"{text!r} names {unknown[0]!r}, whose bounds are not given")
    extent: Extent = read[0]
    return extent


Code: TypeAlias = type_t
Dimension: TypeAlias = dynamic_dimension


class shape:
    """Element type, lens and strides; or, with ``dyn_dims``, dims known only at run time.

    A scalar has lens [1] and strides [0], as in MIGraphX. ``ShapeError`` says what is invalid.
    """

    type_t = type_t
    dynamic_dimension = dynamic_dimension

    def __init__(
        self,
        *,
        type: str | int = "float",
        lens: Sequence[int] = (1,),
        strides: Sequence[int] | None = None,
        permutation: Sequence[int] | None = None,
        dyn_dims: Sequence[Dimension] = (),
    ) -> None:
        self._dtype, self._dyn_dims = dtype_of(type), list(dyn_dims)
        self._lens = [] if dyn_dims else [int(n) for n in lens]
        if strides is not None and permutation is not None:
            raise ShapeError("a shape takes strides or a permutation, not both")
        if strides is not None and len(strides) != len(lens):
            raise ShapeError(f"{len(strides)} strides for {len(lens)} lens")
        if any(n < 0 for n in (*self._lens, *(strides or ()))):
            raise ShapeError(f"lens {list(lens)} and strides {strides} cannot be negative")
        if permutation is not None:
            strides = _permuted(self._lens, permutation)
        standard = [int(s) for s in row_major(self._lens)]
        self._strides = standard if strides is None else [int(s) for s in strides]

    @classmethod
    def of(cls, given: Shape) -> shape:
        """The shape of a program's value. One without dims is a scalar."""
        if given.dtype is TUPLE:
            return tuple_shape(given.parts)
        code = type_of(given.dtype)
        if not given.static:
            return cls(type=code, dyn_dims=[Dimension.of(d) for d in given.dims])
        if not given.dims:
            return cls(type=code, lens=[1], strides=[0])
        dims, strides = given.bind({}).dims, given.true_strides
        return cls(type=code, lens=[int(d) for d in dims], strides=[int(s) for s in strides])

    def declared(self, name: str) -> Shape:
        """The shape of a parameter with this name; dynamic dims become symbols named after it."""
        if self.dynamic():
            return Shape(
                self._dtype, [d.extent(f"{name}.{i}") for i, d in enumerate(self._dyn_dims)]
            )
        return self.migx()

    def migx(self) -> Shape:
        """The migx shape; ``ShapeError`` if it is dynamic."""
        if self.scalar() and self._lens == [1]:
            return Shape(self._dtype)
        return Shape(self._dtype, self.lens(), self._strides)

    def type(self) -> Code:
        return TYPES[self._dtype]

    def lens(self) -> list[int]:
        """The dims; ``ShapeError`` if they are dynamic."""
        if self.dynamic():
            raise ShapeError(f"{self} has no lens but dyn_dims")
        return list(self._lens)

    def strides(self) -> list[int]:
        """The strides in elements; ``ShapeError`` if dims are dynamic."""
        self.lens()
        return list(self._strides)

    def ndim(self) -> int:
        return len(self._dyn_dims or self._lens)

    def elements(self) -> int:
        return math.prod(self.lens())

    def bytes(self) -> int:
        """The bytes of the memory it spans; a broadcast spans fewer than its elements."""
        return self.type_size() * self.element_space()

    def element_space(self) -> int:
        """The number of elements in the memory that it spans."""
        if not self.elements():
            return 0
        return 1 + sum((n - 1) * s for n, s in zip(self._lens, self._strides, strict=True))

    def type_string(self) -> str:
        return self.type().name

    def type_size(self) -> int:
        return self._dtype.bits // 8

    def dyn_dims(self) -> list[Dimension]:
        return list(self._dyn_dims)

    def dynamic(self) -> bool:
        return bool(self._dyn_dims)

    def packed(self) -> bool:
        """Whether the elements fill their memory exactly once, in any order of axes."""
        return not self.dynamic() and self.elements() == self.element_space()

    def transposed(self) -> bool:
        """Whether the strides, zeros aside, are not in descending order."""
        moving = [s for s in self._strides if s]
        return not self.dynamic() and moving != sorted(moving, reverse=True)

    def broadcasted(self) -> bool:
        """Whether some stride is 0."""
        return not self.dynamic() and 0 in self._strides

    def standard(self) -> bool:
        """Whether the elements are row-major without gaps or repetition."""
        falling = self._strides == sorted(self._strides, reverse=True)
        return self.packed() and falling

    def scalar(self) -> bool:
        """Whether all elements are the same one."""
        return not self.dynamic() and self.elements() > 0 and not any(self._strides)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, shape) and self._key() == other._key()

    __hash__ = None  # type: ignore[assignment]

    def _key(self) -> tuple[Any, ...]:
        dims = [(d.min, d.max, d.optimals) for d in self._dyn_dims]
        return self._dtype, self._lens, self._strides, dims

    def __repr__(self) -> str:
        lists = [self._dyn_dims] if self.dynamic() else [self._lens, self._strides]
        texts = ["{" + ", ".join(map(str, each)) + "}" for each in lists]
        return ", ".join(["dynamic"] * self.dynamic() + [self.type_string(), *texts])


class tuple_shape(shape):
    """The shape of a tuple, from which ``get_tuple_elem`` picks a value."""

    def __init__(self, parts: Iterable[Shape]) -> None:
        super().__init__(lens=[])
        self.parts = [shape.of(part) for part in parts]

    def type_string(self) -> str:
        return "tuple_type"

    def type(self) -> Code:
        raise CompatError(
            f"MIGraphX's API has no element type for {self}: get_tuple_elem picks one"
        )

    def bytes(self) -> int:
        return sum(part.bytes() for part in self.parts)

    def _key(self) -> tuple[Any, ...]:
        return tuple(part._key() for part in self.parts)

    def __repr__(self) -> str:
        return f"[{', '.join(map(str, self.parts))}]"


def _permuted(lens: Sequence[int], permutation: Sequence[int]) -> list[int]:
    """The strides of a tensor whose axes are in memory in the order of the permutation."""
    if sorted(permutation) != list(range(len(lens))):
        raise ShapeError(f"{list(permutation)} does not permute the {len(lens)} axes of {lens}")
    strides = [0] * len(lens)
    for axis, stride in zip(permutation, row_major([lens[i] for i in permutation]), strict=True):
        strides[axis] = int(stride)
    return strides


__all__ = ["dynamic_dimension", "shape", "type_t"]
