"""Operands known only at run time: lists of axes become computed masks and permutations, and the
dims of results become symbols.

Ranks always follow from dims: one that would depend on data is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from migx import dim, ops
from migx import op as operations
from migx.dim import Extent
from migx.errors import OnnxError
from migx.ir import Instruction
from migx.onnx import symbolic
from migx.onnx.given import declared_rank
from migx.onnx.node import Node
from migx.op import Array
from migx.shape import BOOL, I64
from migx.weights.constants import tree

Fold = Callable[[Instruction, tuple[int, ...]], Instruction]
"""Reduces some axes of a value, which stay with size 1."""
AXES = 64
"""numpy's maximum rank, so that no list is assumed longer than it can be."""


def known_axes(node: Node, given: Instruction | None) -> tuple[int, ...] | None:
    """The axes in an operand, or else in the attribute; None if known only at run time."""
    if given is None:
        return node.integers("axes", ())
    if given.shape.elements == 0:
        return ()
    held = node.constant(given)
    return None if held is None else tuple(held.reshape(-1).tolist())


def length(
    node: Node, given: Instruction, what: str, of_rank: Callable[[int], int] = lambda rank: rank
) -> int:
    """The number of elements of a list, which must be known because the result's rank depends on
    it.

    If its shape does not tell, the declared rank of the result does: ``of_rank`` gives the length
    for a rank.
    """
    count, rank = given.shape.elements, declared_rank(node.declared())
    if not isinstance(count, int) and rank is not None and of_rank(rank) >= 0:
        count = of_rank(rank)
    if not isinstance(count, int):
        raise rank_not_known(node, what, count)
    if count > AXES:
        raise node.fail(f"there are {count} {what}; a tensor has at most {AXES} axes")
    return count


def rank_not_known(node: Node, what: str, count: Extent) -> OnnxError:
    """The error for a result whose rank depends on a dim that is not known."""
    return node.fail(
        f"how many {what} there are is {count}, which is not known; the file has to declare the "
        "rank of the result, or input_dims to give that dim"
    )


def of_length(node: Node, given: Instruction, count: Extent) -> Instruction:
    """A list of a length that another operand tells, if its own shape does not."""
    known = isinstance(given.shape.elements, int) or not isinstance(count, int)
    return given if known else node.reshape(given, (count,))


def numbers(node: Node, values: Array | Sequence[int]) -> Instruction:
    """A list of integers as a literal."""
    return node.literal(np.asarray(values, np.int64))


def listed(node: Node, value: Instruction) -> Instruction:
    """Integers as a flat list of i64."""
    return node.reshape(node.convert(value, I64), (value.shape.elements,))


def placed(
    node: Node, base: Instruction, axes: Instruction, values: Instruction | int
) -> Instruction:
    """The list with values replaced at the indices ``axes``, negative ones counted from the end."""
    given = node.scalar(values, axes) if isinstance(values, int) else values
    return node.add(ops.ScatterNone(0), base, axes, given)


def placed_pairs(
    node: Node, base: Array, axes: Instruction, values: Instruction, rank: int
) -> Instruction:
    """Begins, then ends, of all ``rank`` axes, given those of some."""
    pairs = (2, axes.shape.dims[0])
    rows = node.broadcast_to(axes, pairs)
    both = node.literal(base.reshape(2, rank))
    made = node.add(ops.ScatterNone(1), both, rows, node.reshape(values, pairs))
    return node.reshape(made, (2 * rank,))


def order_of(node: Node, keys: Instruction) -> Instruction:
    """The indices that sort a list, ascending and stable."""
    whole = node.add(ops.Topk(keys.shape.dims[0], 0, largest=False), keys)
    return node.elements(whole, 2)[1]


def fresh_dims(node: Node, rank: int, hint: str = "") -> tuple[Extent, ...]:
    """A new symbol for each axis."""
    return tuple(node.fresh(f"{hint}{i}") for i in range(rank))


def reshaped(node: Node, x: Instruction, target: Instruction) -> Instruction:
    """The value reshaped to computed dims, in which 0 is a size."""
    known = node.extents(target)
    if known is not None:
        return node.reshape(x, known)
    (rank,) = target.shape.dims
    assert isinstance(rank, int)
    return node.add(ops.Reshape(fresh_dims(node, rank), allowzero=True), x, target)


def transposed(
    node: Node, x: Instruction, order: Instruction, dims: Sequence[Extent] | None = None
) -> Instruction:
    """The value with its axes in a computed order."""
    out = fresh_dims(node, x.shape.rank, "axis.") if dims is None else tuple(dims)
    return node.add(ops.DynamicTranspose(out), x, order)


