"""What the shape rules of operations on images, signals, sets and trees ask for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from migx.dim import Dim
from migx.errors import EvaluationError, ShapeError
from migx.ops import Determinant, Unique
from migx.ops.reduce import PrefixScanProd
from migx.ops.signal import Dft, MelWeightMatrix
from migx.ops.trees import TreeEnsemble
from migx.ops.vision import Col2im, DeformableConvolution, GridSample, MaxRoiPool, RoiAlign
from migx.shape import F32, F64, I64, Shape
from tests.ops.peers import run, shape_of

N = Dim("n")
IMAGE, GRID = Shape(F32, (N, 3, 8, 8)), Shape(F32, (N, 4, 5, 2))
REGIONS, WHICH = Shape(F32, (N, 4)), Shape(I64, (N,))
ONE, LIST = Shape(I64, ()), Shape(I64, (2,))
COLUMNS = Col2im((3, 8, 8), (0,) * 4, (1, 1), (1, 1))
NODES = [Shape("i32", (4,)), Shape("u8", (4,)), Shape(F32, (4,)), Shape("i32", (4, 2))]
TREE = [Shape(F32, (N, 3)), *NODES, Shape(F32, (5, 2)), Shape("i32", (1,))]

DIMS: list[tuple[Any, list[Shape], Shape]] = [
    (GridSample(), [IMAGE, GRID], Shape(F32, (N, 3, 4, 5))),
    (RoiAlign((2, 3)), [IMAGE, REGIONS, WHICH], Shape(F32, (N, 3, 2, 3))),
    (MaxRoiPool((2, 3)), [IMAGE, Shape(F32, (N, 5))], Shape(F32, (N, 3, 2, 3))),
    (COLUMNS, [Shape(F32, (N, 12, 49)), LIST, LIST], Shape(F32, (N, 3, 8, 8))),
    (Dft(1, N), [Shape(F32, (2, N, 1))], Shape(F32, (2, N, 2))),
    (Dft(1, N, onesided=True), [Shape(F64, (2, N, 1))], Shape(F64, (2, N // 2 + 1, 2))),
    (Dft(1, 6, inverse=True, onesided=True), [Shape(F32, (2, 4, 2))], Shape(F32, (2, 6, 1))),
    (MelWeightMatrix((N, 8)), [ONE] * 3 + [Shape(F32, ())] * 2, Shape(F32, (N, 8))),
    (Determinant(), [Shape(F32, (N, 3, 3))], Shape(F32, (N,))),
    (PrefixScanProd(0), [Shape(I64, (N, 3))], Shape(I64, (N, 3))),
    (TreeEnsemble(), TREE, Shape(F32, (N, 2))),
    (
        DeformableConvolution(),
        [Shape(F32, (N, 4, 8, 8)), Shape(F32, (6, 4, 3, 3)), Shape(F32, (N, 18, 6, 6))],
        Shape(F32, (N, 6, 6, 6)),
    ),
]

WRONG: list[tuple[Any, list[Shape], str]] = [
    (GridSample("area"), [IMAGE, GRID], "knows the modes linear, nearest, cubic"),
    (GridSample(), [IMAGE, Shape(F32, (N, 4, 5, 3))], r"a grid \[N, ..., axes\]"),
    (GridSample(), [IMAGE, Shape(I64, (N, 4, 5, 2))], "computes on float, not i64"),
    (RoiAlign(mode="sum"), [IMAGE, REGIONS, WHICH], "modes are avg and max, not 'sum'"),
    (RoiAlign(), [IMAGE, REGIONS, Shape(I64, (N, 1))], "needs an image for each region"),
    (MaxRoiPool(), [IMAGE, REGIONS], r"regions \[n, 5\]"),
    (COLUMNS, [Shape(F32, (N, 12, 49)), LIST], "takes 3 inputs, got 2"),
    (COLUMNS, [Shape(F32, (N, 12, 7, 7)), LIST, LIST], r"needs .N, C . window, windows., got f32"),
    (COLUMNS, [Shape(F32, (N, 12, 49)), LIST, Shape(I64)], "takes 2 sizes of the image and of a"),
    (Dft(2, 4), [Shape(F32, (2, 4, 2))], "axis 2 is not one of the 2 axes"),
    (Dft(1, 4), [Shape(F32, (2, 4, 3))], r"needs \[..., 1\] or \[..., 2\]"),
    (MelWeightMatrix((2, 2)), [LIST] * 5, "takes inputs of one element"),
    (Determinant(), [Shape(F32, (2, 3))], "needs square matrices"),
    (Unique(2, N), [Shape(F32, (2, 3))], "axis 2 is not one of the 2 axes"),
    (PrefixScanProd(1), [Shape(F32, (2,))], "axis 1 is not one of the 1 axes"),
    (TreeEnsemble("mode"), TREE, "knows sum, average, min, max, not 'mode'"),
    (TreeEnsemble(), [Shape(F32, (3,)), *TREE[1:]], r"needs features \[N, F\]"),
    (TreeEnsemble(), [*TREE[:-1], Shape(F32, (1,))], r"roots in i32, got f32\[n, 3\]"),
    (TreeEnsemble(), [TREE[0], Shape("i32", (5,)), *TREE[2:]], "of as many nodes"),
    (
        DeformableConvolution(),
        [Shape(F32, (1, 4, 8, 8)), Shape(F32, (6, 4, 3, 3)), Shape(F32, (1, 9, 6, 6))],
        r"needs offsets or a mask f32\[1, 18, 6, 6\]",
    ),
]


@pytest.mark.parametrize(("op", "shapes", "wanted"), DIMS, ids=lambda v: getattr(v, "name", None))
def test_dims_may_be_symbolic(op: Any, shapes: list[Shape], wanted: Shape) -> None:
    assert shape_of(op, *shapes) == wanted


@pytest.mark.parametrize(("op", "shapes", "message"), WRONG)
def test_errors_say_what_would_be_right(op: Any, shapes: list[Shape], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        shape_of(op, *shapes)


def test_a_tuple_of_what_is_unique() -> None:
    found = shape_of(Unique(1, Dim("count")), Shape(F32, (2, N)))
    one_each = Shape(I64, (Dim("count"),))
    assert found.parts == (Shape(F32, (2, Dim("count"))), one_each, Shape(I64, (N,)), one_each)


@pytest.mark.parametrize("op", [RoiAlign(), MaxRoiPool()])
def test_regions_of_an_image_that_is_not_there(op: Any) -> None:
    x = np.zeros((2, 1, 4, 4), np.float32)
    regions = np.array([[0, 0, 3, 3]], np.float32)
    operands = [regions, np.array([2])]
    if isinstance(op, MaxRoiPool):
        operands = [np.insert(regions, 0, 2, 1)]
    with pytest.raises(EvaluationError, match="region 0 is of image 2 of 2"):
        run(op, x, *operands)


def test_columns_that_come_from_no_windows() -> None:
    operands = np.zeros((1, 12, 48), np.float32), np.array([8, 8]), np.array([2, 2])
    with pytest.raises(EvaluationError, match=r"do not come from windows \[2, 2\]"):
        run(COLUMNS, *operands)


def test_places_that_are_no_numbers_are_outside() -> None:
    x = np.ones((1, 1, 2, 2), np.float32)
    grid = np.array([[[[np.nan, 0], [np.inf, 0], [0, 0]]]], np.float32)
    for mode in ("linear", "nearest", "cubic"):
        found = run(GridSample(mode, align_corners=True), x, grid)
        np.testing.assert_array_equal(found[0, 0, 0, :2], 0)
        assert found[0, 0, 0, 2] > 0


def test_narrow_floats_are_rounded_once() -> None:
    x = np.random.default_rng(1).random((1, 2, 4, 4)).astype(np.float16)
    grid = np.random.default_rng(2).uniform(-1, 1, (1, 3, 3, 2)).astype(np.float16)
    wide = run(GridSample(), x.astype(np.float32), grid.astype(np.float32))
    np.testing.assert_array_equal(run(GridSample(), x, grid), wide.astype(np.float16))
