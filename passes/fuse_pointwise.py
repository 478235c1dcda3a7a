"""Fuses elementwise operations into ``pointwise`` instructions."""

from __future__ import annotations

from migx import op as operations
from migx.fusion.grouping import Edge, fuse
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.op import Operation
from migx.ops.fused import Pointwise
from migx.shape import Dims

BY_ELEMENT = frozenset({"pointwise", "quantizelinear", "dequantizelinear"})
"""Operations that work element by element on their first input, besides those with the trait."""


class FusePointwise(Pass):
    """Merges neighbouring elementwise operations of equal dims into one ``pointwise`` instruction
    (MIGraphX pass of this name).

    Groups are as large as possible and may have several results, so nothing is computed twice. The
    exception is a dequantisation of bytes that have other users: each user repeats it. Broadcasts
    stay outside as views, except those of single numbers; constants stay outside, because they are
    computed once. With ``singles``, an operation without such neighbours is wrapped too.
    """

    singles: bool = False
    variants = ("singles=true",)

    def apply(self, module: Module, manager: PassManager) -> bool:

        def dims(at: Instruction) -> Dims | None:
            return dims_of(at) if is_by_element(at) and not at.constant else None

        return fuse(module, dims, _joined, self._becomes, self.name, manager.log)

    def _becomes(self, group: tuple[Instruction, ...], dims: Dims) -> Operation | None:
        alone = len(group) == 1 and (not self.singles or group[0].op.name == Pointwise.name)
        return None if alone else Pointwise()


def is_by_element(at: Instruction) -> bool:
    """Whether an instruction computes tensors element by element."""
    if not operations.traits(at.op).pointwise and at.op.name not in BY_ELEMENT:
        return False
    shapes = (*(at.shape.parts or (at.shape,)), *(v.shape for v in at.inputs))
    return all(s.dtype.is_tensor and s.dtype.kind != "string" for s in shapes)


def dims_of(at: Instruction) -> Dims:
    """The dims of the result, or of the first of several."""
    return at.shape.parts[0].dims if at.shape.parts else at.shape.dims


def stays_narrow(edge: Edge) -> bool:
    """Whether a dequantised value is best read as bytes: others want the bytes in memory anyway."""
    if edge.reader.op.name != "dequantizelinear":
        return False
    return not all(is_by_element(user) for user in edge.value.users)


def _joined(edge: Edge, above: Dims, below: Dims) -> Dims | None:
    if stays_narrow(edge):
        return None
    return above if above == below == edge.value.shape.dims and not edge.views else None
