"""Splits axes into the blocks that they are quantised in."""

from __future__ import annotations

import dataclasses

from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on
from migx.ops.layout import Concat, Reshape, Slice, Unsqueeze
from migx.ops.quantization import DequantizeLinear, Linear, QuantizeLinear
from migx.rewrite import Cursor, Declined, RuleSet, rule


@rule(on((QuantizeLinear, DequantizeLinear), name="root"))
def split(at: Cursor, root: Instruction) -> Instruction | Declined:
    """An axis of whole blocks becomes one of blocks and one of elements, along which the scale is
    constant.
    """
    op, (x, *parameters) = root.op_as(Linear), root.inputs
    blocked = [v for v in parameters if v.shape.elements != 1]
    if not op.block or not blocked:
        return Declined("it has no blocks")
    (*before, extent), after = x.shape.dims[: op.axis + 1], x.shape.dims[op.axis + 1 :]
    count = extent // op.block
    if count == 1 or count * op.block != extent:
        return Declined("the axis is one block, or not all of its blocks are known to be whole")
    if any(v.shape.dims != (*before, count, *after) for v in blocked):
        return Declined("whether the scale has one element or many is not known")
    apart = at(Reshape((*before, count, op.block, *after)), x)
    each = [at(Unsqueeze((op.axis + 1,)), v) if v in blocked else v for v in parameters]
    made = at(dataclasses.replace(op, axis=op.axis + 1), apart, *each)
    return at(Reshape(x.shape.dims), made)


@rule(on((QuantizeLinear, DequantizeLinear), name="root"))
def cut(at: Cursor, root: Instruction) -> Instruction | Declined:
    """An axis whose last block is short is split before that block."""
    op, (x, *parameters) = root.op_as(Linear), root.inputs
    if not op.block or not isinstance(extent := x.shape.dims[op.axis], int):
        return Declined("it has no blocks, or their number is not known")
    count, axes = extent // op.block, (op.axis,)
    if not count or count * op.block == extent:
        return Declined("all of its blocks are whole, or there is one")
    if any(v.shape.elements != 1 and v.shape.dims[op.axis] != count + 1 for v in parameters):
        return Declined("whether the scale has one element or many is not known")

    def part(start: int, end: int) -> Instruction:
        some = Slice(axes, (start,), (end,))
        given = [v if v.shape.elements == 1 else at(some, v) for v in parameters]
        ends = start * op.block, min(end * op.block, extent)
        return at(op, at(Slice(axes, ends[:1], ends[1:]), x), *given)

    return at(Concat(op.axis), part(0, count), part(count, count + 1))


class RewriteBlocks(Pass):
    """Splits axes into their quantisation blocks, so that the rest is elementwise arithmetic."""

    rules = RuleSet(split, cut)
