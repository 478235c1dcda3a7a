"""Operators of ``ai.onnx.ml``: encoders, scalers, linear models and trees."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from migx import dim, ops
from migx.builders import concatenate, folded
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops.linear import scaled
from migx.onnx.ops.normalization import over_size, size_of
from migx.op import Array
from migx.ops.trees import COMPARISONS, UNORDERED
from migx.shape import F32, I32, I64, STR

DOMAIN = "ai.onnx.ml"
WINITZKI = 0.147


# Encoders


def listed(node: Node, name: str) -> Array | None:
    """A list from the attribute of some element type, or from a tensor; None if there is none."""
    if node.has(f"{name}_tensor"):
        return node.tensor(f"{name}_tensor").array.reshape(-1)
    if node.has(f"{name}_strings"):
        return np.asarray(node.strings(f"{name}_strings"), object)
    for suffix in ("int64s", "ints"):
        if node.has(f"{name}_{suffix}"):
            return np.asarray(node.integers(f"{name}_{suffix}"), np.int64)
    if node.has(f"{name}_floats"):
        return np.asarray(node.numbers(f"{name}_floats"), np.float32)
    return None


def class_labels(node: Node) -> Array:
    """The class labels of a classifier."""
    labels = listed(node, "classlabels")
    if labels is None or not len(labels):
        raise node.fail("it has no class labels")
    return labels


@importer("LabelEncoder", domain=DOMAIN)
def label_encoder_of_classes(node: Node) -> Instruction:
    """From strings to their indices among the classes, or back."""
    names = np.asarray(node.strings("classes_strings"), object)
    return named_or_numbered(node, names, np.arange(len(names)))


@importer("LabelEncoder", domain=DOMAIN, since=2)
def label_encoder(node: Node) -> Instruction:
    keys, values = listed(node, "keys"), listed(node, "values")
    if values is None or keys is None:
        raise node.fail("it has no keys or no values")
    kind = {"O": "string", "f": "float", "i": "int64"}[values.dtype.kind]
    default: Any
    if node.has("default_tensor"):
        default = node.tensor("default_tensor").array.reshape(())
    elif kind == "string":
        default = np.asarray(node.string("default_string", "_Unused"), object)
    elif kind == "float":
        default = np.asarray(node.number("default_float", -0.0), values.dtype)
    else:
        default = np.asarray(node.integer("default_int64", -1), values.dtype)
    return mapped(node, node.input(0), keys, values, default)


@importer("CategoryMapper", domain=DOMAIN)
def category_mapper(node: Node) -> Instruction:
    """From strings to integers, or back."""
    names = np.asarray(node.strings("cats_strings"), object)
    return named_or_numbered(node, names, np.asarray(node.integers("cats_int64s"), np.int64))


def named_or_numbered(node: Node, names: Array, numbers: Array) -> Instruction:
    """The numbers of names, or the names of numbers, as the input's type requires."""
    x = node.input(0)
    if x.shape.dtype.is_integer:
        text = np.asarray(node.string("default_string", "_Unused"), object)
        return mapped(node, x, numbers, names, text)
    return mapped(node, x, names, numbers, np.asarray(node.integer("default_int64", -1)))


def mapped(node: Node, x: Instruction, keys: Array, values: Array, default: Array) -> Instruction:
    """The value for the key equal to each element, NaN included; or else the default."""
    whole = node.literal(np.append(values, default.astype(values.dtype)))
    if x.shape.dtype is STR:
        return node.add(ops.Gather(0), whole, key_places(node, x, keys))
    hits = equals(node, x, keys)
    place = folded(node, ops.Argmax(x.shape.rank), node.convert(hits, I32))
    known = folded(node, ops.ReduceAny((x.shape.rank,)), hits)
    found = node.add(ops.Where(), known, place, np.int64(len(values)))
    return node.add(ops.Gather(0), whole, found)


def key_places(node: Node, x: Instruction, keys: Array) -> Instruction:
    """The places of strings among some keys, found without comparing each with each."""
    expect_comparable(node, x, keys)
    return node.add(ops.KeyPlaces(), x, node.literal(keys))


