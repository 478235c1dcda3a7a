"""Squeezes the weights of products into bytes."""

from __future__ import annotations

from migx.builders import Builder
from migx.errors import ShapeError
from migx.ir import Instruction
from migx.manager import PassManager
from migx.ops.layout import Reshape
from migx.ops.quantization import DequantizeLinear, QuantizeLinear
from migx.ops.scales import ChooseScales
from migx.passes._squeezing import Squeeze, Weight
from migx.program import Program
from migx.shape import I8


class QuantizeInt8(Squeeze):
    """Stores the weights of dots and convolutions in eight bits, also stacks of matrices from which
    a ``gather`` picks some.

    A weight becomes ``quantizelinear`` and ``dequantizelinear``, with a scale for each column or
    output channel, or for each ``block`` of neighbours along the reduction; ``choose_scales``
    computes it by ``clip``, "minmax" or "mse". The pass reads no values: ``propagate_constant``
    then folds all that into the bytes and the scales. A table that is both multiplied and looked up
    is stored once. Left as they are: integers; weights that would take more than five eighths of
    their bytes, or have other users; weights already in a few bits; and weights whose label or
    ONNX node matches one of ``skip``, with * for any letters. Activations stay floats:
    ``migx.calibration`` rounds them too.
    """

    bits = 8
    most = 5 / 8
    block: int = 0
    variants = ("block=3,clip=mse",)

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        """Squeezes in all modules at once."""
        if self.block < 0:
            raise ShapeError(
                f"quantize_int8 takes blocks of 1 or more, or 0 for a scale for each column, not "
                f"{self.block}"
            )
        return super().apply_program(program, manager)

    def stored(self, at: Builder, weight: Weight) -> Instruction:
        """Adds the instructions that quantise and dequantise a weight."""
        flat, axis, depth = weight.flat(at), weight.axis, int(weight.dims[weight.axis])
        block = self.block or depth
        scale = at(ChooseScales(I8, axis, block, self.clip), flat)
        if self.block or len(weight.dims) != 2:
            levels = at(QuantizeLinear(axis, block, I8), flat, scale)
            return weight.whole_again(at, at(DequantizeLinear(axis, block), levels, scale))
        kept = 1 - axis
        scale = at(Reshape((weight.dims[kept],)), scale)
        levels = at(QuantizeLinear(kept, to=I8), weight.value, scale)
        return at(DequantizeLinear(kept), levels, scale)
