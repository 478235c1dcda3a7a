"""Multiplies rows by matrices that each of them picks, matrix by matrix."""

from __future__ import annotations

from migx import ops
from migx.blocks import Blocks, in_blocks
from migx.builders import Builder, astype, broadcast_to, number, places
from migx.dim import Extent
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on
from migx.ops.indexing import Gather
from migx.ops.layout import Transpose
from migx.ops.linear import Dot
from migx.passes.simplify_loops import fresh
from migx.rewrite import Cursor, Declined, RuleSet, rule
from migx.shape import BOOL, I64, Shape
from migx.weights import is_constant

LEAST = 1 << 15
"""Matrices of fewer elements are copied in less time than it takes to sort what picks them."""


@rule(on(Dot, name="root"))
def by_blocks(at: Cursor, root: Instruction) -> Instruction | Declined:
    """Rows that are each multiplied by a matrix of their own choice are sorted into blocks that
    choose the same, and a loop multiplies block by block: the matrix is read where it lies.
    """
    places_of = [i for i, v in enumerate(root.inputs) if _pick(v) is not None]
    if len(places_of) != 1 or root.shape.rank != 3:
        return Declined("none or both of what it multiplies is picked")
    (place,) = places_of
    operand, rows = root.inputs[place], root.inputs[1 - place]
    pick = _pick(operand)
    assert pick is not None
    table, chosen = pick.inputs
    matrices, *sides = table.shape.dims
    if not isinstance(matrices, int) or not _is_worthwhile(sides):
        return Declined("how many matrices there are is not known, or they are small")
    if rows.shape.dims[2 - place] != 1:
        return Declined("more than one row is multiplied by each")
    if chosen.shape.dims[0] == 1 or not is_constant(table) or is_constant(chosen):
        return Declined("one matrix is picked, or they are no constants")
    summed = 2 - place if operand is pick else operand.op_as(Transpose).permutation[2 - place]
    x = at(ops.Reshape((rows.shape.dims[0], table.shape.dims[summed])), rows)
    blocks = in_blocks(
        at, _counted(at, chosen, matrices), places(at, chosen.shape.dims[0]), matrices
    )
    made = _multiplied(at, x, table, blocks, summed == 2)
    return at(ops.Reshape(root.shape.dims), made)


def _pick(operand: Instruction) -> Instruction | None:
    """The ``gather`` that picks the matrices of an operand, one by one, of a stack of them."""
    is_turned = isinstance(operand.op, Transpose) and operand.op.permutation == (0, 2, 1)
    pick = operand.inputs[0] if is_turned else operand
    if not isinstance(pick.op, Gather) or pick.op.axis:
        return None
    ranks = [v.shape.rank for v in pick.inputs]
    return pick if ranks == [3, 1] else None


def _is_worthwhile(sides: list[Extent]) -> bool:
    height, width = sides
    return isinstance(height, int) and isinstance(width, int) and height * width >= LEAST


def _counted(at: Cursor, chosen: Instruction, matrices: int) -> Instruction:
    """Choices as i64, counted from the front."""
    index = astype(at, chosen, I64)
    zero, count = (broadcast_to(at, number(at, n), index.shape.dims) for n in (0, matrices))
    return at(ops.Where(), at(ops.Less(), index, zero), at(ops.Add(), index, count), index)


def _multiplied(
    at: Cursor, x: Instruction, table: Instruction, blocks: Blocks, turned: bool
) -> Instruction:
    """The products of rows [rows, elements] with the matrices they choose, [rows, results]."""
    program = at.module.program
    body = program.create_module(program.unused_name("picked"))
    block, goes_on = body.add_parameter("block", Shape(I64)), body.add_parameter("on", Shape(BOOL))
    add = Builder(body)
    owner, sources = (add(Gather(0), v, block) for v in (blocks.owner, blocks.sources))
    matrix = add(Gather(0), table, owner)
    matrix = add(Transpose((1, 0)), matrix) if turned else matrix
    product = add(Dot(), add(Gather(0), x, sources), matrix)
    body.add_return(goes_on, product, names=["on", "product"])
    count, (length, results) = fresh(program, f"{body.name}.blocks"), product.shape.dims
    stack = product.shape.with_dims((count, length, results))
    whole = at(ops.Loop((stack,)), blocks.count, at(ops.Undefined()), modules=[body])
    stacked = at(ops.Reshape((count * length, results)), at(ops.GetTupleElem(0), whole))
    return at(Gather(0), stacked, blocks.place)


class RewritePickedProducts(Pass):
    """Turns products of rows with matrices that each picks of a constant stack, as PyTorch exports
    mixtures of experts, into a loop over blocks of rows that choose the same one.
    """

    rules = RuleSet((by_blocks,))
