"""Writes ensembles of decision trees."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper

from migx.onnx.exporters import exporter
from migx.onnx.site import Site
from migx.op import Array
from migx.ops.trees import COMPARISONS, GREATER, LESS, UNORDERED

AGGREGATES = ("average", "sum", "min", "max")


@exporter("tree_ensemble")
def tree_ensemble(site: Site) -> str:
    """ONNX has trees as attributes, and one target for each leaf (TreeEnsemble-5)."""
    held = [site.known(i) for i in range(1, 7)]
    arrays = [value.array for value in held if value is not None]
    if len(arrays) < len(held):
        raise site.fail("its trees are not fixed literals")
    features, tests, splits, ways, weights, roots = arrays
    if (roots < 0).any():
        raise site.fail("it has a tree without a test")
    modes, missing = comparisons(site, tests)
    targets, said = one_target(site, weights)
    attributes: dict[str, Any] = {
        "nodes_featureids": features.tolist(),
        "nodes_modes": numpy_helper.from_array(modes),
        "nodes_splits": numpy_helper.from_array(splits),
        "nodes_missing_value_tracks_true": missing.tolist(),
        "leaf_targetids": targets.tolist(),
        "leaf_weights": numpy_helper.from_array(said),
        "tree_roots": roots.tolist(),
        "n_targets": weights.shape[1],
        "aggregate_function": AGGREGATES.index(site.op.aggregate),
    }
    for side, to in zip(("false", "true"), ways.T, strict=True):
        attributes[f"nodes_{side}nodeids"] = np.where(to < 0, -1 - to, to).tolist()
        attributes[f"nodes_{side}leafs"] = (to < 0).astype(np.int64).tolist()
    site.graph.model.require(5, "ai.onnx.ml")
    return site.node("ai.onnx.ml::TreeEnsemble", site.input(0), **attributes)


def comparisons(site: Site, tests: Array) -> tuple[Array, Array]:
    """The number of each test's comparison, and whether it also holds for a missing value."""
    ordered = np.asarray(COMPARISONS) & ~UNORDERED
    found = (tests & ~np.uint8(UNORDERED))[:, None] == ordered
    missing = (tests & UNORDERED).astype(np.int64)
    is_unequal = ordered == LESS | GREATER  # this holds for a missing value
    if not found.any(1).all() or (found & is_unequal & (missing == 0)[:, None]).any():
        raise site.fail("it has a test that is no comparison")
    return found.argmax(1).astype(np.uint8), missing


def one_target(site: Site, weights: Array) -> tuple[Array, Array]:
    """The target of each leaf, and its weight."""
    sums = site.op.aggregate in ("sum", "average")
    counts = weights != 0 if sums else np.isfinite(weights)
    if (counts.sum(1) > 1).any():
        raise site.fail("it has a leaf with weights for several targets")
    targets = counts.argmax(1)
    return targets, np.take_along_axis(weights, targets[:, None], 1)[:, 0]
