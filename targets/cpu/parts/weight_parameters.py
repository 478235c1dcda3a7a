"""The parameters of weights that are stored in four or eight bits, their scales and zero points,
and the formats in which kernels of products and of convolutions read these and the levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from migx.dim import Extent
from migx.ir import Instruction
from migx.ops.layout import Reshape, Slice
from migx.ops.packing import FLAT, UnpackInt4
from migx.ops.quantization import DequantizeLinear
from migx.planning import source, viewed
from migx.shape import DType, row_major
from migx.targets.cpu.emit import I8, Type, Value
from migx.targets.cpu.kernel import Frame, behind, memory_of
from migx.targets.cpu.parts import elements
from migx.weights import value_of


@dataclass(frozen=True)
class Parameter:
    """Scales or zero points: a single number, or an input, its format, and whether columns and
    blocks of the depth have their own; there may be more ``blocks`` than the product reads.
    """

    dtype: DType
    number: float = 0.0
    operand: int | None = None
    format: str | None = None
    by_column: bool = False
    by_block: bool = False
    blocks: int = 0

    def panel(self, panel: Value, block: Value) -> Value:
        """The index of the parameter's panel for a panel of columns and a block of the depth."""
        return panel * self.blocks + block if self.by_block else panel

    def shared(self, frame: Frame, block: Value, to: Type) -> Value:
        """The number that all columns share in a block of the depth, in f32 or i32."""
        assert self.operand is not None
        f, first, signed = frame.function, frame.operands[self.operand], self.dtype.kind == "int"
        if self.dtype.is_packed:
            level = f.load(first, I8) & 15
            return f.cast((level ^ 8) - 8 if signed else level, to, signed=signed)
        memory = memory_of(self.dtype)
        read = f.load(f.element(first, block if self.by_block else 0, memory), memory)
        return f.cast(elements.loaded(f, read, self.dtype), to, signed=signed)


@dataclass(frozen=True)
class WeightGroup:
    """The instruction, the bits of its weights, and the form of panels: ``width`` columns, with
    ``group`` adjacent indices of the depth, 0 for none.
    """

    at: Instruction
    bits: int
    width: int
    group: int = 0

    @property
    def inputs(self) -> Sequence[Instruction]:
        """The parameters of its module."""
        return list(self.at.modules[0].parameters.values())

    def operand(self, value: Instruction) -> int | None:
        """The number of the input that a value inside is, if it is a whole constant."""
        if value not in self.inputs:
            return None
        number = self.inputs.index(value)
        given = self.at.inputs[number]
        return number if behind(given) is given else None

    def levels(self, shown: Instruction) -> Instruction | None:
        """The stored integers of so many bits behind a view."""
        root = source(shown)
        if type(root.op) is UnpackInt4 and root.op.axis == FLAT:
            root = root.inputs[0]
        dtype = root.shape.dtype
        return root if dtype.is_integer and dtype.bits == self.bits else None


def parameter_of(
    of: WeightGroup, linear: Instruction, index: int, axes: tuple[int, int]
) -> Parameter | None:
    """The scales, or the zero points, of a dequantisation."""
    op = linear.op_as(DequantizeLinear)
    if index == len(linear.inputs):
        return Parameter(linear.inputs[0].shape.dtype)
    shown = linear.inputs[index]
    unpacked = root = source(shown)
    if isinstance(root.op, UnpackInt4) and root.op.axis == FLAT:
        root = root.inputs[0]
    if (number := _number(root)) is not None:
        return Parameter(unpacked.shape.dtype, number)
    operand, dtype = of.operand(root), root.shape.dtype
    if operand is None:
        return None
    if root.shape.elements == 1:
        return Parameter(dtype, operand=operand)
    on_depth = op.axis % linear.shape.rank == axes[0]
    if shown.shape.rank == 1 and root.shape.rank == 1 and shown.shape.true_strides == (1,):
        if not on_depth:
            return Parameter(dtype, operand=operand, format=f"A{of.width}a", by_column=True)
        return None if dtype.is_packed else Parameter(dtype, operand=operand, by_block=True)
    if not op.block or shown.shape.rank != 2 or not on_depth:
        return None
    form = panel_format(of, root, shown, axes)
    return None if form is None else _of_blocks(dtype, operand, form)


