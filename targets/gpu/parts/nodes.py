"""The text of what ``migx.fusion.kernels`` describes: of nodes, given where operands are read."""

from __future__ import annotations

from collections.abc import Sequence

from migx.argument import Argument
from migx.dim import Extent, bounds, product
from migx.fusion.kernels import Access, FusedKernel, Node
from migx.shape import F16, F32, DType
from migx.targets.gpu.cost_model import Tile
from migx.targets.gpu.emit.expressions import Expr, Part, by_axis, over_any
from migx.targets.gpu.emit.text import Writer
from migx.targets.gpu.emit.types import COMPUTING, storable
from migx.targets.gpu.parts import elements
from migx.targets.gpu.tiles import tiles

LARGE, SMALL = 2.0**64, 2.0**-64
SCALE = f"tl.where(tl.abs(y) > {LARGE}, {SMALL}, tl.where(tl.abs(y) < {SMALL}, {LARGE}, 1.0))"
"""The factor of a divisor that makes its reciprocal a normal number."""
SHORT = 32
"""The shortest axis that a block of elements is worth for."""


def computable(nodes: Sequence[Node]) -> bool:
    """Whether all element types and operations have a text."""
    return all(_has_text(n, [nodes[i].dtype for i in n.inputs]) for n in nodes)


def _has_text(node: Node, given: Sequence[DType]) -> bool:
    if node.folds:
        return storable(node.dtype)
    if isinstance(node.of, (Access, Argument)):
        return node.dtype.name in COMPUTING
    return elements.has(node.of, given, node.dtype)


def evaluated(
    writer: Writer,
    nodes: Sequence[Node],
    wanted: Sequence[int],
    found: dict[int, Expr],
    place: dict[Access, Expr],
) -> None:
    """Adds the wanted nodes to those found, in order; ``place`` has the offsets of operands."""
    for number in wanted:
        if number not in found:
            found[number] = writer.let(_node(writer, nodes, number, found, place))


def _node(
    writer: Writer,
    nodes: Sequence[Node],
    number: int,
    found: dict[int, Expr],
    place: dict[Access, Expr],
) -> Expr:
    node = nodes[number]
    if isinstance(node.of, Access):
        return writer.load(node.of.operand, place[node.of], node.of.dtype)
    if isinstance(node.of, Argument):
        return Expr(elements.constant(node.of))
    given, types = [found[i] for i in node.inputs], [nodes[i].dtype for i in node.inputs]
    over = over_any(given)
    if _is_share(nodes, node) and given[1].over < over:
        return _by_reciprocal(writer, given[0], given[1], node.dtype)
    return Expr(elements.apply(node.of, [v.text for v in given], types, node.dtype), over)


def _is_share(nodes: Sequence[Node], node: Node) -> bool:
    """Whether a node is the quotient of an exponential, as in softmax: its integer part is not
    used, and one more rounding does not matter.
    """
    if isinstance(node.of, (Access, Argument)) or node.of.name != "div" or node.dtype.bits > 32:
        return False
    above = nodes[node.inputs[0]].of
    return not isinstance(above, (Access, Argument)) and above.name == "exp"


def _by_reciprocal(writer: Writer, x: Expr, y: Expr, dtype: DType) -> Expr:
    """A quotient of many x by the same y, whose reciprocal is computed once. If that may not be a
    normal number, y is first scaled towards 1, and then the quotient back.
    """
    one = "tl.full([], 1.0, tl.float32)"
    if dtype is F16:
        return x * writer.let(elements.quotient(one, y.text, dtype), y.over)
    function = writer.function("scale_of", "y", SCALE)
    scale = writer.let(f"{function}({y.text})", y.over)
    turned = elements.quotient(one, f"({y.text} * {scale.text})", F32)
    return x * writer.let(turned, y.over) * scale


def write_all(
    writer: Writer,
    fused: FusedKernel,
    found: dict[int, Expr],
    place: dict[Access, Expr],
    tile: Sequence[int],
) -> None:
    """Writes a computation without reductions for a tile, of which some nodes may be found."""
    evaluated(writer, fused.nodes, range(len(fused.nodes)), found, place)
    for node, access in fused.outputs:
        value, where = (writer.spread(e, tile) for e in (found[node], place[access]))
        writer.store(access.operand, where, value, access.dtype)


def write_line(writer: Writer, fused: FusedKernel, number: Expr, size: int) -> None:
    """Writes a computation without reductions, for one line of ``size`` elements."""
    count = product(fused.dims)
    index = writer.numbers(0, 1, size, writer.let(number * size))
    writer.masks = {0: writer.there(index, count, size)}
    part = Part(index, tuple(fused.dims))
    place = {
        a: writer.let(writer.offset([part], a.strides) + writer.distance(a.offset))
        for a in fused.accesses
    }
    write_all(writer, fused, {}, place, [size])


def axis_across(fused: FusedKernel) -> int | None:
    """The axis, not the last, along which the most bits of operands are contiguous that vary along
    the last axis, too, as of a matrix that is transposed; None if there is none, or the last axis
    is so short that a line covers pieces of the other that are long enough.
    """
    bits: dict[int, int] = {}
    if len(fused.dims) < 2 or bounds(fused.dims[-1])[1] < SHORT:
        return None
    for access in fused.accesses:
        *before, last = access.strides
        if last not in (0, 1) and 1 in before:
            axis = before.index(1)
            bits[axis] = bits.get(axis, 0) + access.dtype.bits
    return max(bits, key=lambda axis: bits[axis]) if bits else None


def write_block(writer: Writer, fused: FusedKernel, axis: int, tile: Tile) -> Extent:
    """Writes a computation without reductions, for a block of elements of which this axis has the
    rows and the last axis the columns; gives the number of blocks.

    Triton exchanges elements between threads where an operand is contiguous along rows, so that
    each is read, or written, in pieces as long as the side of a block.
    """
    w, dims = writer, fused.dims
    others = [i for i in range(len(dims) - 1) if i != axis]
    down, across = tiles(dims[axis], tile.rows), tiles(dims[-1], tile.columns)
    cell, beside = w.let(w.program // w.extent(across)), w.let(w.program % w.extent(across))
    item, below = w.let(cell // w.extent(down)), w.let(cell % w.extent(down))
    row = w.numbers(0, 2, tile.rows, w.let(below * tile.rows))
    column = w.numbers(1, 2, tile.columns, w.let(beside * tile.columns))
    w.masks = {
        0: w.there(row, dims[axis], tile.rows),
        1: w.there(column, dims[-1], tile.columns),
    }
    parts = [
        Part(item, tuple(dims[i] for i in others)),
        *by_axis((row, column), (dims[axis], dims[-1])),
    ]
    place = {
        a: w.let(
            w.offset(parts, [*(a.strides[i] for i in others), a.strides[axis], a.strides[-1]])
            + w.distance(a.offset)
        )
        for a in fused.accesses
    }
    write_all(w, fused, {}, place, (tile.rows, tile.columns))
    return product(tuple(dims[i] for i in others)) * down * across
