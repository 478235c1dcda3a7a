"""Writes the choice of scales, for weights that are quantised where the file is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from migx.dim import Extent
from migx.onnx.exporters import exporter
from migx.onnx.site import Site
from migx.ops.scales import SHARES
from migx.shape import F32, F64, U8, DType, integers


@exporter("choose_scales")
def choose_scales(site: Site) -> str | tuple[str, str]:
    """The arithmetic of its meaning, on blocks as an axis of their own."""
    blocks = _Blocks.of(site)
    scale, zero = blocks.fitted(1.0)
    least = "" if site.op.clip == "minmax" else blocks.error(scale, zero)
    for share in SHARES[1:] if least else ():
        tried = blocks.fitted(share)
        error = blocks.error(*tried)
        better = site.node("Less", error, least)
        least = site.node("Where", better, error, least)
        scale, zero = (
            site.node("Where", better, new, old)
            for new, old in zip(tried, (scale, zero), strict=True)
        )
    made = site.cast(scale, blocks.dtype, blocks.narrow)
    return (made, site.cast(zero, blocks.dtype, U8)) if site.shape.parts else made


@dataclass(frozen=True)
class _Blocks:
    """Weights in f32 or wider, ``name``, with the elements of a block along ``axis``."""

    site: Site
    name: str
    axis: int
    dtype: DType
    narrow: DType

    @classmethod
    def of(cls, site: Site) -> _Blocks:
        """The weights of an instruction, padded with zeros to whole blocks."""
        x, axis, block = site.at.inputs[0].shape, site.op.axis, site.op.block
        wide = F64 if x.dtype is F64 else F32
        name = site.cast(site.input(0), x.dtype, wide)
        count = (x.dims[axis] + block - 1) // block
        if count * block != x.dims[axis]:
            pads: list[Extent] = [0] * (2 * x.rank)
            pads[x.rank + axis] = count * block - x.dims[axis]
            name = site.node("Pad", name, site.dims(pads))
        dims = [*x.dims[:axis], count, block, *x.dims[axis + 1 :]]
        return cls(site, site.node("Reshape", name, site.dims(dims)), axis + 1, wide, x.dtype)

    def fitted(self, share: float) -> tuple[str, str]:
        """The scales, rounded to the type of the weights, and zero points whose levels cover a
        share of each block's range.
        """
        node, (low, high) = self.site.node, integers(self.site.op.to)
        least, most = (
            self._times(node(of_two, self._reduced(of_all), self._number(0)), share)
            for of_two, of_all in (("Min", "ReduceMin"), ("Max", "ReduceMax"))
        )
        if low:
            below, above = (
                node("Div", end, self._number(limit)) for end, limit in ((least, low), (most, high))
            )
            scale = node("Max", below, above)
        else:
            scale = node("Div", node("Sub", most, least), self._number(high))
        scale = self.site.cast(scale, self.dtype, self.narrow)
        scale = self.site.cast(scale, self.narrow, self.dtype)
        is_zero = node("Equal", scale, self._number(0))
        scale = node("Where", is_zero, self._number(1), scale)
        if low:
            return scale, self._number(0)
        zero = node("Round", node("Div", node("Neg", least), scale))
        return scale, node("Clip", zero, self._number(0), self._number(high))

    def error(self, scale: str, zero: str) -> str:
        """The sum of squared errors of rounding each block to its levels."""
        node, limits = self.site.node, map(self._number, integers(self.site.op.to))
        axis = self.site.constant([self.axis])
        scale = node("Unsqueeze", scale, axis)
        zero = node("Unsqueeze", zero, axis) if self.site.shape.parts else zero
        levels = node("Add", node("Round", node("Div", self.name, scale)), zero)
        given = node("Mul", node("Sub", node("Clip", levels, *limits), zero), scale)
        off = node("Sub", given, self.name)
        return node("ReduceSum", node("Mul", off, off), axis, keepdims=0)

    def _reduced(self, kind: str) -> str:
        return self.site.node(kind, self.name, self.site.constant([self.axis]), keepdims=0)

    def _times(self, name: str, share: float) -> str:
        return name if share == 1 else self.site.node("Mul", name, self._number(share))

    def _number(self, number: float) -> str:
        return self.site.constant(number, self.dtype)
