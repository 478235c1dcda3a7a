"""Support vector machines of ``ai.onnx.ml``: products with the vectors, and votes."""

from __future__ import annotations

import itertools

import numpy as np

from migx import ops
from migx.builders import folded
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops.linear import scaled
from migx.onnx.ops.ml import DOMAIN, best_label, class_labels, finished, numbers, rows_of
from migx.op import Array

TINY = 1e-7
"""Pairwise probabilities are clipped to stay this far from 0 and 1."""


@importer("SVMRegressor", domain=DOMAIN)
def svm_regressor(node: Node) -> Instruction:
    """One score for each row; its sign, 1 or -1, with ``one_class``."""
    x, count = rows_of(node, 0), node.integer("n_supports", 0)
    weights = numbers(node, "coefficients")
    if count:
        x = kernel(node, x, numbers(node, "support_vectors").reshape(count, -1))
    score = product(node, x, weights.reshape(-1, 1), numbers(node, "rho")[:1])
    if node.integer("one_class", 0):
        above = node.add(ops.Greater(), score, 0)
        return node.add(ops.Where(), above, node.scalar(1, score), node.scalar(-1, score))
    return finished(node, score, node.string("post_transform", "NONE"))


@importer("SVMClassifier", domain=DOMAIN)
def svm_classifier(node: Node) -> tuple[Instruction, Instruction]:
    """The label that wins most pairwise contests, and their scores or, with ``prob_a``, the
    probability of each label. Without support vectors, the label of the largest score.
    """
    labels = class_labels(node)
    transform = node.string("post_transform", "NONE")
    counts = node.integers("vectors_per_class", ())
    if not sum(counts):
        scores = linear_scores(node, len(labels))
        return linear_label(node, scores, labels), finished(node, scores, transform)
    if len(counts) != len(labels):
        raise node.fail(f"it has {len(labels)} labels, and vectors for {len(counts)}")
    scores = contests(node, counts)
    won = votes(node, scores, len(labels))
    label = best_label(node, won, labels)
    if node.numbers("prob_a", ()):
        return label, finished(node, chances(node, scores, len(labels)), transform)
    if len(labels) != 2:
        return label, finished(node, scores, transform)
    if transform in ("NONE", "LOGISTIC"):
        both = node.add(ops.Concat(1), node.add(ops.Neg(), scores), scores)
        return label, finished(node, both, transform)
    # As in onnxruntime: the transforms leave a single score as it is, with its complement beside
    # it.
    other = node.add(ops.Sub(), 1, scores)
    return label, node.add(ops.Concat(1), other, scores)


def product(node: Node, x: Instruction, matrix: Array, offset: Array) -> Instruction:
    """Rows times a matrix, plus an offset for each column or for all."""
    made = node.add(ops.Dot(), x, node.literal(np.ascontiguousarray(matrix)))
    return node.add(ops.Add(), made, offset) if offset.size else made


def kernel(node: Node, x: Instruction, vectors: Array) -> Instruction:
    """The kernel function of each row and each support vector."""
    kind = node.choice("kernel_type", ("LINEAR", "POLY", "RBF", "SIGMOID"), "LINEAR")
    gamma, offset, degree = (*node.numbers("kernel_params", ()), 0.0, 0.0, 0.0)[:3]
    if kind == "RBF":
        apart = node.add(ops.Sub(), node.add(ops.Unsqueeze((1,)), x), vectors[None])
        square = folded(node, ops.ReduceSum((2,)), node.add(ops.Mul(), apart, apart))
        return node.add(ops.Exp(), scaled(node, square, -gamma))
    dot = product(node, x, vectors.T, np.zeros(0))
    if kind == "LINEAR":
        return dot
    moved = scaled(node, dot, gamma)
    moved = node.add(ops.Add(), moved, offset)
    if kind == "SIGMOID":
        return node.add(ops.Tanh(), moved)
    return node.add(ops.Pow(), moved, degree)


def linear_scores(node: Node, count: int) -> Instruction:
    """A score for each label, by its own weights."""
    weights = numbers(node, "coefficients").reshape(count, -1)
    return product(node, rows_of(node, 0), weights.T, numbers(node, "rho")[:1])


def linear_label(node: Node, scores: Instruction, labels: Array) -> Instruction:
    """For two labels, the second one if any score is large enough, as in onnxruntime."""
    best = best_label(node, scores, labels)
    if len(labels) != 2 or node.numbers("prob_a", ()):
        return best
    greatest = folded(node, ops.ReduceMax((1,)), scores)
    positive = bool((numbers(node, "coefficients") >= 0).all())
    limit, op = (0.5, ops.GreaterOrEqual()) if positive else (0.0, ops.Greater())
    above = node.add(op, greatest, limit)
    return node.add(ops.Where(), above, labels[1], best)


def contests(node: Node, counts: tuple[int, ...]) -> Instruction:
    """The score of each class against each later one: positive if the first of the two wins."""
    total = sum(counts)
    near = kernel(node, rows_of(node, 0), numbers(node, "support_vectors").reshape(total, -1))
    weights = numbers(node, "coefficients").reshape(-1, total)
    ends = list(itertools.accumulate(counts, initial=0))
    pairs = list(itertools.combinations(range(len(counts)), 2))
    matrix = np.zeros((total, len(pairs)), np.float32)
    for place, (i, j) in enumerate(pairs):
        own, other = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
        matrix[own, place] = weights[j - 1, own]
        matrix[other, place] = weights[i, other]
    return product(node, near, matrix, numbers(node, "rho")[: len(pairs)])


def votes(node: Node, scores: Instruction, count: int) -> Instruction:
    """How many contests each class wins, minus a number that is the same for each row."""
    pairs = list(itertools.combinations(range(count), 2))
    gains, given = np.zeros((len(pairs), count), np.float32), np.zeros(count, np.float32)
    for place, (i, j) in enumerate(pairs):
        gains[place, [i, j]] = 1, -1
        given[j] += 1
    won = node.add(ops.Greater(), scores, 0)
    return product(node, node.convert(won, scores.shape.dtype), gains, given)


def chances(node: Node, scores: Instruction, count: int) -> Instruction:
    """The probability of each class, from those of the contests."""
    a, b = (node.literal(numbers(node, name)) for name in ("prob_a", "prob_b"))
    turned = node.add(ops.Neg(), node.add(ops.Add(), node.add(ops.Mul(), scores, a), b))
    first = node.add(ops.Sigmoid(), turned)
    first = node.add(ops.Clip(), first, TINY, 1 - TINY)
    second = node.add(ops.Sub(), 1, first)
    place = np.zeros((count, count), np.int64)
    pairs = list(itertools.combinations(range(count), 2))
    for at, (i, j) in enumerate(pairs):
        place[i, j], place[j, i] = at, len(pairs) + at
    both = node.add(ops.Concat(1), first, second)
    return node.add(ops.CoupleChances(), node.add(ops.Gather(1), both, node.literal(place)))
