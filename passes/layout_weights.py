"""Chooses the memory layout of convolution weights."""

from __future__ import annotations

from migx.dim import product
from migx.ir import Instruction
from migx.manager import Pass, PassManager
from migx.match import on, var
from migx.ops.channels_last import CHANNELS_LAST, to_first, to_last
from migx.ops.layout import Contiguous, Transpose
from migx.ops.linear import Convolution, QuantConvolution
from migx.program import Program
from migx.rewrite import Cursor, Declined, rule
from migx.weights.constants import is_unpacked
from migx.weights.hoisting import drop_unread, hoist

TOGETHER = 16
"""Channels are read together in multiples of this."""


@rule(on((Convolution, QuantConvolution), var("x"), var("w"), name="root"))
def channels_last(
    at: Cursor, x: Instruction, w: Instruction, root: Instruction
) -> Instruction | Declined:
    """convolution(x, w) is the same with the channels of w contiguous in memory."""
    _, channels, *window = w.shape.dims
    if not w.constant or is_unpacked(w) or not w.shape.static or type(w.op) is Transpose:
        return Declined("weights are not constant and of known size, or packed, or transposed")
    if product(window) == 1 or channels == 1 or channels % TOGETHER != 0:
        return Declined(f"channels are contiguous, or no multiple of {TOGETHER}")
    rank = w.shape.rank
    there = at(Contiguous(), at(Transpose(to_last(rank)), w))
    return at(root.op, x, at(Transpose(to_first(rank)), there))


@rule(on(CHANNELS_LAST, var("x"), on(Transpose, name="w"), name="root"))
def contiguous_filters(
    at: Cursor, x: Instruction, w: Instruction, root: Instruction
) -> Instruction | Declined:
    """convolution_channels_last(x, w) is the same with the channels of w contiguous in memory, or
    its outputs if filters have one channel.
    """
    if not w.constant or is_unpacked(w) or not w.shape.static:
        return Declined("weights are not constant and of known size, or packed")
    if w.op_as(Transpose).permutation != to_last(w.shape.rank):
        return Declined("weights are in another order already")
    if product(w.shape.dims[1:-1]) == 1:
        return Declined("channels are contiguous")
    if w.shape.dims[-1] != 1:
        return at(root.op, x, at(Contiguous(), w))
    axes = range(w.shape.rank)
    there = at(Contiguous(), at(Transpose((*axes[1:], 0)), w))
    return at(root.op, x, at(Transpose((axes[-1], *axes[:-1])), there))


class LayoutWeights(Pass):
    """Stores convolution weights with their channels last, seen through a transpose, for kernels
    that take a window tap by tap: the channels of a tap are then contiguous. They are moved once,
    like all that is computed from weights. It runs after the passes that would fold the transpose
    away.
    """

    rules = channels_last + contiguous_filters

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        moved = [at for at in program.instructions() if _is_moved(at)]
        if moved:
            hoist(program, moved)
            drop_unread(program)  # what only another of them was computed from
        return bool(moved)


def _is_moved(at: Instruction) -> bool:
    """Whether it moves the channels of constants last, in each run."""
    if type(at.op) is not Contiguous or at.module is at.owner.program.weights:
        return False
    return type(at.inputs[0].op) is Transpose and at.shape.static and at.constant
