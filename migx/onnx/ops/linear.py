"""ONNX matrix products, determinants and convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from migx import dim, ops
from migx.builders import common_dims
from migx.dim import Extent
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.op import Operation
from migx.ops._windows import halved, same_padding
from migx.shape import I32


def matrix_product(node: Node, op: Operation, x: Instruction, y: Instruction) -> Instruction:
    """A product as numpy's matmul: leading dims broadcast, vectors are one row or one column."""
    row, column = x.shape.rank == 1, y.shape.rank == 1
    x = node.add(ops.Unsqueeze((0,)), x) if row else x
    y = node.add(ops.Unsqueeze((1,)), y) if column else y
    lead = common_dims(x.shape.dims[:-2], y.shape.dims[:-2])
    x, y = (node.broadcast_to(v, (*lead, *v.shape.dims[-2:])) for v in (x, y))
    product = node.add(op, x, y)
    rank = product.shape.rank
    axes = (*((rank - 2,) if row else ()), *((rank - 1,) if column else ()))
    return node.add(ops.Squeeze(axes), product) if axes else product


@importer("MatMul")
def matmul(node: Node) -> Instruction:
    return matrix_product(node, ops.Dot(), node.input(0), node.input(1))


@importer("Gemm")
def gemm(node: Node) -> Instruction:
    a, b, c = node.input(0), node.input(1), node.optional(2)
    a = node.add(ops.Transpose((1, 0)), a) if node.integer("transA", 0) else a
    b = node.add(ops.Transpose((1, 0)), b) if node.integer("transB", 0) else b
    total = scaled(node, node.add(ops.Dot(), a, b), node.number("alpha", 1.0))
    if c is None or node.number("beta", 1.0) == 0:
        return total
    return node.add(
        ops.Add(),
        total,
        node.broadcast_to(scaled(node, c, node.number("beta", 1.0)), total.shape.dims),
    )


def scaled(node: Node, x: Instruction, factor: float) -> Instruction:
    """The value times a number; itself if that is 1."""
    return x if factor == 1 else node.add(ops.Mul(), x, factor)


def auto_pad(node: Node) -> str:
    """How windows are padded unless ``pads`` says; an empty string is NOTSET."""
    known = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", "")
    return node.choice("auto_pad", known, "NOTSET") or "NOTSET"


def window(node: Node, x: Instruction, lengths: Sequence[Extent]) -> dict[str, tuple[Extent, ...]]:
    """Padding (begins, then ends), stride and dilation of a window, ``auto_pad`` resolved."""
    n = x.shape.rank - 2
    stride = node.integers("strides", (1,) * n)
    dilation = node.integers("dilations", (1,) * n)
    padding: tuple[Extent, ...] = node.integers("pads", (0,) * (2 * n))
    mode = auto_pad(node)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        upper = mode == "SAME_UPPER"
        padding = same_padding(x.shape.dims[2:], lengths, stride, dilation, upper=upper)
    elif mode == "VALID":
        padding = (0,) * (2 * n)
    if len(padding) != 2 * n or len(stride) != n or len(dilation) != n:
        raise node.fail(f"pads, strides and dilations must fit {n} spatial dims")
    return {"padding": padding, "stride": stride, "dilation": dilation}


def with_bias(node: Node, x: Instruction, bias: Instruction | None) -> Instruction:
    """The value plus a bias for each channel (axis 1)."""
    if bias is None:
        return x
    return node.add(ops.Add(), x, per_channel(node, bias, x))


def per_channel(node: Node, vector: Instruction, like: Instruction) -> Instruction:
    """A vector over the channels (axis 1), broadcast to the dims of a value."""
    return node.add(ops.Broadcast(1, like.shape.dims), vector)


@importer("Conv")
def convolution(node: Node) -> Instruction:
    x, w = node.input(0), node.input(1)
    op = ops.Convolution(**window(node, x, w.shape.dims[2:]), group=node.integer("group", 1))
    return with_bias(node, node.add(op, x, w), node.optional(2))


@importer("ConvTranspose")
def transposed_convolution(node: Node) -> Instruction:
    x, w = node.input(0), node.input(1)
    n = x.shape.rank - 2
    stride, dilation = node.integers("strides", (1,) * n), node.integers("dilations", (1,) * n)
    extra: tuple[Extent, ...] = node.integers("output_padding", (0,) * n)
    padding: tuple[Extent, ...] = node.integers("pads", (0,) * (2 * n))
    mode = auto_pad(node)
    if mode == "VALID":
        padding = (0,) * (2 * n)
    if node.has("output_shape") or mode.startswith("SAME"):
        padding, extra = fitted(node, x, w, stride, dilation, extra)
    op = ops.ConvolutionBackwards(padding, stride, dilation, node.integer("group", 1), extra)
    return with_bias(node, node.add(op, x, w), node.optional(2))


def fitted(
    node: Node,
    x: Instruction,
    w: Instruction,
    stride: Sequence[int],
    dilation: Sequence[int],
    extra: Sequence[Extent],
) -> tuple[tuple[Extent, ...], tuple[Extent, ...]]:
    """The padding, and the output padding if a result is to be larger, for the requested dims.

    With SAME_UPPER and SAME_LOWER these are those of x times the stride, as in ONNX, also if a
    kernel is shorter than its stride, for which onnxruntime returns less. Padding is not negative,
    so missing elements are zeros at the end, as in onnxruntime for an ``output_shape``.
    """
    sizes, lengths = x.shape.dims[2:], w.shape.dims[2:]
    wanted: list[Extent] = [d * s for d, s in zip(sizes, stride, strict=True)]
    if node.has("output_shape"):
        wanted = list(node.integers("output_shape")[-len(sizes) :])
    totals, more = list[Extent](), list[Extent]()
    for size, s, e, k, d, out in zip(sizes, stride, extra, lengths, dilation, wanted, strict=True):
        total = s * (size - 1) + e + (k - 1) * d + 1 - out
        totals.append(dim.maximum(total, 0))
        more.append(e + dim.maximum(-total, 0))
    return halved(totals, upper=auto_pad(node) == "SAME_UPPER"), tuple(more)


@importer("MatMulInteger")
def matmul_integer(node: Node) -> Instruction:
    x, y = (centred(node, node.input(i), node.optional(i + 2), -1 if i else -2) for i in (0, 1))
    return matrix_product(node, ops.Dot(), x, y)


@importer("ConvInteger")
def convolution_integer(node: Node) -> Instruction:
    x, w = node.input(0), node.input(1)
    op = ops.Convolution(**window(node, x, w.shape.dims[2:]), group=node.integer("group", 1))
    return node.add(
        op, centred(node, x, node.optional(2), 0), centred(node, w, node.optional(3), 0)
    )


def centred(node: Node, x: Instruction, zero: Instruction | None, axis: int) -> Instruction:
    """Eight-bit values minus their zero point, in i32; one of several elements is by axis."""
    wide = node.convert(x, I32)
    if zero is None:
        return wide
    zero = node.convert(zero, wide.shape.dtype)
    if zero.shape.rank == 1 and zero.shape.dims != (1,) and x.shape.rank > 1:
        dims: list[Extent] = [1] * x.shape.rank
        dims[axis] = zero.shape.dims[0]
        zero = node.reshape(zero, dims)
    return node.add(ops.Sub(), wide, zero)


@importer("Det", since=11)
def determinant(node: Node) -> Instruction:
    return node.add(ops.Determinant(), node.input(0))
