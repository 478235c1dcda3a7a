"""Operators of ``com.microsoft`` that are the same, or nearly, as ONNX operators."""

from __future__ import annotations

import math

from migx import ops
from migx.builders import arange, folded
from migx.dim import bounds, maximum
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops._common import all_of, channels_first, channels_last, delegated
from migx.onnx.ops.contrib import DOMAIN, normalized_groups
from migx.onnx.ops.elementwise import plus
from migx.onnx.ops.linear import centred, matrix_product, scaled
from migx.onnx.ops.normalization import tail_as_one
from migx.shape import I8, I32, U32


@importer("GatherND", "GridSample", "Pad", "Range", "Trilu", domain=DOMAIN)
def taken_over(node: Node) -> Instruction:
    """Operators that ONNX now has under the same name."""
    inputs = list(node.inputs)
    if node.proto.op_type == "Range" and node.optional(2) is None:
        inputs[2:] = [node.literal(1, node.input(0).shape.dtype)]
    return delegated(node, node.proto.op_type, *inputs)


@importer("ExpandDims", domain=DOMAIN)
def expand_dims(node: Node) -> Instruction:
    """A new axis at a position given by one integer."""
    return delegated(node, "Unsqueeze", node.input(0), node.reshape(node.input(1), (1,)))


@importer("Unique", domain=DOMAIN)
def unique(node: Node) -> tuple[Instruction, ...]:
    """The distinct elements, the index of each element among them, and their counts."""
    found, _, place, count = all_of(node, "Unique", node.input(0), sorted=0)
    return found, place, count


@importer("MatMulInteger16", domain=DOMAIN)
def matmul_integer(node: Node) -> Instruction:
    """A product of 16-bit integers, in 32 bits."""
    sides = [node.convert(node.input(i), I32) for i in (0, 1)]
    return matrix_product(node, ops.Dot(), *sides)


@importer("GemmFastGelu", domain=DOMAIN)
def gemm_fast_gelu(node: Node) -> Instruction:
    product = matrix_product(node, ops.Dot(), node.input(0), node.input(1))
    return delegated(node, "Gelu", plus(node, product, node.optional(2)), approximate="tanh")


@importer("NhwcMaxPool", domain=DOMAIN)
def channels_last_max_pool(node: Node) -> Instruction:
    return channels_last(node, delegated(node, "MaxPool", channels_first(node, node.input(0))))


@importer("SkipGroupNorm", domain=DOMAIN)
def skip_group_norm(node: Node) -> tuple[Instruction, Instruction]:
    """GroupNorm of the sum of the input, the skip and a bias; the last result is the sum."""
    x, skip = node.input(0), node.input(3)
    if skip.shape.rank == 2:
        skip = node.add(ops.Unsqueeze((1, 2)), skip)
    total = plus(node, node.add(ops.Add(), x, skip), node.optional(4))
    return normalized_groups(node, total), total


@importer("CDist", domain=DOMAIN)
def distances(node: Node) -> Instruction:
    """The distance of each row of one matrix from each row of the other."""
    rows, others = node.input(0), node.input(1)
    apart = node.add(
        ops.Sub(), node.add(ops.Unsqueeze((1,)), rows), node.add(ops.Unsqueeze((0,)), others)
    )
    square = folded(node, ops.ReduceSum((2,)), node.add(ops.Mul(), apart, apart))
    metric = node.choice("metric", ("euclidean", "sqeuclidean"), "sqeuclidean")
    return square if metric == "sqeuclidean" else node.add(ops.Sqrt(), square)


@importer("ConvTransposeWithDynamicPads", domain=DOMAIN)
def transposed_convolution(node: Node) -> Instruction:
    """ConvTranspose with its pads as an operand."""
    x, w, given, bias = node.input(0), node.input(1), node.optional(2), node.optional(3)
    if given is None:
        return delegated(node, "ConvTranspose", x, w, bias)
    pads = [int(pad) for pad in node.needed(given, "pads").reshape(-1)]
    return delegated(node, "ConvTranspose", x, w, bias, pads=pads)


@importer("UnfoldTensor", domain=DOMAIN)
def unfold(node: Node) -> Instruction:
    """The windows along an axis, each on a new last axis."""
    x, size, step = node.input(0), node.integer("size"), node.integer("step", 1)
    axis = node.axis(node.integer("dim", -1), x.shape.rank)
    if size < 1 or step < 1:
        raise node.fail(f"size {size} and step {step}; both are 1 or more")
    length = x.shape.dims[axis]
    if bounds(length)[1] < size:
        raise node.fail(f"size {size} of an axis of {length}")
    count = (length - size) // step + 1
    starts = node.add(ops.Mul(), arange(node, count), step)
    places = node.add(ops.Add(), node.add(ops.Unsqueeze((1,)), starts), arange(node, size))
    windows = node.add(ops.Gather(axis), x, places)
    order = [i for i in range(windows.shape.rank) if i != axis + 1]
    return node.add(ops.Transpose((*order, axis + 1)), windows)