def equals(node: Node, x: Instruction, keys: Array) -> Instruction:
    """Whether each element equals each of some keys, along a new last axis. Keys that are strings
    differ.
    """
    if x.shape.dtype is STR:
        x, keys = key_places(node, x, keys), np.arange(len(keys))
    expect_comparable(node, x, keys)
    dtype = x.shape.dtype
    apart = node.add(ops.Unsqueeze((x.shape.rank,)), x)
    names = node.literal(keys.astype(dtype.numpy))
    same = node.add(ops.Equal(), apart, names)
    if not dtype.is_float or not np.isnan(keys).any():
        return same
    nan = node.add(ops.LogicalAnd(), node.add(ops.Isnan(), apart), node.add(ops.Isnan(), names))
    return node.add(ops.LogicalOr(), same, nan)


def expect_comparable(node: Node, x: Instruction, keys: Array) -> None:
    """``OnnxError`` if elements and keys are of different kinds."""
    dtype = x.shape.dtype
    kinds = "O" if dtype is STR else "iuf" if dtype.is_float else "iu"
    if keys.dtype.kind not in kinds:
        raise node.fail(f"{node.proto.input[0]!r} {x.shape} is compared with keys {keys.dtype}")


@importer("OneHotEncoder", domain=DOMAIN)
def one_hot_encoder(node: Node) -> Instruction:
    """Unknown categories give zeros, even if ``zeros`` is 0, for which ONNX fails the run."""
    cats = listed(node, "cats")
    if cats is None:
        raise node.fail("it has no categories")
    return node.convert(equals(node, node.input(0), cats), F32)


@importer("ArrayFeatureExtractor", domain=DOMAIN)
def array_feature_extractor(node: Node) -> Instruction:
    """The given columns; a vector is one row."""
    x, columns = node.input(0), node.input(1)
    x = node.add(ops.Unsqueeze((0,)), x) if x.shape.rank == 1 else x
    flat = node.reshape(columns, (columns.shape.elements,))
    return node.add(ops.Gather(x.shape.rank - 1), x, flat)


@importer("FeatureVectorizer", domain=DOMAIN)
def feature_vectorizer(node: Node) -> Instruction:
    parts = []
    for x, width in zip(node.inputs, node.integers("inputdimensions"), strict=True):
        if x is None:
            raise node.fail("an input is missing")
        rows = x if x.shape.rank == 2 else node.add(ops.Unsqueeze((0,)), x)
        kept = node.add(ops.Slice((1,), (0,), (width,)), rows)
        parts.append(node.convert(kept, F32))
    return concatenate(node, 1, parts)


# Scalers


@importer("Binarizer", domain=DOMAIN)
def binarizer(node: Node) -> Instruction:
    x = node.input(0)
    above = node.add(ops.Greater(), x, node.number("threshold", 0.0))
    return node.convert(above, x.shape.dtype)


@importer("Scaler", domain=DOMAIN)
def scaler(node: Node) -> Instruction:
    """The difference from the offset, times the scale; in f32."""
    x = node.convert(node.input(0), F32)
    for op, name in ((ops.Sub(), "offset"), (ops.Mul(), "scale")):
        if node.has(name):
            x = node.add(op, x, node.numbers(name))
    return x


@importer("Normalizer", domain=DOMAIN)
def normalizer(node: Node) -> Instruction:
    """Rows divided by their maximum, sum of magnitudes, or length; rows of zeros stay."""
    x = node.convert(node.input(0), F32)
    axes, norm = (x.shape.rank - 1,), node.choice("norm", ("MAX", "L1", "L2"), "MAX")
    if norm == "MAX":
        size = node.add(ops.ReduceMax(axes), x)
    else:
        size = size_of(node, x, axes, 1 if norm == "L1" else 2)
    return over_size(node, x, size)


@importer("Imputer", domain=DOMAIN)
def imputer(node: Node) -> Instruction:
    """One value, or NaN, replaced by another: one for all, or one for each column."""
    x, values = node.input(0), listed(node, "imputed_value")
    if values is None:
        raise node.fail("it has no imputed values")
    old = (
        node.number("replaced_value_float", 0.0)
        if x.shape.dtype.is_float
        else node.integer("replaced_value_int64", 0)
    )
    gone = node.add(ops.Isnan(), x) if old != old else node.add(ops.Equal(), x, old)
    return node.add(ops.Where(), gone, values, x)


# Linear models


@importer("LinearRegressor", domain=DOMAIN)
def linear_regressor(node: Node) -> Instruction:
    scores = linear(node, node.integer("targets", 1))
    return finished(node, scores, node.string("post_transform", "NONE"))


