"""Describes a product with weights of four or eight bits: which inputs of its group are the rows,
the weights, the scales and the zero points, and in which formats a kernel reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from migx.dim import Extent, bounds
from migx.fusion.kernels import FusedKernel, core_of, epilogue, fewest
from migx.ir import Instruction
from migx.ops.linear import Dot
from migx.ops.packing import UnpackInt4
from migx.ops.pointwise import Convert, Mul, Sub
from migx.ops.quantization import DequantizeLinear, QuantizeLinear
from migx.ops.scales import ChooseScales
from migx.planning import source
from migx.shape import I8 as BYTE
from migx.shape import DType, Shape
from migx.targets.cpu.kernel import input_number
from migx.targets.cpu.parts.weight_parameters import (
    Format,
    Parameter,
    WeightGroup,
    block_of,
    depth_of,
    is_floating,
    lies_at_the_start,
    of_neighbours,
    panel_format,
    panel_name,
    parameter_of,
)

WORD = 32
"""Bits of a lane of weights; if rows are rounded, it has as many indices of the depth as fit."""
MOST_PLACES = 2**31 // (128 * 255)
"""The most products of a byte and a level less its zero point whose sum fits in 32 bits."""


@dataclass(frozen=True)
class Left:
    """The rows on the left of a product: the number of the input, its type, their number, and the
    strides between them and along them. If rounded, a scale applies to a ``block`` of elements.
    """

    operand: int
    dtype: DType
    rows: Extent
    steps: tuple[Extent, Extent]
    block: int


@dataclass(frozen=True)
class Right:
    """The matrix on the right of a product: its storage and the format that this is read in, its
    columns, and how it is dequantised. A scale applies to a ``block`` of elements of a column.
    """

    packed: Instruction
    form: Format
    columns: int
    block: int
    scale: Parameter
    zero: Parameter

    @property
    def signed(self) -> bool:
        """Whether levels are signed."""
        return self.packed.shape.dtype.kind == "int"


@dataclass(frozen=True)
class Problem:
    """A product of rows with weights of so many ``bits``, input number ``weight``, and its
    epilogue. The first ``depth`` stored elements of each column are multiplied. A panel of weights
    has ``width`` columns.
    """

    left: Left
    right: Right
    weight: int
    bits: int
    depth: int
    width: int
    epilogue: FusedKernel

    @property
    def rounded(self) -> bool:
        """Whether rows are rounded to bytes, with a scale for each block of the weights."""
        return self.left.block > 0

    def heights(self, most: int, about: int) -> tuple[int, int]:
        """The rows that are multiplied at a time, and the rows of a block: at most ``most`` and
        about ``about``, the block a multiple of the height, and no more than there are.
        """
        rows = max(1, bounds(self.left.rows)[1])
        height = int(min(most, rows))
        if isinstance(self.left.rows, int):  # strips of about equal height: a low one does not pay
            height = int(-(-rows // -(-rows // height)))
        block = max(1, about // height) * height
        if isinstance(self.left.rows, int):
            block = min(block, -(-max(1, self.left.rows) // height) * height)
        return height, block

    @property
    def group(self) -> int:
        """The indices of the depth in a lane of weights, if rows are rounded."""
        return WORD // self.bits

    @property
    def formats(self) -> tuple[tuple[int, str], ...]:
        """The inputs that are read in a weight format, with their formats."""
        wanted = {self.weight: self.right.form.name}
        for parameter in (self.right.scale, self.right.zero):
            if parameter.operand is not None and parameter.format is not None:
                wanted[parameter.operand] = parameter.format
        return tuple(wanted.items())


def described(at: Instruction, widths: Callable[[int, bool], Sequence[int]]) -> Problem | None:
    """The product a group computes, with weights in panels of the least width that holds all
    columns, or else the last; ``widths`` gives these for the bits and for whether rows are rounded.
    None for other forms.
    """
    dot = core_of(at, (Dot,))
    left = None if dot is None or dot is at else _left(at, dot)
    if dot is None or left is None or not is_floating(dot.shape.dtype):
        return None
    columns = bounds(dot.shape.dims[-1])[1]
    bits = 4 if any(type(v.op) is UnpackInt4 for v in at.modules[0]) else 8
    known = widths(bits, left.block > 0)
    width = next((w for w in known if columns <= w), known[-1])
    of = WeightGroup(at, bits, width, WORD // bits if left.block else 0)
    right = _scaled(of, dot.inputs[1]) or _shifted(of, dot.inputs[1])
    rest = None if right is None else epilogue(at, dot, right.columns)
    depth = dot.inputs[1].shape.dims[-2]
    if right is None or rest is None or not _fits(of, left, right, int(depth)):
        return None
    weight = of.inputs.index(right.packed)
    return Problem(left, right, weight, bits, int(depth), width, rest)


def _left(at: Instruction, dot: Instruction) -> Left | None:
    """The rows of a product in a group, if they are an input, perhaps rounded."""
    value, block = _rounded(dot.inputs[0]) or (dot.inputs[0], 0)
    number = input_number(at, dot, value)
    if number is None:
        return None
    x = at.inputs[number].shape
    lines = _lines(x)
    return Left(number, x.dtype, *lines, block) if lines and is_floating(x.dtype) else None


def _scaled(of: WeightGroup, right: Instruction) -> Right | None:
    """The matrix behind a view of a dequantisation."""
    linear = source(right)
    if not isinstance(linear.op, DequantizeLinear):
        return None
    axes, packed = _axes(linear, right), of.levels(linear.inputs[0])
    if axes is None or packed is None:
        return None
    depth, columns = int(right.shape.dims[-2]), int(linear.shape.dims[axes[1]])
    form = panel_format(of, packed, linear.inputs[0], axes, of.group)
    scale = parameter_of(of, linear, 1, axes)
    zero = parameter_of(of, linear, 2, axes)
    if form is None or scale is None or zero is None:
        return None
    return Right(packed, form, columns, block_of(linear, axes[0], depth), scale, zero)


def _shifted(of: WeightGroup, right: Instruction) -> Right | None:
    """The matrix behind a view of levels that are shifted by fractional zero points before they are
    scaled; both apply to runs of adjacent elements, in storage order.
    """
    product = source(right)
    if type(product.op) is not Mul or not product.shape.static:
        return None
    for levels, scaling in (product.inputs, product.inputs[::-1]):
        shifted = source(levels)
        shifting = shifted.inputs[1] if type(shifted.op) is Sub else None
        start = shifted if shifting is None else source(shifted.inputs[0])
        if type(start.op) is not Convert or not is_floating(start.shape.dtype):
            continue
        packed = of.levels(start.inputs[0])
        if packed is not None:
            chain = (levels, *shifted.inputs[:1], *start.inputs)
            ordered = all(v.shape.standard and lies_at_the_start(v) for v in chain)
            return _in_order(of, right, packed, scaling, shifting) if ordered else None
    return None


def _in_order(
    of: WeightGroup,
    right: Instruction,
    packed: Instruction,
    scaling: Instruction,
    shifting: Instruction | None,
) -> Right | None:
    """The matrix of levels that are shifted and scaled in storage order."""
    if packed.shape.rank != 2 or of.operand(packed) is None or not _is_one_matrix(right):
        return None
    axis = depth_of(right, packed.shape.dims, (0, 1), 1)
    if axis != 1:
        return None
    columns, stored = (int(d) for d in packed.shape.dims)
    scale = of_neighbours(of, scaling, columns)
    zero: Parameter | None = Parameter(packed.shape.dtype)
    if shifting is not None:
        zero = of_neighbours(of, shifting, columns)
    if scale is None or zero is None:
        return None
    blocks = {stored // p.blocks for p in (scale, zero) if p.by_block}
    if len(blocks) > 1:
        return None
    block = min(*blocks, int(right.shape.dims[-2])) if blocks else int(right.shape.dims[-2])
    form = Format(panel_name("b", of.width, of.group), stored)
    return Right(packed, form, columns, block, scale, zero)


def _fits(of: WeightGroup, left: Left, right: Right, depth: int) -> bool:
    """Whether rows rounded in blocks have the blocks of the weight, and their sums of products fit
    in 32 bits; rows that are not rounded always fit.
    """
    if not left.block:
        return True
    whole = right.block % of.group == 0 or right.block == depth
    return left.block == right.block <= MOST_PLACES and whole and not right.zero.dtype.is_float


def _rounded(value: Instruction) -> tuple[Instruction, int] | None:
    """The value before its rows are rounded to bytes, and the elements to which a scale applies;
    None if it is not rounded.
    """
    value = _before_convert(value)
    if not isinstance(value.op, DequantizeLinear) or len(value.inputs) != 2:
        return None
    levels, scale = value.inputs
    if not isinstance(levels.op, QuantizeLinear) or not isinstance(scale.op, ChooseScales):
        return None
    x, last = levels.inputs[0], value.shape.rank - 1
    ops = (value.op, levels.op, scale.op)
    if any(op.axis % value.shape.rank != last for op in ops) or len({op.block for op in ops}) != 1:
        return None
    same = levels.inputs[1:] == (scale,) and tuple(scale.inputs) == (x,)
    if not same or levels.op.to is not BYTE or scale.op.to is not BYTE or scale.op.clip != "minmax":
        return None
    return _before_convert(x), scale.op.block


def _before_convert(value: Instruction) -> Instruction:
    """The value before a conversion between floating types."""
    floating = isinstance(value.op, Convert) and value.inputs[0].shape.dtype.is_float
    return value.inputs[0] if floating else value


def _axes(linear: Instruction, right: Instruction) -> tuple[int, int] | None:
    """The axes of a matrix that are the depth and the columns, if a view shows it once, or
    broadcast over a batch.
    """
    if linear.shape.rank != 2 or not linear.shape.static or linear.shape.elements == 0:
        return None
    if not _is_one_matrix(right):
        return None
    op = linear.op_as(DequantizeLinear)
    axis = op.axis % 2
    depth = depth_of(right, linear.shape.dims, (0, 1), axis if op.block else 1 - axis)
    return None if depth is None else (depth, 1 - depth)


def _is_one_matrix(right: Instruction) -> bool:
    """Whether a value is a nonempty matrix of static dims, perhaps broadcast over a batch."""
    fixed = all(isinstance(d, int) and d > 0 for d in right.shape.dims[-2:])
    leading = zip(right.shape.dims[:-2], right.shape.true_strides[:-2], strict=True)
    return fixed and all(extent == 1 or stride == 0 for extent, stride in leading)


def _lines(x: Shape) -> tuple[Extent, tuple[Extent, Extent]] | None:
    """The number of rows of a value, and the strides between them and along them, if one stride
    fits all.
    """
    axes = fewest((d, (s,)) for d, s in zip(x.dims[:-1], x.true_strides[:-1], strict=True))
    if len(axes) > 1:
        return None
    rows, (step,) = axes[0] if axes else (1, (0,))
    return rows, (step, x.true_strides[-1])
