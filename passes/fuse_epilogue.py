"""Fuses a product with the arithmetic after it and the unpacking of its operands."""

from __future__ import annotations

from collections.abc import Iterator

from migx.fusion.outlining import Bundle, Outlining, keeps_order, only_reader
from migx.ir import Instruction, Module
from migx.ops.fused import Group
from migx.ops.packing import Unpack
from migx.ops.quantization import DequantizeLinear
from migx.passes.fuse_pointwise import dims_of, is_by_element
from migx.planning import viewed
from migx.weights import may_be_finite

TAGS = {
    "dot": "gemm_epilogue",
    "quant_dot": "gemm_epilogue",
    "convolution": "conv_epilogue",
    "quant_convolution": "conv_epilogue",
    "convolution_channels_last": "conv_epilogue",
    "convolution_backwards": "conv_epilogue",
}
"""The tag of the group of each kind of product."""
UNPACKING = ("int4_gemm", "gemm_epilogue", "conv_epilogue")
"""The tags of the groups that fuse_int4 has made of products and the unpacking of their weights."""
MADE = {
    "gemm_quantized": "gemm_epilogue",
    "conv_quantized": "conv_epilogue",
    "winograd": "winograd",
}
"""The tags of groups that fuse_quantized and rewrite_winograd have made, and the tags these get
when they take in more.
"""


class FuseEpilogue(Outlining):
    """Makes a ``group`` of a dot or convolution and the arithmetic that is the only user of its
    result: bias, activation, residual.

    A reshape may stand between. If several products meet in one ``pointwise``, the last one takes
    it in. Unpacking or dequantisation of an operand for the product alone goes inside too, so that
    weights stay small until they are multiplied. A group made by fuse_int4, fuse_quantized or
    rewrite_winograd takes the arithmetic in. In MIGraphX targets do this: gpu::fuse_mlir,
    cpu::fuse_ops.
    """

    def bundles(self, module: Module) -> list[Bundle]:
        after: dict[Instruction, Instruction] = {}
        for at in module:
            if is_by_element(at) and (products := list(_products(at))):
                after[max(products, key=lambda v: v._label)] = at
        found, taken = list[Bundle](), set(after.values())
        for at in module:
            if (group := _group(at)) is not None:
                before = _unpacking(at)
                before = before if taken.isdisjoint(before) else []
                members = [*before, at, *([after[at]] if at in after else [])]
                if len(members) > 1:
                    found.append(Bundle(members, group))
        return found


def _group(product: Instruction) -> Group | None:
    """The group that a product becomes with its neighbours; None for other instructions."""
    op = product.op
    if isinstance(op, Group):
        if op.tag in MADE:
            return Group(MADE[op.tag])
        ends = op.tag in UNPACKING and product.modules[0].outputs[0].op.name in TAGS
        return op if ends else None
    return Group(TAGS[op.name]) if op.name in TAGS else None


def _products(at: Instruction) -> Iterator[Instruction]:
    """The products that only this instruction reads, directly or reshaped."""
    for value in (v for v in at.inputs if v.shape.dims == dims_of(at)):
        reader = at
        while only_reader(value) is reader and keeps_order(value):
            reader, value = value, value.inputs[0]
        if only_reader(value) is reader and _group(value) is not None:
            yield value


def _unpacking(product: Instruction) -> list[Instruction]:
    """The instructions that unpack and dequantise operands for this product alone; none for a
    group, which contains them already.
    """
    found: list[Instruction] = []
    for operand in () if isinstance(product.op, Group) else product.inputs:
        chain, length = list[Instruction](), 0
        reader, at = product, operand
        while only_reader(at) is reader and (_unpacks(at) or viewed(at) is not None):
            chain.append(at)
            length = len(chain) if _unpacks(at) else length
            reader, at = at, at.inputs[0]
        found += chain[:length]
    return found


def _unpacks(at: Instruction) -> bool:
    scales = isinstance(at.op, DequantizeLinear) and may_be_finite(at.inputs[1])
    return scales or isinstance(at.op, Unpack)
