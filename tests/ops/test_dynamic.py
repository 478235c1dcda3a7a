"""Operations that take at run time what others have as attributes: what they refuse, and when."""

from __future__ import annotations

import numpy as np
import pytest

from migx.dim import Dim
from migx.errors import EvaluationError, ShapeError
from migx.op import Op
from migx.ops.dynamic import DynamicPad, DynamicResize, DynamicTranspose
from migx.ops.pooling import MaxPoolIndices, Pooling
from migx.ops.random import DropoutMask
from migx.shape import F32, F64, I64, Shape

A, B = Dim("a"), Dim("b")
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def f32(*dims: int) -> Shape:
    return Shape(F32, dims)


def i64(*dims: int) -> Shape:
    return Shape(I64, dims)


def f64(*dims: int) -> Shape:
    return Shape(F64, dims)


CROP = "tf_crop_and_resize"


@pytest.mark.parametrize(
    ("op", "shapes", "message"),
    [
        (DynamicTranspose((A, B)), [f32(2, 3)], "takes 2 inputs, got 1"),
        (DynamicTranspose((A,)), [f32(2, 3), i64(2)], r"f32\[2, 3\] cannot get dims"),
        (DynamicTranspose((A, B)), [f32(2, 3), i64(3)], "takes a list of 2 integers"),
        (DynamicPad((A, B)), [f32(2, 3), i64(3)], "takes a list of 4 integers"),
        (DynamicPad((A,)), [f32(2, 3), i64(4)], "cannot get dims"),
        (DynamicPad((A, B), "mirror"), [f32(2, 3), i64(4)], "knows constant, .*, not 'mirror'"),
        (
            DynamicPad((A, B)),
            [f32(2, 3), i64(4), f32(2)],
            "a value to pad with of one element",
        ),
        (DynamicResize((A, B)), [f32(2, 3), i64(2)], "takes 3 or 4 inputs"),
        (DynamicResize((A, B)), [f32(2, 3), i64(3), f64(2)], "takes a list of 2 integers"),
        (DynamicResize((A, B)), [f32(2, 3), i64(2), f32(2)], "takes 2 numbers as f64"),
        (DynamicResize((A, B)), [f32(2, 3), i64(2), f64(2), f64(2)], "takes 4 numbers as f64"),
        (DropoutMask(1), [f32(2), f32(1)], "takes a ratio of rank 0"),
        (DropoutMask(1), [f32(2), i64()], "takes a ratio of rank 0"),
    ],
)
def test_errors_say_what_would_be_right(op: Op, shapes: list[Shape], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        op.compute_shape(shapes)


def test_values_are_checked_when_they_are_there() -> None:
    with pytest.raises(EvaluationError, match=r"\[0, 0\] does not permute 2 axes"):
        DynamicTranspose((A, B)).compute(X, np.array([0, 0]))
    with pytest.raises(ShapeError, match="drop more of"):
        DynamicPad((A, B)).compute(X, np.array([-3, 0, 0, 0]))
    with pytest.raises(ShapeError, match="resize"):
        DynamicResize((A, B), coordinate_transformation_mode=CROP).compute(
            X, np.array([2, 3]), np.ones(2)
        )


def test_results_are_those_of_the_static_forms() -> None:
    np.testing.assert_array_equal(DynamicTranspose((A, B)).compute(X, np.array([1, 0])), X.T)
    padded = DynamicPad((A, B), "edge").compute(X, np.array([1, 0, 0, 1]))
    np.testing.assert_array_equal(padded, np.pad(X, ((1, 0), (0, 1)), "edge"))
    doubled = DynamicResize((A, B)).compute(X, np.array([4, 3]), np.array([2.0, 1.0]))
    np.testing.assert_array_equal(doubled, X.repeat(2, 0))


def test_places_of_the_greatest_point_to_them() -> None:
    x = np.random.default_rng(5).integers(0, 5, (2, 3, 6, 5)).astype(np.int32)
    options = {"padding": (1, 0, 0, 1), "stride": (2, 1), "dilation": (1, 2), "ceil_mode": True}
    places = MaxPoolIndices("max", (3, 2), **options).compute(x)  # type: ignore[arg-type]
    greatest = Pooling("max", (3, 2), **options).compute(x)  # type: ignore[arg-type]
    np.testing.assert_array_equal(x.reshape(-1)[places], greatest)
    whole = MaxPoolIndices("max", (6, 5)).compute(x)
    np.testing.assert_array_equal(whole.reshape(6) % 30, x.reshape(6, 30).argmax(1))


def test_a_seed_decides_what_is_dropped() -> None:
    ratio = np.float32(0.25)
    first, again, other = (
        DropoutMask(seed).compute(np.zeros(400), np.asarray(ratio)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert 0.65 < first.mean() < 0.85
