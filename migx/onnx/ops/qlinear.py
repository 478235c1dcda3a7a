"""Operators on quantised values, of the default domain and of ``com.microsoft``.

Most are lowered to the float operation between dequantizelinear and quantizelinear; passes find the
integer products in that.
"""

from __future__ import annotations

from migx import ops
from migx.builders import concatenate
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops._common import all_of, channels_first, channels_last, delegated
from migx.onnx.ops.casting import stored_type
from migx.onnx.ops.contrib import DOMAIN, embedded
from migx.onnx.ops.elementwise import plus
from migx.onnx.ops.linear import matrix_product, scaled, with_bias
from migx.onnx.ops.normalization import tail_as_one
from migx.onnx.ops.quantization import first_of, packed_rows
from migx.shape import F32, U8


def real(node: Node, at: int, axis: int = 0) -> Instruction:
    """Three operands from one on (values, scale and zero point), dequantised."""
    return dequantized(node, node.input(at), node.input(at + 1), node.optional(at + 2), axis)


def dequantized(
    node: Node, x: Instruction, scale: Instruction, zero: Instruction | None, axis: int = 0
) -> Instruction:
    """Quantised values, dequantised; scales of several elements are along an axis."""
    held = [v for v in (x, scale, zero) if v is not None]
    axis = node.axis(axis, x.shape.rank) if x.shape.rank else 0  # a scalar has no axes
    return node.add(ops.DequantizeLinear(axis=axis), *held)


def by_range(node: Node, x: Instruction) -> Instruction:
    """Values quantised to bytes by their own range, and dequantised again."""
    levels, scale, zero = all_of(node, "DynamicQuantizeLinear", x)
    return dequantized(node, levels, scale, zero)


def quantized(node: Node, x: Instruction, at: int, default: Instruction) -> Instruction:
    """Floats quantised by the scale and zero point at two operands; without a zero point, to the
    type of another value.
    """
    scale, zero = node.input(at), node.optional(at + 1)
    to = default.shape.dtype if zero is None else zero.shape.dtype
    held = [v for v in (x, scale, zero) if v is not None]
    return node.add(ops.QuantizeLinear(axis=0, to=to), *held)


@importer("QuantizeLinear", "DequantizeLinear", domain=DOMAIN)
def linear(node: Node) -> Instruction:
    """The operator that ONNX now has under that name."""
    return delegated(node, node.proto.op_type, *node.inputs)


# Products and convolutions


@importer("QLinearMatMul", since=10)
def qlinear_matmul(node: Node) -> Instruction:
    """Scales of the left operand may be along its rows, those of the right along its columns."""
    left, right = side(node, 0, -2), side(node, 3, -1)
    product = matrix_product(node, ops.Dot(), left, right)
    wide = node.convert(product, F32)
    scale = node.convert(node.input(6), F32)
    zero = node.input(7)
    op = ops.QuantizeLinear(axis=wide.shape.rank - 2, to=zero.shape.dtype)
    return node.add(op, wide, scale, zero)


def side(node: Node, at: int, axis: int) -> Instruction:
    """An operand of a product, in f32; scales of the same rank are applied as they are."""
    x, scale, zero = node.input(at), node.input(at + 1), node.input(at + 2)
    scale = node.convert(scale, F32)
    if scale.shape.rank > 1:
        whole = node.add(ops.Sub(), node.convert(x, F32), node.convert(zero, F32))
        return node.add(ops.Mul(), whole, scale)
    return dequantized(node, x, scale, zero, axis if x.shape.rank > 1 else 0)


@importer("QLinearConv", since=10)
def qlinear_convolution(node: Node) -> Instruction:
    return convolved(node, real(node, 0))


@importer("QLinearConv", domain=DOMAIN)
def qlinear_convolution_of_any_layout(node: Node) -> Instruction:
    """As ONNX's; with ``channels_last`` the images' channels are the last axis."""
    x = real(node, 0)
    if not node.integer("channels_last", 0):
        return convolved(node, x)
    return channels_last(node, convolved(node, channels_first(node, x)))


