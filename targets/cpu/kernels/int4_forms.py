"""What a group tagged ``int4_gemm`` computes: which of its inputs are the rows, the packed weights,
the scales and the zero points, and in which formats a kernel reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from migx.dim import Extent
from migx.fusion import source
from migx.ir import Instruction
from migx.kernels import FusedKernel, epilogue
from migx.ops.builtin import Literal
from migx.ops.linear import Dot
from migx.ops.packing import FLAT, UnpackInt4
from migx.ops.pointwise import Convert
from migx.ops.quantization import DequantizeLinear, QuantizeLinear
from migx.ops.scales import ChooseScales
from migx.shape import I4, I8, DType, Shape
from migx.targets.cpu.kernel import behind

GROUP = 8
"""Places of the depth that a lane of packed weights has, where rows are rounded."""
MOST_PLACES = 2**31 // (128 * 255)
"""As many products of a byte and a level less its zero point are summed in 32 bits."""


@dataclass(frozen=True)
class Parameter:
    """Scales or zero points: a number for all, or an input, its format, and whether columns and
    blocks of the depth have their own.
    """

    dtype: DType
    number: float = 0.0
    operand: int | None = None
    format: str | None = None
    by_column: bool = False
    by_block: bool = False


@dataclass(frozen=True)
class Problem:
    """A product of rows with unpacked weights, and what is done to its elements.

    ``left`` and ``weight`` are numbers of inputs; ``steps`` those from row to row and from place to
    place of the left one. A scale holds for ``block`` places of the depth. Where rows are
    ``rounded``, it is to bytes, with a scale for each such block.
    """

    left: int
    left_dtype: DType
    steps: tuple[Extent, Extent]
    weight: int
    format: str
    signed: bool
    rows: Extent
    columns: int
    depth: int
    block: int
    scale: Parameter
    zero: Parameter
    epilogue: FusedKernel
    rounded: bool

    @property
    def formats(self) -> tuple[tuple[int, str], ...]:
        """The inputs that are read in a format, and which."""
        wanted = {self.weight: self.format}
        for parameter in (self.scale, self.zero):
            if parameter.operand is not None and parameter.format is not None:
                wanted[parameter.operand] = parameter.format
        return tuple(wanted.items())


def described(at: Instruction, width: int, width_of_rounded: int) -> Problem | None:
    """The product a group computes, its weights in panels of a width, or of another where rows are
    rounded; None for other forms.
    """
    (module,) = at.modules
    inputs = list(module.parameters.values())
    dot = next((v for v in module if type(v.op) is Dot), None)
    if dot is None or not _is_floating(dot.shape.dtype):
        return None
    rounds = rounded(dot.inputs[0])
    given_left = dot.inputs[0] if rounds is None else rounds[0]
    if given_left not in inputs:
        return None
    left, linear = inputs.index(given_left), source(dot.inputs[1])
    width = width if rounds is None else width_of_rounded
    x = at.inputs[left].shape
    if not isinstance(linear.op, DequantizeLinear) or not _is_floating(x.dtype):
        return None
    axes, lines, weight = _axes(linear, dot.inputs[1]), _lines(x), source(linear.inputs[0])
    if axes is None or lines is None:
        return None
    if not isinstance(weight.op, UnpackInt4) or weight.op.axis != FLAT:
        return None
    packed = weight.inputs[0]
    group = 0 if rounds is None else GROUP
    form = _format(at, inputs, packed, linear.inputs[0], axes, width, group)
    depth, columns = (int(linear.shape.dims[i]) for i in axes)
    scale = _parameter(at, inputs, linear, 1, axes, width)
    zero = _parameter(at, inputs, linear, 2, axes, width)
    rest = epilogue(at, dot, columns)
    if form is None or scale is None or zero is None or rest is None:
        return None
    signed, block = packed.shape.dtype is I4, _block(linear, axes[0])
    if rounds is not None and not _fits(rounds[1], block, depth):
        return None
    given = (left, x.dtype, lines[1], inputs.index(packed), form, signed)
    return Problem(*given, lines[0], columns, depth, block, scale, zero, rest, rounds is not None)


def _fits(rounded_by: int, block: int, depth: int) -> bool:
    """Whether rows that are rounded in blocks of a size fit those of the weight, and their sums of
    products fit into 32 bits.
    """
    return rounded_by == block <= MOST_PLACES and (block % GROUP == 0 or block == depth)


def rounded(value: Instruction) -> tuple[Instruction, int] | None:
    """What a value is before its rows are rounded to bytes, and for how many neighbours a scale
    holds; None where it is not rounded.
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
    if not same or levels.op.to is not I8 or scale.op.to is not I8 or scale.op.clip != "minmax":
        return None
    return _before_convert(x), scale.op.block


def _before_convert(value: Instruction) -> Instruction:
    """What a value is before it is converted from one floating type to another."""
    floating = isinstance(value.op, Convert) and value.inputs[0].shape.dtype.is_float
    return value.inputs[0] if floating else value


