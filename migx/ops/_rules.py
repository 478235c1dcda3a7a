"""Shared by shape rules and meanings of several families."""

from __future__ import annotations

from typing import Any

import numpy as np

from migx import dim
from migx.dim import Extent
from migx.errors import ShapeError, counted
from migx.op import Array, Operation, Shapes
from migx.shape import DType


def expect(op: Operation, shapes: Shapes, *counts: int) -> None:
    """Raises ``ShapeError`` unless the number of inputs is one of ``counts``."""
    if len(shapes) not in counts:
        *others, last = counts
        wanted = " or ".join([*map(str, others), counted(last, "input")])
        raise ShapeError(f"{op.name} takes {wanted}, got {len(shapes)}")


def expect_same_type(op: Operation, shapes: Shapes) -> DType:
    """The one element type of the inputs; ``ShapeError`` when they differ or are no tensors."""
    first = shapes[0].dtype
    for shape in shapes:
        if shape.dtype is not first:
            raise ShapeError(
                f"{op.name} needs inputs of one type, got {', '.join(str(s.dtype) for s in shapes)}"
            )
    if not first.is_tensor or first.is_packed:
        raise ShapeError(f"{op.name} does not compute on {first}")
    return first


def expect_same_dims(op: Operation, shapes: Shapes) -> tuple[Extent, ...]:
    """The dims all inputs have; ``ShapeError`` when some are proven different. Broadcasts are
    instructions of their own.
    """
    first = shapes[0].dims
    for shape in shapes:
        if shape.dims != first and not (
            len(shape.dims) == len(first) and all(map(dim.may_equal, shape.dims, first))
        ):
            raise ShapeError(
                f"{op.name} needs equal dims, got {' and '.join(s.text for s in shapes)}"
            )
    return first


def expect_single(op: Operation, what: str, shapes: Shapes) -> None:
    """Raises ``ShapeError`` where an input, called ``what``, is proven not to have one element."""
    for shape in shapes:
        if not dim.may_equal(shape.elements, 1):
            raise ShapeError(f"{op.name} takes {what} of one element, got {shape.text}")


def expect_axis(op: Operation, axis: int, rank: int) -> int:
    """The axis, which must be in [0, rank): negative axes are resolved before an operation is
    made.
    """
    if not 0 <= axis < rank:
        raise ShapeError(f"{op.name}: axis {axis} is not one of the {rank} axes, 0 to {rank - 1}")
    return axis


def wide(array: Array) -> Array:
    """The array in the type of its sums: f32 for floats under 32 bits, else its own."""
    narrow = array.dtype.itemsize < 4 and array.dtype.kind not in "biu"
    return array.astype(np.float32) if narrow else array


def rounded(array: Array, like: Array) -> Array:
    """The array rounded once to the element type of ``like``."""
    with no_warnings():
        result: Array = np.asarray(array).astype(like.dtype, copy=False)
    return result


def no_warnings() -> Any:
    """IEEE results without numpy's warnings: division by zero, overflow and NaN are values."""
    return np.errstate(all="ignore")
