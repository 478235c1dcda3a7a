"""ONNX pooling, and normalisation over neighbouring channels."""

from __future__ import annotations

from migx import ops
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.onnx.ops.linear import auto_pad, window

MODES = {"MaxPool": "max", "AveragePool": "average", "LpPool": "lpnorm"}


@importer(*MODES)
def pooling(node: Node) -> tuple[Instruction, ...]:
    """The pooled windows and, if MaxPool has that output, the indices of the maxima."""
    x, lengths = node.input(0), node.integers("kernel_shape")
    mode = MODES[node.proto.op_type]
    ceil = bool(node.integer("ceil_mode", 0)) and auto_pad(node) == "NOTSET"
    options = {**window(node, x, lengths), "ceil_mode": ceil}
    op = ops.Pooling(
        mode,
        lengths,
        **options,
        count_include_pad=bool(node.integer("count_include_pad", 0)),
        lp_order=int(node.number("p", 2.0)),
    )
    if mode != "max" or node.outputs < 2:
        return (node.add(op, x),)
    places = ops.MaxPoolIndices(
        mode, lengths, **options, column_major=bool(node.integer("storage_order", 0))
    )
    return node.add(op, x), node.add(places, x)


@importer("GlobalAveragePool", "GlobalMaxPool")
def global_pooling(node: Node) -> Instruction:
    """A reduction over the spatial dims."""
    x = node.input(0)
    axes = tuple(range(2, x.shape.rank))
    op = ops.ReduceMean(axes) if node.proto.op_type == "GlobalAveragePool" else ops.ReduceMax(axes)
    return node.add(op, x)


@importer("GlobalLpPool")
def global_norm(node: Node) -> Instruction:
    """The p-norm over the spatial dims."""
    x, spatial = node.input(0), node.input(0).shape.rank - 2
    op = ops.Pooling(
        "lpnorm",
        x.shape.dims[2:],
        padding=(0,) * (2 * spatial),
        stride=(1,) * spatial,
        dilation=(1,) * spatial,
        lp_order=int(node.number("p", 2.0)),
    )
    return node.add(op, x)


@importer("LRN")
def local_response_normalization(node: Node) -> Instruction:
    op = ops.Lrn(
        node.integer("size"),
        node.number("alpha", 1e-4),
        node.number("beta", 0.75),
        node.number("bias", 1.0),
    )
    return node.add(op, node.input(0))
