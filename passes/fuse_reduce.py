"""Fuses reductions and the arithmetic around them into ``fused_reduce`` instructions."""

from __future__ import annotations

from dataclasses import dataclass

from migx import op as operations
from migx.fusion.grouping import Edge, fuse
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.op import Operation
from migx.ops.fused import FusedReduce
from migx.ops.reduce import Softmax
from migx.passes.fuse_pointwise import dims_of, is_by_element, stays_narrow
from migx.shape import Dims


class FuseReduce(Pass):
    """Merges reductions over the same axes of the same dims, and the arithmetic before, between and
    after them, into one ``fused_reduce`` instruction (MIGraphX pass of this name).

    So a softmax, or a normalisation with an addition before it and a scale after it, becomes one
    instruction. Reduced values may be broadcast again. Constants stay outside.
    """

    def apply(self, module: Module, manager: PassManager) -> bool:

        def space(at: Instruction) -> Space | None:
            return None if at.constant else _space(at)

        return fuse(module, space, _joined, _becomes, self.name, manager.log)


@dataclass(frozen=True)
class Space:
    """An iteration space: its dims, and the axes that are reduced, None if there are none yet."""

    dims: Dims
    axes: tuple[int, ...] | None = None

    @property
    def folded(self) -> Dims:
        """The dims with one element on each reduced axis."""
        return tuple(1 if i in (self.axes or ()) else d for i, d in enumerate(self.dims))

    def holds(self, other: Space) -> bool:
        """Whether an operation on another space can be part of one on this."""
        if other.axes is not None:
            return self == other
        return other.dims in (self.dims, self.folded)


def _space(at: Instruction) -> Space | None:
    if at.op.name == FusedReduce.name:
        inner = next(i for i in at.modules[0] if (space := _space(i)) and space.axes is not None)
        return _space(inner)
    if is_by_element(at):
        return Space(dims_of(at))
    if operations.traits(at.op).reduction:
        return Space(at.inputs[0].shape.dims, tuple(sorted(operations.reduced_axes(at.op))))
    if isinstance(at.op, Softmax):
        return Space(at.shape.dims, (at.op.axis,))
    return None


def _joined(edge: Edge, above: Space, below: Space) -> Space | None:
    whole = below if below.axes is not None else above
    if stays_narrow(edge) or not (whole.holds(above) and whole.holds(below)):
        return None
    if not edge.views:
        return whole
    spread = edge.views[-1]
    fits = edge.value.shape.dims == whole.folded and spread.shape.dims == whole.dims
    return whole if fits and [v.op.name for v in edge.views] == ["multibroadcast"] else None


def _becomes(group: tuple[Instruction, ...], space: Space) -> Operation | None:
    return FusedReduce(space.axes) if len(group) > 1 and space.axes is not None else None