def over_axes(
    node: Node, x: Instruction, given: Instruction, fold: Fold, *, keep: bool, whole: bool
) -> Instruction:
    """A value reduced along computed axes, which are moved to the end and merged.

    Reduced axes stay with size 1 if ``keep``. An empty list means all axes if ``whole``.
    """
    rank = x.shape.rank
    if rank == 0:
        return fold(x, ())
    axes, have = listed(node, given), node.dims(x.shape.dims)
    marks = placed(node, numbers(node, [0] * rank), axes, 1)
    if whole and dim.may_equal(axes.shape.dims[0], 0):
        some = node.convert(node.add(ops.ReduceMax((0,)), marks), BOOL)
        marks = node.add(ops.Where(), node.broadcast_to(some, (rank,)), marks, one_each(node, rank))
    order, folded = order_of(node, marks), node.convert(marks, BOOL)
    kept = node.add(ops.Where(), folded, one_each(node, rank), have)
    gone = node.add(ops.Where(), folded, have, one_each(node, rank))
    sizes = [node.add(ops.ReduceProd((0,)), v) for v in (kept, gone)]
    matrix = reshaped(node, transposed(node, x, order), node.add(ops.Concat(0), *sizes))
    result = fold(matrix, (1,))
    if not keep:
        left = rank - length(node, axes, "axes it folds", lambda rest: rank - rest)
        kept = node.add(ops.Gather(0), have, node.add(ops.Slice((0,), (0,), (left,)), order))
    return reshaped(node, result, kept)


def expected(
    node: Node, x: Instruction, otherwise: str, first: Instruction, *conditions: Instruction
) -> Instruction:
    """A value for runs in which all conditions, of one element each, are true; other runs raise an
    error that says ``otherwise``.
    """
    holds = node.reshape(first, ())
    for condition in conditions:
        holds = node.add(ops.LogicalAnd(), holds, node.reshape(condition, ()))
    return node.add(ops.Assume(True, otherwise), x, holds)


def one_each(node: Node, rank: int) -> Instruction:
    return numbers(node, [1] * rank)


def squeezed(node: Node, x: Instruction, given: Instruction) -> Instruction:
    """A value without some computed axes."""
    axes, rank = listed(node, given), x.shape.rank
    left = rank - length(node, axes, "axes it drops", lambda rest: rank - rest)
    order = order_of(node, placed(node, numbers(node, [0] * rank), axes, 1))
    kept = node.add(ops.Slice((0,), (0,), (left,)), order)
    return reshaped(node, x, node.add(ops.Gather(0), node.dims(x.shape.dims), kept))


def unsqueezed(node: Node, x: Instruction, given: Instruction) -> Instruction:
    """A value with new axes at computed positions."""
    axes = listed(node, given)
    rank = x.shape.rank
    rank += length(node, axes, "axes it adds", lambda whole: whole - rank)
    marks = placed(node, numbers(node, [0] * rank), axes, 1)
    new = node.add(ops.ReduceSum((0,)), marks)
    each_once = node.add(ops.Equal(), new, numbers(node, [rank - x.shape.rank]))
    x = expected(node, x, "its axes name one twice", each_once)
    own = node.add(ops.Slice((0,), (0,), (x.shape.rank,)), order_of(node, marks))
    return reshaped(node, x, placed(node, one_each(node, rank), own, node.dims(x.shape.dims)))


def along_axis(node: Node, x: Instruction, given: Instruction, op: ops.Op) -> Instruction:
    """An operation on axis 0, applied along a computed axis."""
    axis, rank = listed(node, given), x.shape.rank
    order = order_of(node, placed(node, one_each(node, rank), axis, 0))
    result = node.add(op, transposed(node, x, order))
    return transposed(node, result, order_of(node, order), x.shape.dims)


def parts_of(node: Node, value: Instruction) -> list[Extent | None]:
    """The elements of a list, None for those known only at run time."""
    found: dict[Instruction, list[Extent | None]] = {}
    for at in tree(value, lambda v: _before_parts(node, v)):
        given = [found[v] for v in _before_parts(node, at)]
        known = node.extents(at)
        if known is not None:
            found[at] = list(known)
        elif not given:
            count = length(node, at, "dims") if at is value else int(at.shape.elements)
            found[at] = [None] * count
        elif at.op.name == "concat":
            found[at] = [part for parts in given for part in parts]
        else:
            found[at] = [symbolic.part(at.op, each) for each in zip(*given, strict=True)]
    return found[value]


def _before_parts(node: Node, value: Instruction) -> Sequence[Instruction]:
    """What the elements of a list are computed from, one from one; nothing if they are known, or
    cannot be.
    """
    shape = value.shape
    small = shape.rank == 1 and shape.static and symbolic.may_be_contents(shape)
    if not small or node.extents(value) is not None:
        return ()
    each = value.op.name == "concat" or operations.traits(value.op).pointwise
    return value.inputs if each and all(v.shape.static for v in value.inputs) else ()
