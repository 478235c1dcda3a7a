"""ONNX recurrent networks."""

from __future__ import annotations

import math
from typing import Any

from migx import ops
from migx.ir import Instruction
from migx.onnx.importers import importer
from migx.onnx.node import Node

INPUTS = {"RNN": 6, "GRU": 6, "LSTM": 8}


@importer(*INPUTS)
def recurrent(node: Node) -> tuple[Instruction, ...]:
    """Y, Y_h and, for an LSTM, Y_c. With ``layout`` 1 the batch is the first axis, and is
    transposed in and out.
    """
    kind = node.proto.op_type
    given = [node.optional(i) for i in range(INPUTS[kind])]
    batch_first = bool(node.integer("layout", 0))
    if batch_first:
        for i in (0, 5, 6):
            value = given[i] if i < len(given) else None
            if value is not None:
                given[i] = node.add(ops.Transpose((1, 0, 2)), value)
    while given[-1] is None:
        given.pop()
    operands = [node.add(ops.Undefined()) if v is None else v for v in given]
    whole = node.add(operation(node, kind), *operands)
    results = list(node.elements(whole, len(whole.shape.parts)))
    if batch_first:
        orders = [(2, 0, 1, 3), *[(1, 0, 2)] * (len(results) - 1)]
        results = [node.add(ops.Transpose(o), r) for o, r in zip(orders, results, strict=True)]
    return tuple(results)


def operation(node: Node, kind: str) -> Any:
    """The operation of a kind, with the node's attributes."""
    options: dict[str, Any] = {"clip": node.number("clip", math.inf)}
    if not options["clip"] >= 0:
        raise node.fail(f"clip is {options['clip']}; it is 0 or more")
    if kind == "GRU":
        options["linear_before_reset"] = bool(node.integer("linear_before_reset", 0))
    if kind == "LSTM":
        options["input_forget"] = bool(node.integer("input_forget", 0))
    return getattr(ops, kind)(
        hidden_size=node.integer("hidden_size"),
        direction=node.string("direction", "forward"),
        activations=node.strings("activations", ()),
        activation_alpha=node.numbers("activation_alpha", ()),
        activation_beta=node.numbers("activation_beta", ()),
        **options,
    )
