"""Kernels of concatenations, alone or fused with arithmetic, as ``migx.fusion.regions`` describes
them. A program has a line of elements of one part.
"""

from __future__ import annotations

from migx.dim import Extent, product
from migx.fusion.regions import described
from migx.ir import Instruction
from migx.ops.fused import Group
from migx.ops.layout import Concat
from migx.passes.rewrite_concat import MOST
from migx.targets.gpu import tiles as choose
from migx.targets.gpu.emit.text import Kernel, Writer
from migx.targets.gpu.parts.nodes import computable, write_line
from migx.targets.gpu.tiles import tiles


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of a ``concat``, or of a group tagged so."""
    grouped = isinstance(at.op, Group)
    regions = described(at) if grouped or isinstance(at.op, Concat) else None
    if not regions or len(regions) > MOST or not all(computable(r.nodes) for r in regions):
        return None
    w = Writer(at)
    if not grouped:  # bits are moved, whatever their type
        w.kinds = dict.fromkeys(range(len(w.shapes)), f"u{at.shape.dtype.bits}")
    bits = min(access.dtype.bits for region in regions for access in region.accesses)
    tile = choose.line(at.shape.elements, bits)
    end: Extent = 0
    for number, region in enumerate(regions):
        begin, end = end, end + tiles(product(region.dims), tile.columns)
        head = f"{'elif' if number else 'if'} {w.program.text} < {w.extent(end).text}:"
        with w.block(head):
            write_line(w, region, w.let(w.program - w.extent(begin)), tile.columns)
    name = at.op.tag if isinstance(at.op, Group) else at.name
    flops = sum((region.flops for region in regions), 0)
    return w.finished(name, end, warps=tile.warps, flops=flops)
