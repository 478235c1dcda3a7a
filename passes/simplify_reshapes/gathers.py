"""A rule that turns a gather with known indices into views."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from migx import dim, ops
from migx.builders import sliced
from migx.dim import Extent
from migx.ir import Instruction
from migx.match import attr, on, value, var
from migx.op import Array
from migx.ops.builtin import Literal
from migx.rewrite import Cursor, Declined, RuleSet, rule


class Digit(NamedTuple):
    """One digit of a mixed-radix enumeration of indices: the number of its values, and the stride
    between one and the next.
    """

    values: int
    stride: int


@rule(on(ops.Gather, var("x"), value(name="indices", several=True), axis=attr("axis"), name="root"))
def gather(
    at: Cursor, x: Instruction, indices: Instruction, axis: int, root: Instruction
) -> Instruction | Declined:
    """A gather whose indices count like digits, each with a stride of its own, is a chain of views:
    slices, steps, blocks, transposes, repeats.
    """
    extent = x.shape.dims[axis]
    places = indices.op_as(Literal).value.array.reshape(-1).astype(np.int64)
    known = isinstance(extent, int)
    if known:
        places = np.where(places < 0, places + int(extent), places)
    digits = counted(places) if places.size else None
    if digits is None:
        return Declined("the indices are not sums of nested ranges with steps of at least 0")
    order = sorted((i for i, d in enumerate(digits) if d.stride), key=lambda i: -digits[i].stride)
    first: Extent = int(places[0])
    first = first if known or first >= 0 else extent + first
    spans = spanned(first, [digits[i] for i in order], extent)
    if spans is None:
        return Declined("the strides do not nest, or an index may be out of range")
    for i, (start, count, stride) in enumerate(spans):
        x = cut(at, x, axis + i, start, count, stride, last=i + 1 == len(spans))
    return arranged(at, x, axis, digits, order, root)


rules = RuleSet(gather)

Span = tuple[Extent, int, int]
"""The start of a digit along its axis, and the digit."""


def counted(places: Array) -> list[Digit] | None:
    """The digits that enumerate indices, the slowest first; None if there are none, or one counts
    down.
    """
    digits = list[Digit]()
    while places.size > 1:
        stride = int(places[1] - places[0])
        even = np.arange(places.size) * stride == places - places[0]
        count = places.size if even.all() else int(np.argmin(even))
        rows = places.reshape(-1, count) if places.size % count == 0 else None
        if stride < 0 or rows is None or np.any(rows - rows[:, :1] != rows[0] - rows[0, 0]):
            return None
        digits.insert(0, Digit(count, stride))
        places = rows[:, 0]
    return digits


def spanned(begin: Extent, digits: list[Digit], extent: Extent) -> list[Span] | None:
    """The span of each digit along the axis that the previous one leaves, the largest stride first;
    None if an index is, or may be, out of range.
    """
    spans = list[Span]()
    for i, (count, stride) in enumerate(digits[:-1]):
        size, within = count * stride, 1 + sum((d.values - 1) * d.stride for d in digits[i + 1 :])
        start = begin if dim.at_most(begin + size, extent) else extent - size
        offset = begin - start
        lies = isinstance(offset, int) and 0 <= offset <= stride - within
        if not (lies and dim.at_most(0, start)):
            return None
        spans.append((start, count, stride))
        begin, extent = offset, stride
    count, stride = digits[-1] if digits else Digit(1, 1)
    there = dim.at_most(0, begin) and dim.at_most(begin + (count - 1) * stride + 1, extent)
    return [*spans, (begin, count, stride)] if there else None


def cut(
    at: Cursor, x: Instruction, axis: int, start: Extent, count: int, stride: int, *, last: bool
) -> Instruction:
    """The elements of one digit along an axis; unless it is the last, those between them are a new
    axis after it.
    """
    size = (count - 1) * stride + 1 if last else count * stride
    dims = x.shape.dims
    if start != 0 or size != dims[axis]:
        x = sliced(at, x, [(axis, start, start + size)])
    if not last:
        return at(ops.Reshape((*dims[:axis], count, stride, *dims[axis + 1 :])), x)
    return x if stride == 1 else at(ops.Step((axis,), (stride,)), x)


def arranged(
    at: Cursor, x: Instruction, axis: int, digits: list[Digit], order: list[int], root: Instruction
) -> Instruction:
    """The axes of digits in the order of counting, repeated where the stride is 0, as one."""
    before, after = x.shape.dims[:axis], x.shape.dims[axis + max(len(order), 1) :]
    ranks = [axis + order.index(i) for i in sorted(order)]
    if ranks != sorted(ranks):
        rest = range(axis + len(order), x.shape.rank)
        x = at(ops.Transpose((*range(axis), *ranks, *rest)), x)
    if any(not d.stride for d in digits):
        ones = (d.values if d.stride else 1 for d in digits)
        x = at(ops.Reshape((*before, *ones, *after)), x)
        x = at(ops.Multibroadcast((*before, *(d.values for d in digits), *after)), x)
    return x if x.shape.same_type(root.shape) else at(ops.Reshape(root.shape.dims), x)
