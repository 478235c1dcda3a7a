"""Turns selections whose length is known only at run time into gathers of indices.

Whatever determines that length, most often the host, then computes only the indices and reads none
of the elements.
"""

from __future__ import annotations

from migx.builders import arange
from migx.dim import bounds
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on, var
from migx.ops.indexing import Compress, Gather, Nonzero
from migx.ops.layout import DynamicSlice, Slice, Squeeze
from migx.rewrite import Cursor, Declined, rule


@rule(on(Compress, var("x"), var("condition"), name="root"))
def chosen(
    at: Cursor, x: Instruction, condition: Instruction, root: Instruction
) -> Instruction | Declined:
    """compress(x, condition) is a gather of the indices where the condition holds."""
    op = root.op_as(Compress)
    if x.shape.rank == 1:
        return Declined("its elements are no larger than indices")
    if bounds(x.shape.dims[op.axis] - condition.shape.dims[0])[0] < 0:
        return Declined("the condition may be too long")
    where = at(Squeeze((0,)), at(Nonzero(op.count), condition))
    return at(Gather(op.axis), x, where)


@rule(on(DynamicSlice, var("x"), var(), var(), var(), name="root"))
def sliced(
    at: Cursor, x: Instruction, root: Instruction, slices: bool = True
) -> Instruction | Declined:
    """A dynamic slice is, axis by axis, a gather of a slice of all indices."""
    op = root.op_as(DynamicSlice)
    if not slices:
        return Declined("slices=false keeps slices")
    if x.shape.rank == 1:
        return Declined("its elements are no larger than indices")
    for number, (axis, extent) in enumerate(zip(op.axes, op.out_lens, strict=True)):
        bounds_of = [at(Slice((0,), (number,), (number + 1,)), v) for v in root.inputs[1:]]
        every = arange(at, x.shape.dims[axis])
        x = at(Gather(axis), x, at(DynamicSlice((0,), (extent,)), every, *bounds_of))
    return x


class RewritePicking(Pass):
    """Turns ``compress`` into a gather of the indices where the condition holds, and with
    ``slices`` slices whose bounds are known only at run time into gathers of a slice of all
    indices.
    """

    slices: bool = True
    rules = chosen + sliced
    variants = ("slices=false",)
