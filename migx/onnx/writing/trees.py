"""Writes ensembles of decision trees."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper

from migx.onnx.exporters import exporter
from migx.onnx.site import Site
from migx.op import Array

AGGREGATES = ("average", "sum", "min", "max")


@exporter("tree_ensemble")
def tree_ensemble(site: Site) -> str:
    """ONNX has trees as attributes, and one target in each leaf (TreeEnsemble-5)."""
    held = [site.known(i) for i in range(1, 9)]
    arrays = [value.array for value in held if value is not None]
    if len(arrays) < len(held):
        raise site.fail("its trees are not fixed literals")
    features, modes, splits, yes, no, missing, weights, roots = arrays
    if (roots < 0).any():
        raise site.fail("it has a tree without a test")
    targets, said = one_target(site, weights)
    attributes: dict[str, Any] = {
        "nodes_featureids": features.tolist(),
        "nodes_modes": numpy_helper.from_array(modes.astype(np.uint8)),
        "nodes_splits": numpy_helper.from_array(splits),
        "nodes_missing_value_tracks_true": missing.astype(np.int64).tolist(),
        "leaf_targetids": targets.tolist(),
        "leaf_weights": numpy_helper.from_array(said),
        "tree_roots": roots.tolist(),
        "n_targets": weights.shape[1],
        "aggregate_function": AGGREGATES.index(site.op.aggregate),
    }
    for side, to in (("true", yes), ("false", no)):
        attributes[f"nodes_{side}nodeids"] = np.where(to < 0, -1 - to, to).tolist()
        attributes[f"nodes_{side}leafs"] = (to < 0).astype(np.int64).tolist()
    site.graph.model.require(5, "ai.onnx.ml")
    return site.node("ai.onnx.ml::TreeEnsemble", site.input(0), **attributes)


def one_target(site: Site, weights: Array) -> tuple[Array, Array]:
    """Of each leaf the target it has a weight for, and that weight."""
    sums = site.op.aggregate in ("sum", "average")
    counts = weights != 0 if sums else np.isfinite(weights)
    if (counts.sum(1) > 1).any():
        raise site.fail("it has a leaf with weights for several targets")
    targets = counts.argmax(1)
    return targets, np.take_along_axis(weights, targets[:, None], 1)[:, 0]