@importer("NGramRepeatBlock", domain=DOMAIN)
def block_repeated(node: Node) -> Instruction:
    """Scores with -inf for tokens that would repeat an earlier n-gram."""
    tokens, scores, size = node.input(0), node.input(1), node.integer("ngram_size")
    if size < 1:
        raise node.fail(f"ngram_size {size}; it is 1 or more")
    _, length = node.dims_of(0, 2)
    if bounds(length)[1] < size:
        return scores
    runs = maximum(length - (size - 1), 0)
    before = length - runs
    starts = node.add(ops.Unsqueeze((1,)), arange(node, runs))
    begun = node.add(ops.Gather(1), tokens, node.add(ops.Add(), starts, arange(node, before)))
    last, ends = (node.add(ops.Slice((1,), (i,), (length,)), tokens) for i in (runs, before))
    same = node.add(ops.Equal(), begun, node.add(ops.Unsqueeze((1,)), last))
    again = folded(node, ops.ReduceAll((2,)), same)
    low, high = (node.literal(v, scores.shape.dtype) for v in (-math.inf, math.inf))
    least = node.add(ops.Where(), again, low, high)
    return node.add(ops.ScatterMin(1), scores, ends, least)


@importer("ComplexMul", "ComplexMulConj", domain=DOMAIN)
def complex_product(node: Node) -> Instruction:
    """The product of complex numbers [..., 2]; ComplexMulConj conjugates the second."""
    sign = -1.0 if node.proto.op_type == "ComplexMulConj" else 1.0
    (a, b), (c, d) = (
        [node.add(ops.Slice((x.shape.rank - 1,), (i,), (i + 1,)), x) for i in (0, 1)]
        for x in (node.input(0), node.input(1))
    )
    d = scaled(node, d, sign)
    ac, bd, ad, bc = (node.add(ops.Mul(), *pair) for pair in ((a, c), (b, d), (a, d), (b, c)))
    parts = node.add(ops.Sub(), ac, bd), node.add(ops.Add(), ad, bc)
    return node.add(ops.Concat(ac.shape.rank - 1), *parts)


@importer("Rfft", "Irfft", domain=DOMAIN)
def real_transform(node: Node) -> Instruction:
    """The transform of real numbers [..., n] to [..., n // 2 + 1, 2], or back, for even n."""
    x, back = node.input(0), node.proto.op_type == "Irfft"
    if node.integer("normalized", 0) or not node.integer("onesided", 1):
        raise node.fail("normalized is 0 and onesided 1")
    x = x if back else node.add(ops.Unsqueeze((x.shape.rank,)), x)
    last, count = x.shape.rank - 2, node.integer("signal_ndim", 1)
    if not 1 <= count <= last + 1:
        raise node.fail(f"signal_ndim {count} of {x.shape.rank - 1} axes")
    others = list(range(last - count + 1, last))
    for axis in others if back else [last, *reversed(others)]:
        x = node.add(ops.Dft(axis, x.shape.dims[axis], back, not back and axis == last), x)
    if not back:
        return x
    x = node.add(ops.Dft(last, 2 * (x.shape.dims[last] - 1), True, True), x)
    return node.add(ops.Squeeze((last + 1,)), x)


@importer("MulInteger", domain=DOMAIN)
def integer_product(node: Node) -> Instruction:
    """The product of bytes minus their zero points, in 32 bits."""
    sides = [centred(node, node.input(i), node.optional(i + 1), 0) for i in (0, 2)]
    return node.add(ops.Mul(), *sides)


@importer("ReduceSumInteger", domain=DOMAIN)
def integer_sum(node: Node) -> Instruction:
    """The sum of bytes, in 32 bits of the same signedness."""
    x = node.input(0)
    axes = node.axes(node.integers("axes"), x.shape.rank)
    total = node.add(ops.ReduceSum(axes), node.convert(x, I32 if x.shape.dtype is I8 else U32))
    return total if node.integer("keepdims") else node.add(ops.Squeeze(axes), total)


@importer("BiasSoftmax", domain=DOMAIN)
def bias_softmax(node: Node) -> Instruction:
    """Softmax of x + bias over all dims from an axis on."""
    x = node.add(ops.Add(), node.input(0), node.input(1))
    axis = node.axis(node.integer("axis", 1), x.shape.rank)
    return node.reshape(node.add(ops.Softmax(axis), tail_as_one(node, x, axis)), x.shape.dims)
