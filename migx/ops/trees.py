"""Ensembles of decision trees."""

from __future__ import annotations

import numpy as np

from migx.errors import EvaluationError, ShapeError
from migx.op import Array, Modules, Op, Shapes
from migx.ops._numeric import NUMBER, expect_kind
from migx.ops._rules import expect
from migx.shape import I64, Shape

COMPARISONS = (np.less_equal, np.less, np.greater_equal, np.greater, np.equal, np.not_equal)
AGGREGATES = {
    "sum": (np.add, 0.0),
    "average": (np.add, 0.0),
    "min": (np.fmin, np.nan),
    "max": (np.fmax, np.nan),
}
"""How what two trees say is put together, and what stands for nothing said."""


class TreeEnsemble(Op):
    """What the trees say of rows of features [N, F], put together: [N, targets].

    Inputs are x; of each node the feature, the comparison (<=, <, >=, >, ==, !=), the number
    compared with, where to go if it holds and if not, and whether a missing feature counts as if it
    held; the weights of each leaf [leaves, targets]; and where each tree begins. A place below 0 is
    a leaf: -1 the first. Weights that are infinite say nothing; a target of which nothing is said
    is 0. ONNX TreeEnsemble-5.
    """

    aggregate: str = "sum"

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 9)
        x, *nodes, weights, roots = shapes
        expect_kind(self, x.dtype, NUMBER)
        if self.aggregate not in AGGREGATES:
            raise ShapeError(f"{self.name} knows {', '.join(AGGREGATES)}, not {self.aggregate!r}")
        ranks = [x.rank, weights.rank, roots.rank, *(node.rank for node in nodes)]
        if ranks != [2, 2, 1, *[1] * 6] or any(nodes[i].dtype is not I64 for i in (0, 1, 3, 4)):
            raise ShapeError(
                f"{self.name} needs features [N, F], six lists of nodes, weights [leaves, targets] "
                f"and roots, got {', '.join(s.text for s in shapes)}"
            )
        return Shape(weights.dtype, (x.dims[0], weights.dims[1]))

    def compute(self, x: Array, *nodes: Array) -> Array:
        *tests, weights, roots = nodes
        combine, silent = AGGREGATES[self.aggregate]
        total = np.full((len(x), weights.shape[1]), silent)
        for root in roots.tolist():
            said = weights[-1 - _leaves(x, root, *tests)].astype(np.float64)
            total = combine(total, np.where(np.isfinite(said), said, silent))
        total = total / max(len(roots), 1) if self.aggregate == "average" else total
        return np.nan_to_num(total).astype(weights.dtype)


def _leaves(
    x: Array,
    root: int,
    features: Array,
    modes: Array,
    splits: Array,
    yes: Array,
    no: Array,
    missing: Array,
) -> Array:
    """The leaf each row comes to in one tree, as a place below 0. A row that went round more
    often than there are nodes is in a circle.
    """
    at = np.full(len(x), root, np.int64)
    for _ in range(len(features) + 1):
        rows = np.flatnonzero(at >= 0)
        if not rows.size:
            return at
        here = at[rows]
        value, split = x[rows, features[here]], splits[here]
        holds = np.zeros(len(rows), np.bool_)
        for code, compare in enumerate(COMPARISONS):
            chosen = modes[here] == code
            holds[chosen] = compare(value[chosen], split[chosen])
        holds |= np.isnan(value.astype(np.float64)) & missing[here]
        at[rows] = np.where(holds, yes[here], no[here])
    raise EvaluationError("tree_ensemble: a tree goes round in a circle")