def convolved(node: Node, x: Instruction) -> Instruction:
    """A float convolution, quantised; the bias is scaled by the product of the scales."""
    result, bias = delegated(node, "Conv", x, real(node, 3)), node.optional(8)
    if bias is not None:
        scale = node.add(ops.Mul(), node.input(1), node.input(4))
        count = bias.shape.dims[0]
        scale = node.broadcast_to(node.reshape(scale, (scale.shape.elements,)), (count,))
        result = with_bias(node, result, dequantized(node, bias, scale, None))
    return quantized(node, result, 6, node.input(0))


@importer("QGemm", domain=DOMAIN)
def qgemm(node: Node) -> Instruction:
    """A matrix product; the bias, i32, is scaled by alpha and both scales. Without a scale for it,
    the result is not quantised.
    """
    turned = [bool(node.integer(f"trans{s}", 0)) for s in "AB"]
    a, b = real(node, 0), real(node, 3, axis=0 if turned[1] else 1)
    alpha = node.number("alpha", 1.0)
    sides = [
        node.add(ops.Transpose((1, 0)), x) if t else x for x, t in zip((a, b), turned, strict=True)
    ]
    total = scaled(node, node.add(ops.Dot(), *sides), alpha)
    if (bias := node.optional(6)) is not None:
        unit = scaled(node, node.add(ops.Mul(), node.input(1), node.input(4)), alpha)
        real_bias = node.add(ops.Mul(), node.convert(bias, F32), unit)
        total = node.add(ops.Add(), total, real_bias)
    return total if node.optional(7) is None else quantized(node, total, 7, node.input(0))


@importer("MatMulIntegerToFloat", domain=DOMAIN)
def matmul_integer_to_float(node: Node) -> Instruction:
    a = dequantized(node, node.input(0), node.input(2), node.optional(4), -2)
    b = dequantized(node, node.input(1), node.input(3), node.optional(5), -1)
    return plus(node, matrix_product(node, ops.Dot(), a, b), node.optional(6))


@importer("DynamicQuantizeMatMul", domain=DOMAIN)
def dynamic_quantize_matmul(node: Node) -> Instruction:
    """The left operand is quantised by its own range first."""
    a = by_range(node, node.input(0))
    b = dequantized(node, node.input(1), node.input(2), node.optional(3), -1)
    return plus(node, matrix_product(node, ops.Dot(), a, b), node.optional(4))


# Elementwise operators, and windows


@importer("QLinearAdd", "QLinearMul", domain=DOMAIN)
def qlinear_arithmetic(node: Node) -> Instruction:
    op = ops.Add() if node.proto.op_type == "QLinearAdd" else ops.Mul()
    result = node.add(op, real(node, 0), real(node, 3))
    return quantized(node, result, 6, node.input(0))


@importer(
    "QLinearAveragePool",
    "QLinearGlobalAveragePool",
    "QLinearLeakyRelu",
    "QLinearSigmoid",
    domain=DOMAIN,
)
def qlinear_of_one(node: Node) -> Instruction:
    """The operator on dequantised values; ``channels_last`` places the channels."""
    plain = node.proto.op_type.removeprefix("QLinear")
    last = bool(node.integer("channels_last", 0))
    x = real(node, 0)
    result = delegated(node, plain, channels_first(node, x) if last else x)
    return quantized(node, channels_last(node, result) if last else result, 3, node.input(0))


@importer("QLinearReduceMean", domain=DOMAIN)
def qlinear_mean(node: Node) -> Instruction:
    x = real(node, 0)
    axes = node.axes(node.integers("axes", range(x.shape.rank)), x.shape.rank)
    result = node.add(ops.ReduceMean(axes), x)
    result = result if node.integer("keepdims", 1) else node.add(ops.Squeeze(axes), result)
    return quantized(node, result, 3, node.input(0))


