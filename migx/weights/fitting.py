"""Checks values given for weights, and converts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from migx.argument import Argument
from migx.base.memory import copy
from migx.errors import DataError, ShapeError, WeightError, counted, first_few, there_are
from migx.shape import U8, Shape


def fitted(
    name: str,
    value: ArrayLike | Argument,
    shape: Shape,
    *,
    convert: bool = False,
    remedy: str = "say convert=True",
) -> Argument:
    """A value as a weight of the given shape. ``WeightError`` if type or dims differ; with
    ``convert``, the type may. ``remedy`` says how the caller would ask for that.

    Packed weights are given as an ``Argument``, as their packed bytes, or as unpacked elements.
    """
    try:
        given = Argument.of(value)
        if shape.dtype.is_packed and not given.shape.dtype.is_packed:
            given = _packed(given, shape)
        elif convert and not given.shape.dtype.is_packed:
            given = Argument.of(given.array, shape.dtype)
    except (DataError, ShapeError, TypeError, ValueError) as error:
        raise WeightError(f"weight {name!r} is {shape}: {error}") from error
    if not given.shape.same_type(shape):
        other = given.shape.dtype is not shape.dtype and not given.shape.dtype.is_packed
        told = f": convert it to {shape.dtype}, or {remedy}" if other else ""
        raise WeightError(f"weight {name!r} is {shape}, not {given.shape}{told}")
    if given.source is None and not given.available:
        raise WeightError(f"weight {name!r}: the value given has no data")
    return given


def _packed(given: Argument, shape: Shape) -> Argument:
    """Packed bytes, or unpacked elements, as packed storage."""
    dtype, dims = given.shape.dtype, given.shape.dims
    if dtype is U8 and dims != shape.dims and given.shape.elements == shape.nbytes:
        return Argument.packed(shape, given.array)
    if dims == shape.dims and (dtype.is_float if shape.dtype.is_float else dtype.is_integer):
        return Argument.of(given.array, shape.dtype)
    raise ShapeError(f"{given.shape} is neither its {shape.nbytes} bytes (u8) nor its elements")


def refuse_infinite(name: str, value: Argument) -> None:
    """Raises ``WeightError`` if a float weight contains NaN or an infinity."""
    if value.shape.dtype.is_float and not value.shape.dtype.is_packed:
        bad = int(value.array.size - np.count_nonzero(np.isfinite(value.array)))
        if bad:
            raise WeightError(f"weight {name!r} has {counted(bad, 'element')} not finite")


def unknown(name: str, known: Iterable[str]) -> str:
    """The message for a name that no weight has."""
    names = list(known)
    if not names:
        return (
            f"there is no weight {name!r} to replace: this program was compiled with its weights "
            "fixed; call program.make_replaceable() before program.compile(), or, if they lie in "
            "files of their own, read it with defer_external_weights=True"
        )
    return f"there is no replaceable weight {name!r}; {there_are(str(name), names)}"


def without_values(missing: list[str], *, lost: bool = False) -> str:
    """The message for weights that have no value, or have ``lost`` theirs."""
    which = f"{counted(len(missing), 'weight')} {'has' if len(missing) == 1 else 'have'} no value"
    if lost:
        return (
            f"{which}, {first_few(missing, 5)}: an update in place was interrupted; give them "
            "again by program.update_weights()"
        )
    return (
        f"{which} yet, {first_few(missing, 5)}: give them by "
        "program.update_weights() or migx.onnx.replace_onnx_external_weights(), or by --weights "
        "SOURCE, which `migx run`, `verify`, `perf` and `compile` take"
    )


class Lent(np.ndarray[Any, np.dtype[Any]]):
    """A read-only copy of a weight: writing to it would not change the weight. In-place operators
    give a new array, so that ``new["w"] += a`` adds to a weight.
    """


def _apart(name: str) -> Callable[[Any, Any], Any]:
    """An in-place operator that works on a copy of a read-only array."""
    in_place = getattr(np.ndarray, name)
    return lambda a, b: in_place(a if a.flags.writeable else np.array(a), b)


_IN_PLACE = "add sub mul matmul truediv floordiv mod pow and or xor lshift rshift"
for _each in _IN_PLACE.split():
    setattr(Lent, f"__i{_each}__", _apart(f"__i{_each}__"))


def lent(value: Argument) -> Argument | Lent:
    """A value to be read: a read-only array, or the ``Argument`` if it is packed."""
    if value.shape.dtype.is_packed:
        return value
    array = value.array.view(Lent)
    array.setflags(write=False)
    return array


def own(value: Argument, *, mapped: bool = True) -> Argument:
    """A copy that nobody else can write to; a value mapped from a file counts as one, if it may
    stay ``mapped``.
    """
    if value.source is not None and mapped:
        return value
    array = value.array
    made = np.empty(array.shape, array.dtype)
    copy([(made, array)])
    return Argument(value.shape.as_standard(), made)
