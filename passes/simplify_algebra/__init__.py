"""Algebra: identities, constants merged and moved into weights, and equal work done once.

A folder of rules by family; each rule's docstring is the identity it applies. All are exact on
integers, which wrap around. On floats those that only drop, reorder or rename an operation are
exact too, to the sign of zero; those that merge constants round once where two roundings were, at
another place. None trades NaN, infinities or accuracy for speed: log(exp(x)) stays, and x / 3 too;
but x * a + x * b as x * (a + b) is infinite for an infinite x, also where a and b differ in sign,
and x * a / b as x * (a / b) is finite where x * a is not.

No rule makes more work than it saves, given that what is constant is computed once, nor a constant
larger than what it frees, nor touches weights that are packed or quantised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from migx import op as operations
from migx.argument import Argument
from migx.ir import Instruction
from migx.manager import Pass
from migx.op import Array, Operation
from migx.ops.linear import Convolution, Dot
from migx.ops.pointwise import Div
from migx.passes.simplify_algebra.broadcasts import broadcasts
from migx.passes.simplify_algebra.clamps import clamps
from migx.passes.simplify_algebra.horizontal import horizontal
from migx.passes.simplify_algebra.linear import linear
from migx.passes.simplify_algebra.logic import logic
from migx.passes.simplify_algebra.merging import merging
from migx.passes.simplify_algebra.powers import powers
from migx.passes.simplify_algebra.reductions import reductions
from migx.passes.simplify_algebra.units import units
from migx.passes.simplify_algebra.windows import windows
from migx.pipeline import Approximation


class Opposites(Approximation):
    """Allows any sum of infinities of opposite sign: terms with a common factor may have been added
    without it.
    """

    def of_elements(
        self, at: Instruction, inputs: Sequence[Argument], result: Argument
    ) -> Array | None:
        """Infinite where a NaN comes from inputs that are not NaN."""
        if result.shape.dtype.kind != "float" or any(operations.symbols(at.op)):
            return None
        made = np.isnan(result.array)
        if made.any():
            made &= ~_reached(at.op, [np.isnan(value.array) for value in inputs])
        return np.where(made, np.inf, 0.0) if made.any() else None


def _reached(op: Operation, marks: Sequence[Array]) -> Array:
    """Which elements of a sum, or of sums of products, depend on marked elements."""
    a, b = marks
    if not isinstance(op, Dot | Convolution):
        return a | b
    x, y = (mark.astype(np.float32) for mark in marks)
    made = op.compute(x, np.ones_like(y)) + op.compute(np.ones_like(x), y)
    return np.asarray(made > 0)


class Beyond(Approximation):
    """Allows any result of a product or quotient that overflows: a factor may have been applied
    elsewhere.
    """

    def of_elements(
        self, at: Instruction, inputs: Sequence[Argument], result: Argument
    ) -> Array | None:
        """Infinite where finite numbers make an infinity, but for division by zero."""
        if result.shape.dtype.kind != "float":
            return None
        x, y = (value.array for value in inputs)
        made = np.isinf(result.array) & np.isfinite(x) & np.isfinite(y)
        if isinstance(at.op, Div):
            made &= y != 0
        return np.where(made, np.inf, 0.0) if made.any() else None


class SimplifyAlgebra(Pass):
    """Applies algebraic identities until none is left to apply (MIGraphX pass of this name)."""

    rules = (
        units
        + logic
        + clamps
        + powers
        + reductions
        + broadcasts
        + merging
        + linear
        + windows
        + horizontal
    )

    @property
    def approximations(self) -> Mapping[str, Approximation]:
        """None for numbers in range."""
        sums = dict.fromkeys(("add", "sub", "dot", "convolution"), Opposites())
        return sums | dict.fromkeys(("mul", "div"), Beyond())
