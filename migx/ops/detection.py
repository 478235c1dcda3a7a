"""Operations on boxes found in images."""

from __future__ import annotations

import numpy as np

from migx import dim
from migx.argument import Argument
from migx.dim import Extent
from migx.errors import ShapeError
from migx.op import Arguments, Array, Modules, Op, Shapes
from migx.ops._rules import expect, expect_same_type, expect_single, no_warnings
from migx.shape import I64, OPTIONAL, Shape


class Nonmaxsuppression(Op):
    """The best boxes that overlap no better one: i64[count, 3] of batch, class and box.

    Inputs are boxes [batch, n, 4], scores [batch, classes, n] and, each optional, the greatest
    number of boxes of one class (0), the overlap (intersection over union) above which the worse
    box is dropped (0), and the score a box must exceed (any). A box is two opposite corners y, x,
    y, x; or, with ``center_point_box``, its centre x, y, width and height. Equal scores go by the
    lower index. ``count`` is a symbol (ONNX NonMaxSuppression-11).
    """

    center_point_box: bool
    count: Extent

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2, 3, 4, 5)
        boxes, scores = shapes[:2]
        expect_same_type(self, shapes[:2])
        wanted = (scores.dims[0], scores.dims[-1], 4) if scores.rank == 3 else ()
        if boxes.rank != 3 or not wanted or not all(map(dim.may_equal, boxes.dims, wanted)):
            raise ShapeError(
                f"nonmaxsuppression needs boxes [batch, n, 4] and scores [batch, classes, n], "
                f"got {boxes.text} and {scores.text}"
            )
        expect_single(self, "limits", [s for s in shapes[2:] if s.dtype is not OPTIONAL])
        return Shape(I64, (self.count, 3))

    def compute(self, arguments: Arguments) -> Argument:
        limits = [None if a.shape.dtype is OPTIONAL else a.array.item() for a in arguments[2:]]
        most, overlap, least = limits + [None] * (3 - len(limits))
        scores = arguments[1].array
        with no_warnings():
            boxes = corners(arguments[0].array, self.center_point_box)
            found = [
                (batch, kind, box)
                for batch, kind in np.ndindex(scores.shape[:2])
                for box in best(boxes[batch], scores[batch, kind], most or 0, overlap or 0.0, least)
            ]
        return Argument.of(np.array(found, np.int64).reshape(-1, 3))


def corners(boxes: Array, center_point_box: bool) -> Array:
    """Boxes as their least and their greatest corner: [batch, 4, n]."""
    first, second = np.split(boxes.swapaxes(1, 2), 2, axis=1)
    if center_point_box:
        first, second = first - second / 2, first + second / 2
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)


def best(boxes: Array, scores: Array, most: int, overlap: float, least: float | None) -> list[int]:
    """The boxes of one class that stay, best first.

    Each box kept is compared with all remaining ones at once.
    """
    order = np.argsort(-scores, kind="stable")
    if least is not None:
        order = order[scores[order] > least]
    boxes = boxes[:, order]
    kept: list[int] = []
    while order.size and len(kept) < most:
        kept.append(int(order[0]))
        apart = overlaps(boxes[:, :1], boxes) <= overlap
        apart[0] = False
        order, boxes = order[apart], boxes[:, apart]
    return kept


def overlaps(box: Array, others: Array) -> Array:
    """Intersection over union of one box and others, all [4, n]; 0 where they share no area."""
    sides = np.maximum(np.minimum(box[2:], others[2:]) - np.maximum(box[:2], others[:2]), 0)
    shared = sides[0] * sides[1]
    area, areas = ((b[2] - b[0]) * (b[3] - b[1]) for b in (box, others))
    return np.where(shared > 0, shared / (area + areas - shared), 0)
