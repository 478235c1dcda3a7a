"""Multiplies rows by the matrices that they pick, matrix by matrix."""

from __future__ import annotations

from migx import ops
from migx.blocks import Blocks, in_blocks
from migx.builders import Builder, arange, astype, from_front
from migx.dim import bounds, product
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import constant, on, var, varying
from migx.ops.indexing import Gather
from migx.ops.layout import Transpose
from migx.ops.linear import Dot
from migx.passes.simplify_loops import fresh
from migx.rewrite import Cursor, Declined, RuleSet, rule
from migx.shape import BOOL, I64, Shape

LEAST = 1 << 15
"""Matrices of fewer elements are copied in less time than it takes to sort their indices."""


picked = on(Gather, constant("table"), varying("chosen"), axis=0)
matrices = picked | on(Transpose, picked, permutation=(0, 2, 1))


@rule(on(Dot, var("x"), matrices, name="root") | on(Dot, matrices, var("x"), name="root"))
def by_blocks(
    at: Cursor,
    x: Instruction,
    table: Instruction,
    chosen: Instruction,
    root: Instruction,
    least: int = LEAST,
) -> Instruction | Declined:
    """Rows that are each multiplied by a gathered matrix are sorted into blocks with the same
    matrix, and a loop multiplies block by block, reading the matrix in place.
    """
    if (table.shape.rank, chosen.shape.rank, root.shape.rank) != (3, 1, 3):
        return Declined("the rows do not pick one matrix each")
    count, *sides = table.shape.dims
    if not isinstance(count, int) or bounds(product(sides))[0] < least:
        return Declined("the number of matrices is not known, or they are small")
    place = root.inputs.index(x)
    matrix, of_row, summed = root.inputs[1 - place], 1 + place, 1 + place
    if x.shape.dims[of_row] != 1 or chosen.shape.dims[0] == 1:
        return Declined("each matrix multiplies more than one row, or only one is picked")
    turned = isinstance(matrix.op, Transpose)
    depth = 3 - summed if turned else summed
    rows = at(ops.Reshape((x.shape.dims[0], table.shape.dims[depth])), x)
    owners = from_front(at, astype(at, chosen, I64), count)
    blocks = in_blocks(at, owners, arange(at, chosen.shape.dims[0]), count)
    made = _multiplied(at, rows, table, blocks, depth == 2)
    return at(ops.Reshape(root.shape.dims), made)


def _multiplied(
    at: Cursor, x: Instruction, table: Instruction, blocks: Blocks, turned: bool
) -> Instruction:
    """The products of rows [rows, elements] with the matrices they choose, [rows, results]."""
    program = at.module.program
    body = program.add_module("picked")
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
    """Turns products of rows with matrices that each row picks from a constant stack, as PyTorch
    exports mixtures of experts, into a loop over blocks of rows with the same matrix. Matrices of
    fewer elements than ``least`` are left: copying them is faster.
    """

    least: int = LEAST
    variants = ("least=1",)
    rules = RuleSet(by_blocks)
