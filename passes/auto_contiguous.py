"""Adds the copies to standard layout that operations need."""

from __future__ import annotations

from migx import op as operations
from migx.builders import Builder
from migx.dim import Extent, bounds, product
from migx.fusion.kernels import core_of, described
from migx.fusion.outlining import operands
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.ops.builtin import Literal, Param, Slot
from migx.ops.channels_last import ConvolutionChannelsLast, to_first
from migx.ops.control import If, Loop, Scan
from migx.ops.layout import Contiguous, Transpose
from migx.ops.linear import Convolution, QuantDot
from migx.ops.pooling import Pooling
from migx.planning import root

ALONG = (QuantDot, Convolution, Pooling)
"""Operations that may read along rows: products of bytes, which are multiplied four at a time,
convolutions whose channels do not mix, and pooling.
"""
LINE = 16
"""Elements of a cache line: a copy pays off if both axes are at least as long."""


class AutoContiguous(Pass):
    """Inserts ``contiguous`` where an operation requires standard layout and would read another
    (MIGraphX pass of this name).

    With ``outputs``, also before module results; with ``control``, before operands and results of
    control flow modules; with ``across``, before arithmetic and reductions that would read with a
    large stride, before products of bytes, pooling and depthwise convolutions whose rows have one,
    and before results that are non-standard views of parameters or constants. With ``channels``,
    before convolutions of channels last whose windows would read the channels of several pixels
    apart, and before results of such a program that are views with the channels first.
    """

    outputs: bool = False
    control: bool = False
    across: bool = False
    channels: bool = False
    variants = ("outputs=true", "control=true", "across=true", "channels=true")

    def apply(self, module: Module, manager: PassManager) -> bool:
        copies: dict[Instruction, Instruction] = {}
        last = self.channels and any(isinstance(at.op, ConvolutionChannelsLast) for at in module)
        for at in module:
            needed = self._needs_standard(at)
            across = set[int]() if needed or not self.across else _read_across(at)
            across |= _of_channels_apart(at) if last else set()
            for i, value in enumerate(at.inputs):
                if (needed or i in across) and not value.shape.standard:
                    module.replace_input(at, i, _copied(copies, value, at))
        return bool(copies)

    def _needs_standard(self, at: Instruction) -> bool:
        returned = at.op.name == "@return"
        held = self.control and (_is_control(at) or (returned and _is_body(at.module)))
        return held or (self.outputs if returned else operations.traits(at.op).standard_inputs)


def _of_channels_apart(at: Instruction) -> set[int]:
    """The image of a convolution of channels last, if its windows have several pixels and more than
    a few channels, which are apart; of a return, the transposes back to channels first.
    """
    if at.op.name == "@return":
        turned = ((i, v) for i, v in enumerate(at.inputs) if type(v.op) is Transpose)
        return {i for i, v in turned if v.op == Transpose(to_first(v.shape.rank))}
    if not isinstance(at.op, ConvolutionChannelsLast):
        return set()
    image, (_, *taps, channels) = at.inputs[0], at.inputs[1].shape.dims
    read_again = product(taps) != 1 and bounds(channels)[0] >= LINE
    return {0} if read_again and image.shape.true_strides[-1] != 1 else set()


def _read_across(at: Instruction) -> set[int]:
    """The inputs that are strided along the last axis and contiguous along another; of a return,
    those that will be copied in any case.
    """
    if at.op.name == "@return":
        given = (Param, Literal, Slot)
        return {i for i, v in enumerate(at.inputs) if isinstance(root(v).op, given)}
    if (core := core_of(at, ALONG)) is not None:
        rows = core.inputs[0] if core is at else operands(at).get(core.inputs[0])
        if rows is None or rows.shape.true_strides[-1] == 1 or _mixes_channels(core):
            return set()
        return {i for i, v in enumerate(at.inputs) if v is rows}
    copies = operations.traits(at.op).view is not None or isinstance(at.op, Contiguous)
    fused = None if copies else described(at)
    if fused is None or not fused.dims:
        return set()
    last = fused.dims[-1]
    return {
        access.operand
        for access in fused.accesses
        if access.operand < len(at.inputs)
        and access.strides[-1] not in (0, 1)
        and any(
            s == 1 and _is_long(d, last) for d, s in zip(fused.dims, access.strides, strict=True)
        )
    }


def _mixes_channels(core: Instruction) -> bool:
    """Whether a convolution uses each element for many results, so that layout matters less."""
    return isinstance(core.op, Convolution) and core.inputs[1].shape.dims[1] != 1


def _is_long(*extents: Extent) -> bool:
    return all(bounds(extent)[1] >= LINE for extent in extents)


def _is_control(at: Instruction) -> bool:
    return isinstance(at.op, If | Loop | Scan)


def _is_body(module: Module | None) -> bool:
    return module is not None and any(map(_is_control, module.parents))


def _copied(
    copies: dict[Instruction, Instruction], value: Instruction, at: Instruction
) -> Instruction:
    """The copy of a value, made before the first user that needs it and shared by later ones."""
    if value not in copies:
        copies[value] = Builder.before(at, value.origins)(Contiguous(), value)
    return copies[value]