def _of_blocks(dtype: DType, operand: int, form: Format) -> Parameter:
    """A parameter that each column, and each block of the depth, has its own values of."""
    return Parameter(
        dtype,
        operand=operand,
        format=form.name,
        by_column=True,
        by_block=True,
        blocks=form.stored,
    )


def of_neighbours(of: WeightGroup, shown: Instruction, columns: int) -> Parameter | None:
    """A parameter whose values each apply to a run of adjacent elements, column by column."""
    root = source(shown)
    dtype = root.shape.dtype
    if (number := _number(root)) is not None:
        return Parameter(dtype, number)
    operand = of.operand(root)
    if operand is None or not is_floating(dtype) or not lies_at_the_start(shown):
        return None
    if root.shape.elements == 1:
        return Parameter(dtype, operand=operand)
    dims, strides = list(shown.shape.dims), list(shown.shape.true_strides)
    while dims and (strides[-1] == 0 or dims[-1] == 1):
        dims.pop()
        strides.pop()
    in_order = zip(dims, strides, row_major(dims), strict=True)
    if (
        root.shape.rank != 2
        or root.shape.dims[0] != columns
        or math.prod(dims) != root.shape.elements
    ):
        return None
    if not all(d == 1 or a == b for d, a, b in in_order):
        return None
    form = Format(panel_name("b", of.width, 0), int(root.shape.dims[1]))
    return _of_blocks(dtype, operand, form)


def _number(value: Instruction) -> float | None:
    """The value of a fixed literal of one element; None for others."""
    known = value_of(value) if value.shape.elements == 1 else None
    return None if known is None else float(known.elements.reshape(-1)[0])


def block_of(linear: Instruction, axis: int, whole: int) -> int:
    """The elements along an axis, of ``whole``, to which a scale applies."""
    op = linear.op_as(DequantizeLinear)
    if op.axis % linear.shape.rank != axis or linear.inputs[1].shape.elements == 1:
        return whole
    return min(op.block or 1, whole)


@dataclass(frozen=True)
class Format:
    """The format that a matrix is read in, and the length of the depth's axis there."""

    name: str
    stored: int


def panel_format(
    of: WeightGroup,
    parameter: Instruction,
    shown: Instruction,
    axes: tuple[int, int],
    group: int = 0,
) -> Format | None:
    """The panel format of a literal that is a parameter and is viewed, perhaps transposed, as a
    matrix with these axes; ``group`` indices of the depth of each column are adjacent.
    """
    if of.operand(parameter) is None or parameter.shape.rank != 2 or shown.shape.rank != 2:
        return None
    depth = depth_of(shown, parameter.shape.dims, axes, axes[0])
    if depth is None:
        return None
    return Format(panel_name("ab"[depth], of.width, group), int(parameter.shape.dims[depth]))


def panel_name(depth: str, width: int, group: int) -> str:
    """The name of the panel format whose depth is this axis."""
    low, high = depth, "ab"[depth == "a"]
    ends = f"{group}{low}" if group else ""
    return f"{high.upper()}{low.upper() if group else low}{width}{high}{ends}"


def depth_of(
    view: Instruction, dims: Sequence[Extent], axes: tuple[int, int], likely: int
) -> int | None:
    """The axis of a row-major matrix that is the depth of a view of it, whose last two ``axes`` are
    the depth and the columns: the view has all columns, from the first element on. If both axes may
    be, the ``likely`` one.
    """
    if not lies_at_the_start(view):
        return None
    given, steps = [int(d) for d in view.shape.dims[-2:]], view.shape.true_strides[-2:]
    strides = (dims[1], 1)
    for depth in (likely, 1 - likely):
        pairs = list(zip(axes, (depth, 1 - depth), strict=True))
        lies = all(given[i] == 1 or steps[i] == strides[j] for i, j in pairs)
        if lies and given[axes[1]] == dims[1 - depth] and given[axes[0]] <= int(dims[depth]):
            return depth
    return None


def lies_at_the_start(view: Instruction) -> bool:
    """Whether a view keeps the order, and begins with the first element, of what it shows."""
    while (below := viewed(view)) is not None:
        if isinstance(view.op, Slice) and any(start != 0 for start in view.op.starts):
            return False
        if isinstance(view.op, Reshape) and not below.shape.standard:
            return False
        view = below
    return True


def is_floating(dtype: DType) -> bool:
    """Whether elements are floats that these kernels compute with, in f32."""
    return dtype.is_float and dtype.bits in (16, 32)