@importer("QLinearSoftmax", domain=DOMAIN)
def qlinear_softmax(node: Node) -> Instruction:
    """Before opset 13 the dims from the axis on are merged."""
    x = real(node, 0)
    axis = node.axis(node.integer("axis", -1), x.shape.rank)
    flat = x if node.integer("opset", 13) >= 13 else tail_as_one(node, x, axis)
    result = node.reshape(node.add(ops.Softmax(axis), flat), x.shape.dims)
    return quantized(node, result, 3, node.input(0))


@importer("QLinearConcat", domain=DOMAIN)
def qlinear_concat(node: Node) -> Instruction:
    """The scale and zero point of the result come first."""
    parts = [real(node, at) for at in range(2, len(node.inputs), 3)]
    axis = node.axis(node.integer("axis"), parts[0].shape.rank)
    return quantized(node, concatenate(node, axis, parts), 0, node.input(2))


@importer("QLinearWhere", domain=DOMAIN)
def qlinear_where(node: Node) -> Instruction:
    chosen = node.add(ops.Where(), node.input(0), real(node, 1), real(node, 4))
    return quantized(node, chosen, 7, node.input(1))


# Embeddings, and gathers of packed values


@importer("QEmbedLayerNormalization", domain=DOMAIN)
def quantized_embed_layer_normalization(node: Node) -> tuple[Instruction, ...]:
    """EmbedLayerNormalization with quantised tables, scale and bias: operands 2 to 6, with their
    scales six operands later and their zero points eleven.
    """

    def real_one(at: int, levels: Instruction) -> Instruction:
        return dequantized(node, levels, node.input(at + 6), node.input(at + 11))

    tables = [node.optional(i) for i in (2, 3, 4)]
    scale, bias = (real_one(i, node.input(i)) for i in (5, 6))
    segments = node.optional(1)
    return embedded(node, tables, segments, scale, bias, real=lambda i, rows: real_one(i + 2, rows))


@importer("GatherBlockQuantized", domain=DOMAIN)
def gather_block_quantized(node: Node) -> Instruction:
    """Rows of a quantised table, dequantised after the gather."""
    data, indices, scales, zeros = node.input(0), node.input(1), node.input(2), node.optional(3)
    bits, rank = node.integer("bits", 4), data.shape.rank
    packed = stored_type(data) is U8 and bits < 8
    axis = node.axis(node.integer("gather_axis", 0), rank)
    along = node.axis(node.integer("quantize_axis", 1), rank)
    if axis == along:
        raise node.fail(f"gather_axis and quantize_axis are both {axis}")
    if packed:
        data = spread_bits(node, data, bits)
        zeros = None if zeros is None else spread_bits(node, zeros, bits)
    if zeros is not None and zeros.shape.dims != scales.shape.dims:
        zeros = first_of(node, zeros, int(scales.shape.dims[rank - 1]))
    held = [v for v in (data, scales, zeros) if v is not None]
    picked = [node.add(ops.Gather(axis), v, indices) for v in held]
    if zeros is None and stored_type(node.input(0)) is U8:
        middle = node.literal(1 << (bits - 1), U8)
        picked.append(node.broadcast_to(middle, picked[1].shape.dims))
    shift = indices.shape.rank - 1 if axis < along else 0
    block = node.integer("block_size", 128)
    return node.add(ops.DequantizeLinear(axis=along + shift, block=block), *picked)


def spread_bits(node: Node, value: Instruction, bits: int) -> Instruction:
    """Bytes that pack several numbers along their last axis, with one number each."""
    dims = value.shape.dims
    rows = value.shape.with_dims(dims[:-1]).elements
    if not isinstance(rows, int) or not isinstance(dims[-1], int):
        raise node.fail(f"packed weights must have known dims, not {value.shape}")
    width = dims[-1] * (8 // bits)
    return node.reshape(packed_rows(node, value, bits, (rows, width)), (*dims[:-1], width))
