"""Kernels of ``roi_align``: a program has a line of bins, and takes their samples one by one.

Places are computed in f64, as their number depends on how a bin's size is rounded. A kernel cannot
raise: images are clamped, and of a region that is not finite one sample is taken.
"""

from __future__ import annotations

from itertools import product as combinations

import numpy as np

from migx.ir import Instruction
from migx.ops.vision import RoiAlign
from migx.shape import F32, F64
from migx.targets.gpu.emit.expressions import Expr, expr
from migx.targets.gpu.emit.text import Kernel
from migx.targets.gpu.emit.types import COMPUTING, storable
from migx.targets.gpu.parts import elements
from migx.targets.gpu.parts.line import WHOLE, Line, Tap

FURTHEST = 2.0**24
"""A bin of more elements than this along a side is not sampled at each of them."""


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of ``roi_align`` on types that Triton has."""
    if not isinstance(at.op, RoiAlign) or not all(storable(v.shape.dtype) for v in at.inputs):
        return None
    return Line(at).kernel(_aligned)


def _aligned(line: Line, op: RoiAlign) -> Expr:
    """The mean of each bin's samples, or the greatest of their parts."""
    w, dtype = line.writer, line.at.shape.dtype
    wide = F64 if dtype is F64 else F32
    kind, ufunc = COMPUTING[wide.name], np.add if op.mode == "avg" else np.maximum
    image: Tap = line.index_at(2, [line.places[0]], line.at.inputs[0].shape.dims[0]), None
    sides = [_Side(line, op, axis, kind) for axis in (0, 1)]
    start = elements.literal(0.0 if op.mode == "avg" else -np.inf)
    total = w.variable(f"tl.full([{line.size}], {start}, {kind})", WHOLE)
    with w.loop(sides[0].most, 1) as row, w.loop(sides[1].most, 1) as column:
        rows, columns = sides[0].taps(row), sides[1].taps(column)
        found = total.text
        for pair in combinations(rows, columns):
            taps: list[list[Tap]] = [[image], [(line.places[1], None)], *([tap] for tap in pair)]
            found = elements.combined(ufunc, found, line.mixed(taps, kind), wide)
        there = f"({row.text} < {sides[0].count.text}) & ({column.text} < {sides[1].count.text})"
        w.line(f"{total.text} = tl.where({there}, {found}, {total.text})")
    text = total.text
    if op.mode == "avg":
        many = w.let(f"({sides[0].count.text} * {sides[1].count.text}).to({kind})", WHOLE).text
        text = elements.quotient(text, many, wide)
    return w.let(elements.converted(text, wide, dtype), WHOLE)


class _Side:
    """The samples of bins along an axis of the image: their ``count``, and the ``most`` there are
    in a bin of the line.
    """

    def __init__(self, line: Line, op: RoiAlign, axis: int, kind: str) -> None:
        self.line, self.kind, w = line, kind, line.writer
        self.size = w.extent(line.at.inputs[0].shape.dims[2 + axis])
        low, high = (self._corner(op, end - axis) for end in (1, 3))
        size = f"({high.text} - {low.text})"
        size = size if op.half_pixel else f"tl.maximum({size}, 1.0)"
        bins = op.dims[axis]
        self.step = w.let(elements.quotient(size, f"tl.full([], {bins}, tl.float64)", F64), WHOLE)
        self.begin = w.let(f"({low.text} + {line.places[2 + axis].text} * {self.step.text})", WHOLE)
        if op.sampling_ratio:
            self.most = expr(op.sampling_ratio)
            self.count = w.let(f"tl.full([], {op.sampling_ratio}, tl.int32)")
            return
        few = f"(tl.abs({self.step.text}) < {FURTHEST})"
        steps = f"tl.where({few}, tl.ceil({self.step.text}), 1.0).to(tl.int32)"
        self.count = w.let(f"tl.maximum({steps}, 1)", WHOLE)
        self.most = w.let(f"tl.max({self.count.text}, axis=0)")

    def _corner(self, op: RoiAlign, column: int) -> Expr:
        """A coordinate of each region in elements of the image."""
        line, shift = self.line, 0.5 if op.half_pixel else 0.0
        given = line.read(1, [line.places[0], expr(column)]).text
        scale = elements.literal(op.spatial_scale)
        text = f"({given}.to({self.kind}) * {scale} - {shift}).to(tl.float64)"
        return line.writer.let(text, WHOLE)

    def taps(self, sample: Expr) -> list[Tap]:
        """The two elements around a sample of each bin, and their weights."""
        w, size = self.line.writer, self.size.text
        share = f"({sample.text} + 0.5) * {self.step.text}"
        count = f"{self.count.text}.to(tl.float64)"
        place = w.let(f"({self.begin.text} + {elements.quotient(share, count, F64)})", WHOLE).text
        seen = w.let(f"(({place} >= -1.0) & ({place} <= {size}))", WHOLE).text
        place = w.let(f"tl.minimum(tl.maximum({place}, 0.0), {size} - 1.0)", WHOLE).text
        below = f"tl.minimum(tl.floor({place}).to(tl.int32), {size} - 2)"
        first = w.let(f"tl.maximum({below}, 0)", WHOLE)
        second = w.let(f"tl.minimum({first.text} + 1, {size} - 1)", WHOLE)
        part = w.let(f"({place} - {first.text})", WHOLE).text
        weights = (f"tl.where({seen}, {text}, 0.0)" for text in (f"1.0 - {part}", part))
        return [
            (index, w.let(f"({weight}).to({self.kind})", WHOLE).text)
            for index, weight in zip((first, second), weights, strict=True)
        ]
