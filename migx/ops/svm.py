"""Operations of support vector machines beyond products and sums."""

from __future__ import annotations

import numpy as np

from migx.errors import ShapeError
from migx.op import Array, Modules, Op, Shapes
from migx.ops._numeric import FLOAT, expect_kind
from migx.ops._rules import expect, no_warnings, rounded, wide
from migx.shape import Shape

STEPS = 100
NEAR = 0.005
"""The error, times the number of classes, below which no more steps are taken."""


class CoupleChances(Op):
    """The probability of each of k classes, [N, k], from those of each pair of classes, [N, k, k].

    [n, i, j] is the probability of class i given that it is i or j; the diagonal is not read. The
    probabilities p minimise the sum of (r_ji p_i - r_ij p_j)²: the second way of Wu, Lin and Weng
    (2004), "Probability Estimates for Multi-class Classification by Pairwise Coupling", by its
    iteration, up to 100 steps or until the error is at most 0.005 / k.
    """

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1)
        (shape,) = shapes
        dtype = expect_kind(self, shape.dtype, FLOAT)
        if shape.rank != 3 or shape.dims[1] != shape.dims[2]:
            raise ShapeError(f"{self.name} takes [N, k, k], not {shape.text}")
        return Shape(dtype, shape.dims[:2])

    def compute(self, x: Array) -> Array:
        """Rows are the last axis here, so that each class's values lie together."""
        count, wider = x.shape[1], wide(x)
        r = np.where(np.eye(count, dtype=bool)[..., None], 0, np.moveaxis(wider, 0, 2))
        matrix = -np.swapaxes(r, 0, 1) * r
        matrix[range(count), range(count)] = np.sum(r**2, axis=0)
        chances = np.full(x.shape[1::-1], 1 / max(count, 1), matrix.dtype)
        with no_warnings():
            for _ in range(STEPS):
                slopes = np.sum(matrix * chances, 1)
                total = np.sum(chances * slopes, 0)
                going = np.abs(slopes - total).max(0, initial=0) >= NEAR / max(count, 1)
                if not going.any():
                    break
                np.copyto(chances, _step(matrix, chances, slopes, total), where=going)
        return rounded(np.ascontiguousarray(chances.T), x)


def _step(matrix: Array, chances: Array, slopes: Array, total: Array) -> Array:
    """Each probability in turn moved to its optimum given the others."""
    chances = chances.copy()
    for t, row in enumerate(matrix):
        change = (total - slopes[t]) / row[t]
        chances[t] += change
        grown = 1 + change
        total = (total + change * (change * row[t] + 2 * slopes[t])) / grown**2
        slopes = (slopes + change * row) / grown
        chances /= grown
    return chances
