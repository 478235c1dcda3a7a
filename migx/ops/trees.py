"""Ensembles of decision trees."""

from __future__ import annotations

import numpy as np

from migx.dim import may_equal
from migx.errors import EvaluationError, ShapeError
from migx.op import Array, Modules, Op, Shapes
from migx.ops._numeric import NUMBER, expect_kind
from migx.ops._rules import expect
from migx.shape import BOOL, I64, Shape

UNORDERED, GREATER, LESS, EQUAL = 1, 2, 4, 8
"""How x may lie to y, a bit for each: the number of the bit is (x >= y) + 2 (x <= y)."""
COMPARISONS = (LESS | EQUAL, LESS, GREATER | EQUAL, GREATER, EQUAL, LESS | GREATER | UNORDERED)
"""By the numbers of comparisons, where one holds."""
AGGREGATES = {"sum": np.add, "average": np.add, "min": np.fmin, "max": np.fmax}
"""How what two trees say is put together."""
SILENT = {"sum": 0.0, "average": 0.0, "min": np.nan, "max": np.nan}
"""What stands for nothing said."""
FAULT = (
    "tree_ensemble: a tree goes round in a circle, or names a node, a leaf, a feature or a "
    "comparison that there is not"
)
AT_ONCE = 1 << 16
"""About how many leaves are looked for at once."""


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
        dtypes = [nodes[0].dtype, nodes[1].dtype, *(v.dtype for v in (*nodes[3:], roots))]
        if (
            ranks != [2, 2, 1, *[1] * 6]
            or dtypes != [I64] * 4 + [BOOL, I64]
            or not all(may_equal(node.dims[0], nodes[0].dims[0]) for node in nodes)
        ):
            raise ShapeError(
                f"{self.name} needs features [N, F], six lists of nodes, as long as each other, "
                "weights [leaves, targets] and roots, places and comparisons in i64, whether "
                f"missing ones count in bool, got {', '.join(s.text for s in shapes)}"
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
            # Not reduced, which would be in another order.
            total[top : top + height] = combine.accumulate(np.concatenate([nothing, said]))[-1]
        total = total / max(len(roots), 1) if self.aggregate == "average" else total
        return np.where(np.isnan(total), 0, total).astype(weights.dtype)


def _leaves(
    x: Array,
    roots: Array,
    leaves: int,
    features: Array,
    modes: Array,
    splits: Array,
    yes: Array,
    no: Array,
    missing: Array,
) -> Array:
    """The leaf each row comes to in each tree, [trees, N]. One that went on more often than there
    are nodes is in a circle.
    """
    at = np.repeat(roots, len(x))
    row = np.tile(np.arange(len(x)), len(roots))
    holds_where = np.asarray(COMPARISONS)
    for _ in range(len(features) + 1):
        going = np.flatnonzero(at >= 0)
        if not going.size:
            break
        here = _inside(at[going], len(features))
        feature, mode = _inside(features[here], x.shape[1]), _inside(modes[here], len(COMPARISONS))
        value, split = x[row[going], feature], splits[here]
        lies = (value >= split) + 2 * (value <= split)
        holds = (holds_where[mode] >> lies & 1).astype(np.bool_)
        holds |= (value != value) & missing[here]
        at[going] = np.where(holds, yes[here], no[here])
    return _inside(-1 - at, leaves).reshape(len(roots), len(x))


def _inside(places: Array, extent: int) -> Array:
    """Places, which must be from 0 to before an extent."""
    if places.size and (places.min() < 0 or places.max() >= extent):
        raise EvaluationError(FAULT)
    return places
