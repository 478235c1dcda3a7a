"""ONNX quantisation, and matrix products with weights packed to a few bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from migx import ops
from migx.argument import Argument
from migx.dim import Dim, Extent, may_equal, product
from migx.errors import ShapeError
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops.casting import stored_type
from migx.onnx.ops.contrib import DOMAIN
from migx.onnx.ops.elementwise import plus
from migx.onnx.ops.linear import matrix_product
from migx.onnx.packed import packing
from migx.ops.builtin import Literal, OnnxExternalWeights
from migx.ops.quantization import Linear
from migx.shape import F4, F8E4M3FN, I32, U8, DType, Shape


def axis_and_block(node: Node, x: Instruction) -> tuple[int, int]:
    """The axis of the scales, and the block size; the axis is meaningless for one scale."""
    rank, axis, block = x.shape.rank, node.integer("axis", 1), node.integer("block_size", 0)
    if block < 0:
        raise node.fail(f"block_size {block} for {node.proto.input[0]!r}: it is 0 or more")
    if not -rank <= axis < rank:
        if node.input(1).shape.elements != 1:
            raise node.fail(f"axis {axis} of {node.proto.input[0]!r}, which has {rank} axes")
        axis = 0
    return axis % rank if rank else 0, block


def linear(node: Node, op: Linear, *operands: Instruction) -> Instruction:
    """Adds a quantisation or dequantisation; ``OnnxError`` naming the tensors if scales and zero
    points do not fit.
    """
    try:
        op.compute_shape([v.shape for v in operands])
    except ShapeError as error:
        names = " and ".join(repr(name) for name in node.proto.input[1:] if name)
        raise node.fail(f"{names} do not fit {node.proto.input[0]!r}: {error}") from error
    return node.add(op, *operands)


@importer("QuantizeLinear", since=10)
def quantize_linear(node: Node) -> Instruction:
    x, scale, zero = node.input(0), node.input(1), node.optional(2)
    wanted = U8 if zero is None else stored_type(zero)
    if zero is None and node.integer("output_dtype", 0):
        wanted = node.dtype("output_dtype")
    wide, pack = packing(wanted) if wanted.is_packed else (wanted, None)
    axis, block = axis_and_block(node, x)
    op = ops.QuantizeLinear(
        axis=axis, block=block, to=wide, saturate=bool(node.integer("saturate", 1))
    )
    result = linear(node, op, *[v for v in (x, scale, zero) if v is not None])
    return result if pack is None else node.unpacked(node.add(pack, result))


@importer("DequantizeLinear", since=10)
def dequantize_linear(node: Node) -> Instruction:
    given = (node.input(0), node.input(1), node.optional(2))
    operands = [whole_bytes(node, v) for v in given if v is not None]
    axis, block = axis_and_block(node, operands[0])
    result = linear(node, ops.DequantizeLinear(axis=axis, block=block), *operands)
    wanted = node.dtype("output_dtype") if node.integer("output_dtype", 0) else result.shape.dtype
    return node.convert(result, wanted)


def whole_bytes(node: Node, value: Instruction) -> Instruction:
    """An f4 value, unpacked to f32, as the narrowest float that holds it; others unchanged."""
    return node.convert(value, F8E4M3FN) if stored_type(value) is F4 else value


@importer("DynamicQuantizeLinear")
def dynamic_quantize_linear(node: Node) -> tuple[Instruction, ...]:
    """Scale and zero point from the range of the values, 0 included; then quantises with them."""
    x = node.input(0)
    axes = tuple(range(x.shape.rank))
    highest, lowest = node.add(ops.ReduceMax(axes), x), node.add(ops.ReduceMin(axes), x)
    zero, levels = node.scalar(0, highest), node.scalar(255, highest)
    high, low = node.add(ops.Max(), highest, zero), node.add(ops.Min(), lowest, zero)
    scale = node.add(ops.Div(), node.add(ops.Sub(), high, low), levels)
    place = node.add(ops.Div(), node.add(ops.Sub(), zero, low), scale)
    flat = node.add(ops.Equal(), scale, zero)
    place = node.add(ops.Where(), flat, zero, node.add(ops.Nearbyint(), place))
    point = node.convert(node.add(ops.Clip(), place, zero, levels), U8)
    safe = node.add(ops.Where(), flat, 1, scale)
    safe, scale, point = (node.add(ops.Squeeze(axes), v) for v in (safe, scale, point))
    return node.add(ops.QuantizeLinear(axis=0, to=U8), x, safe, point), scale, point


@importer("MatMulNBits", domain=DOMAIN)
def matmul_n_bits(node: Node) -> Instruction:
    """A (..., K) times the transpose of B, whose N rows of K are packed in blocks, each with its
    scale. If given, ``g_idx`` has the index of the scale for each of the K.

    Becomes unpack, dequantizelinear, transpose and dot; the packed bytes stay the literal they are.
    """
    return n_bits_product(node, node.input(0), node.integer("N"), 1, 2, 5, 3, 4)


def n_bits_product(
    node: Node, a: Instruction, n: int, b: int, s: int, bias: int, z: int = -1, g: int = -1
) -> Instruction:
    """A product with N rows of weights of a few bits; ``b`` is their index among the operands, and
    the others are those of scales, a bias, zero points and groups.
    """
    node.expect_integers(weight_prepacked=0)
    k, bits, block = node.integer("K"), node.integer("bits", 4), node.integer("block_size")
    scales, zeros = node.input(s), None if z < 0 else node.optional(z)
    blocks = -(-k // block)
    weights = packed_rows(node, node.input(b), bits, (n, blocks * block))
    if not may_equal(scales.shape.elements, n * blocks):
        name = node.proto.input[s]
        raise node.fail(f"scales {name!r} {scales.shape}: {n} rows of {blocks} blocks are wanted")
    scales = node.reshape(scales, (n, blocks))
    if zeros is None:
        point = node.full(1 << (bits - 1), U8, (n, blocks))
    elif zeros.shape.dtype is U8:
        per_byte = 8 // bits
        point = packed_rows(node, zeros, bits, (n, -(-blocks // per_byte) * per_byte))
        point = first_of(node, point, blocks)
    else:
        point = node.reshape(zeros, (n, blocks))
    if g >= 0 and (groups := node.optional(g)) is not None:
        if groups.shape.dims not in ((k,), (blocks * block,)):
            name = node.proto.input[g]
            raise node.fail(f"g_idx {name!r} {groups.shape}: one for each of K = {k} is wanted")
        groups, weights = (first_of(node, v, k) for v in (groups, weights))
        scales, point = (node.add(ops.Gather(1), v, groups) for v in (scales, point))
        block = 1
    floats = first_of(node, in_blocks(node, weights, scales, point, block), k)
    product = matrix_product(node, ops.Dot(), a, node.add(ops.Transpose((1, 0)), floats))
    return plus(node, product, node.optional(bias))


FP4 = (0.0, 1 / 192, 2 / 3, 1.0, 1 / 3, 1 / 2, 1 / 6, 1 / 4)
"""The values of bitsandbytes' four-bit floats by their low three bits; the high bit is the sign."""
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
"""The quantiles of the normal distribution that are the values of bitsandbytes' NF4 codes."""
BITSANDBYTES = ((*FP4, *(-x for x in FP4)), NF4)
"""The values of codes, by ``quant_type``."""


