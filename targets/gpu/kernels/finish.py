"""What follows a product: a tile of sums goes through the arithmetic and becomes the result."""

from __future__ import annotations

from migx.fusion.kernels import PRODUCT, Access, FusedKernel, row_and_column_axes
from migx.targets.gpu.emit.expressions import BOTH, Expr, Part
from migx.targets.gpu.emit.text import Writer
from migx.targets.gpu.emit.types import COMPUTING
from migx.targets.gpu.kernels.fused import evaluated


def finish(
    writer: Writer,
    rest: FusedKernel,
    total: Expr,
    row: Expr,
    column: Expr,
    tile: tuple[int, int],
) -> None:
    """Writes the results for a tile of sums, of rows of the product and columns of it."""
    down, across = row_and_column_axes(rest)
    parts = [
        Part(e, tuple(rest.dims[i] for i in axes)) for e, axes in ((row, down), (column, across))
    ]
    place: dict[Access, Expr] = {}
    found: dict[int, Expr] = {}
    for number, node in enumerate(rest.nodes):
        if isinstance(node.of, Access) and node.of.operand == PRODUCT:
            text = f"{total.text}.to({COMPUTING[node.dtype.name]})"
            found[number] = writer.let(Expr(text, BOTH))
    for access in rest.accesses:
        if access.operand != PRODUCT:
            strides = [access.strides[i] for i in (*down, *across)]
            place[access] = writer.offset(parts, strides)
    evaluated(writer, rest.nodes, range(len(rest.nodes)), found, place)
    for number, access in rest.outputs:
        value = writer.spread(found[number], tile)
        where = writer.spread(place[access], tile)
        writer.store(access.operand, where, value, access.dtype)
