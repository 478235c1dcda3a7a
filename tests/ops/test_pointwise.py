"""Element-wise operations against numpy, the math module and onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from migx.argument import Argument
from migx.dim import Dim
from migx.errors import ShapeError
from migx.op import result_of, traits
from migx.ops import logic, pointwise
from migx.ops.logic import Equal, Isinf, Isnan, ShiftLeft, ShiftRight
from migx.ops.pointwise import (
    BitCast,
    Clip,
    Convert,
    Div,
    Elu,
    Erf,
    Fmod,
    Identity,
    LeakyRelu,
    Max,
    Min,
    Mod,
    Neg,
    Pow,
    Prelu,
    Relu,
    Where,
)
from migx.shape import DType, Shape
from tests.ops.peers import assert_same, peer, run, shape_of

Array = NDArray[Any]
N = Dim("n")
FLOATS = ("f16", "bf16", "f32", "f64", "f8e4m3fn", "f8e5m2", "f8e4m3fnuz", "f8e5m2fnuz")
INTEGERS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
EDGES = np.array([-np.inf, -2.5, -1.5, -0.5, -0.0, 0.0, 0.5, 1.5, 2.5, np.inf, np.nan], np.float32)

# name, what it means on a float64, and the interval it is tried on
UNARY: list[tuple[str, Callable[[Any], Any], float, float]] = [
    ("Abs", abs, -3, 3),
    ("Acos", math.acos, -1, 1),
    ("Acosh", math.acosh, 1, 9),
    ("Asin", math.asin, -1, 1),
    ("Asinh", math.asinh, -9, 9),
    ("Atan", math.atan, -9, 9),
    ("Atanh", math.atanh, -0.9, 0.9),
    ("Ceil", math.ceil, -3, 3),
    ("Cos", math.cos, -7, 7),
    ("Cosh", math.cosh, -3, 3),
    ("Elu", lambda x: x if x > 0 else math.expm1(x), -4, 4),
    ("Erf", math.erf, -4, 4),
    ("Exp", math.exp, -5, 5),
    ("Floor", math.floor, -3, 3),
    ("LeakyRelu", lambda x: x if x > 0 else 0.01 * x, -4, 4),
    ("Log", math.log, 0.1, 9),
    ("Nearbyint", round, -5, 5),
    ("Neg", lambda x: -x, -3, 3),
    ("Recip", lambda x: 1 / x, 0.1, 3),
    ("Relu", lambda x: max(x, 0), -3, 3),
    ("Rsqrt", lambda x: 1 / math.sqrt(x), 0.1, 9),
    ("Sigmoid", lambda x: 1 / (1 + math.exp(-x)), -9, 9),
    ("Sign", lambda x: math.copysign(1, x), -3, 3),
    ("Sin", math.sin, -7, 7),
    ("Sinh", math.sinh, -3, 3),
    ("Sqrt", math.sqrt, 0, 9),
    ("Tan", math.tan, -1.4, 1.4),
    ("Tanh", math.tanh, -3, 3),
]
# ONNX's name and ours
ARITHMETIC = {
    "Add": "Add",
    "Sub": "Sub",
    "Mul": "Mul",
    "Div": "Div",
    "Pow": "Pow",
    "PRelu": "Prelu",
}
COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def random(dtype: str, low: float, high: float, size: int = 200) -> Array:
    given = np.random.default_rng(size).uniform(low, high, size)
    return given.astype(DType.of(dtype).numpy)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("name", "meaning", "low", "high"), UNARY, ids=[u[0] for u in UNARY])
def test_unary_rounds_the_exact_result_once(
    name: str, meaning: Callable[[Any], Any], low: float, high: float, dtype: str
) -> None:
    x = random(dtype, low, high)
    if name in ("Recip", "Rsqrt", "Log"):
        x = x[x > 0]
    wanted = np.array([meaning(v) for v in x.astype(np.float64).tolist()])
    found = run(getattr(pointwise, name)(), x)
    if DType.of(dtype).bits < 32:
        # Rounding to f32 on the way may cross a boundary, but only next to it.
        exact = wanted.astype(np.float32).astype(x.dtype)
        same = found.astype(np.float64) == exact.astype(np.float64)
        assert same.mean() > 0.98
        step = 2 * DType.of(dtype).roundoff
        np.testing.assert_allclose(found.astype(np.float64), wanted, step, step)
    else:
        np.testing.assert_allclose(found, wanted, 8 * DType.of(dtype).roundoff, 1e-300)


@pytest.mark.parametrize("name", ["Relu", "Sigmoid", "Tanh", "Floor"])
def test_edges_are_as_in_onnxruntime(name: str) -> None:
    np.testing.assert_allclose(run(getattr(pointwise, name)(), EDGES), peer(name, [EDGES]), 1e-6)


def test_special_values_stay() -> None:
    assert_same(run(Relu(), EDGES), np.where(np.isnan(EDGES), EDGES, np.maximum(EDGES, 0)))
    assert_same(run(Erf(), EDGES[[0, 4, 9, 10]]), np.array([-1, -0.0, 1, np.nan], np.float32))
    assert np.signbit(run(Erf(), f32(-0.0))).all()
    assert_same(run(LeakyRelu(0.5), EDGES[:3]), np.array([-np.inf, -1.25, -0.75], np.float32))
    assert_same(run(Elu(2.0), EDGES[[0, 5, 9]]), np.array([-2, 0, np.inf], np.float32))
    assert_same(run(Isnan(), EDGES), np.isnan(EDGES))
    for low in (False, True):
        for high in (False, True):
            wanted = (low & np.isneginf(EDGES)) | (high & np.isposinf(EDGES))
            assert_same(run(Isinf(low, high), EDGES), wanted)
    half = EDGES.astype(ml_dtypes.bfloat16)
    assert_same(run(Isinf(), half), np.isinf(EDGES))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_erf_is_accurate_everywhere(dtype: type) -> None:
    x: Array = np.concatenate([np.linspace(-6.5, 6.5, 20001), np.logspace(-30, 0, 999)]).astype(
        dtype
    )
    wanted = np.array([math.erf(v) for v in x.tolist()])
    error = np.abs(run(Erf(), x) - wanted) / np.spacing(np.abs(wanted.astype(dtype)))
    assert error.max() <= (0.6 if dtype is np.float32 else 4)
    assert run(Erf(), x[:4].reshape(2, 2)).shape == (2, 2)
    assert run(Erf(), np.asarray(x[0])).shape == ()


@pytest.mark.parametrize("kind", [*ARITHMETIC, *COMPARISONS])
def test_binary_is_as_in_onnxruntime(kind: str) -> None:
    x, y = random("f32", -3, 3).reshape(4, 50), random("f32", -3, 3)[::-1].reshape(4, 50).copy()
    x, y = (np.abs(x), y) if kind == "Pow" else (x, y)
    y[0] = x[0]
    cls = getattr(logic, kind) if kind in COMPARISONS else getattr(pointwise, ARITHMETIC[kind])
    found, wanted = run(cls(), x, y), peer(kind, [x, y])
    np.testing.assert_allclose(found, wanted, 1e-5)
    assert found.dtype == wanted.dtype


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(
    "name", ["Add", "Sub", "Mul", "Div", "Mod", "Fmod", "Max", "Min", "Sqdiff"]
)
def test_integers_are_exact_and_wrap(name: str, dtype: str) -> None:
    info = np.iinfo(DType.of(dtype).numpy)
    rng = np.random.default_rng(0)
    x, y = rng.integers(info.min, info.max, (2, 300), info.dtype, endpoint=True)
    y[:50] //= 16
    y[y == 0] = 3

    def truncated(a: int, b: int) -> int:
        return (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1)

    meaning: dict[str, Callable[[int, int], int]] = {
        "Add": lambda a, b: a + b,
        "Sub": lambda a, b: a - b,
        "Mul": lambda a, b: a * b,
        "Div": truncated,
        "Mod": lambda a, b: a % b,
        "Fmod": lambda a, b: a - b * truncated(a, b),
        "Max": max,
        "Min": min,
        "Sqdiff": lambda a, b: (a - b) ** 2,
    }
    modulus = 2**info.bits
    exact = [meaning[name](a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    wrapped = [(v - int(info.min)) % modulus + int(info.min) for v in exact]
    assert_same(run(getattr(pointwise, name)(), x, y), np.array(wrapped, info.dtype))


def test_integers_by_zero_are_zero() -> None:
    x, zero = np.array([5, -5], np.int32), np.zeros(2, np.int32)
    for op in (Div(), Mod(), Fmod()):
        assert_same(run(op, x, zero), zero)


def test_power_has_the_type_of_its_base() -> None:
    x = np.array([2, -2, -1, 1, 0, 3], np.int32)
    y = np.array([-1, 3, -3, -5, -1, 4], np.int64)
    assert_same(run(Pow(), x, y), np.array([0, -8, -1, 1, 0, 81], np.int32))
    assert_same(run(Pow(), x[:2], f32(0.5, 2)), np.array([1, 4], np.int32))
    z = f32(1.5, -3, np.nan)
    assert_same(run(Pow(), z, np.broadcast_to(np.int64(2), 3)), z * z)
    assert_same(run(Pow(), z[:2], np.array([-1, 3])), f32(1 / 1.5, -27))


def test_nan_wins_and_prelu_is_for_integers_too() -> None:
    nan, one = f32(np.nan, 1), f32(1, np.nan)
    for op in (Max(), Min(), Clip()):
        operands = (nan, one, one) if isinstance(op, Clip) else (nan, one)
        assert np.isnan(run(op, *operands)).all()
    assert_same(
        run(Prelu(), np.array([-3, 3], np.int32), np.array([2, 2], np.int32)),
        np.array([-6, 3], np.int32),
    )


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
def test_clip_and_where(dtype: str) -> None:
    x = np.array([1, 2, 3, 4], DType.of(dtype).numpy)
    low, high = np.full_like(x, 2), np.full_like(x, 3)
    assert_same(run(Clip(), x, low, high), np.array([2, 2, 3, 3], x.dtype))
    assert_same(run(Clip(), x, high, low), np.full_like(x, 2))
    assert_same(run(Where(), x > 2, x, low), np.array([2, 2, 3, 4], x.dtype))


def test_bits_and_logic() -> None:
    x, y = np.array([0b1100, 255, 1], np.uint8), np.array([0b1010, 9, 7], np.uint8)
    for name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        assert_same(run(getattr(logic, name)(), x, y), peer(name, [x, y]))
    assert_same(run(logic.BitwiseNot(), x), peer("BitwiseNot", [x]))
    assert_same(run(ShiftLeft(), x, y), np.array([0, 0, 128], np.uint8))
    assert_same(
        run(ShiftRight(), np.array([-128, 64], np.int8), np.array([3, 7], np.int8)),
        np.array([-16, 0], np.int8),
    )
    a, b = np.array([True, True, False]), np.array([True, False, False])
    assert_same(run(logic.Not(), a), ~a)
    assert_same(run(logic.LogicalAnd(), a, b), a & b)
    assert_same(run(logic.LogicalOr(), a, b), a | b)
    assert_same(run(logic.LogicalXor(), a, b), a ^ b)
    assert [op.name for op in (logic.Not(), ShiftLeft(), logic.GreaterOrEqual())] == [
        "not",
        "shift_left",
        "greater_or_equal",
    ]


def test_equal_compares_every_type() -> None:
    texts = np.array(["a", "b"], object)
    assert_same(run(Equal(), texts, np.array(["a", "c"], object)), np.array([True, False]))
    for dtype in (*FLOATS, *INTEGERS, "bool"):
        x = np.array([0, 1], DType.of(dtype).numpy)
        assert_same(run(Equal(), x, x[::-1]), np.array([False, False]))
        assert_same(run(Equal(), x, x), np.array([True, True]))


def test_convert_between_numbers() -> None:
    x = f32(-1.7, -0.0, 0.5, 2.9, 100.25)
    for to in ("i8", "i32", "i64", "f16", "f64", "bf16"):
        assert_same(run(Convert(DType.of(to)), x), x.astype(DType.of(to).numpy))
    assert_same(run(Convert(DType.of("bool")), x), np.array([True, False, True, True, True]))
    assert_same(
        run(Convert(DType.of("i8")), np.array([200, -129], np.int16)), np.array([-56, 127], np.int8)
    )
    nan = run(Convert(DType.of("bool")), f32(np.nan).astype(ml_dtypes.bfloat16))
    assert nan.all()


@pytest.mark.parametrize("to", ["f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz"])
@pytest.mark.parametrize("saturate", [False, True])
@pytest.mark.parametrize("given", ["f32", "f16", "bf16"])
def test_convert_to_f8(given: str, to: str, saturate: bool) -> None:
    dtype = DType.of(to)
    x = f32(0, 1.1, -3.3, 1e4, -6e4, np.inf, -np.inf, np.nan).astype(DType.of(given).numpy)
    found = run(Convert(dtype, saturate), x).astype(np.float32)
    largest = float(ml_dtypes.finfo(dtype.numpy).max)  # type: ignore[no-untyped-call]
    beyond = largest if saturate else (np.inf if to == "f8e5m2" else np.nan)
    near = x[:3].astype(np.float32).astype(dtype.numpy).astype(np.float32)
    np.testing.assert_array_equal(found[:3], near)
    np.testing.assert_array_equal(found[5:], [beyond, -beyond, np.nan])
    if to == "f8e4m3fn":
        np.testing.assert_array_equal(found[3:5], [beyond, -beyond])


def test_convert_to_powers_of_two() -> None:
    dtype, x = DType.of("f8e8m0"), f32(1, 1.25, 1.5, 1.75, 0.75, 3e38, 1e-40)
    found = {
        m: run(Convert(dtype, True, m), x).astype(np.float64) for m in ("up", "nearest", "down")
    }
    assert found["up"].tolist()[:6] == [1, 2, 2, 2, 1, 2.0**127]
    assert found["nearest"].tolist()[:5] == [1, 1, 2, 2, 1]
    assert found["down"].tolist()[:6] == [1, 1, 1, 1, 0.5, 2.0**127]
    special = f32(0, np.inf, np.nan)
    assert run(Convert(dtype), special).view(np.uint8).tolist() == [0, 254, 255]
    assert run(Convert(dtype, False, "nearest"), special).view(np.uint8).tolist() == [255] * 3


def test_convert_strings() -> None:
    texts = np.array(["1.5", "-inf", "NaN", "2"], object)
    assert_same(run(Convert(DType.of("f32")), texts), f32(1.5, -np.inf, np.nan, 2))
    assert_same(run(Convert(DType.of("i64")), texts[3:]), np.array([2]))
    assert run(Convert(DType.of("str")), np.array([1, -2])).tolist() == ["1", "-2"]


def test_bit_cast_keeps_the_bits() -> None:
    x = f32(1.5, -0.0, np.nan)
    assert_same(run(BitCast(DType.of("u32")), x), x.view(np.uint32))
    assert_same(
        run(BitCast(DType.of("f16")), np.array([15360], np.uint16)), np.array([1], np.float16)
    )
    with pytest.raises(ShapeError, match="bit_cast of f32 needs a type of 32 bits, got f16"):
        shape_of(BitCast(DType.of("f16")), Shape("f32", (2,)))


def test_identity_is_its_input() -> None:
    strided = Shape("f32", (2, 3), (1, 2))
    assert shape_of(Identity(), strided) == strided
    assert shape_of(Identity(), Shape.opaque("optional")) == Shape.opaque("optional")
    given = Argument.of(np.arange(3))
    made = result_of(Identity(), given.shape, [given])
    assert np.shares_memory(made.array, given.array)
    assert traits(Identity()).view == 0


def test_shapes_are_standard_and_may_be_symbolic() -> None:
    assert shape_of(Neg(), Shape("i8", (2, N), (1, 2))) == Shape("i8", (2, N))
    assert shape_of(Max(), Shape("f32", (N,)), Shape("f32", (3,))).dtype is DType.of("f32")
    assert shape_of(Isnan(), Shape("f16", (N,))) == Shape("bool", (N,))
    assert shape_of(Pow(), Shape("f32", (N,)), Shape("i64", (N,))) == Shape("f32", (N,))


F32, I32, BOOL = Shape("f32", (2,)), Shape("i32", (2,)), Shape("bool", (2,))
REFUSED: list[tuple[Any, tuple[Shape, ...], str]] = [
    (pointwise.Sin(), (I32,), "sin computes on float, not i32"),
    (pointwise.Neg(), (BOOL,), "neg computes on int or uint or float, not bool"),
    (pointwise.Neg(), (Shape("i4", (2,)),), "in whole bytes, not i4"),
    (pointwise.Neg(), (F32, F32), "neg takes 1 input, got 2"),
    (pointwise.Add(), (F32,), "add takes 2 inputs, got 1"),
    (pointwise.Add(), (F32, I32), "add needs inputs of one type, got f32, i32"),
    (pointwise.Add(), (F32, Shape("f32", (3,))), "add needs equal dims"),
    (pointwise.Add(), (F32, Shape("f32", (Dim("k", 3),))), "add needs equal dims"),
    (pointwise.Pow(), (F32, BOOL), "pow computes on int or uint or float, not bool"),
    (pointwise.Where(), (F32, F32, F32), "where needs a bool condition, got f32"),
    (pointwise.Convert(DType.of("i4")), (F32,), "in whole bytes, not i4"),
    (pointwise.Convert(DType.of("f32"), True, "odd"), (F32,), "up, down or nearest, not 'odd'"),
    (logic.Not(), (I32,), "not computes on bool, not i32"),
    (logic.LogicalAnd(), (I32, I32), "logical_and computes on bool, not i32"),
    (logic.BitwiseAnd(), (F32, F32), "bitwise_and computes on int or uint, not f32"),
    (logic.Greater(), (BOOL, BOOL), "greater computes on int or uint or float, not bool"),
]


@pytest.mark.parametrize(("op", "shapes", "message"), REFUSED, ids=[r[2] for r in REFUSED])
def test_what_is_provably_wrong_is_refused(
    op: Any, shapes: tuple[Shape, ...], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        shape_of(op, *shapes)