@importer("MatMulBnb4", domain=DOMAIN)
def matmul_bnb4(node: Node) -> Instruction:
    """A (..., K) times the transpose of B, whose N rows of K are four-bit codes in sequence, high
    bits first; each block has its largest magnitude as scale.

    A byte becomes a pair of numbers by one lookup.
    """
    a, b, largest = node.input(0), node.input(1), node.input(2)
    k, n, block = node.integer("K"), node.integer("N"), node.integer("block_size")
    kind, count = node.integer("quant_type"), n * k
    if kind not in (0, 1):
        raise node.fail(f"quant_type {kind}; there are 0, FP4, and 1, NF4")
    if not node.integer("transB", 1):
        raise node.fail("transB 0 is not supported; the quantiser of onnxruntime writes 1")
    wanted = (-(-count // 2), -(-count // block))
    for i, (value, size) in enumerate(zip((b, largest), wanted, strict=True), 1):
        if not may_equal(value.shape.elements, size):
            name = node.proto.input[i]
            raise node.fail(f"{name!r} {value.shape}: {size} elements are wanted")
    codes = np.arange(256)
    pairs = np.take(BITSANDBYTES[kind], np.stack([codes >> 4, codes & 15], 1))
    numbers = node.add(ops.Gather(0), node.literal(pairs, a.shape.dtype),
                       node.convert(node.reshape(b, (wanted[0],)), I32))  # fmt: skip
    numbers = first_of(node, node.reshape(numbers, (2 * wanted[0],)), count)
    whole = wanted[1] * block
    if whole == count:
        numbers = node.reshape(numbers, (wanted[1], block))
    each = node.broadcast_to(node.reshape(largest, (wanted[1], 1)), (wanted[1], block))
    if whole != count:
        each = first_of(node, node.reshape(each, (whole,)), count)
    floats = node.reshape(node.add(ops.Mul(), numbers, each), (n, k))
    return matrix_product(node, ops.Dot(), a, node.add(ops.Transpose((1, 0)), floats))


def first_of(node: Node, value: Instruction, count: Extent) -> Instruction:
    """The first elements along the last axis; the value itself if it has no more."""
    axis = value.shape.rank - 1
    if value.shape.dims[axis] == count:
        return value
    return node.add(ops.Slice((axis,), (0,), (count,)), value)


def in_blocks(
    node: Node, weights: Instruction, scales: Instruction, zeros: Instruction, block: int
) -> Instruction:
    """Rows of whole blocks, each dequantised by its scale and zero point, which may be a float."""
    if not zeros.shape.dtype.is_float:
        return node.add(ops.DequantizeLinear(axis=1, block=block), weights, scales, zeros)
    apart = node.reshape(weights, (*scales.shape.dims, block))
    numbers = node.convert(apart, scales.shape.dtype)
    for op, value in ((ops.Sub(), zeros), (ops.Mul(), scales)):
        each = node.add(ops.Unsqueeze((2,)), node.convert(value, scales.shape.dtype))
        numbers = node.add(op, numbers, each)
    return node.reshape(numbers, weights.shape.dims)


def packed_rows(node: Node, value: Instruction, bits: int, dims: tuple[Extent, ...]) -> Instruction:
    """Rows of numbers of a few bits, packed low bits first, as u8 with the numbers' dims."""
    if bits == 8:
        return node.reshape(value, dims)
    if bits not in (2, 4):
        raise node.fail(f"weights of {bits} bits are not supported")
    while isinstance(value.op, ops.Reshape | ops.Squeeze | ops.Unsqueeze):
        (value,) = value.inputs
    if not isinstance(value.op, Literal | OnnxExternalWeights):
        raise node.fail(f"packed weights must be a constant, not {value!r}")
    shape = Shape(DType.of(f"u{bits}"), dims)
    if isinstance(value.shape.nbytes, Dim) or value.shape.nbytes != shape.nbytes:
        raise node.fail(
            f"{value.op.label!r} has {value.shape.nbytes} bytes, {value.shape}, where "
            f"{product(dims[:-1])} rows of {dims[-1]} weights take {shape.nbytes}"
        )
    if isinstance(value.op, OnnxExternalWeights):
        return node.unpacked(node.add(replace(value.op, shape=shape)))
    held = value.op.value
    data = None if held.source is not None else held.array.reshape(-1)
    packed = Literal(
        Argument(shape, data, source=held.source), value.op.label, value.op.replaceable
    )
    return node.unpacked(node.add(packed))
