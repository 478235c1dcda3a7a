"""ONNX casts, also of bits, and to and from elements of less than a byte."""

from __future__ import annotations

from onnx import TensorProto

from migx import ops
from migx.ir import Instruction
from migx.onnx import tensors
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.packed import packing
from migx.shape import I32, DType


@importer("Cast")
def cast_by_name(node: Node) -> Instruction:
    """Until version 6 the type is given by name."""
    code = TensorProto.DataType.Value(node.string("to"))
    return converted(node, node.input(0), tensors.dtype_of(code, f"Cast {node.label!r}"))


@importer("Cast", since=6)
def cast(node: Node) -> Instruction:
    return converted(node, node.input(0), node.dtype("to"))


@importer("CastLike")
def cast_like(node: Node) -> Instruction:
    return converted(node, node.input(0), stored_type(node.input(1)))


def stored_type(value: Instruction) -> DType:
    """The type a value is stored in: for an unpacked one, the packed type."""
    unpacked = value.op.name.startswith("unpack_")
    return value.inputs[0].shape.dtype if unpacked else value.shape.dtype


def converted(node: Node, x: Instruction, dtype: DType) -> Instruction:
    """The value in another type; narrow floats as the node's attributes say."""
    if dtype is stored_type(x):
        return x
    if dtype.is_packed:
        return node.unpacked(packed(node, x, dtype))
    saturate, mode = bool(node.integer("saturate", 1)), node.string("round_mode", "up")
    same = x.shape.dtype is dtype
    return node.add(ops.Identity() if same else ops.Convert(dtype, saturate, mode), x)


def packed(node: Node, x: Instruction, dtype: DType) -> Instruction:
    """The value in a packed type. Integers keep their low bits; floats are rounded once."""
    wide, pack = packing(dtype)
    if dtype.is_integer:
        x = low_bits(node, node.convert(x, I32), dtype)
    return node.add(pack, node.convert(x, wide))


def low_bits(node: Node, x: Instruction, dtype: DType) -> Instruction:
    """The low bits of integers, as an integer type of that width."""
    sign = 1 << (dtype.bits - 1)
    low = node.add(ops.BitwiseAnd(), x, 2 * sign - 1)
    if dtype.kind == "uint":
        return low
    flipped = node.add(ops.BitwiseXor(), low, sign)
    return node.add(ops.Sub(), flipped, sign)


@importer("BitCast", since=26)
def bit_cast(node: Node) -> Instruction:
    return node.add(ops.BitCast(node.dtype("to")), node.input(0))
