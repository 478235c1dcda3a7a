"""Lookups in tables of a few bits: elements are gathered first, then dequantised."""

from __future__ import annotations

from dataclasses import replace

from migx.ir import Instruction
from migx.match import attr, on, var
from migx.ops.indexing import Gather
from migx.ops.layout import Unsqueeze
from migx.ops.pointwise import Convert
from migx.ops.quantization import DequantizeLinear
from migx.passes.simplify_qdq.cleaning import linear
from migx.rewrite import Cursor, Declined, rule
from migx.shape import I8, U8
from migx.weights.constants import is_unpacked


def behind_indices(axis: int, gathered: int, indices: Instruction) -> int:
    """The position of a table's axis after the dims of indices have replaced another."""
    return axis + indices.shape.rank - 1 if axis > gathered else axis


def is_of_few_bits(table: Instruction) -> bool:
    """Whether a table is unpacked storage, or constant bytes."""
    return is_unpacked(table) or (table.shape.dtype in (I8, U8) and table.constant)


dequantized = linear(DequantizeLinear, var("x", is_of_few_bits), var("scale"), name="dq")


@rule(on(Gather, dequantized, var("indices"), axis=attr("axis")))
def gather_dequantized(
    at: Cursor, x: Instruction, scale: Instruction, dq: Instruction, indices: Instruction, axis: int
) -> Instruction | Declined:
    """gather(dequantizelinear(x, s, z)) of a table of a few bits is dequantizelinear(gather(x),
    ...).
    """
    op = dq.op_as(DequantizeLinear)
    made = replace(op, axis=behind_indices(op.axis, axis, indices))
    given, single = list(dq.inputs[1:]), scale.shape.elements == 1
    if any((v.shape.elements == 1) != single for v in given):
        return Declined("the scale and the zero point differ in shape")
    single = single and not op.block  # a single block is still a block
    if not single and (op.block or op.axis == axis):
        of_rows = axis == 0 and x.shape.rank == 2 and not op.block
        if op.axis == axis and not (of_rows and isinstance(x.shape.dims[1], int)):
            return Declined(
                "a scale is shared by several of the elements picked, or not by whole rows"
            )
        given = [at(Gather(axis), v, indices) for v in given]
    if not single and op.axis == axis:
        last = indices.shape.rank
        given = [at(Unsqueeze((last,)), v) for v in given]
        made = DequantizeLinear(axis=last, block=max(1, int(x.shape.dims[1])))
    return at(made, at(Gather(axis), x, indices), *given)


@rule(on(Gather, on(Convert, var("x"), name="convert"), var("i"), axis=attr("axis")))
def gather_converted(
    at: Cursor, x: Instruction, convert: Instruction, i: Instruction, axis: int
) -> Instruction | Declined:
    """gather(convert(x)) is convert(gather(x)), where x is an unpacked table, or a constant of
    fewer bits.
    """
    if not is_unpacked(x) and not (x.constant and x.shape.dtype.bits < convert.shape.dtype.bits):
        return Declined("the table is neither unpacked nor a constant of fewer bits")
    return at(convert.op, at(Gather(axis), x, i))


tables = gather_dequantized + gather_converted
