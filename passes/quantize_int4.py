"""Squeezes the weights of products into four bits."""

from __future__ import annotations

from migx.builders import Builder
from migx.errors import ShapeError
from migx.ir import Instruction
from migx.manager import PassManager
from migx.ops.builtin import GetTupleElem
from migx.ops.packing import PackInt4, UnpackInt4
from migx.ops.quantization import DequantizeLinear, QuantizeLinear
from migx.ops.scales import ChooseScales
from migx.passes._squeezing import Squeeze, Weight
from migx.program import Program
from migx.shape import I4, I8, U4, U8, DType


class QuantizeInt4(Squeeze):
    """Stores the weights of dots and convolutions in four bits (MIGraphX quantize_int4), also
    stacks of matrices from which a ``gather`` picks some, such as the experts of a mixture.

    A weight becomes ``quantizelinear``, ``pack_int4``, ``unpack_int4``, ``dequantizelinear``, with
    a scale for each ``block`` of neighbours along the reduction; ``choose_scales`` computes it by
    ``clip``, "minmax" or "mse". The pass reads no values: ``propagate_constant`` then folds all
    that into the packed bytes, the scales and, unless ``symmetric``, the zero points. A table that
    is both multiplied and looked up is stored once. Left as they are: integers; weights that would
    take more than half their bytes, or have other users; packed weights; and weights whose label or
    ONNX node matches one of ``skip``, with * for any letters.
    """

    bits = 4
    most = 1 / 2
    symmetric: bool = False
    variants = ("block=2", "block=3,symmetric=true,clip=mse")

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        """Squeezes in all modules at once."""
        if self.block < 1:
            raise ShapeError(f"quantize_int4 takes blocks of 1 or more, not {self.block}")
        return super().apply_program(program, manager)

    def bits_of_block(self, dtype: DType) -> int:
        """A scale and a zero point."""
        return dtype.bits + 4 * (not self.symmetric)

    def stored(self, at: Builder, weight: Weight) -> Instruction:
        """Adds the instructions that quantise, pack, unpack and dequantise a weight."""
        flat, axis, block = weight.flat(at), weight.axis, self.block
        chosen = at(ChooseScales(I4 if self.symmetric else U4, axis, block, self.clip), flat)
        parameters = [chosen]
        if not self.symmetric:
            parameters = [at(GetTupleElem(i), chosen) for i in range(2)]
        levels = at(QuantizeLinear(axis, block, I8 if self.symmetric else U8), flat, *parameters)
        scale, *zeros = parameters
        levels, *zeros = (at(UnpackInt4(), at(PackInt4(), v)) for v in (levels, *zeros))
        made = at(DequantizeLinear(axis, block), levels, scale, *zeros)
        return weight.whole_again(at, made)