def rows_of(node: Node, index: int) -> Instruction:
    """An operand as rows, in f32; a vector is one row."""
    x = node.convert(node.input(index), F32)
    return node.add(ops.Unsqueeze((0,)), x) if x.shape.rank == 1 else x


def linear(node: Node, targets: int) -> Instruction:
    """The product of rows with coefficients [targets, features], plus the intercepts, in f32."""
    x, given = rows_of(node, 0), np.asarray(node.numbers("coefficients"), np.float32)
    features = x.shape.dims[1]
    if given.size % targets or not dim.may_equal(features, given.size // targets):
        raise node.fail(
            f"{given.size} coefficients do not fit {targets} targets of {features} features"
        )
    rows = given.reshape(targets, -1)
    scores = node.add(ops.Dot(), x, node.literal(np.ascontiguousarray(rows.T)))
    if not node.has("intercepts"):
        return scores
    return node.add(ops.Add(), scores, node.numbers("intercepts"))


def finished(node: Node, scores: Instruction, transform: str) -> Instruction:
    """Scores [N, targets] after a post transform."""
    match transform:
        case "NONE":
            return scores
        case "SOFTMAX":
            return node.add(ops.Softmax(1), scores)
        case "LOGISTIC":
            return node.add(ops.Sigmoid(), scores)
        case "SOFTMAX_ZERO":
            zero = node.add(ops.Equal(), scores, 0)
            chances = node.add(ops.Softmax(1), node.add(ops.Where(), zero, -np.inf, scores))
            return node.add(ops.Where(), zero, 0, chances)
        case "PROBIT":
            return probit(node, scores)
        case _:
            raise node.fail(f"the post transform {transform} is not supported")


def probit(node: Node, x: Instruction) -> Instruction:
    """The inverse normal distribution function by Winitzki's approximation, as ONNX means it."""
    y = node.add(ops.Sub(), scaled(node, x, 2.0), 1)
    rest = node.add(ops.Sub(), 1, node.add(ops.Mul(), y, y))
    log = node.add(ops.Log(), rest)
    half = scaled(node, log, 0.5)
    middle = node.add(ops.Add(), half, 2 / (math.pi * WINITZKI))
    square = node.add(ops.Mul(), middle, middle)
    under = node.add(ops.Sub(), square, scaled(node, log, 1 / WINITZKI))
    size = node.add(ops.Sqrt(), node.add(ops.Sub(), node.add(ops.Sqrt(), under), middle))
    return scaled(node, node.add(ops.Mul(), node.add(ops.Sign(), y), size), math.sqrt(2))


@importer("LinearClassifier", domain=DOMAIN)
def linear_classifier(node: Node) -> tuple[Instruction, Instruction]:
    labels = class_labels(node)
    scores = linear(node, len(node.numbers("intercepts", ())) or len(labels))
    if scores.shape.dims[1] == 1 and len(labels) == 2:
        return binary_labels(node, scores, labels, 0.0, chance=True)  # for onnxruntime, always so
    return best_label(node, scores, labels), finished(
        node, scores, node.string("post_transform", "NONE")
    )


def best_label(node: Node, scores: Instruction, labels: Array) -> Instruction:
    """The label of the largest score of each row."""
    return node.add(ops.Gather(0), node.literal(labels), folded(node, ops.Argmax(1), scores))


def binary_labels(
    node: Node, score: Instruction, labels: Array, limit: float, *, chance: bool
) -> tuple[Instruction, Instruction]:
    """The second label where the only score exceeds a limit; and a score for each label.

    The first label's score is 1 minus a probability, or the negative of any other score, also of
    one that a transform makes a probability later.
    """
    transform = node.string("post_transform", "NONE")
    flat = node.add(ops.Squeeze((1,)), score)
    above = node.add(ops.Greater(), flat, limit)
    label = node.add(ops.Gather(0), node.literal(labels), node.convert(above, I64))
    if chance and transform != "LOGISTIC":
        other = node.add(ops.Sub(), 1, score)
        return label, node.add(ops.Concat(1), other, score)
    both = node.add(ops.Concat(1), node.add(ops.Neg(), score), score)
    return label, finished(node, both, transform)


# Trees

MODES = {"LEQ": 0, "LT": 1, "GTE": 2, "GT": 3, "EQ": 4, "NEQ": 5}
MEMBER = 6
SUMS = ("SUM", "AVERAGE")
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def trees(
    node: Node,
    tests: Sequence[Array],
    weights: Array,
    roots: Sequence[int],
    aggregate: str,
) -> Instruction:
    """An ensemble from its tests: features, comparisons, splits, branches, NaN handling."""
    x = node.input(0)
    x = x if x.shape.dtype.is_float else node.convert(x, F32)
    features, modes, splits, yes, no, missing = tests
    if not all(0 <= mode < len(COMPARISONS) for mode in modes):
        raise node.fail(f"there is no comparison of number {max(modes, key=abs)}")
    modes, splits, missing = without_nan(modes, splits, missing)
    holds = np.asarray(COMPARISONS, np.uint8)[np.asarray(modes, np.int64)]
    holds |= missing * np.uint8(UNORDERED)
    ways = np.stack([no, yes], axis=1).astype(np.int32)
    held: list[Array] = [np.asarray(features, np.int32), holds, splits, ways, weights]
    literals = [node.literal(v) for v in (*held, np.asarray(roots, np.int32))]
    if len(holds) and (holds == holds[0]).all():  # one shared value, which kernels can tell
        literals[1] = node.broadcast_to(node.literal(holds[:1]), (len(holds),))
    return node.add(ops.TreeEnsemble(aggregate.lower()), x, *literals)


def without_nan(modes: Array, splits: Array, missing: Array) -> tuple[Array, Array, Array]:
    """The same tests without NaN as a split: a comparison with NaN is true only for !=, and always
    then, so it is replaced by one with infinity.
    """
    never = np.isnan(splits)
    always = never & (modes == MODES["NEQ"])
    modes = np.where(always, MODES["LEQ"], np.where(never, MODES["GT"], modes))
    return modes, np.where(never, splits.dtype.type(np.inf), splits), always | (missing != 0)


@importer("TreeEnsemble", domain=DOMAIN, since=5)
def tree_ensemble(node: Node) -> Instruction:
    """A test of membership becomes a chain of tests of equality, one for each member."""
    count, aggregates = node.integer("n_targets", 1), ("AVERAGE", "SUM", "MIN", "MAX")
    aggregate = aggregates[node.integer("aggregate_function", 1)]
    splits = node.tensor("nodes_splits").array
    modes, size = node.tensor("nodes_modes").array.tolist(), len(splits)
    ways = []
    for side in ("true", "false"):
        to, leaf = node.integers(f"nodes_{side}nodeids"), node.integers(f"nodes_{side}leafs")
        ways.append([-1 - t if end else t for t, end in zip(to, leaf, strict=True)])
    missing = node.integers("nodes_missing_value_tracks_true", (0,) * size)
    rows = [list(row) for row in zip(node.integers("nodes_featureids"), modes, splits.tolist(),
                                     *ways, missing, strict=True)]  # fmt: skip
    expand_members(node, rows)
    tests = [np.asarray(column) for column in zip(*rows, strict=True)]
    tests[2] = tests[2].astype(splits.dtype)
    given = node.tensor("leaf_weights").array
    targets = node.integers("leaf_targetids")
    weights = np.full((len(given), count), 0.0 if aggregate in SUMS else np.inf)
    weights[np.arange(len(given)), targets] = given
    roots = node.integers("tree_roots")
    scores = trees(node, tests, weights.astype(given.dtype), roots, aggregate)
    return finished(node, scores, TRANSFORMS[node.integer("post_transform", 0)])


def expand_members(node: Node, rows: list[list[Any]]) -> None:
    """Replaces each test of membership by tests of equality with each member; if one fails, the
    next follows.
    """
    held = node.tensor("membership_values").array if node.has("membership_values") else np.zeros(0)
    ends = iter(np.split(held, np.flatnonzero(np.isnan(held)) + 1))
    for row in list(rows):
        if row[1] != MEMBER:
            continue
        members = [v for v in next(ends).tolist() if v == v]
        if not members:
            raise node.fail("a test of membership has no members")
        feature, _, _, yes, no, missing = row
        row[1:3] = MODES["EQ"], members[0]
        last = row
        for member in members[1:]:
            last[4] = len(rows)
            last = [feature, MODES["EQ"], member, yes, no, missing]
            rows.append(last)


def forest(node: Node, kind: str, count: int, aggregate: str = "SUM") -> Instruction:
    """An ensemble in the form of the first versions, whose leaves are among the nodes.

    ``kind`` is the prefix of the weights' attributes: ``target`` or ``class``.
    """
    names = list(zip(node.integers("nodes_treeids"), node.integers("nodes_nodeids"), strict=True))
    modes = [mode.removeprefix("BRANCH_") for mode in node.strings("nodes_modes")]
    inner = [i for i, mode in enumerate(modes) if mode != "LEAF"]
    leaves = [i for i, mode in enumerate(modes) if mode == "LEAF"]
    place = {names[i]: at for at, i in enumerate(inner)}
    place.update({names[i]: -1 - at for at, i in enumerate(leaves)})
    tree = [names[i][0] for i in inner]
    ways = []
    for side in ("true", "false"):
        to = node.integers(f"nodes_{side}nodeids")
        ways.append([place[t, to[i]] for t, i in zip(tree, inner, strict=True)])
    missing = node.integers("nodes_missing_value_tracks_true", (0,) * len(names))
    splits = numbers(node, "nodes_values")
    features = node.integers("nodes_featureids")
    tests = [
        np.asarray([features[i] for i in inner]),
        np.asarray([MODES[modes[i]] for i in inner]),
        splits[inner],
        *map(np.asarray, ways),
        np.asarray([missing[i] for i in inner]),
    ]
    leaf = {name: -1 - at for name, at in place.items() if at < 0}
    weights = votes(node, kind, leaf, count, aggregate)
    roots: dict[int, int] = {}
    for name in names:
        roots.setdefault(name[0], place[name])
    scores = trees(node, tests, weights, list(roots.values()), aggregate)
    base = numbers(node, "base_values")
    return node.add(ops.Add(), scores, base) if base.size == count else scores


def votes(
    node: Node, kind: str, leaf: Mapping[tuple[int, int], int], count: int, aggregate: str
) -> Array:
    """The weight that each leaf gives each target: several votes are aggregated, but if there is
    one target, the first alone counts, as in onnxruntime, and as in what skl2onnx makes of the
    paths of decisions.
    """
    given = numbers(node, f"{kind}_weights")
    weights = np.full((len(leaf), count), 0.0 if aggregate in SUMS else np.inf)
    join = {"MIN": min, "MAX": max}.get(aggregate, operator.add)
    owners = zip(node.integers(f"{kind}_treeids"), node.integers(f"{kind}_nodeids"), strict=True)
    voted = set()
    for owner, target, weight in zip(owners, node.integers(f"{kind}_ids"), given, strict=True):
        at = leaf[owner], target
        if at not in voted:
            weights[at] = weight
        elif count > 1:
            weights[at] = join(weights[at], weight)
        voted.add(at)
    return weights.astype(given.dtype)


def numbers(node: Node, name: str) -> Array:
    """A list of numbers, from an attribute or a tensor; empty if there is none."""
    if node.has(f"{name}_as_tensor"):
        return node.tensor(f"{name}_as_tensor").array.reshape(-1)
    return np.asarray(node.numbers(name, ()), np.float32)


@importer("TreeEnsembleRegressor", domain=DOMAIN)
def tree_ensemble_regressor(node: Node) -> Instruction:
    aggregate = node.string("aggregate_function", "SUM")
    scores = forest(node, "target", node.integer("n_targets", 1), aggregate)
    return finished(node, node.convert(scores, F32), node.string("post_transform", "NONE"))


@importer("TreeEnsembleClassifier", domain=DOMAIN)
def tree_ensemble_classifier(node: Node) -> tuple[Instruction, Instruction]:
    """With two labels of which only one has weights, these are probabilities if none is negative.
    Those of the first label may start from a base value.
    """
    labels = class_labels(node)
    scores = node.convert(forest(node, "class", len(labels)), F32)
    shown = finished(node, scores, node.string("post_transform", "NONE"))
    used = set(node.integers("class_ids"))
    if len(labels) != 2 or len(used) != 1:
        return best_label(node, scores, labels), shown
    (at,) = used
    score = node.add(ops.Slice((1,), (at,), (at + 1,)), scores)
    base = numbers(node, "base_values")
    if at == 0 and base.size == 1:
        score = node.add(ops.Add(), score, base)
    chances = bool((numbers(node, "class_weights") >= 0).all())
    label, both = binary_labels(node, score, labels, 0.5 * chances, chance=chances)
    # As in onnxruntime: with weights of the second label, the first one's score is 0.
    return label, shown if at else both
