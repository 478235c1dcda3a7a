"""Windows that slide over the spatial axes of [N, C, ...]: how many there are, and views of them.

``padding`` is all begins, then all ends; ``stride`` and ``dilation`` have one number for each axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from migx.dim import Extent, bounds, maximum
from migx.errors import ShapeError
from migx.op import Array, Operation
from migx.shape import Dims, Shape


def expect_spatial(
    op: Operation,
    shape: Shape,
    padding: Sequence[Extent],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> int:
    """The number of spatial axes; ``ShapeError`` if attributes do not fit them."""
    spatial = shape.rank - 2
    if spatial < 1:
        raise ShapeError(f"{op.name} needs [N, C, spatial...], got {shape.text}")
    for name, given, wanted in (
        ("padding", padding, 2 * spatial),
        ("stride", stride, spatial),
        ("dilation", dilation, spatial),
    ):
        if len(given) != wanted:
            raise ShapeError(f"{op.name}: {name} needs {wanted} numbers, got {tuple(given)}")
    if min(*stride, *dilation) < 1 or any(bounds(p)[1] < 0 for p in padding):
        raise ShapeError(
            f"{op.name}: stride and dilation are at least 1 and padding at least 0, "
            f"got {tuple(stride)}, {tuple(dilation)} and {tuple(padding)}"
        )
    return spatial


def room(op: Operation, extent: Extent, length: Extent, dilation: int, over: int = 0) -> Extent:
    """How far a window can move inside a padded extent and ``over`` elements beyond its end;
    ``ShapeError`` if it never fits.
    """
    if bounds(length)[1] < 1:
        raise ShapeError(f"{op.name}: a window has 1 element or more along each axis, not {length}")
    free = extent + over - reach(length, dilation)
    if bounds(free)[1] < 0:
        beyond = f" and {over} beyond" if over else ""
        raise ShapeError(
            f"{op.name}: a window of {length} with dilation {dilation} does not fit in "
            f"{extent}{beyond}"
        )
    return free


def reach(length: Extent, dilation: int) -> Extent:
    """The extent of a window, from its first tap to its last."""
    return (length - 1) * dilation + 1


def padded(x: Array, padding: Sequence[int], value: Any) -> Array:
    """The array with ``value`` around its last axes; itself if there is no padding."""
    if not any(padding):
        return x
    begins, ends = split(padding)
    fixed = x.ndim - len(begins)
    sizes = [b + d + e for b, d, e in zip(begins, x.shape[fixed:], ends, strict=True)]
    result = np.full((*x.shape[:fixed], *sizes), value, x.dtype)
    inside: list[Any] = [slice(b, b + d) for b, d in zip(begins, x.shape[fixed:], strict=True)]
    result[(..., *inside)] = x
    return result


def split(padding: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """The begins and the ends."""
    half = len(padding) // 2
    return padding[:half], padding[half:]


def taps(starts: Sequence[int], counts: Sequence[int], stride: Sequence[int]) -> tuple[Any, ...]:
    """The numpy index, along the last axes, of the elements that one tap reads in all windows."""
    return (
        ...,
        *(
            slice(start, start + (count - 1) * step + 1, step)
            for start, count, step in zip(starts, counts, stride, strict=True)
        ),
    )


def joined(pads: Dims, padding: Dims) -> Dims | None:
    """The padding of ``pad`` and then a window's as one; None if a window cannot have it."""
    rank = len(pads) // 2
    outside = (*pads[:2], *pads[rank : rank + 2])
    spatial = (*pads[2:rank], *pads[rank + 2 :])
    if any(p != 0 for p in outside) or any(bounds(p)[0] < 0 for p in spatial):
        return None
    return tuple(p + q for p, q in zip(spatial, padding, strict=True))


def same_padding(
    dims: Sequence[Extent],
    lengths: Sequence[Extent],
    stride: Sequence[int],
    dilation: Sequence[int],
    *,
    upper: bool,
) -> tuple[Extent, ...]:
    """The padding with which each dim has as many windows as strides fit into it, rounded up (ONNX
    SAME_UPPER and SAME_LOWER); an odd element is at the end if ``upper``.
    """
    totals = []
    for size, length, step, apart in zip(dims, lengths, stride, dilation, strict=True):
        count = (size + (step - 1)) // step
        totals.append(maximum((count - 1) * step + reach(length, apart) - size, 0))
    return halved(totals, upper=upper)


def halved(totals: Sequence[Extent], *, upper: bool) -> tuple[Extent, ...]:
    """Total paddings as begins and ends; an odd element is at the end if ``upper``."""
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (*less, *more) if upper else (*more, *less)
