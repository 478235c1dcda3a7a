"""Maps: host values with a value for each of some keys. No kernel reads them.

The data of a map is two arguments, its keys and their values, both of rank 1; its shape says what
types they have: ``map(str[varies], f32[varies])``. Classifiers of ``ai.onnx.ml`` give scores in
maps, one for each row, the labels being the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np

from migx import dim
from migx.argument import Argument
from migx.errors import ShapeError
from migx.op import Arguments, Array, Modules, Op, Shapes
from migx.ops._rules import expect
from migx.ops.sequences import HOST, VARIES, expect_kind
from migx.shape import I64, MAP, SEQUENCE, STR, DType, Shape


def map_of(key: DType, value: DType) -> Shape:
    """The shape of a map from keys of a type, i64 or str, to values of another."""
    if key not in (I64, STR) or not value.is_tensor or value.is_packed:
        raise ShapeError(f"a map is from i64 or str to numbers or str, not from {key} to {value}")
    return Shape.opaque(MAP, Shape(key, (VARIES,)), Shape(value, (VARIES,)))


class Rows(Sequence[Argument]):
    """Maps of the same keys, each with a row of values, created on access."""

    def __init__(self, part: Shape, keys: Argument, values: Argument) -> None:
        self.part, self.keys, self.values = part, keys, values
        self._row = Shape(values.shape.dtype, values.shape.dims[1:])

    def __len__(self) -> int:
        return len(self.values.array)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return Rows(self.part, self.keys, Argument.of(self.values.array[at]))
        return Argument(self.part, (self.keys, Argument(self._row, self.values.array[at])))

    def dicts(self) -> list[dict[Any, Any]]:
        """The maps as Python dicts, made without a step of the interpreter for each."""
        return list(map(dict, map(zip, repeat(self.keys.tolist()), self.values.tolist())))


class ZipMap(Op):
    """A sequence of maps, one for each row of the second input, from the keys, the first input, to
    its elements (ONNX ZipMap-1).
    """

    traits = HOST

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2)
        keys, rows = shapes
        if (keys.rank, rows.rank) != (1, 2) or not dim.may_equal(keys.dims[0], rows.dims[1]):
            raise ShapeError(f"{self.name}: {rows.text} has no column for each of {keys.text}")
        return Shape.opaque(SEQUENCE, map_of(keys.dtype, rows.dtype))

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        return Argument(shape, Rows(shape.parts[0], *arguments))


class MapLookup(Op):
    """The values of a map at the keys of the second input; 0, or the empty string, for a missing
    key (ONNX DictVectorizer-1).
    """

    traits = HOST

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2)
        whole, wanted = shapes
        expect_kind(self, whole, MAP)
        if wanted.dtype is not whole.parts[0].dtype or wanted.rank != 1:
            raise ShapeError(f"{self.name}: {wanted.text} are no keys of {whole.text}")
        return Shape(whole.parts[1].dtype, wanted.dims)

    def compute(self, shape: Shape, arguments: Arguments) -> Argument:
        keys, values = (part.array for part in arguments[0].parts)
        held = dict(zip(keys.tolist(), values, strict=True))
        none = "" if shape.dtype is STR else shape.dtype.numpy.type(0)
        found = [held.get(key, none) for key in arguments[1].tolist()]
        return Argument(shape, np.array(found, shape.dtype.numpy))


class MapValues(Op):
    """The values of a map in the order of its keys; ``count`` is a symbol for their number (ONNX
    CastMap-1).
    """

    traits = HOST
    count: dim.Extent

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        expect_kind(self, shapes[0], MAP)
        return Shape(shapes[0].parts[1].dtype, (self.count,))

    def compute(self, arguments: Arguments) -> Argument:
        keys, values = (part.array for part in arguments[0].parts)
        return Argument.of(values[np.argsort(keys, kind="stable")])


class KeyPlaces(Op):
    """For each string of the first input, the place of the first key equal to it, or the number of
    keys if there is none; the keys are the second input.
    """

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2)
        x, keys = shapes
        if x.dtype is not STR or keys.dtype is not STR or keys.rank != 1:
            raise ShapeError(
                f"{self.name} takes strings and a vector of them, not {x.text} and {keys.text}"
            )
        return Shape(I64, x.dims)

    def compute(self, x: Array, keys: Array) -> Array:
        places = dict(zip(keys[::-1].tolist(), range(len(keys) - 1, -1, -1), strict=True))
        found = [places.get(text, len(keys)) for text in x.reshape(-1).tolist()]
        return np.asarray(found, np.int64).reshape(x.shape)
