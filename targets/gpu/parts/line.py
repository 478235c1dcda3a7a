"""Kernels whose programs each compute a line of elements of a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product as combinations
from typing import Any

from migx.dim import Extent, product
from migx.fusion.kernels import name_of
from migx.fusion.narrow_floats import is_narrow
from migx.ir import Instruction
from migx.shape import U8
from migx.targets.gpu import tiles as choose
from migx.targets.gpu.cost_model import Tile
from migx.targets.gpu.emit.expressions import Expr, Part
from migx.targets.gpu.emit.text import Kernel, Writer
from migx.targets.gpu.tiles import tiles

WHOLE = frozenset({0})
"""The axes over which elementwise values vary."""
Tap = tuple[Expr, str | None]
"""An index on an axis, and its weight, None for 1."""


class Line:
    """A kernel whose programs write lines of a result; ``places`` are the indices by axis."""

    def __init__(self, at: Instruction, tile: Tile | None = None) -> None:
        self.at, self.writer = at, Writer(at)
        w, self.count = self.writer, product(at.shape.dims)
        self.tile = tile or choose.line(self.count, at.shape.dtype.bits)
        self.size = self.tile.columns
        self.index = w.numbers(0, 1, self.size, w.let(w.program * self.size))
        w.masks = {0: w.there(self.index, self.count, self.size)}
        self.places = w.split(Part(self.index, at.shape.dims))

    def kernel(self, find: Callable[[Line, Any], Expr], flops: Extent = 0) -> Kernel:
        """The kernel that writes what ``find`` computes."""
        w, at = self.writer, self.at
        value, dtype = w.spread(find(self, at.op), [self.size]), at.shape.dtype
        where = w.offset([Part(self.index, at.shape.dims)], at.shape.true_strides)
        dtype = U8 if is_narrow(dtype) else dtype  # its bytes, unchanged
        w.store(len(at.inputs), w.spread(where, [self.size]), value, dtype)
        grid = tiles(self.count, self.size)
        return w.finished(name_of(at), grid, warps=self.tile.warps, flops=flops)

    def read(
        self, number: int, places: Sequence[Expr], also: Expr | None = None, *, raw: bool = True
    ) -> Expr:
        """The element of an input at some indices, ``raw`` or in its computing type."""
        w, where = self.writer, self.writer.place(number, places)
        if also is not None:
            where, also = w.spread(where, [self.size]), w.spread(also, [self.size])
        return w.load(number, where, w.shapes[number].dtype, raw=raw, also=also)

    def index_at(self, number: int, places: Sequence[Expr], extent: Extent) -> Expr:
        """An index read from an input, counted from the start and clamped to an axis."""
        return self.writer.within(self.read(number, places), extent)

    def mixed(self, taps: Sequence[Sequence[Tap]], kind: str) -> str:
        """The sum of input 0's elements at all combinations of taps, each times its weights."""
        w, total = self.writer, ""
        for chosen in combinations(*taps):
            value = self.read(0, [place for place, _ in chosen])
            text = f"{value.text}.to({kind})"
            for weight in (by for _, by in chosen if by is not None):
                text = f"{text} * {weight}.to({kind})"
            total = w.let(f"{total} + {text}" if total else text, WHOLE).text
        return total
