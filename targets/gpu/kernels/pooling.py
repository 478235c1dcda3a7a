"""Kernels of ``pooling``: a program has a line of windows, whose elements it visits one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from migx.dim import product
from migx.ir import Instruction
from migx.ops._numeric import lowest
from migx.ops._windows import split
from migx.ops.pooling import Pooling
from migx.targets.gpu.cost_model import Tile
from migx.targets.gpu.emit.expressions import Expr, Part, both
from migx.targets.gpu.emit.text import Kernel
from migx.targets.gpu.emit.types import COMPUTING, storable
from migx.targets.gpu.parts import elements
from migx.targets.gpu.parts.line import WHOLE, Line
from migx.targets.gpu.tiles import AHEAD

LINE = Tile(1, 256)
"""Windows of a program, two for a thread."""
WIDEST = 128
"""Bits of the widest load: where neighbours have no tap in common, a thread has as many."""


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of a pooling whose windows have static sizes."""
    op = at.op
    if type(op) is not Pooling or not storable(at.shape.dtype):
        return None
    if op.mode == "lpnorm" and (op.lp_order not in (1, 2) or not at.shape.dtype.is_float):
        return None
    if not all(isinstance(e, int) for e in op.lengths):
        return None
    each = WIDEST // max(8, at.shape.dtype.bits) if _is_alone(op, -1) else 2
    return Line(at, replace(LINE, columns=LINE.columns // 2 * each)).kernel(
        _pooled, product((*at.shape.dims, *op.lengths))
    )


def _pooled(line: Line, op: Pooling) -> Expr:
    """The results of a line of windows."""
    w, dtype = line.writer, line.at.shape.dtype
    start = elements.literal(lowest(dtype.numpy)) if op.mode == "max" else "0"
    kind = COMPUTING[dtype.name]
    total = w.variable(f"tl.full([{line.size}], {start}, {kind})", WHOLE)
    seen = w.variable(f"tl.zeros([{line.size}], {kind})", WHOLE)
    with w.loop(product(op.lengths), 1, ahead=AHEAD) as tap:
        _take(line, op, tap, total, seen)
    text = total.text
    if op.mode == "average":
        text = elements.quotient(text, seen.text, dtype)
    elif op.mode == "lpnorm" and op.lp_order == 2:
        text = elements.square_root(text, dtype)
    return w.let(text, WHOLE)


def _take(line: Line, op: Pooling, tap: Expr, total: Expr, seen: Expr) -> None:
    """Accumulates one element of each window."""
    w, dims = line.writer, line.at.inputs[0].shape.dims
    begins, ends = split(op.padding)
    counted: Expr | None = None
    inside: Expr | None = None
    places = line.places[:2]
    for axis, step in enumerate(w.split(Part(tap, tuple(op.lengths)))):
        if _is_alone(op, axis):
            places.append(line.places[2 + axis])
            continue
        pixel = line.places[2 + axis] * op.stride[axis]
        place = w.let(pixel + step * op.dilation[axis] - w.extent(begins[axis]))
        size = w.extent(dims[2 + axis])
        here, around = place.inside(size), place.below(w.extent(dims[2 + axis] + ends[axis]))
        inside, counted = both(inside, here), both(counted, around)
        places.append(place)
    everywhere = Expr(f"tl.full([{line.size}], True, tl.int1)", WHOLE)
    inside = w.spread(w.let(inside or everywhere), [line.size])
    value = line.read(0, places, inside, raw=False)
    if op.mode == "max":
        greater = elements.combined(np.maximum, total.text, value.text, line.at.shape.dtype)
        w.line(f"{total.text} = tl.where({inside.text}, {greater}, {total.text})")
        return
    x = value.text
    if op.mode == "lpnorm":
        x = f"tl.abs({x})" if op.lp_order == 1 else f"{x} * {x}"
    w.line(f"{total.text} += tl.where({inside.text}, {x}, 0)")
    many = (counted or everywhere) if op.count_include_pad else inside
    w.line(f"{seen.text} += tl.where({many.text}, 1, 0)")


def _is_alone(op: Pooling, axis: int) -> bool:
    """Whether windows are single elements along a spatial axis, all of them inside."""
    padded = any(half[axis] != 0 for half in split(op.padding))
    return op.lengths[axis] == op.stride[axis] == 1 and not padded
