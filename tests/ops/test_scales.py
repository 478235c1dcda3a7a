"""Scales chosen for blocks of weights: what they reach over, and how well they do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from migx.argument import Argument
from migx.dim import Dim
from migx.errors import ShapeError
from migx.op import result_of
from migx.ops.quantization import DequantizeLinear, QuantizeLinear
from migx.ops.scales import ChooseScales
from migx.shape import F16, F32, I4, I32, U2, U4, U8, DType, Shape

Array = NDArray[Any]


def chosen(op: ChooseScales, x: Array) -> list[Array]:
    argument = Argument.of(x)
    shape = op.compute_shape([argument.shape])
    result = result_of(op, shape, [argument])
    assert result.shape == shape
    return [part.array for part in result.parts] if shape.parts else [result.array]


def error(op: ChooseScales, x: Array) -> Array:
    """How far weights move when they are quantised with the scales chosen, and clipped."""
    scale, *zero = (wide.astype(np.float64) for wide in chosen(op, x))
    low, high = (-8, 7) if op.to is I4 else (0, 2**op.to.bits - 1)
    places = np.indices(x.shape)
    places[op.axis] //= op.block
    scale = scale[tuple(places)]
    point = zero[0][tuple(places)] if zero else 0
    levels = np.clip(np.rint(x / scale) + point, low, high)
    return np.asarray((levels - point) * scale - x)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("block", [1, 4, 5, 64])
@pytest.mark.parametrize("to", [U4, I4, U2], ids=str)
def test_every_weight_moves_by_half_a_step_at_most(to: DType, block: int, axis: int) -> None:
    """Zero points are whole, so that a level may be as far as one step away at the ends."""
    x = np.random.default_rng(3).normal(size=(12, 10)).astype(np.float32)
    op = ChooseScales(to, axis, block)
    step = np.repeat(chosen(op, x)[0], block, axis)[: x.shape[0], : x.shape[1]]
    limit = 0.5 if to is I4 else 1.0
    assert np.all(np.abs(error(op, x)) <= limit * step * (1 + 8 * 2**-24))


@pytest.mark.parametrize("to", [U4, I4], ids=str)
def test_the_best_share_is_better_than_the_whole_range(to: DType) -> None:
    x = np.random.default_rng(4).standard_t(3, (64, 32)).astype(np.float32)
    whole, best = (
        np.square(error(ChooseScales(to, 0, 16, clip), x)).sum() for clip in ("minmax", "mse")
    )
    assert best < whole


def test_zeros_have_the_scale_one_and_stay_zero() -> None:
    for to in (U4, I4):
        op = ChooseScales(to, 0, 4)
        scale, *_ = chosen(op, np.zeros((8, 3), np.float32))
        assert np.all(scale == 1)
        assert not error(op, np.zeros((8, 3), np.float32)).any()


def test_zero_is_a_level_whatever_the_range() -> None:
    x = np.array([[3.0, 5.0, 0.0, 4.0]], np.float32).T
    assert error(ChooseScales(U4, 0, 4), x)[2, 0] == 0
    assert error(ChooseScales(U4, 0, 4), -x)[2, 0] == 0


def test_scales_have_the_type_of_the_weights_and_fit_the_operations() -> None:
    x, n = Shape(F16, (Dim("n"), 40)), Dim("n")
    shape = ChooseScales(U4, 1, 16).compute_shape([x])
    assert shape == Shape.tuple(Shape(F16, (n, 3)), Shape(U8, (n, 3)))
    levels = QuantizeLinear(1, 16, U8).compute_shape([x, *shape.parts])
    assert DequantizeLinear(1, 16).compute_shape([levels, *shape.parts]) == x
    assert ChooseScales(I4, 0, 8).compute_shape([Shape(F32, (16, 2))]) == Shape(F32, (2, 2))


@pytest.mark.parametrize(
    ("op", "shape", "message"),
    [
        (ChooseScales(I32), Shape(F32, (4,)), "to i8, i4, u4, i2, u2 by minmax .* to i32"),
        (ChooseScales(U4, clip="best"), Shape(F32, (4,)), "minmax or mse, not .* by best"),
        (ChooseScales(U4, block=0), Shape(F32, (4,)), "blocks of 1 or more .* not blocks of 0"),
        (ChooseScales(U4, axis=1), Shape(F32, (4,)), "axis 1 is not one of the 1 axes"),
        (ChooseScales(U4), Shape(I32, (4,)), "takes f16 and wider floats, not i32"),
    ],
)
def test_errors_say_what_would_be_right(op: ChooseScales, shape: Shape, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        op.compute_shape([shape])
