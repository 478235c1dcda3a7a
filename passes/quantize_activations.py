"""Quantises to bytes the activations that are multiplied with weights of few bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from migx.argument import Argument
from migx.builders import Builder, astype
from migx.dim import Dim
from migx.fusion.kernels import core_of
from migx.fusion.outlining import operands
from migx.ir import Instruction
from migx.manager import Pass, PassManager
from migx.op import Array
from migx.ops.linear import Dot
from migx.ops.packing import UnpackInt4
from migx.ops.pointwise import Convert
from migx.ops.quantization import DequantizeLinear, QuantizeLinear
from migx.ops.scales import ChooseScales
from migx.pipeline import Approximation
from migx.planning import source
from migx.program import Program
from migx.shape import F32, I8, U8
from migx.weights.constants import MOVED

GROUP = 8
"""Blocks that share a scale must be a multiple of this long: kernels read so many at a time."""


STEPS = 127
"""The least number of steps from 0 to the greatest magnitude of a block."""


@dataclass(frozen=True)
class RoundedRows(Approximation):
    """The error of rounding rows to bytes, in products with dequantised columns: an element is off
    by half a step at most, the greatest of its block over 254.
    """

    def of_elements(
        self, at: Instruction, inputs: Sequence[Argument], result: Argument
    ) -> Array | None:
        """The sums of half a step times the magnitudes of the columns."""
        linear = _dequantized(at)
        if linear is None:
            return None
        rows, columns = (np.abs(v.array.astype(np.float64)) for v in inputs)
        depth, dtype = rows.shape[-1], inputs[0].shape.dtype
        block = linear.block or depth
        starts = np.arange(0, depth, block)
        greatest = np.maximum.reduceat(rows, starts, axis=-1) if depth else rows
        step = greatest * (1 / STEPS + 2 * (dtype.roundoff + F32.roundoff)) + TINY
        error: Array = np.matmul(np.repeat(step / 2, block, -1)[..., :depth], columns)
        return error

    def of_tensor(self, at: Instruction) -> float:
        """Half a step, relative to the greatest element of all."""
        return 0.5 / STEPS if _dequantized(at) is not None else 0.0


TINY = 256 * float(np.finfo(np.float32).smallest_subnormal)
"""Covers steps in the subnormal range, whose rounding is not relative to their size."""


def _dequantized(at: Instruction) -> DequantizeLinear | None:
    """The dequantisation behind the right operand of a product, at most moved and scaled since."""
    value = source(at.inputs[1])
    while value.op.name in MOVED and not isinstance(value.op, DequantizeLinear):
        value = source(value.inputs[0])
    return value.op if isinstance(value.op, DequantizeLinear) else None


class QuantizeActivations(Pass):
    """Rounds the left operand of products with weights of four bits or eight to 8 bits, inside the
    groups that ``fuse_int4`` has made.

    Neighbours along the reduction share a scale, which ``choose_scales`` computes in each run:
    blocks as large as those of the weight, or a whole row if a column has one scale. A kernel can
    then multiply integers; the operations define the result on every target. Products in f64 and
    blocks that are not a multiple of 8 are left as they are. onnxruntime's accuracy_level 4 does
    the same.
    """

    @property
    def approximations(self) -> Mapping[str, Approximation]:
        """A rounded element is off by at most half a step: the greatest of its block, over 254."""
        return {"dot": RoundedRows()}

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        """Looks into the groups, which other passes leave alone."""
        groups = [at for module in manager.modules() if not module.bypass for at in module]
        dots = [dot for at in groups if (dot := _product(at)) is not None and block_of(dot)]
        done = [manager.change(self, "round", dot, partial(_round, dot)) for dot in dots]
        return any(done)


def _product(at: Instruction) -> Instruction | None:
    """The dot with weights of four bits, or constant ones of eight, that a group holds; None where
    there is none.
    """
    dot = core_of(at, (Dot,))
    if dot is None or dot is at or not (levels := _levels(source(dot.inputs[1]))):
        return None
    given = operands(at).get(levels)
    constant = given is not None and given.constant
    return dot if constant or levels.shape.dtype.is_packed else None


def _levels(linear: Instruction) -> Instruction | None:
    """The stored integers of four or eight bits that a value is dequantised from."""
    if not isinstance(linear.op, DequantizeLinear):
        return None
    levels = source(linear.inputs[0])
    if isinstance(levels.op, UnpackInt4):
        return levels.inputs[0]
    return levels if levels.shape.dtype in (I8, U8) else None


def _round(dot: Instruction) -> list[Instruction]:
    """Rounds the rows of a product to bytes."""
    dot.owner.replace_input(dot, 0, _in_bytes(dot, block_of(dot)))
    return [dot]


def block_of(dot: Instruction) -> int:
    """How many neighbours in a product's left operand share a scale; 0 if it is not rounded."""
    left, right = dot.inputs
    linear, dtype = source(right), left.shape.dtype
    if type(left.op) is DequantizeLinear or (
        type(left.op) is Convert and type(left.inputs[0].op) is DequantizeLinear
    ):
        return 0
    if not isinstance(linear.op, DequantizeLinear) or not linear.shape.static:
        return 0
    if _levels(linear) is None or dtype.bits > F32.bits:
        return 0
    depth = left.shape.dims[-1]
    if isinstance(depth, Dim) or not linear.shape.elements:
        return 0
    block, scale = linear.op.block, linear.inputs[1].shape
    axis = linear.op.axis % linear.shape.rank
    along = linear.shape.true_strides[axis] == right.shape.true_strides[-2]
    if scale.elements == 1 or not (block or along):
        return depth
    if not along:
        return 0
    block = min(block or 1, depth)
    return 0 if block % GROUP and block != depth else block


def _in_bytes(dot: Instruction, block: int) -> Instruction:
    """The left operand, quantised to bytes and dequantised."""
    at, x = Builder.before(dot), dot.inputs[0]
    last, wide = x.shape.rank - 1, astype(at, x, F32)
    scale = at(ChooseScales(I8, last, block), wide)
    levels = at(QuantizeLinear(last, block, I8), wide, scale)
    return astype(at, at(DequantizeLinear(last, block), levels, scale), x.shape.dtype)
