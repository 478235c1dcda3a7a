"""Products of dequantised values, made on the small integers and scaled once.

The sum of (x - zx) sx (w - zw) sw is sx sw (sum of x w - zx sum of w) where zw is 0. So the scale
is the product of both, and the zero point of the result, one for each column or output channel, is
zx times the sum of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from migx.dim import Extent, bounds, product
from migx.ir import Instruction
from migx.match import on, skip
from migx.ops.layout import Broadcast, Multibroadcast, Pad, Reshape, Transpose
from migx.ops.linear import Convolution, Dot, QuantConvolution, QuantDot
from migx.ops.pointwise import Convert, Mul
from migx.ops.quantization import DequantizeLinear
from migx.ops.reduce import ReduceSum
from migx.rewrite import Cursor, Declined, rule
from migx.shape import F32, I8, I32, U8, Dims, DType
from migx.weights import is_constant

MOVED = (Transpose, Multibroadcast, Broadcast)
LARGEST = {I8: 128, U8: 255}
"""The greatest magnitude of a byte."""


@dataclass(frozen=True)
class Factor:
    """One side of a product: what is quantised, the views of it that are multiplied, its scale and
    zero point, and the axis of the source along which the scale lies, None for one element.
    """

    source: Instruction
    views: tuple[Instruction, ...]
    scale: Instruction
    zero: Instruction | None
    axis: int | None

    def moved(self, at: Cursor) -> Instruction:
        """The quantised values as they are multiplied."""
        value = self.source
        for view in self.views:
            value = at(view.op, value)
        return value

    def place(self, axis: int) -> int:
        """Where the views have an axis of the source."""
        for view in self.views:
            match view.op:
                case Transpose(permutation=permutation):
                    axis = permutation.index(axis)
                case Broadcast(axis=first):
                    axis += first
                case _:
                    axis += view.shape.rank - view.inputs[0].shape.rank
        return axis


def factor(value: Instruction) -> Factor | None:
    """The side of a product that a value is; None where it is no view of dequantised bytes."""
    views: list[Instruction] = []
    while type(value.op) in MOVED and len(value.inputs) == 1:
        views.insert(0, value)
        (value,) = value.inputs
    op = value.op
    if not isinstance(op, DequantizeLinear) or value.inputs[0].shape.dtype not in LARGEST:
        return None
    source, scale, *zero = value.inputs
    single = scale.shape.elements == 1
    if not single and (op.block or scale.shape.dims != (source.shape.dims[op.axis],)):
        return None
    return Factor(
        source, tuple(views), scale, zero[0] if zero else None, None if single else op.axis
    )


dequantized = skip(*MOVED)(on(DequantizeLinear))


@rule(on(Dot, dequantized, dequantized, name="dot"))
def quant_dot(at: Cursor, dot: Instruction) -> Instruction | Declined:
    """dot(dequantizelinear(x), dequantizelinear(w)) is dequantizelinear(quant_dot(x, w))."""
    x, w = map(factor, dot.inputs)
    last, (depth, width) = dot.shape.rank - 1, dot.inputs[1].shape.dims[-2:]
    if x is None or w is None:
        return Declined("a side is no view of dequantised bytes")
    columns = next((i for i in range(w.source.shape.rank) if w.place(i) == last), None)
    if reason := unfit(x, w, columns, depth):
        return Declined(reason)
    if x.zero is not None and not is_matrix(w, columns, (depth, width)):
        return Declined("the sum of each column is not that of one matrix")
    return scaled(at, at(QuantDot(), x.moved(at), w.moved(at)), x, w, columns or 0, last, dot)


@rule(on(Convolution, dequantized, on(DequantizeLinear), name="convolution"))
def quant_convolution(at: Cursor, convolution: Instruction) -> Instruction | Declined:
    """A convolution of dequantised values is that of the quantised ones, dequantised.

    Padding stands for 0, which is the zero point where x has one.
    """
    x, w = map(factor, convolution.inputs)
    if x is None or w is None:
        return Declined("a side is no view of dequantised bytes")
    if reason := unfit(x, w, 0, product(w.source.shape.dims[1:])):
        return Declined(reason)
    op, image = convolution.op, x.moved(at)
    assert isinstance(op, Convolution)
    if x.zero is not None and any(p != 0 for p in op.padding):
        half = len(op.padding) // 2
        pads = (0, 0, *op.padding[:half], 0, 0, *op.padding[half:])
        image = at(Pad(pads), image, x.zero)
        op = replace(op, padding=(0,) * len(op.padding))
    made = QuantConvolution(op.padding, op.stride, op.dilation, op.group)
    return scaled(at, at(made, image, w.source), x, w, 0, 1, convolution)


def is_matrix(w: Factor, columns: int | None, dims: Dims) -> bool:
    """Whether weights are one matrix of these dims, or the transpose of one."""
    kept = w.source.shape.dims
    return len(kept) == 2 and columns is not None and (kept[1 - columns], kept[columns]) == dims


def unfit(x: Factor, w: Factor, channels: int | None, depth: Extent) -> str:
    """Why a product cannot be made on integers; empty where it can. ``channels`` is the axis of
    the weights that the result keeps.
    """
    most = bounds(depth)[1] * LARGEST[x.source.shape.dtype] * LARGEST[w.source.shape.dtype]
    if most >= 2**31:
        return "the sum may not fit 32 bits"
    if x.axis is not None or w.axis not in (None, channels):
        return "scales differ along what is summed, or along rows"
    if w.zero is not None:
        return "a zero point of the weights asks for the sum of each row"
    if x.zero is not None and (x.zero.shape.elements != 1 or not is_constant(w.source)):
        return "the sums of the weights are not constant"
    return ""


def scaled(
    at: Cursor,
    total: Instruction,
    x: Factor,
    w: Factor,
    channels: int,
    axis: int,
    root: Instruction,
) -> Instruction:
    """The integer product as the real one, of which ``axis`` is that of the weights' channels."""
    dtype = root.shape.dtype
    wide = dtype if dtype.bits >= 32 else F32
    scale = at(Mul(), *spread(at, (x.scale, w.scale), wide))
    parameters = [scale]
    if x.zero is not None:
        others = tuple(i for i in range(w.source.shape.rank) if i != channels)
        sums = at(ReduceSum(others), at(Convert(I32), w.source))
        flat = at(Reshape((w.source.shape.dims[channels],)), sums)
        parameters.append(at(Mul(), *spread(at, (x.zero, flat), I32)))
    real = at(DequantizeLinear(axis=axis), total, *parameters)
    return real if wide is dtype else at(Convert(dtype), real)


def spread(at: Cursor, pair: tuple[Instruction, ...], to: DType) -> list[Instruction]:
    """A number and a number or vector, both of one type and at the dims of the second."""
    first, second = (v if v.shape.dtype is to else at(Convert(to), v) for v in pair)
    dims = () if second.shape.elements == 1 else second.shape.dims
    flat = [
        v if v.shape.elements != 1 or not v.shape.rank else at(Reshape(()), v)
        for v in (first, second)
    ]
    return [v if v.shape.dims == dims else at(Multibroadcast(dims), v) for v in flat]


products = quant_dot + quant_convolution
