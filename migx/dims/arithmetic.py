"""The meanings of operations on arrays whose elements may be dims.

Most are the operation's own, because dims have Python's operators. If a result depends on sizes
that are not known, they raise ``DimError``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from migx import dim
from migx.errors import DimError
from migx.op import Array
from migx.shape import I32, I64


def own(op: Any, *arrays: Array) -> Array:
    """The operation's own meaning, which numpy applies to arrays of objects."""
    result: Array = op.compute(*(array.astype(object) for array in arrays))
    return result


def _elementwise(function: Callable[..., Any]) -> Callable[..., Array]:
    def each(op: Any, *arrays: Array) -> Array:
        return np.asarray(np.frompyfunc(function, len(arrays), 1)(*arrays), object)

    return each


def _equal(a: Any, b: Any) -> bool:
    """Equality, if it is the same for all sizes."""
    if a == b:
        return True
    if dim.may_equal(a, b):
        raise DimError(f"whether {a} is {b} is not known before the dims are bound")
    return False


def quotient(a: Any, b: Any) -> Any:
    """Division that truncates: of a dividend that may be negative, the parts on either side of 0
    are divided separately, each rounded down.
    """
    if dim.bounds(b)[0] < 0:
        raise DimError(f"the sign of {a} / {b} is not known before the dims are bound")
    if dim.bounds(a)[0] < 0:
        return dim.maximum(a, 0) // b - dim.maximum(-a, 0) // b
    return a // b


def _converted(op: Any, x: Array) -> Array:
    if op.to not in (I64, I32):
        raise DimError(f"dims convert to i64 and i32 only, not {op.to}")
    return x


def _folded(function: Callable[[Any, Any], Any]) -> Callable[..., Array]:
    fold = np.frompyfunc(function, 2, 1)

    def along(op: Any, x: Array) -> Array:
        for axis in op.axes:
            x = fold.reduce(x, axis=axis, keepdims=True)
        return np.asarray(x, object)

    return along


def _scattered(op: Any, x: Array, indices: Array, updates: Array) -> Array:
    """A scatter of dims, which exporters use to count indices along one axis."""
    if indices.dtype == object:
        raise DimError("where dims are scattered is not known before they are bound")
    result: Array = op.compute(x.astype(object), indices, updates)
    return result


OWN = """
add broadcast concat contiguous greater greater_or_equal less less_or_equal mod mul multibroadcast
neg pad reduce_prod reduce_sum reshape reverse slice squeeze step sub transpose unsqueeze where
"""
ON_EXTENTS: dict[str, Callable[..., Array]] = {
    **dict.fromkeys(OWN.split(), own),
    "div": _elementwise(quotient),
    "abs": _elementwise(lambda a: dim.maximum(a, -a) if dim.bounds(a)[0] < 0 else a),
    "relu": _elementwise(lambda a: dim.maximum(a, 0)),
    "max": _elementwise(dim.maximum),
    "min": _elementwise(dim.minimum),
    "clip": _elementwise(lambda a, low, high: dim.minimum(dim.maximum(a, low), high)),
    "equal": _elementwise(_equal),
    "convert": _converted,
    "gather": lambda op, x, indices: op.picked(x, indices),
    "identity": lambda op, x: x,
    "reduce_max": _folded(dim.maximum),
    "reduce_min": _folded(dim.minimum),
    "scatter_none": _scattered,
    "scatternd_none": _scattered,
}
"""The operations with a meaning on dims, by name: a function of the operation and its inputs."""
