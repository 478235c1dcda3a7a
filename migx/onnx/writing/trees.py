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
    """ONNX has trees as attributes, each with a test, and one target for each leaf: a tree is
    copied for each further target of its leaves (TreeEnsemble-5).
    """
    held = [site.known(i) for i in range(1, 7)]
    arrays = [value.array for value in held if value is not None]
    if len(arrays) < len(held):
        raise site.fail("its trees are not fixed literals")
    features, tests, splits, ways, weights, roots = tested(*arrays)
    modes, missing = comparisons(site, tests)
    targets, said = votes(site, weights)
    copies = len(targets)
    averages = site.op.aggregate == "average" and copies > 1
    attributes: dict[str, Any] = {
        "nodes_featureids": np.tile(features, copies).tolist(),
        "nodes_modes": numpy_helper.from_array(np.tile(modes, copies)),
        "nodes_splits": numpy_helper.from_array(np.tile(splits, copies)),
        "nodes_missing_value_tracks_true": np.tile(missing, copies).tolist(),
        "leaf_targetids": targets.ravel().tolist(),
        "leaf_weights": numpy_helper.from_array(said.ravel()),
        "tree_roots": copied(roots, copies, len(features)).tolist(),
        "n_targets": weights.shape[1],
        "aggregate_function": AGGREGATES.index("sum" if averages else site.op.aggregate),
    }
    for side, to in zip(("false", "true"), ways.T, strict=True):
        leaves = np.tile(to < 0, copies)
        at = np.where(
            leaves, copied(-1 - to, copies, len(weights)), copied(to, copies, len(features))
        )
        attributes[f"nodes_{side}nodeids"] = at.tolist()
        attributes[f"nodes_{side}leafs"] = leaves.astype(np.int64).tolist()
    site.graph.model.require(5, "ai.onnx.ml")
    made = site.node("ai.onnx.ml::TreeEnsemble", site.input(0), **attributes)
    return site.node("Div", made, site.constant(len(roots), site.shape.dtype)) if averages else made


def tested(
    features: Array, tests: Array, splits: Array, ways: Array, weights: Array, roots: Array
) -> tuple[Array, ...]:
    """The trees, those of a leaf alone with a test that leads there in any case."""
    alone = np.flatnonzero(roots < 0)
    more, count = len(alone), len(features)
    ways = np.concatenate([ways, np.stack([roots[alone]] * 2, 1)])
    roots = roots.copy()
    roots[alone] = count + np.arange(more)
    tests = np.concatenate([tests, np.full(more, COMPARISONS[0], tests.dtype)])
    return np.pad(features, (0, more)), tests, np.pad(splits, (0, more)), ways, weights, roots


def copied(places: Array, copies: int, extent: int) -> Array:
    """Indices of nodes or leaves for each copy of the trees, of which each has ``extent``."""
    return (np.arange(copies)[:, None] * extent + places).ravel()


def comparisons(site: Site, tests: Array) -> tuple[Array, Array]:
    """The number of each test's comparison, and whether it also holds for a missing value."""
    ordered = np.asarray(COMPARISONS) & ~UNORDERED
    found = (tests & ~np.uint8(UNORDERED))[:, None] == ordered
    missing = (tests & UNORDERED).astype(np.int64)
    is_unequal = ordered == LESS | GREATER  # this holds for a missing value
    if not found.any(1).all() or (found & is_unequal & (missing == 0)[:, None]).any():
        raise site.fail("it has a test that is no comparison")
    return found.argmax(1).astype(np.uint8), missing


def votes(site: Site, weights: Array) -> tuple[Array, Array]:
    """The target of each leaf and its weight, [copies, leaves]: as many as a leaf has at most."""
    sums = site.op.aggregate in ("sum", "average")
    counts = weights != 0 if sums else np.isfinite(weights)
    copies = int(np.max(counts.sum(1), initial=1))
    targets = np.argsort(~counts, axis=1, kind="stable")[:, :copies]
    return targets.T, np.take_along_axis(weights, targets, 1).T
