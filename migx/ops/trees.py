"""Ensembles of decision trees."""

from __future__ import annotations

import numpy as np

from migx.dim import may_equal
from migx.errors import EvaluationError, ShapeError
from migx.op import Array, Modules, Op, Shapes
from migx.ops._numeric import NUMBER, expect_kind
from migx.ops._rules import expect
from migx.shape import I32, U8, Shape

UNORDERED, GREATER, LESS, EQUAL = 1, 2, 4, 8
"""The outcomes of comparing x with y, a bit for each: its number is (x >= y) + 2 (x <= y)."""
COMPARISONS = (LESS | EQUAL, LESS, GREATER | EQUAL, GREATER, EQUAL, LESS | GREATER | UNORDERED)
"""The outcomes for which ONNX's comparisons hold, by number: <=, <, >=, >, ==, !=."""
AGGREGATES = {"sum": np.add, "average": np.add, "min": np.fmin, "max": np.fmax}
"""The ufunc that combines the outputs of trees."""
SILENT = {"sum": 0.0, "average": 0.0, "min": np.nan, "max": np.nan}
"""The value of a target without contributions."""
FAULT = (
    "tree_ensemble: a tree has a cycle, or names a node, a leaf or a feature that does not exist"
)
AT_ONCE = 1 << 16
"""About how many leaves are searched for at once."""


class TreeEnsemble(Op):
    """The aggregated outputs of the trees for rows of features [N, F]: [N, targets].

    Inputs are x; for each node the feature, the comparison, the number it is compared with, and the
    next nodes if the test fails and if it holds [nodes, 2]; the weights of each leaf [leaves,
    targets]; and the root of each tree. A comparison is the sum of the outcomes for which the test
    holds, of UNORDERED 1, GREATER 2, LESS 4 and EQUAL 8: <= is 12, and 13 if it also holds for a
    missing feature. A node below 0 is a leaf: -1 the first. Infinite weights contribute nothing; a
    target without contributions is 0. ONNX TreeEnsemble-5.
    """

    aggregate: str = "sum"

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 7)
        x, *nodes, weights, roots = shapes
        expect_kind(self, x.dtype, NUMBER)
        if self.aggregate not in AGGREGATES:
            raise ShapeError(f"{self.name} knows {', '.join(AGGREGATES)}, not {self.aggregate!r}")
        features, tests, _, ways = nodes
        if (
            [s.rank for s in shapes] != [2, 1, 1, 1, 2, 2, 1]
            or [s.dtype for s in (features, tests, ways, roots)] != [I32, U8, I32, I32]
            or not all(may_equal(node.dims[0], features.dims[0]) for node in nodes)
            or not may_equal(ways.dims[1], 2)
        ):
            raise ShapeError(
                f"{self.name} needs features [N, F]; of as many nodes features and two ways on in "
                "i32, tests in u8 and what they compare with; weights [leaves, targets] and roots "
                f"in i32, got {', '.join(s.text for s in shapes)}"
            )
        return Shape(weights.dtype, (x.dims[0], weights.dims[1]))

    def compute(self, x: Array, *nodes: Array) -> Array:
        """Sums are in f64, in the order of the trees."""
        *tests, weights, roots = nodes
        combine, silent = AGGREGATES[self.aggregate], SILENT[self.aggregate]
        total = np.empty((len(x), weights.shape[1]))
        height = max(1, AT_ONCE // max(len(roots), 1))
        for top in range(0, len(x), height):
            rows = x[top : top + height]
            said = weights[_leaves(rows, roots, len(weights), *tests)].astype(np.float64)
            said = np.where(np.isfinite(said), said, silent)
            nothing = np.full((1, *said.shape[1:]), silent)
            # Not by reduce, which sums in another order.
            total[top : top + height] = combine.accumulate(np.concatenate([nothing, said]))[-1]
        total = total / max(len(roots), 1) if self.aggregate == "average" else total
        return np.where(np.isnan(total), 0, total).astype(weights.dtype)


def _leaves(
    x: Array, roots: Array, leaves: int, features: Array, tests: Array, splits: Array, ways: Array
) -> Array:
    """The leaf that each row reaches in each tree, [trees, N]. A path with more steps than there
    are nodes is a cycle.
    """
    at = np.repeat(roots, len(x))
    row = np.tile(np.arange(len(x)), len(roots))
    for _ in range(len(features) + 1):
        going = np.flatnonzero(at >= 0)
        if not going.size:
            break
        here = _inside(at[going], len(features))
        value, split = x[row[going], _inside(features[here], x.shape[1])], splits[here]
        lies = (value >= split) + 2 * (value <= split)
        at[going] = ways[here, tests[here] >> lies & 1]
    return _inside(-1 - at, leaves).reshape(len(roots), len(x))


def _inside(places: Array, extent: int) -> Array:
    """Indices, which must be in [0, extent)."""
    if places.size and (places.min() < 0 or places.max() >= extent):
        raise EvaluationError(FAULT)
    return places
