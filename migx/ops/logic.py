"""Comparisons, logic and bits, on each element alone. All inputs have the same dims."""

from __future__ import annotations

import numpy as np

from migx.op import Array, Modules, Shapes
from migx.ops._numeric import ANY, INTEGER, LOGICAL
from migx.ops._rules import no_warnings, wide
from migx.ops.pointwise import COMMUTATIVE, Binary, Unary
from migx.shape import BOOL, Shape


class Predicate(Binary, abstract=True):
    """Two inputs of one type and dims; the result is bool."""

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return super().compute_shape(shapes, modules).with_type(BOOL)

    def compute(self, x: Array, y: Array) -> Array:
        with no_warnings():
            return np.asarray(self.of(wide(x), wide(y)), np.bool_)


class Equal(Predicate):
    """x == y, of strings too; False where either is NaN."""

    traits = COMMUTATIVE
    kinds = ANY
    ufunc = np.equal


class Greater(Predicate):
    """x > y; False where either is NaN."""

    ufunc = np.greater


class GreaterOrEqual(Predicate):
    """x >= y; False where either is NaN."""

    ufunc = np.greater_equal


class Less(Predicate):
    """x < y; False where either is NaN."""

    ufunc = np.less


class LessOrEqual(Predicate):
    """x <= y; False where either is NaN."""

    ufunc = np.less_equal


class Isnan(Unary):
    """Whether x is NaN, as bool."""

    ufunc = np.isnan

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return super().compute_shape(shapes, modules).with_type(BOOL)

    def compute(self, x: Array) -> Array:
        return np.asarray(self.of(wide(x)))


class Isinf(Isnan):
    """Whether x is one of the infinities asked for, as bool. ONNX IsInf."""

    detect_negative: bool = True
    detect_positive: bool = True

    def of(self, x: Array) -> Array:
        negative = np.isneginf(x) if self.detect_negative else np.False_
        positive = np.isposinf(x) if self.detect_positive else np.False_
        return np.broadcast_to(negative | positive, x.shape)


class Not(Unary):
    """True where x is False."""

    kinds = LOGICAL
    ufunc = np.logical_not


class LogicalAnd(Binary):
    """True where both are."""

    traits = COMMUTATIVE
    kinds = LOGICAL
    ufunc = np.logical_and


class LogicalOr(Binary):
    """True where either is."""

    traits = COMMUTATIVE
    kinds = LOGICAL
    ufunc = np.logical_or


class LogicalXor(Binary):
    """True where one is and the other is not."""

    traits = COMMUTATIVE
    kinds = LOGICAL
    ufunc = np.logical_xor


class BitwiseNot(Unary):
    """Every bit inverted."""

    kinds = INTEGER
    ufunc = np.invert


class BitwiseAnd(Binary):
    """The bits set in both."""

    traits = COMMUTATIVE
    kinds = INTEGER
    ufunc = np.bitwise_and


class BitwiseOr(Binary):
    """The bits set in either."""

    traits = COMMUTATIVE
    kinds = INTEGER
    ufunc = np.bitwise_or


class BitwiseXor(Binary):
    """The bits set in one and not in the other."""

    traits = COMMUTATIVE
    kinds = INTEGER
    ufunc = np.bitwise_xor


class ShiftLeft(Binary):
    """x with its bits moved y places up; 0 from the width of the type on. ONNX BitShift LEFT."""

    kinds = INTEGER
    ufunc = np.left_shift


class ShiftRight(Binary):
    """x with its bits moved y places down; from the width of the type on, only the sign is left."""

    kinds = INTEGER
    ufunc = np.right_shift
