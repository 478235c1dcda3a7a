"""The number of roundings an operation makes for one element of its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from migx import op as operations
from migx.op import Operation
from migx.shape import Shape
from migx.testing.bounds.kinds import EXACT, FUNCTIONS, RECURRENT, RESIZES, SCATTERS

LAMBDA = 8.0
"""Standard deviations allowed: rounding alone exceeds them with a probability of 3e-14."""

FUNCTION = 16
"""The count for an elementary function: approximations are within 2 units in the last place, 4 u
each, whose square is that of 16 roundings.
"""


def roundings(op: Operation, shapes: Sequence[Shape], result: Shape) -> int:
    """The number of roundings an operation makes for one element of its result.

    A foreign operation tells by a method ``roundings(shapes, result)``; without one, it counts as
    one, or as many as the elements it folds into one.
    """
    own = getattr(op, "roundings", None)
    if own is not None:
        return int(own(shapes, result))
    if op.name in COUNTS:
        return COUNTS[op.name](op, shapes, result)
    traits = operations.traits(op)
    if op.name in EXACT or traits.view is not None or not shapes:
        return 0
    if traits.reduction:
        return _folded(op, shapes, result)
    return FUNCTION if op.name in FUNCTIONS else 1


def _folded(op: Operation, shapes: Sequence[Shape], result: Shape) -> int:
    return max(1, int(shapes[0].elements) // max(1, int(result.elements)))


def _contracted(op: Operation, shapes: Sequence[Shape], result: Shape) -> int:
    return int(shapes[0].dims[-1])


def _convolved(op: Operation, shapes: Sequence[Shape], result: Shape) -> int:
    return math.prod(map(int, shapes[1].dims[1:]))


def _scattered(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    return int(shapes[1].dims[0]) // int(op.group) * math.prod(map(int, shapes[1].dims[2:]))


def _onto_one(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    """All updates, which may go to one place."""
    places = shapes[1].dims[:-1] if op.name.startswith("scatternd") else (shapes[2].dims[op.axis],)
    return max(1, math.prod(map(int, places)))


def _pooled(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    if op.mode == "max":
        return 0
    return math.prod(map(int, op.lengths)) + (2 * FUNCTION if op.mode == "lpnorm" else 1)


def _along(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    return int(shapes[0].dims[op.axis])


def _normalised(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    return _along(op, shapes, result) + FUNCTION + 1


def _recurred(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    """Each step sums over the states and applies up to three functions in sequence."""
    steps, _, features = map(int, shapes[0].dims)
    return features + steps * (int(op.hidden_size) + 3 * FUNCTION)


def _resampled(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    """A position among n elements is rounded by n u, and so are the weights of its neighbours."""
    if op.mode == "nearest":
        return 0
    return 4 * result.rank + sum(
        int(n) ** 2 for n, m in zip(result.dims, shapes[0].dims, strict=True) if n != m
    )


def _sampled(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    """As ``_resampled``, for positions computed from another input."""
    return 4 * shapes[0].rank + sum(int(n) ** 2 for n in shapes[0].dims[2:])


def _converted(op: Any, shapes: Sequence[Shape], result: Shape) -> int:
    given, made = shapes[0].dtype, result.dtype
    exact = given.digits if given.is_float else given.bits
    return int(exact > made.digits)


COUNTS: dict[str, Callable[[Any, Sequence[Shape], Shape], int]] = {
    "dot": _contracted,
    "convolution": _convolved,
    "convolution_channels_last": _convolved,
    "convolution_backwards": _scattered,
    **dict.fromkeys(SCATTERS, _onto_one),
    "pooling": _pooled,
    "prefix_scan_sum": _along,
    "prefix_scan_prod": _along,
    "dft": lambda op, shapes, result: _along(op, shapes, result) + FUNCTION,
    "grid_sample": _sampled,
    "roi_align": _sampled,
    "deformable_convolution": lambda op, shapes, result: (
        _sampled(op, shapes, result) + _convolved(op, shapes, result)
    ),
    "col2im": lambda op, shapes, result: int(shapes[0].dims[1]),
    "determinant": lambda op, shapes, result: int(shapes[0].dims[-1]) ** 2,
    "mel_weight_matrix": lambda op, shapes, result: 2 * FUNCTION,
    "tree_ensemble": lambda op, shapes, result: int(shapes[-1].elements),
    "softmax": _normalised,
    "logsoftmax": _normalised,
    "lrn": lambda op, shapes, result: int(op.size) + FUNCTION + 3,
    **dict.fromkeys(RECURRENT, _recurred),
    **dict.fromkeys(RESIZES, _resampled),
    "convert": _converted,
    "reduce_mean": lambda op, shapes, result: _folded(op, shapes, result) + 1,
    "rsqrt": lambda op, shapes, result: 2,
    "sqdiff": lambda op, shapes, result: 2,
}
"""The functions that count roundings from shapes, by operation name."""
