"""The meanings of operations on arrays whose elements may be dims.

Arithmetic of sizes uses the meaning of each operation; if the result depends on sizes that are not
known, it raises ``DimError``.
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
    """The operation's own meaning, which numpy applies to object arrays."""
    result: Array = op.compute(*arrays)
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
    return own(op, x.astype(object), indices, updates)


ON_EXTENTS: dict[str, Callable[..., Array]] = {
    **dict.fromkeys(
        [
            "broadcast",
            "concat",
            "contiguous",
            "multibroadcast",
            "pad",
            "reshape",
            "reverse",
            "slice",
            "squeeze",
            "step",
            "transpose",
            "unsqueeze",
        ],
        own,
    ),
    "add": _elementwise(lambda a, b: a + b),
    "sub": _elementwise(lambda a, b: a - b),
    "mul": _elementwise(lambda a, b: a * b),
    "div": _elementwise(quotient),
    "mod": _elementwise(lambda a, b: a % b),
    "neg": _elementwise(lambda a: -a),
    "abs": _elementwise(lambda a: dim.maximum(a, -a) if dim.bounds(a)[0] < 0 else a),
    "relu": _elementwise(lambda a: dim.maximum(a, 0)),
    "max": _elementwise(dim.maximum),
    "min": _elementwise(dim.minimum),
    "clip": _elementwise(lambda a, low, high: dim.minimum(dim.maximum(a, low), high)),
    "equal": _elementwise(_equal),
    "greater": _elementwise(lambda a, b: a > b),
    "less": _elementwise(lambda a, b: a < b),
    "greater_or_equal": _elementwise(lambda a, b: a >= b),
    "less_or_equal": _elementwise(lambda a, b: a <= b),
    "where": _elementwise(lambda condition, a, b: a if condition else b),
    "convert": _converted,
    "gather": lambda op, x, indices: op.picked(x, indices),
    "identity": lambda op, x: x,
    "reduce_max": _folded(dim.maximum),
    "reduce_min": _folded(dim.minimum),
    "reduce_prod": _folded(lambda a, b: a * b),
    "reduce_sum": _folded(lambda a, b: a + b),
    "scatter_none": _scattered,
    "scatternd_none": _scattered,
}
"""The operations with a meaning on dims, by name: a function of the operation and its inputs."""
