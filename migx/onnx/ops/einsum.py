"""Einstein summation as matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from migx import dim, ops
from migx.builders import arange, folded
from migx.dim import Extent
from migx.errors import counted
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node


@dataclass(frozen=True)
class Term:
    """A value with a distinct label for each axis."""

    value: Instruction
    labels: tuple[str, ...]

    def size(self, label: str) -> Extent:
        """The dim of the axis with a label, 1 if there is none."""
        return self.value.shape.dims[self.labels.index(label)] if label in self.labels else 1


@importer("Einsum", since=12)
def einsum(node: Node) -> Instruction:
    """The operands are combined from left to right; labels no longer needed are summed."""
    sides = node.string("equation").replace(" ", "").split("->")
    terms = sides[0].split(",")
    if len(sides) > 2 or len(terms) != len(node.inputs):
        raise node.fail(
            f"equation {node.string('equation')!r} is not for {counted(len(node.inputs), 'input')}"
        )
    named = [labels_of(node, term, node.input(i)) for i, term in enumerate(terms)]
    result = output_labels(node, named, sides[1] if len(sides) == 2 else None)
    operands = [without_twins(node, node.input(i), labels) for i, labels in enumerate(named)]
    total = operands[0]
    for i, other in enumerate(operands[1:], 2):
        needed = {*result, *(label for term in operands[i:] for label in term.labels)}
        total = combined(node, total, other, needed)
    total = summed(node, total, set(result))
    if missing := [label for label in result if label not in total.labels]:
        raise node.fail(f"no input has the label {missing[0]!r} of the result")
    return arranged(node, total, result)


def labels_of(node: Node, term: str, value: Instruction) -> tuple[str, ...]:
    """The labels of an operand's axes; those of an ellipsis are numbers counted from its end."""
    before, dots, after = term.partition("...")
    hidden = value.shape.rank - len(before) - len(after)
    letters = before + after
    if hidden < 0 or (hidden and not dots) or (letters and not letters.isalpha()):
        raise node.fail(f"{term!r} does not label the axes of {value.shape}")
    return (*before, *(str(i) for i in reversed(range(hidden))), *after)


def output_labels(
    node: Node, named: Sequence[tuple[str, ...]], written: str | None
) -> tuple[str, ...]:
    """The labels of the result; if not given, the ellipsis and then the labels that occur once."""
    every = [label for labels in named for label in labels]
    hidden = sorted({label for label in every if label.isdigit()}, key=int, reverse=True)
    if written is None:
        letters = sorted({label for label in every if not label.isdigit()})
        return (*hidden, *(label for label in letters if every.count(label) == 1))
    before, dots, after = written.partition("...")
    result = (*before, *(hidden if dots else ()), *after)
    if len(set(result)) < len(result):
        raise node.fail(f"the result {written!r} has a label twice")
    return result


def without_twins(node: Node, value: Instruction, labels: tuple[str, ...]) -> Term:
    """The diagonal of axes that share a label: everything else is zeroed and summed."""
    for label in {label for label in labels if labels.count(label) > 1}:
        first = labels.index(label)
        while (second := len(labels) - 1 - labels[::-1].index(label)) != first:
            ramps = [
                node.add(ops.Unsqueeze(tuple(i for i in range(len(labels)) if i != axis)),
                         arange(node, value.shape.dims[axis]))
                for axis in (first, second)
            ]  # fmt: skip
            same = node.add(ops.Equal(), *ramps)
            kept = node.add(ops.Where(), same, value, 0)
            value = folded(node, ops.ReduceSum((second,)), kept)
            labels = labels[:second] + labels[second + 1 :]
    return Term(value, labels)


def summed(node: Node, term: Term, needed: set[str]) -> Term:
    """The term with unneeded labels summed."""
    axes = tuple(i for i, label in enumerate(term.labels) if label not in needed)
    if not axes:
        return term
    return Term(
        folded(node, ops.ReduceSum(axes), term.value),
        tuple(label for label in term.labels if label in needed),
    )


def combined(node: Node, x: Term, y: Term, needed: set[str]) -> Term:
    """The product of two terms, summed over labels that both have and nothing else needs."""
    x = summed(node, x, needed | set(y.labels))
    y = summed(node, y, needed | set(x.labels))
    shared = [label for label in x.labels if label in y.labels]
    sizes = {label: dim.broadcast(x.size(label), y.size(label)) for label in shared}
    batch = [label for label in shared if label in needed]
    inner = [label for label in shared if label not in needed]
    left = [label for label in x.labels if label not in y.labels]
    right = [label for label in y.labels if label not in x.labels]
    sizes.update({label: x.size(label) for label in left})
    sizes.update({label: y.size(label) for label in right})
    rows = matrices(node, x, (batch, left, inner), sizes)
    columns = matrices(node, y, (batch, inner, right), sizes)
    product = node.add(ops.Dot() if inner else ops.Mul(), *outer(node, rows, columns, bool(inner)))
    labels = (*batch, *left, *right)
    return Term(node.reshape(product, [sizes[label] for label in labels]), labels)


def outer(
    node: Node, rows: Instruction, columns: Instruction, inner: bool
) -> Sequence[Instruction]:
    """The operands of a product; if nothing is summed, each broadcast to its dims."""
    if inner:
        return rows, columns
    return node.broadcast(rows, columns)


def matrices(
    node: Node, term: Term, groups: Sequence[Sequence[str]], sizes: dict[str, Extent]
) -> Instruction:
    """The value as [batch, rows, columns], each axis for a group of labels."""
    order = tuple(label for group in groups for label in group)
    value = arranged(node, term, order)
    value = node.broadcast_to(value, [sizes[label] for label in order])
    return node.reshape(value, [dim.product(sizes[label] for label in group) for group in groups])


def arranged(node: Node, term: Term, order: Sequence[str]) -> Instruction:
    """The value transposed to an order of labels."""
    permutation = tuple(term.labels.index(label) for label in order)
    if permutation == tuple(range(len(permutation))):
        return term.value
    return node.add(ops.Transpose(permutation), term.value)
