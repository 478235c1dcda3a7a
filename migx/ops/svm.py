"""Operations of support vector machines beyond products and sums."""

from __future__ import annotations

import numpy as np

from migx.errors import ShapeError
from migx.op import Array, Modules, Op, Shapes
from migx.ops._numeric import FLOAT, expect_kind
from migx.ops._rules import expect, no_warnings, rounded, wide
from migx.shape import Shape

STEPS = 100


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
        r = wide(x) * (1 - np.eye(x.shape[1], dtype=wide(x).dtype))
        others = np.swapaxes(r, 1, 2)
        matrix = -others * r
        diagonal = np.sum(r**2, axis=1)
        matrix[:, range(x.shape[1]), range(x.shape[1])] = diagonal
        chances = np.full(x.shape[:2], 1 / max(x.shape[1], 1), matrix.dtype)
        with no_warnings():
            for _ in range(STEPS):
                slopes = np.einsum("nij,nj->ni", matrix, chances)
                total = np.sum(chances * slopes, 1, keepdims=True)
                going = np.abs(slopes - total).max(1, initial=0) >= 0.005 / x.shape[1]
                if not going.any():
                    break
                chances = np.where(going[:, None], self._step(matrix, chances), chances)
        return rounded(chances, x)

    def _step(self, matrix: Array, chances: Array) -> Array:
        """Each probability in turn moved to its optimum given the others."""
        chances = chances.copy()
        slopes = np.einsum("nij,nj->ni", matrix, chances)
        total = np.sum(chances * slopes, 1)
        for t in range(chances.shape[1]):
            own = matrix[:, t, t]
            change = (total - slopes[:, t]) / own
            chances[:, t] += change
            total = (total + change * (change * own + 2 * slopes[:, t])) / (1 + change) ** 2
            slopes = (slopes + change[:, None] * matrix[:, t]) / (1 + change)[:, None]
            chances /= (1 + change)[:, None]
        return chances
