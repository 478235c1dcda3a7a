"""Arithmetic on each element alone.

All inputs have the same dims; broadcasts are instructions of their own. Meanings are numpy's, in
the element type of the inputs; floats under 32 bits are computed in f32 and rounded once, and
integers wrap around.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from migx.argument import Argument
from migx.errors import ShapeError
from migx.op import Arguments, Array, Modules, Op, Shapes, Traits
from migx.ops._erf import erf
from migx.ops._numeric import (
    ANY,
    FLOAT,
    NUMBER,
    ORDERED,
    Kinds,
    expect_kind,
    quotient,
    to_float8,
    to_integer,
)
from migx.ops._rules import expect, expect_same_dims, expect_same_type, no_warnings, rounded, wide
from migx.shape import BOOL, DType, Shape

POINTWISE = Traits(pointwise=True)
COMMUTATIVE = Traits(pointwise=True, commutative=True)


class Unary(Op, abstract=True):
    """One input, of a type the operation computes on; the result has its type and dims."""

    traits = POINTWISE
    kinds: ClassVar[Kinds] = FLOAT
    ufunc: ClassVar[np.ufunc]

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        expect_kind(self, shapes[0].dtype, self.kinds)
        return shapes[0].as_standard()

    def compute(self, x: Array) -> Array:
        with no_warnings():
            return rounded(self.of(wide(x)), x)

    def of(self, x: Array) -> Array:
        """The meaning, on an array of integers or of floats of at least 32 bits."""
        result: Array = self.ufunc(x)
        return result


class Binary(Op, abstract=True):
    """Two inputs of one type and dims, which the result has too."""

    traits = POINTWISE
    kinds: ClassVar[Kinds] = NUMBER
    ufunc: ClassVar[np.ufunc]

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2)
        dtype = expect_kind(self, expect_same_type(self, shapes), self.kinds)
        return Shape(dtype, expect_same_dims(self, shapes))

    def compute(self, x: Array, y: Array) -> Array:
        with no_warnings():
            return rounded(self.of(wide(x), wide(y)), x)

    def of(self, x: Array, y: Array) -> Array:
        """The meaning, on arrays of integers or of floats of at least 32 bits."""
        result: Array = self.ufunc(x, y)
        return result


class Abs(Unary):
    """The magnitude."""

    kinds = NUMBER
    ufunc = np.absolute


class Acos(Unary):
    """The angle in [0, pi] whose cosine is x; NaN beyond [-1, 1]."""

    ufunc = np.arccos


class Acosh(Unary):
    """The number of at least 0 whose hyperbolic cosine is x; NaN below 1."""

    ufunc = np.arccosh


class Asin(Unary):
    """The angle in [-pi/2, pi/2] whose sine is x; NaN beyond [-1, 1]."""

    ufunc = np.arcsin


class Asinh(Unary):
    """The number whose hyperbolic sine is x."""

    ufunc = np.arcsinh


class Atan(Unary):
    """The angle in [-pi/2, pi/2] whose tangent is x."""

    ufunc = np.arctan


class Atanh(Unary):
    """The number whose hyperbolic tangent is x; NaN beyond [-1, 1]."""

    ufunc = np.arctanh


class Ceil(Unary):
    """The least whole number not below x."""

    ufunc = np.ceil


class Cos(Unary):
    """The cosine of an angle in radians."""

    ufunc = np.cos


class Cosh(Unary):
    """The hyperbolic cosine."""

    ufunc = np.cosh


class Elu(Unary):
    """x where x > 0, else alpha * (exp(x) - 1). ONNX Elu."""

    alpha: float = 1.0

    def of(self, x: Array) -> Array:
        return np.where(x > 0, x, self.alpha * np.expm1(x))


class Erf(Unary):
    """The error function, 2 / sqrt(pi) times the integral of exp(-t²) from 0 to x."""

    def of(self, x: Array) -> Array:
        return erf(x)


class Exp(Unary):
    """e to the power of x."""

    ufunc = np.exp


class Floor(Unary):
    """The greatest whole number not above x."""

    ufunc = np.floor


class Identity(Op):
    """The input itself, of whatever shape."""

    traits = Traits(view=0)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        return shapes[0]

    def compute(self, arguments: Arguments) -> Argument:
        return arguments[0]


class LeakyRelu(Unary):
    """x where x >= 0, else alpha * x. ONNX LeakyRelu."""

    alpha: float = 0.01

    def of(self, x: Array) -> Array:
        return np.where(x < 0, self.alpha * x, x)


class Log(Unary):
    """The natural logarithm; NaN below 0."""

    ufunc = np.log


class Nearbyint(Unary):
    """The nearest whole number, halves to the even one. ONNX Round."""

    ufunc = np.rint


class Neg(Unary):
    """-x."""

    kinds = NUMBER
    ufunc = np.negative


class Recip(Unary):
    """1 / x."""

    ufunc = np.reciprocal


class Relu(Unary):
    """max(x, 0); NaN stays NaN."""

    kinds = NUMBER

    def of(self, x: Array) -> Array:
        result: Array = np.maximum(x, x.dtype.type(0))
        return result


class Rsqrt(Unary):
    """1 / sqrt(x); NaN below 0."""

    def of(self, x: Array) -> Array:
        result: Array = np.reciprocal(np.sqrt(x))
        return result


class Sigmoid(Unary):
    """1 / (1 + exp(-x))."""

    def of(self, x: Array) -> Array:
        result: Array = np.reciprocal(1 + np.exp(-x))
        return result


class Sign(Unary):
    """-1, 0 or 1, as x is below, at or above 0; NaN stays NaN."""

    kinds = NUMBER
    ufunc = np.sign


class Sin(Unary):
    """The sine of an angle in radians."""

    ufunc = np.sin


class Sinh(Unary):
    """The hyperbolic sine."""

    ufunc = np.sinh


class Sqrt(Unary):
    """The square root; NaN below 0."""

    ufunc = np.sqrt


class Tan(Unary):
    """The tangent of an angle in radians."""

    ufunc = np.tan


class Tanh(Unary):
    """The hyperbolic tangent."""

    ufunc = np.tanh


class Add(Binary):
    """x + y."""

    traits = COMMUTATIVE
    ufunc = np.add


class Sub(Binary):
    """x - y."""

    ufunc = np.subtract


class Mul(Binary):
    """x * y."""

    traits = COMMUTATIVE
    ufunc = np.multiply


class Div(Binary):
    """x / y; of integers, truncated toward zero, and 0 where y is 0. ONNX Div."""

    def of(self, x: Array, y: Array) -> Array:
        if x.dtype.kind in "iu":
            return quotient(x, y)
        result: Array = np.true_divide(x, y)
        return result


class Fmod(Binary):
    """The remainder of x / y, with the sign of x; 0 of integers where y is 0. ONNX Mod, fmod=1."""

    ufunc = np.fmod


class Max(Binary):
    """The greater of two; NaN where either is."""

    traits = COMMUTATIVE
    ufunc = np.maximum


class Min(Binary):
    """The lesser of two; NaN where either is."""

    traits = COMMUTATIVE
    ufunc = np.minimum


class Mod(Binary):
    """The remainder of x / y, with the sign of y; 0 of integers where y is 0. ONNX Mod, fmod=0."""

    ufunc = np.remainder


class Pow(Binary):
    """x to the power of y, in the type of x; y may be of another type. ONNX Pow.

    An integer to a negative power is truncated toward zero, and 0 to one is 0.
    """

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2)
        for shape in shapes:
            expect_kind(self, shape.dtype, self.kinds)
        return Shape(shapes[0].dtype, expect_same_dims(self, shapes))

    def of(self, x: Array, y: Array) -> Array:
        if x.dtype.kind in "iu":
            return _integer_power(x, y)
        square = y.size > 0 and not any(y.strides) and y.flat[0] == 2
        result: Array = x * x if square else np.power(x, y.astype(x.dtype))
        return result


def _integer_power(x: Array, y: Array) -> Array:
    if y.dtype.kind not in "iu":
        return np.trunc(np.power(x.astype(np.float64), y)).astype(x.dtype)
    modular = np.uint64 if x.dtype.kind == "u" else np.int64
    # Of negative exponents only the parity counts: the least integer has no absolute value.
    power = np.power(x.astype(modular), np.where(y < 0, y & 1, y).astype(modular))
    return np.where((y < 0) & (np.abs(x) != 1), 0, power).astype(x.dtype)


class Prelu(Binary):
    """x where x >= 0, else x * slope. ONNX PRelu."""

    def of(self, x: Array, y: Array) -> Array:
        return np.where(x < 0, x * y, x)


class Sqdiff(Binary):
    """(x - y)²."""

    traits = COMMUTATIVE

    def of(self, x: Array, y: Array) -> Array:
        result: Array = np.square(x - y)
        return result


class Clip(Op):
    """min(max(x, low), high) of three inputs of one type and dims; NaN stays NaN. ONNX Clip."""

    traits = POINTWISE

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 3)
        dtype = expect_kind(self, expect_same_type(self, shapes), NUMBER)
        return Shape(dtype, expect_same_dims(self, shapes))

    def compute(self, x: Array, low: Array, high: Array) -> Array:
        result: Array = np.minimum(np.maximum(x, low), high)
        return result


class Where(Op):
    """x where the bool condition holds, else y."""

    traits = POINTWISE

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 3)
        if shapes[0].dtype is not BOOL:
            raise ShapeError(f"where needs a bool condition, got {shapes[0].dtype}")
        return Shape(expect_same_type(self, shapes[1:]), expect_same_dims(self, shapes))

    def compute(self, condition: Array, x: Array, y: Array) -> Array:
        return np.where(condition, x, y)


class Convert(Op):
    """The value in another element type. ONNX Cast.

    Floats round to nearest even, float to integer truncates, and to bool is x != 0. ONNX leaves the
    conversion of a float that the integer type cannot hold undefined. Here it becomes i32 first
    (i64 for u32 and types of 64 bits), with the least number for NaN and what does not fit, and
    then its low bits are taken. So 300 as u8 is 44, and 3e9 as i32 is -2147483648. From 2**63 up a
    float becomes u64 as it would i64 less 2**63.

    To f8, ``saturate`` makes values that are too large the largest of the type; else they become
    its infinity or NaN. ``round_mode`` (up, down, nearest) is for f8e8m0, which has only powers of
    two.
    """

    traits = POINTWISE
    to: DType
    saturate: bool = True
    round_mode: str = "up"

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        expect_kind(self, shapes[0].dtype, ANY)
        expect_kind(self, self.to, ANY)
        if self.round_mode not in ("up", "down", "nearest"):
            raise ShapeError(f"convert rounds up, down or nearest, not {self.round_mode!r}")
        return shapes[0].with_type(self.to)

    def compute(self, x: Array) -> Array:
        if self.to.kind == "string":
            return x.astype(np.str_).astype(object)
        if x.dtype == object and self.to.is_float:
            x = x.astype(np.float64)
        with no_warnings():
            if self.to.is_float and self.to.bits == 8:
                return to_float8(x, self.to, self.saturate, self.round_mode)
            if self.to.is_integer and x.dtype.kind not in "biuO":
                return to_integer(x, self.to.numpy)
            return x.astype(self.to.numpy)


class BitCast(Op):
    """The same bits read as another element type of the same width. ONNX BitCast."""

    traits = POINTWISE
    to: DType

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        given = expect_kind(self, shapes[0].dtype, ORDERED)
        if self.to.kind not in ORDERED or self.to.bits != given.bits:
            raise ShapeError(
                f"bit_cast of {given} needs a type of {given.bits} bits, got {self.to}"
            )
        return shapes[0].with_type(self.to)

    def compute(self, x: Array) -> Array:
        return x.view(self.to.numpy)