def _is_floating(dtype: DType) -> bool:
    return dtype.is_float and dtype.bits in (16, 32)


def _is_constant(value: Instruction) -> bool:
    """Whether a value is all of a constant that can be had in a format."""
    return behind(value) is value


def _axes(linear: Instruction, right: Instruction) -> tuple[int, int] | None:
    """Which axes of a matrix are the depth and the columns, where a view shows it once, or once and
    the same for a whole batch.
    """
    if linear.shape.rank != 2 or not linear.shape.static or linear.shape.elements == 0:
        return None
    *batch, row, column = right.shape.true_strides
    height, width = linear.shape.dims
    dims = right.shape.dims[-2:]
    if any(s != 0 for s in batch):
        return None
    for depth in (0, 1):
        wanted = (width, 1) if depth == 0 else (1, width)
        shown = (height, width) if depth == 0 else (width, height)
        fits = all(d == 1 or a == b for d, a, b in zip(dims, (row, column), wanted, strict=True))
        if dims == shown and fits:
            return depth, 1 - depth
    return None


def _lines(x: Shape) -> tuple[Extent, tuple[Extent, Extent]] | None:
    """The rows of a value and the steps along them, where all lie one step apart."""
    strides = x.true_strides
    rows: Extent = 1
    step: Extent = 0
    for extent, stride in reversed(list(zip(x.dims[:-1], strides[:-1], strict=True))):
        if extent == 1:
            continue
        if rows == 1:
            rows, step = extent, stride
        elif stride == step * rows:
            rows = rows * extent
        else:
            return None
    return rows, (step, strides[-1])


def _block(linear: Instruction, depth: int) -> int:
    """For how many places of the depth a scale holds."""
    assert isinstance(linear.op, DequantizeLinear)
    whole = int(linear.shape.dims[depth])
    if linear.op.axis % linear.shape.rank != depth or linear.inputs[1].shape.elements == 1:
        return whole
    return min(linear.op.block or 1, whole)


def _format(
    at: Instruction,
    inputs: Sequence[Instruction],
    parameter: Instruction,
    shown: Instruction,
    axes: tuple[int, int],
    width: int,
    group: int = 0,
) -> str | None:
    """The format in panels of a literal that comes in as a parameter and is shown, perhaps
    transposed, as a matrix with these axes; ``group`` places of the depth of each column together.
    """
    if parameter not in inputs or parameter.shape.rank != 2:
        return None
    if not _is_constant(at.inputs[inputs.index(parameter)]):
        return None
    rows, row = parameter.shape.dims
    strides = tuple(
        1 if d == 1 else s for d, s in zip(shown.shape.dims, shown.shape.true_strides, strict=True)
    )
    plain = tuple(1 if d == 1 else s for d, s in zip((rows, row), (row, 1), strict=True))
    if shown.shape.dims == (rows, row) and strides == plain:
        depth = axes[0]
    elif shown.shape.dims == (row, rows) and strides == plain[::-1]:
        depth = 1 - axes[0]
    else:
        return None
    low, high = "ab"[depth], "ab"[1 - depth]
    return f"{high.upper()}{low.upper() if group else low}{width}{high}" + f"{group}{low}" * (
        group > 0
    )


def _parameter(
    at: Instruction,
    inputs: Sequence[Instruction],
    linear: Instruction,
    index: int,
    axes: tuple[int, int],
    width: int,
) -> Parameter | None:
    """The scales, or the zero points, of a dequantisation."""
    assert isinstance(linear.op, DequantizeLinear)
    if index == len(linear.inputs):
        return Parameter(linear.inputs[0].shape.dtype)
    shown = linear.inputs[index]
    root = source(shown)
    dtype = root.shape.dtype
    if type(root.op) is Literal and not root.op.replaceable and root.shape.elements == 1:
        return Parameter(dtype, float(root.op.value.array.reshape(-1)[0]))
    if isinstance(root.op, UnpackInt4) and root.op.axis == FLAT:
        root = root.inputs[0]
        dtype = root.shape.dtype
    if root not in inputs or not _is_constant(at.inputs[inputs.index(root)]):
        return None
    operand = inputs.index(root)
    packed = dtype.is_packed
    if root.shape.elements == 1 and not packed:
        return Parameter(dtype, operand=operand)
    on_depth = linear.op.axis % linear.shape.rank == axes[0]
    if shown.shape.rank == 1 and root.shape.rank == 1 and shown.shape.true_strides == (1,):
        if on_depth and not packed:
            return Parameter(dtype, operand=operand, by_block=True)
        return None if on_depth else Parameter(dtype, 0.0, operand, f"A{width}a", True)
    if not linear.op.block or shown.shape.rank != 2 or not on_depth:
        return None
    form = _format(at, inputs, root, shown, axes, width)
    return None if form is None else Parameter(dtype, 0.0, operand, form, True, True)
